//! What operators do with agents: make them, and change their status. No key leaves but the new one, once.

use super::{AdminService, failed};
use crate::server::{clock, driver::Message, errors::Refused};
use bulkhead_core::{AgentId, CancelReason, TenantId};
use bulkhead_identity::{AgentStatus, Scopes};
use bulkhead_proto::v1::{Agent, CreateAgentRequest, CreateAgentResponse, SetAgentStatusRequest};
use serde_json::json;
use tonic::{Code, Status};

impl AdminService {
    pub(super) async fn make_agent(
        &self,
        asked: CreateAgentRequest,
    ) -> Result<CreateAgentResponse, Status> {
        self.ready().await?;
        let scopes = if asked.scopes.is_empty() {
            Ok(Scopes::ALL)
        } else {
            Scopes::from_names(&asked.scopes)
        };
        let scopes = scopes.map_err(|e| {
            Refused::new(Code::InvalidArgument, "SCOPE_UNKNOWN", e.to_string()).into_status()
        })?;
        let new = self
            .app
            .identity
            .create_agent(&asked.tenant, &asked.name, scopes, clock::unix_s())
            .await
            .map_err(failed)?;
        let recorded = self.record(&new.agent.tenant, "agent.create", json!({ "agent": new.agent.id, "name": new.agent.name, "scopes": new.agent.scopes.names(), "key": new.key_id })).await;
        if let Err(status) = recorded {
            // Its key leaves with no answer, so it is of no use to anybody.
            let deleted = SetAgentStatusRequest {
                id: new.agent.id.to_string(),
                status: AgentStatus::Deleted.name().into(),
            };
            if let Err(why) = self.set_status(deleted).await {
                tracing::error!(agent = %new.agent.id, %why, "an agent whose key nobody has is not deleted");
            }
            return Err(status);
        }
        Ok(CreateAgentResponse {
            agent: Some(wire(&new.agent)),
            private_key_pem: new.private_key_pem.to_string(),
            key_id: new.key_id,
            issuer: self.app.issuer.clone(),
            ca_pem: self.app.ca_pem.clone(),
        })
    }

    pub(super) async fn set_status(&self, asked: SetAgentStatusRequest) -> Result<Agent, Status> {
        let status: AgentStatus =
            asked
                .status
                .parse()
                .map_err(|e: bulkhead_identity::UnknownStatus| {
                    Refused::new(Code::InvalidArgument, "STATUS_UNKNOWN", e.to_string())
                        .into_status()
                })?;
        // Taking rights away must work while the log is down: it is done first and recorded as soon
        // as the log can. Only giving rights waits for it.
        if status == AgentStatus::Active {
            self.ready().await?;
        }
        let change = self
            .app
            .identity
            .set_status(&asked.id, status)
            .await
            .map_err(failed)?;
        if change.stops_requests() {
            let cancel = Message::CancelAgent {
                tenant: TenantId(change.agent.tenant_number),
                agent: AgentId(change.agent.number),
                why: CancelReason::Revoked,
            };
            if self.app.submitter.driver.send(cancel).await.is_err() {
                return Err(Refused::stopping().into_status());
            }
        }
        let details = json!({ "agent": change.agent.id, "before": change.before.name(), "after": change.agent.status.name() });
        if self.app.submitter.audit.up() {
            self.record(&change.agent.tenant, "agent.status", details)
                .await?;
        } else {
            self.hand_in(&change.agent.tenant, "agent.status", details);
        }
        Ok(wire(&change.agent))
    }
}

pub(super) fn wire(agent: &bulkhead_identity::Agent) -> Agent {
    Agent {
        id: agent.id.to_string(),
        tenant: agent.tenant.to_string(),
        name: agent.name.to_string(),
        scopes: agent.scopes.names(),
        status: agent.status.name().into(),
        created_unix_s: agent.created_unix_s as i64,
    }
}
