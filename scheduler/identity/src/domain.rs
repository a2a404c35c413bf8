//! Tenants and agents as the scheduler knows them, and what makes a name valid.
//!
//! Values of these types were checked when they were made. Numbers (`u32`) are given out once and
//! never again, deleted or not, so that a record or a queue can never mean somebody else later; the
//! same holds for names.

use crate::limits::{Limit, Limits};
use crate::residency::Residency;
use crate::{IdentityError, Scopes};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Most characters of a tenant's or an agent's name.
pub const NAME_CHARS_MAX: usize = 63;
/// Most characters of a model's name.
pub const MODEL_NAME_CHARS_MAX: usize = 128;
/// Most models that a tenant's list can name.
pub const MODELS_PER_TENANT_MAX: usize = 256;
/// Most tenants of one installation.
pub const TENANTS_MAX: u32 = 100_000;
/// Most agents of one tenant, deleted ones included.
pub const AGENTS_PER_TENANT_MAX: u32 = 10_000;
/// Greatest weight of a tenant.
pub const WEIGHT_MAX: u32 = 1_000_000;

/// An organisation: the unit of isolation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its name; unique.
    pub name: Arc<str>,
    /// Its number; unique, and never given out again.
    pub number: u32,
    /// Share of device time relative to the other tenants; 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// Models that its agents may use. Empty means all shared models.
    pub models: Arc<[String]>,
    /// Bytes of worker memory per worker. 0 means the server's default.
    pub quota_bytes: u64,
    /// What it, and each of its agents, may have a minute.
    pub limits: Limits,
    /// Where its work may be done.
    pub residency: Residency,
    /// Goes up with every change.
    pub generation: u64,
    /// When it was created, seconds since 1970.
    pub created_unix_s: u64,
}

/// What an operator says to make a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTenant {
    /// See [`Tenant::name`]: 1 to 63 characters, a-z, 0-9 and '-', starting with a letter.
    pub name: String,
    /// See [`Tenant::weight`]. 0 means 1.
    pub weight: u32,
    /// See [`Tenant::models`].
    pub models: Vec<String>,
    /// See [`Tenant::quota_bytes`].
    pub quota_bytes: u64,
    /// See [`Tenant::limits`].
    pub limits: Limits,
    /// See [`Tenant::residency`].
    pub residency: Residency,
}

/// What an operator says to change a tenant. What is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantUpdate {
    /// See [`Tenant::weight`].
    pub weight: Option<u32>,
    /// See [`Tenant::limits`].
    pub limits: Limits<Option<Limit>>,
    /// See [`Tenant::residency`].
    pub residency: Option<Residency>,
}

/// A change of a tenant. Once it is made the caller tells those who schedule it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantChange {
    /// The tenant as it is after it.
    pub tenant: Arc<Tenant>,
    /// As it was before.
    pub before: Arc<Tenant>,
}

/// An agent of one tenant: the unit of identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its client id, `agt_…`; unique.
    pub id: Arc<str>,
    /// Its number; unique over all tenants, and never given out again.
    pub number: u32,
    /// The name of its tenant.
    pub tenant: Arc<str>,
    /// The number of its tenant.
    pub tenant_number: u32,
    /// Its name; unique within its tenant.
    pub name: Arc<str>,
    /// The most that a token of this agent can be used for.
    pub scopes: Scopes,
    /// Whether it may act.
    pub status: AgentStatus,
    /// Goes up with every change of status. Tokens carry it, and those of an older one are refused.
    pub generation: u64,
    /// When it was created, seconds since 1970.
    pub created_unix_s: u64,
}

/// A new agent, with the private half of its key: the only time that it exists here.
pub struct NewAgent {
    /// The agent.
    pub agent: Arc<Agent>,
    /// The id of its key, for the `kid` header of its assertions (which may be left out).
    pub key_id: String,
    /// PKCS#8 in PEM. Neither stored nor logged; zeroed when dropped.
    pub private_key_pem: Zeroizing<String>,
}

impl fmt::Debug for NewAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("NewAgent");
        out.field("agent", &self.agent)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// Whether an agent may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentStatus {
    /// It may.
    Active,
    /// Not now; an operator can make it active again.
    Suspended,
    /// Never again: its key is not to be trusted. Final.
    Revoked,
    /// Never again: it is not needed. Final.
    Deleted,
}

impl AgentStatus {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            AgentStatus::Active => "active",
            AgentStatus::Suspended => "suspended",
            AgentStatus::Revoked => "revoked",
            AgentStatus::Deleted => "deleted",
        }
    }

    /// Whether it can never change again.
    pub fn is_final(self) -> bool {
        matches!(self, AgentStatus::Revoked | AgentStatus::Deleted)
    }
}

impl fmt::Display for AgentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A status that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no status {0:?}; an agent is \"active\", \"suspended\", \"revoked\" or \"deleted\""
)]
pub struct UnknownStatus(pub String);

impl std::str::FromStr for AgentStatus {
    type Err = UnknownStatus;

    fn from_str(name: &str) -> Result<Self, UnknownStatus> {
        use AgentStatus::{Active, Deleted, Revoked, Suspended};
        let all = [Active, Suspended, Revoked, Deleted];
        let found = all.into_iter().find(|status| status.name() == name);
        found.ok_or_else(|| UnknownStatus(name.chars().take(64).collect()))
    }
}

