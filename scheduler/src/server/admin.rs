//! `bulkhead.v1.Admin`, on the admin socket only. Each act is on record before it is answered.
//!
//! Who may open the socket is an operator: it lies in the data folder, with mode 0600, and the peer's
//! uid must be this process's own or root.

mod agents;
mod models;
mod tenants;

use super::{
    audit_log::Position,
    driver::{Message, Snapshot},
    errors::Refused,
    records,
    state::App,
};
use bulkhead_identity::IdentityError;
use bulkhead_proto::{
    internal::RecordKind,
    v1::{
        Agent, CreateAgentRequest, CreateAgentResponse, CreateTenantRequest, ListAgentsRequest,
        ListAgentsResponse, ListModelStatesRequest, ListModelStatesResponse, ListTenantsRequest,
        ListTenantsResponse, LoadModelRequest, ModelProgress, ReloadModelsRequest,
        ReloadModelsResponse, ReloadPolicyRequest, ReloadPolicyResponse, SetAgentStatusRequest,
        StatusRequest, StatusResponse, Tenant, UnloadModelRequest, UnloadModelResponse,
        UpdateTenantRequest, admin_server::Admin,
    },
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::{Code, Request, Response, Status};

/// Characters of a model's name that a message quotes.
const MODEL_NAME_CHARS_MAX: usize = 128;
/// Unknown models that one message names.
const MODELS_NAMED_MAX: usize = 8;

/// How long an operator who comes with the server's start waits for the log.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// The service.
#[derive(Clone)]
pub struct AdminService {
    pub app: App,
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn create_tenant(
        &self,
        request: Request<CreateTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        let (service, asked) = (self.clone(), request.into_inner());
        to_its_end(async move { service.make(asked).await }).await
    }

    async fn update_tenant(
        &self,
        request: Request<UpdateTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        let (service, asked) = (self.clone(), request.into_inner());
        to_its_end(async move { service.update(asked).await }).await
    }

    async fn list_tenants(
        &self,
        _: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        let tenants = self
            .app
            .identity
            .tenants()
            .iter()
            .map(|t| self.wire(t))
            .collect();
        Ok(Response::new(ListTenantsResponse { tenants }))
    }

    async fn create_agent(
        &self,
        request: Request<CreateAgentRequest>,
    ) -> Result<Response<CreateAgentResponse>, Status> {
        let (service, asked) = (self.clone(), request.into_inner());
        to_its_end(async move { service.make_agent(asked).await }).await
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let tenant = request.into_inner().tenant;
        let tenant = Some(tenant.as_str()).filter(|t| !t.is_empty());
        let agents = self
            .app
            .identity
            .agents(tenant)
            .iter()
            .map(|a| agents::wire(a))
            .collect();
        Ok(Response::new(ListAgentsResponse { agents }))
    }

    async fn set_agent_status(
        &self,
        request: Request<SetAgentStatusRequest>,
    ) -> Result<Response<Agent>, Status> {
        let (service, asked) = (self.clone(), request.into_inner());
        to_its_end(async move { service.set_status(asked).await }).await
    }

    async fn reload_policy(
        &self,
        _: Request<ReloadPolicyRequest>,
    ) -> Result<Response<ReloadPolicyResponse>, Status> {
        self.ready().await?;
        let dir = self.app.config.paths().policy_dir();
        let policies = self.app.policy.reload(&dir).map_err(|e| {
            Refused::new(
                Code::InvalidArgument,
                "POLICY_INVALID",
                format!("{e}; the policies in force stay as they were"),
            )
            .into_status()
        })?;
        self.record("", "policy.reload", json!({ "policies": policies }))
            .await?;
        Ok(Response::new(ReloadPolicyResponse {
            policies: policies as u32,
        }))
    }

    async fn list_model_states(
        &self,
        request: Request<ListModelStatesRequest>,
    ) -> Result<Response<ListModelStatesResponse>, Status> {
        let models = self.states(&request.into_inner().tenant).await?;
        Ok(Response::new(ListModelStatesResponse { models }))
    }

    type LoadModelStream = models::Answers<ModelProgress>;

    async fn load_model(
        &self,
        request: Request<LoadModelRequest>,
    ) -> Result<Response<Self::LoadModelStream>, Status> {
        self.load(request.into_inner().model).await
    }

    async fn unload_model(
        &self,
        request: Request<UnloadModelRequest>,
    ) -> Result<Response<UnloadModelResponse>, Status> {
        let workers = self.unload(request.into_inner().model).await?;
        Ok(Response::new(UnloadModelResponse { workers }))
    }

    type ReloadModelsStream = models::Answers<ReloadModelsResponse>;

    async fn reload_models(
        &self,
        _: Request<ReloadModelsRequest>,
    ) -> Result<Response<Self::ReloadModelsStream>, Status> {
        self.reload().await
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let snapshot = self.snapshot().await?;
        Ok(Response::new(StatusResponse {
            tenants: snapshot.tenants,
            workers: snapshot.workers,
            audit_up: self.app.submitter.audit.up(),
            version: env!("CARGO_PKG_VERSION").into(),
            devices: snapshot.devices,
        }))
    }
}

impl AdminService {
    /// Acts that give rights are refused while they could not be recorded.
    async fn ready(&self) -> Result<(), Status> {
        self.app.submitter.audit.begun(START_PATIENCE).await;
        if self.app.submitter.audit.up() {
            Ok(())
        } else {
            Err(Refused::audit_down().into_status())
        }
    }

    async fn snapshot(&self) -> Result<Snapshot, Status> {
        let (reply, snapshot) = oneshot::channel();
        self.tell(Message::Status(reply)).await?;
        let snapshot = snapshot.await;
        snapshot.map_err(|_| Refused::stopping().into_status())
    }

    async fn tell(&self, message: Message) -> Result<(), Status> {
        let told = self.app.submitter.driver.send(message).await;
        told.map_err(|_| Refused::stopping().into_status())
    }

    async fn record(&self, tenant: &str, what: &str, details: Value) -> Result<(), Status> {
        let mut position = self.hand_in(tenant, what, details);
        position
            .durable()
            .await
            .map(|_| ())
            .map_err(|_| Refused::audit_down().into_status())
    }

    fn hand_in(&self, tenant: &str, what: &str, details: Value) -> Position {
        let body = records::act(what, details);
        self.app
            .submitter
            .audit
            .append_end(tenant, RecordKind::Admin, "", body)
    }
}

/// Does an act to its end, also where its operator hangs up meanwhile: half of one would be without a record, or in force for
/// nobody.
async fn to_its_end<T: Send + 'static>(
    act: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<Response<T>, Status> {
    match tokio::spawn(act).await {
        Ok(done) => done.map(Response::new),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Refused::stopping().into_status()),
    }
}

fn failed(error: IdentityError) -> Status {
    let code = match &error {
        e if e.is_internal() => Code::Internal,
        e if e.is_retryable() => Code::Unavailable,
        IdentityError::TenantUnknown(_) | IdentityError::AgentUnknown(_) => Code::NotFound,
        IdentityError::TenantExists(_) | IdentityError::AgentExists { .. } => Code::AlreadyExists,
        IdentityError::Final { .. } => Code::FailedPrecondition,
        IdentityError::TooMany { .. } => Code::ResourceExhausted,
        _ => Code::InvalidArgument,
    };
    Refused::new(code, error.reason(), error.to_string()).into_status()
}
