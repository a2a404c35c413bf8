//! Callers, by the only way that there is to get one: an agent, its assertion, its token.

use bulkhead_identity::{
    ASSERTION_TYPE, GRANT_TYPE, Identity, NewTenant, Principal, Scopes, Tenant, TokenRequest,
    client,
};
use std::sync::Arc;

const ISSUER: &str = "https://bulkhead.test";
const NOW: u64 = 1_800_000_000;

/// One caller, with its tenant.
pub struct Caller {
    pub principal: Principal,
    pub tenant: Arc<Tenant>,
}

pub struct House {
    _folder: tempfile::TempDir,
    identity: Identity,
}

impl House {
    pub async fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("identity.db");
        let identity = Identity::open(&database, ISSUER, "test", NOW)
            .await
            .unwrap();
        House {
            _folder: folder,
            identity,
        }
    }

    /// A caller of a new tenant.
    pub async fn caller(&self, tenant: &str, models: &[&str], scopes: &str) -> Caller {
        let models = models.iter().map(|m| (*m).to_owned()).collect();
        let new = NewTenant {
            name: tenant.into(),
            models,
            ..NewTenant::default()
        };
        let tenant = self.identity.create_tenant(new, NOW).await.unwrap();
        self.another(tenant, "robot", scopes).await
    }

    /// Another caller of the same tenant.
    pub async fn another(&self, tenant: Arc<Tenant>, name: &str, scopes: &str) -> Caller {
        let made = self
            .identity
            .create_agent(&tenant.name, name, Scopes::ALL, NOW)
            .await;
        let agent = made.unwrap();
        let (key, id) = (&agent.private_key_pem, &agent.agent.id);
        let request = TokenRequest {
            grant_type: Some(GRANT_TYPE.into()),
            client_assertion_type: Some(ASSERTION_TYPE.into()),
            client_assertion: Some(client::client_assertion(key, id, ISSUER, NOW).unwrap()),
            client_id: None,
            scope: Some(scopes.into()),
        };
        let token = self
            .identity
            .exchange(&request, NOW)
            .await
            .unwrap()
            .access_token;
        Caller {
            principal: self.identity.authenticate(&token, NOW).unwrap(),
            tenant,
        }
    }
}

/// One caller in a house of its own.
pub async fn caller(tenant: &str, models: &[&str], scopes: &str) -> Caller {
    House::new().await.caller(tenant, models, scopes).await
}
