//! The operator, over the admin socket.

use crate::agent::Agent;
use bulkhead_proto::v1::{
    self, CreateAgentRequest, CreateTenantRequest, SetAgentStatusRequest, StatusRequest,
    StatusResponse, UpdateTenantRequest, admin_client::AdminClient,
};
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// A connection to one server.
pub struct Admin {
    client: AdminClient<Channel>,
}

impl Admin {
    /// Connects to the socket.
    pub async fn connect(socket: &Path) -> Admin {
        let path: PathBuf = socket.into();
        let dial = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://admin.local");
        Admin {
            client: AdminClient::new(endpoint.connect_with_connector_lazy(dial)),
        }
    }

    /// Makes a tenant.
    pub async fn create_tenant(&mut self, tenant: CreateTenantRequest) -> Result<(), Status> {
        self.client.create_tenant(tenant).await.map(|_| ())
    }

    /// Changes a tenant.
    pub async fn update_tenant(
        &mut self,
        update: UpdateTenantRequest,
    ) -> Result<v1::Tenant, Status> {
        let answer = self.client.update_tenant(update).await;
        answer.map(tonic::Response::into_inner)
    }

    /// Makes a tenant of weight 1 where there is none of this name.
    pub async fn ensure_tenant(&mut self, name: &str) {
        let tenant = CreateTenantRequest {
            name: name.into(),
            weight: 1,
            ..Default::default()
        };
        match self.create_tenant(tenant).await {
            Ok(()) => {}
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => panic!("tenant {name}: {status}"),
        }
    }

    /// Makes an agent; `scopes` empty means all.
    pub async fn create_agent(&mut self, tenant: &str, name: &str, scopes: &[&str]) -> Agent {
        let request = CreateAgentRequest {
            tenant: tenant.into(),
            name: name.into(),
            scopes: scopes.iter().map(|s| s.to_string()).collect(),
        };
        let created = self.client.create_agent(request).await;
        Agent::new(created.expect("the agent is made").into_inner())
    }

    /// Sets an agent's status.
    pub async fn set_status(&mut self, id: &str, status: &str) -> Result<v1::Agent, Status> {
        let request = SetAgentStatusRequest {
            id: id.into(),
            status: status.into(),
        };
        let answer = self.client.set_agent_status(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// How the server stands.
    pub async fn status(&mut self) -> StatusResponse {
        let answer = self.client.status(StatusRequest {}).await;
        answer.expect("the server says how it stands").into_inner()
    }
}