/// What a change of status changed. The caller tells those who run the agent's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentChange {
    /// The agent as it is now.
    pub agent: Arc<Agent>,
    /// Its status before.
    pub before: AgentStatus,
}

impl AgentChange {
    /// False where the agent had that status already.
    pub fn changed(&self) -> bool {
        self.agent.status != self.before
    }

    /// True where its queued and running requests have to end.
    pub fn stops_requests(&self) -> bool {
        self.agent.status != AgentStatus::Active
    }
}

/// Checks a tenant's or an agent's name.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), IdentityError> {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    if starts && name.len() <= NAME_CHARS_MAX && name.chars().all(letters) {
        return Ok(());
    }
    Err(IdentityError::BadName {
        what,
        name: shorten(name),
    })
}

impl NewTenant {
    /// Checks every field, and puts 1 in the place of a weight that was not given.
    pub(crate) fn checked(mut self) -> Result<NewTenant, IdentityError> {
        check_name("tenant", &self.name)?;
        self.weight = self.weight.max(1);
        check_weight(self.weight)?;
        self.limits.check()?;
        // Stored as a signed number of 64 bits, the widest that both databases have.
        if i64::try_from(self.quota_bytes).is_err() {
            return Err(IdentityError::BadQuota(self.quota_bytes));
        }
        if self.models.len() > MODELS_PER_TENANT_MAX {
            return Err(IdentityError::TooManyModels(self.models.len()));
        }
        for model in &self.models {
            check_model(model)?;
        }
        self.models.sort();
        self.models.dedup();
        Ok(self)
    }
}

impl TenantUpdate {
    /// The tenant with what was asked for.
    pub(crate) fn applied_to(&self, tenant: &Tenant) -> Result<Tenant, IdentityError> {
        let weight = self.weight.unwrap_or(tenant.weight);
        check_weight(weight)?;
        let limits = (self.limits).with(tenant.limits, |new, before| new.unwrap_or(before));
        limits.check()?;
        Ok(Tenant {
            weight,
            limits,
            residency: (self.residency.as_ref())
                .unwrap_or(&tenant.residency)
                .clone(),
            generation: tenant.generation + 1,
            ..tenant.clone()
        })
    }
}

fn check_weight(weight: u32) -> Result<(), IdentityError> {
    match (1..=WEIGHT_MAX).contains(&weight) {
        true => Ok(()),
        false => Err(IdentityError::BadWeight(weight)),
    }
}

fn check_model(name: &str) -> Result<(), IdentityError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
    if (1..=MODEL_NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(IdentityError::BadModel(shorten(name)))
}

/// What a message quotes of a name that somebody else chose.
fn shorten(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let longest = format!("a{}", "0".repeat(NAME_CHARS_MAX - 1));
        for good in ["a", "acme", "a-1", "x9", longest.as_str()] {
            assert!(check_name("tenant", good).is_ok(), "{good}");
        }
        let too_long = format!("{longest}0");
        for bad in [
            "",
            "1a",
            "-a",
            "A",
            "a_b",
            "a b",
            "é",
            "a\n",
            too_long.as_str(),
        ] {
            assert!(check_name("tenant", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_tenant_is_checked_as_a_whole() {
        let good = NewTenant {
            name: "acme".into(),
            weight: 0,
            models: vec!["b".into(), "a".into(), "b".into()],
            ..NewTenant::default()
        };
        let checked = good.clone().checked().unwrap();
        assert_eq!((checked.weight, checked.models.len()), (1, 2));
        let bad = [
            NewTenant {
                weight: WEIGHT_MAX + 1,
                ..good.clone()
            },
            NewTenant {
                quota_bytes: u64::MAX,
                ..good.clone()
            },
            NewTenant {
                limits: Limits {
                    agent_requests: Some(u64::from(u32::MAX) + 1),
                    ..Limits::default()
                },
                ..good.clone()
            },
            NewTenant {
                limits: Limits {
                    tokens: Some(u64::MAX),
                    ..Limits::default()
                },
                ..good.clone()
            },
            NewTenant {
                models: vec!["a model".into()],
                ..good.clone()
            },
            NewTenant {
                models: vec![String::new()],
                ..good.clone()
            },
            NewTenant {
                models: vec!["m".into(); MODELS_PER_TENANT_MAX + 1],
                ..good
            },
        ];
        for tenant in bad {
            assert!(tenant.checked().is_err());
        }
    }

    #[test]
    fn a_new_agents_key_is_not_in_its_debug_text() {
        let tenant: Arc<str> = "acme".into();
        let agent = Arc::new(Agent {
            id: "agt_1".into(),
            number: 1,
            tenant,
            tenant_number: 1,
            name: "a".into(),
            scopes: Scopes::ALL,
            status: AgentStatus::Active,
            generation: 1,
            created_unix_s: 0,
        });
        let new = NewAgent {
            agent,
            key_id: "k".into(),
            private_key_pem: Zeroizing::new("SECRET".into()),
        };
        assert!(!format!("{new:?}").contains("SECRET"));
    }
}
