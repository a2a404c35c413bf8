//! The crate's way in: everything above, put together.

use crate::cache::{self, Cache};
use crate::directory::{AgentEntry, AgentKey, Directory};
use crate::domain::check_name;
use crate::issuer::{self, Endpoints, KeySet, unique_id};
use crate::jwt::TOKEN_BYTES_MAX;
use crate::key::{PrivateKey, PublicKey};
use crate::keyfile;
use crate::store::{IssuerKeyRow, Store};
use crate::verifier::{self, VerifiedToken};
use crate::{
    Agent, AgentChange, AgentStatus, AuthError, IdentityError, NewAgent, NewTenant, Principal,
    Scopes, Tenant, TenantChange, TenantUpdate,
};
use parking_lot::RwLock;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tenants, agents, keys and tokens of one installation.
///
/// Cheap to clone; clones share everything. What changes the store runs to its end even when the
/// caller's future is dropped, so that disk and memory never tell different stories.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    database: PathBuf,
    issuer: String,
    audience: String,
    store: Store,
    directory: Directory,
    keys: RwLock<Arc<KeySet>>,
    cache: Cache,
    /// A key whose private half was thrown away: see `assertion`.
    decoy: PublicKey,
}

impl Identity {
    /// Opens the store at `database` (made where there is none, with a first issuer key beside it).
    ///
    /// `issuer` is this installation's name as an `https://` URL, without query, fragment or a `/` at
    /// its end; clients put it into their assertions. `audience` is what access tokens are for.
    pub async fn open(
        database: &Path,
        issuer: &str,
        audience: &str,
        now_unix_s: u64,
    ) -> Result<Identity, IdentityError> {
        check_issuer(issuer)?;
        let store = Store::open(database).await?;
        let keys = load_keys(&store, database, now_unix_s).await?;
        let tenants = store.tenants().await?;
        let agents = store.agents(&tenants).await?;
        let inner = Inner {
            database: database.to_owned(),
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            store,
            directory: Directory::new(tenants, agents),
            keys: RwLock::new(Arc::new(keys)),
            cache: Cache::default(),
            decoy: PrivateKey::generate()?.public(),
        };
        Ok(Identity {
            inner: Arc::new(inner),
        })
    }

    /// Closes the store in good order. What comes after fails.
    pub async fn close(&self) {
        self.inner.store.close().await;
    }

