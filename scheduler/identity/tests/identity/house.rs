//! A store in a folder of its own, with agents that hold their keys.

use bulkhead_identity::{
    ASSERTION_TYPE, GRANT_TYPE, Identity, NewAgent, NewTenant, OAuthError, Scopes, TokenRequest,
    TokenResponse, client,
};
use std::path::PathBuf;

pub const ISSUER: &str = "https://bulkhead.test";
pub const AUDIENCE: &str = "urn:bulkhead:test";
/// A time that tests begin at, seconds since 1970.
pub const NOW: u64 = 1_800_000_000;

pub struct House {
    pub folder: tempfile::TempDir,
    pub identity: Identity,
}

impl House {
    /// With the tenants acme and globex.
    pub async fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        let identity = open(folder.path().join("identity.db")).await;
        for name in ["acme", "globex"] {
            identity.create_tenant(tenant(name), NOW).await.unwrap();
        }
        House { folder, identity }
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("identity.db")
    }

    /// As after a restart.
    pub async fn reopened(self) -> House {
        self.identity.close().await;
        let identity = open(self.database()).await;
        House { identity, ..self }
    }

    pub async fn agent(&self, tenant: &str, name: &str) -> NewAgent {
        self.identity
            .create_agent(tenant, name, Scopes::ALL, NOW)
            .await
            .unwrap()
    }

    /// A token by the way that agents go.
    pub async fn token(&self, agent: &NewAgent, now: u64) -> String {
        self.exchange(&assertion(agent, now), now)
            .await
            .unwrap()
            .access_token
    }

    pub async fn exchange(&self, assertion: &str, now: u64) -> Result<TokenResponse, OAuthError> {
        self.identity.exchange(&request(assertion), now).await
    }
}

async fn open(database: PathBuf) -> Identity {
    Identity::open(&database, ISSUER, AUDIENCE, NOW)
        .await
        .unwrap()
}

pub fn tenant(name: &str) -> NewTenant {
    NewTenant {
        name: name.into(),
        ..NewTenant::default()
    }
}

pub fn assertion(agent: &NewAgent, now: u64) -> String {
    client::client_assertion(&agent.private_key_pem, &agent.agent.id, ISSUER, now).unwrap()
}

pub fn request(assertion: &str) -> TokenRequest {
    TokenRequest {
        grant_type: Some(GRANT_TYPE.into()),
        client_assertion_type: Some(ASSERTION_TYPE.into()),
        client_assertion: Some(assertion.into()),
        client_id: None,
        scope: None,
    }
}
