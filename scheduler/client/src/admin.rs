//! A client of `bulkhead.v1.Admin` over the server's Unix socket.
//!
//! Who may open the socket is the file system's say: it belongs to the user who runs the server.
//! Nothing here reaches the network.

use crate::error::{ClientError, chain};
use bulkhead_proto::v1::{
    Agent, CreateAgentRequest, CreateAgentResponse, CreateTenantRequest, ListAgentsRequest,
    ListModelStatesRequest, ListTenantsRequest, LoadModelRequest, ModelProgress, ModelState,
    ModelsReloaded, ReloadModelsRequest, ReloadPolicyRequest, SetAgentStatusRequest, StatusRequest,
    StatusResponse, Tenant, UnloadModelRequest, UpdateTenantRequest, admin_client::AdminClient,
    reload_models_response::Message as Reloading,
};
use hyper_util::rt::TokioIo;
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{net::UnixStream, time::Instant};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};

/// Every administrative act is recorded durably before it is answered, and no more than that.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a server that is about to start is waited for.
const START_MAX: Duration = Duration::from_secs(3);
const START_POLL: Duration = Duration::from_millis(100);

/// An operator's connection to a server on this machine.
#[derive(Clone)]
pub struct Admin {
    client: AdminClient<Channel>,
}

impl Admin {
    /// Connects to the socket of the server whose data folder this is. Waits up to 3 s for one that
    /// is just being started.
    pub async fn connect(data: &Path) -> Result<Admin, ClientError> {
        let socket = data.join("admin.sock");
        // Dialled once by hand: tonic would hide which error it was.
        drop(dial_a_starting_server(&socket).await?);
        Admin::over(socket).await
    }

    /// The same, of a server that runs already; None where none does.
    pub async fn running(data: &Path) -> Result<Option<Admin>, ClientError> {
        let socket = data.join("admin.sock");
        match dial(&socket).await {
            Ok(_) => Admin::over(socket).await.map(Some),
            Err(ClientError::NotRunning { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn over(socket: PathBuf) -> Result<Admin, ClientError> {
        let path = socket.clone();
        let channel = Endpoint::from_static("http://admin.local")
            .connect_timeout(Duration::from_secs(5))
            .connect_with_connector(tower::service_fn(move |_: http::Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }))
            .await
            .map_err(|e| ClientError::Unreachable {
                address: socket.display().to_string(),
                message: chain(&e),
            })?;
        Ok(Admin {
            client: AdminClient::new(channel),
        })
    }

    /// Creates a tenant.
    pub async fn create_tenant(&self, tenant: CreateTenantRequest) -> Result<Tenant, ClientError> {
        answer(self.client.clone().create_tenant(bounded(tenant)).await)
    }

    /// Changes a tenant.
    pub async fn update_tenant(&self, update: UpdateTenantRequest) -> Result<Tenant, ClientError> {
        answer(self.client.clone().update_tenant(bounded(update)).await)
    }

    /// All tenants.
    pub async fn list_tenants(&self) -> Result<Vec<Tenant>, ClientError> {
        let request = bounded(ListTenantsRequest {});
        answer(self.client.clone().list_tenants(request).await).map(|list| list.tenants)
    }

    /// Creates an agent. The answer holds its private key, which exists nowhere else.
    pub async fn create_agent(
        &self,
        agent: CreateAgentRequest,
    ) -> Result<CreateAgentResponse, ClientError> {
        answer(self.client.clone().create_agent(bounded(agent)).await)
    }

    /// A tenant's agents; all agents where `tenant` is empty.
    pub async fn list_agents(&self, tenant: String) -> Result<Vec<Agent>, ClientError> {
        let request = bounded(ListAgentsRequest { tenant });
        answer(self.client.clone().list_agents(request).await).map(|list| list.agents)
    }

    /// Suspends, resumes, revokes or deletes an agent.
    pub async fn set_agent_status(&self, id: &str, status: &str) -> Result<Agent, ClientError> {
        let request = bounded(SetAgentStatusRequest {
            id: id.into(),
            status: status.into(),
        });
        answer(self.client.clone().set_agent_status(request).await)
    }

    /// Has the server read its policies anew. Returns how many it now holds.
    pub async fn reload_policy(&self) -> Result<u32, ClientError> {
        let request = bounded(ReloadPolicyRequest {});
        answer(self.client.clone().reload_policy(request).await).map(|reloaded| reloaded.policies)
    }

    /// How each model stands, as `tenant` may see it; empty: all of it.
    pub async fn model_states(&self, tenant: &str) -> Result<Vec<ModelState>, ClientError> {
        let request = bounded(ListModelStatesRequest {
            tenant: tenant.into(),
        });
        answer(self.client.clone().list_model_states(request).await).map(|list| list.models)
    }

    /// Has a model loaded, however long that takes. `progress` hears how far it has come.
    pub async fn load_model(
        &self,
        model: &str,
        mut progress: impl FnMut(ModelProgress),
    ) -> Result<(), ClientError> {
        let request = LoadModelRequest {
            model: model.into(),
        };
        let mut told = self.client.clone().load_model(request).await?.into_inner();
        while let Some(now) = told.message().await? {
            progress(now);
        }
        Ok(())
    }

    /// Has a model unloaded. Returns how many workers end, at once or once they have finished.
    pub async fn unload_model(&self, model: &str) -> Result<u32, ClientError> {
        let request = bounded(UnloadModelRequest {
            model: model.into(),
        });
        answer(self.client.clone().unload_model(request).await).map(|unloaded| unloaded.workers)
    }

    /// Has the server read its models anew, however long hashing takes. `progress` hears how far it
    /// has come.
    pub async fn reload_models(
        &self,
        mut progress: impl FnMut(ModelProgress),
    ) -> Result<ModelsReloaded, ClientError> {
        let request = ReloadModelsRequest {};
        let mut told = (self.client.clone().reload_models(request).await?).into_inner();
        while let Some(now) = told.message().await? {
            match now.message {
                Some(Reloading::Progress(now)) => progress(now),
                Some(Reloading::Reloaded(reloaded)) => return Ok(reloaded),
                None => {}
            }
        }
        Err(Status::unavailable("the server ended while it read its models").into())
    }

    /// Tenants, workers, and whether the audit log takes records.
    pub async fn status(&self) -> Result<StatusResponse, ClientError> {
        answer(self.client.clone().status(bounded(StatusRequest {})).await)
    }
}

fn bounded<T>(body: T) -> Request<T> {
    let mut request = Request::new(body);
    request.set_timeout(CALL_TIMEOUT);
    request
}

fn answer<T>(result: Result<Response<T>, Status>) -> Result<T, ClientError> {
    Ok(result?.into_inner())
}

async fn dial_a_starting_server(socket: &PathBuf) -> Result<UnixStream, ClientError> {
    let given_up = Instant::now() + START_MAX;
    loop {
        match dial(socket).await {
            Err(ClientError::NotRunning { .. }) if Instant::now() < given_up => {
                tokio::time::sleep(START_POLL).await;
            }
            outcome => return outcome,
        }
    }
}

async fn dial(socket: &PathBuf) -> Result<UnixStream, ClientError> {
    UnixStream::connect(socket)
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning {
                socket: socket.clone(),
            },
            _ => ClientError::Socket {
                socket: socket.clone(),
                source,
            },
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_server_is_an_answer_where_one_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Admin::running(dir.path()).await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_server_the_error_says_how_to_start_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = Admin::connect(dir.path()).await.err().unwrap().to_string();
        assert!(error.contains("bulkhead serve"), "{error}");
        assert!(error.contains("admin.sock"), "{error}");
    }
}