    /// Turns an access token into the caller that it stands for. Costs no I/O.
    pub fn authenticate(&self, token: &str, now_unix_s: u64) -> Result<Principal, AuthError> {
        if token.is_empty() {
            return Err(AuthError::Missing);
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::TooLong);
        }
        let (directory, keys) = (&self.inner.directory, self.keys());
        let key = cache::key(token);
        if let Some(verified) = self.inner.cache.get(&key)
            && still_signed(&verified, &keys, now_unix_s)
        {
            let admitted = verifier::admit(&verified, directory, now_unix_s);
            if matches!(
                admitted,
                Err(AuthError::Expired | AuthError::TokenSuperseded)
            ) {
                self.inner.cache.remove(&key);
            }
            return admitted;
        }
        let (issuer, audience) = (self.issuer(), self.audience());
        let verified = verifier::verify(token, &keys, issuer, audience, now_unix_s)?;
        let principal = verifier::admit(&verified, directory, now_unix_s)?;
        self.inner
            .cache
            .insert(key, principal.tenant_number(), Arc::new(verified));
        Ok(principal)
    }

    /// The agent that a refused token names, where the token's signature holds: for the record of the
    /// refusal, and for nothing else.
    pub fn agent_refused(&self, token: &str, now_unix_s: u64) -> Option<Arc<Agent>> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (issuer, audience) = (self.issuer(), self.audience());
        let verified = verifier::verify(token, &self.keys(), issuer, audience, now_unix_s).ok()?;
        self.agent(&verified.agent)
    }

    /// Whether a caller that was authenticated earlier may still act: its agent's status and
    /// generation now. To be asked again after a wait, and before work that cannot be taken back.
    pub fn recheck(&self, principal: &Principal) -> Result<(), AuthError> {
        verifier::recheck(principal, &self.inner.directory)
    }

    /// Makes a tenant.
    pub async fn create_tenant(
        &self,
        new: NewTenant,
        now_unix_s: u64,
    ) -> Result<Arc<Tenant>, IdentityError> {
        let new = new.checked()?;
        let inner = self.inner.clone();
        to_its_end(async move {
            let tenant = Arc::new(inner.store.add_tenant(&new, now_unix_s).await?);
            inner.directory.add_tenant(tenant.clone());
            Ok(tenant)
        })
        .await
    }

    /// What an update would change, so that it can be on record before it is in force.
    pub fn plan_update(
        &self,
        name: &str,
        update: TenantUpdate,
    ) -> Result<TenantChange, IdentityError> {
        let before = self.tenant(name).ok_or_else(|| unknown_tenant(name))?;
        let tenant = Arc::new(update.applied_to(&before)?);
        Ok(TenantChange { tenant, before })
    }

    /// Changes a tenant as was planned: on the disk first, then for whoever asks from now on. Fails where another change came
    /// in between.
    pub async fn change_tenant(&self, change: &TenantChange) -> Result<(), IdentityError> {
        let (inner, tenant) = (self.inner.clone(), change.tenant.clone());
        to_its_end(async move {
            inner.store.change_tenant(&tenant).await?;
            inner.directory.change_tenant(&tenant);
            Ok(())
        })
        .await
    }

    /// Makes an agent of a tenant with a new key, whose private half exists in the answer alone.
    pub async fn create_agent(
        &self,
        tenant: &str,
        name: &str,
        scopes: Scopes,
        now_unix_s: u64,
    ) -> Result<NewAgent, IdentityError> {
        check_name("agent", name)?;
        if scopes.is_empty() {
            return Err(IdentityError::NoScopes);
        }
        let tenant = self.tenant(tenant).ok_or_else(|| unknown_tenant(tenant))?;
        let key = PrivateKey::generate()?;
        let agent = Agent {
            id: format!("agt_{}", unique_id(now_unix_s)).into(),
            number: 0,
            tenant: tenant.name.clone(),
            tenant_number: tenant.number,
            name: name.into(),
            scopes,
            status: AgentStatus::Active,
            generation: 1,
            created_unix_s: now_unix_s,
        };
        let inner = self.inner.clone();
        to_its_end(async move {
            let public = key.public();
            let agent = Arc::new(inner.store.add_agent(agent, &public).await?);
            let keys = [AgentKey {
                kid: public.kid(),
                public,
            }];
            let entry = AgentEntry {
                agent: agent.clone(),
                keys: keys.into(),
            };
            inner.directory.add_agent(entry);
            let key_id = public.kid().to_string();
            Ok(NewAgent {
                agent,
                key_id,
                private_key_pem: key.pem(),
            })
        })
        .await
    }

    /// Changes an agent's status: on the disk first, then for every request from now on. Tokens made
    /// before are refused for ever. An agent that has the status already is left as it is.
    pub async fn set_status(
        &self,
        id: &str,
        status: AgentStatus,
    ) -> Result<AgentChange, IdentityError> {
        let unknown = || IdentityError::AgentUnknown(id.chars().take(64).collect());
        let agent = self.agent(id).ok_or_else(unknown)?;
        let before = agent.status;
        if before == status {
            return Ok(AgentChange { agent, before });
        }
        if before.is_final() {
            return Err(IdentityError::Final {
                id: agent.id.to_string(),
                status: before,
            });
        }
        let changed = Agent {
            status,
            generation: agent.generation + 1,
            ..(*agent).clone()
        };
        let inner = self.inner.clone();
        to_its_end(async move {
            inner.store.set_status(&changed).await?;
            let agent = Arc::new(changed);
            inner.directory.change_agent(&agent);
            Ok(AgentChange { agent, before })
        })
        .await
    }

    /// Makes a new key that signs from now on. Tokens of the one before stay good until they expire.
    pub async fn rotate_issuer_key(&self, now_unix_s: u64) -> Result<(), IdentityError> {
        let inner = self.inner.clone();
        to_its_end(async move {
            let rows = inner.store.issuer_keys().await?;
            let epoch = rows.last().map_or(1, |row| row.epoch + 1);
            add_key(&inner.store, &inner.database, epoch, now_unix_s).await?;
            let keys = load_keys(&inner.store, &inner.database, now_unix_s).await?;
            *inner.keys.write() = Arc::new(keys);
            Ok(())
        })
        .await
    }

    /// The tenant of this name.
    pub fn tenant(&self, name: &str) -> Option<Arc<Tenant>> {
        self.inner.directory.tenant(name)
    }

    /// All tenants, by name.
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        self.inner.directory.tenants()
    }

    /// The agent of this client id.
    pub fn agent(&self, id: &str) -> Option<Arc<Agent>> {
        self.inner.directory.agent(id)
    }

    /// The agents of a tenant, or of all, oldest first; deleted ones too.
    pub fn agents(&self, tenant: Option<&str>) -> Vec<Arc<Agent>> {
        self.inner.directory.agents(tenant)
    }

    /// The issuer's public keys (RFC 7517).
    pub fn jwks(&self, now_unix_s: u64) -> serde_json::Value {
        self.keys().jwks(now_unix_s)
    }

    /// The authorization server's metadata (RFC 8414).
    pub fn metadata(&self, endpoints: &Endpoints) -> serde_json::Value {
        issuer::metadata(self.issuer(), endpoints)
    }

    /// This installation's name as an issuer.
    pub fn issuer(&self) -> &str {
        &self.inner.issuer
    }

    /// What access tokens are for.
    pub fn audience(&self) -> &str {
        &self.inner.audience
    }

    pub(crate) fn keys(&self) -> Arc<KeySet> {
        self.inner.keys.read().clone()
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.inner.directory
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn decoy(&self) -> &PublicKey {
        &self.inner.decoy
    }
}

fn unknown_tenant(name: &str) -> IdentityError {
    IdentityError::TenantUnknown(name.chars().take(64).collect())
}

/// Whether the key that a remembered token was verified with is still the same, and still good.
fn still_signed(verified: &VerifiedToken, keys: &KeySet, now_unix_s: u64) -> bool {
    let key = keys.verifying(&verified.kid, now_unix_s);
    key.is_some_and(|key| key.epoch == verified.key_epoch)
}

/// Runs to its end even where the caller goes away.
async fn to_its_end<T: Send + 'static>(
    act: impl Future<Output = Result<T, IdentityError>> + Send + 'static,
) -> Result<T, IdentityError> {
    match tokio::spawn(act).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down.
        Err(_) => Err(IdentityError::Store(sqlx::Error::PoolClosed)),
    }
}

async fn load_keys(
    store: &Store,
    database: &Path,
    now_unix_s: u64,
) -> Result<KeySet, IdentityError> {
    let mut rows = store.issuer_keys().await?;
    if rows.is_empty() {
        add_key(store, database, 1, now_unix_s).await?;
        rows = store.issuer_keys().await?;
    }
    let signs = rows.iter().find(|row| row.retired_unix_s.is_none());
    let signs = signs.ok_or_else(|| IdentityError::Corrupt("no issuer key signs".into()))?;
    let path = keyfile::path(database, signs.epoch);
    let lost = || keyfile::problem(&path, "is missing; restore it from a backup".into());
    let private = keyfile::read(&path)?.ok_or_else(lost)?;
    if private.public() != signs.public {
        let what = "is not the key that the database names; restore it from a backup";
        return Err(keyfile::problem(&path, what.into()));
    }
    Ok(KeySet::new(&private, &rows))
}

/// Makes the key of this epoch, or adopts its file where a crash left one that the database does not
/// know yet.
async fn add_key(
    store: &Store,
    database: &Path,
    epoch: u64,
    now_unix_s: u64,
) -> Result<(), IdentityError> {
    let path = keyfile::path(database, epoch);
    let private = match keyfile::read(&path)? {
        Some(left) => left,
        None => {
            let made = PrivateKey::generate()?;
            keyfile::write(&path, &made)?;
            made
        }
    };
    let row = IssuerKeyRow {
        epoch,
        public: private.public(),
        retired_unix_s: None,
    };
    store.add_issuer_key(&row, now_unix_s).await
}

fn check_issuer(issuer: &str) -> Result<(), IdentityError> {
    let host = issuer.strip_prefix("https://").unwrap_or_default();
    let odd = |c: char| c == '?' || c == '#' || c.is_whitespace() || c.is_control();
    if host.is_empty() || host.starts_with('/') || issuer.ends_with('/') || issuer.contains(odd) {
        return Err(IdentityError::BadIssuer(issuer.chars().take(256).collect()));
    }
    Ok(())
}
