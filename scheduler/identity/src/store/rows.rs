//! Tenants, agents and issuer keys, between their rows and their types.

use super::Store;
use crate::directory::{AgentEntry, AgentKey};
use crate::domain::{AGENTS_PER_TENANT_MAX, TENANTS_MAX};
use crate::key::PublicKey;
use crate::{Agent, AgentStatus, IdentityError, Limits, NewTenant, Residency, Scopes, Tenant};
use std::collections::HashMap;
use std::sync::Arc;

/// A key of the issuer, without its private half.
#[derive(Clone, Debug)]
pub(crate) struct IssuerKeyRow {
    pub(crate) epoch: u64,
    pub(crate) public: PublicKey,
    /// When a newer one took its place; `None` for the one that signs.
    pub(crate) retired_unix_s: Option<u64>,
}

type TenantRow = (i64, String, i64, String, i64, i64, String, String, i64);
type AgentRow = (i64, String, i64, String, String, String, i64, i64);

impl Store {
    /// All tenants.
    pub(crate) async fn tenants(&self) -> Result<Vec<Tenant>, IdentityError> {
        let rows: Vec<TenantRow> = sqlx::query_as(
            "SELECT number, name, weight, models, quota_bytes, created_unix_s, limits, \
             residency, generation FROM tenants",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(tenant).collect()
    }

    /// All agents, deleted ones included, with their active keys.
    pub(crate) async fn agents(
        &self,
        tenants: &[Tenant],
    ) -> Result<Vec<AgentEntry>, IdentityError> {
        let names: HashMap<u32, Arc<str>> =
            tenants.iter().map(|t| (t.number, t.name.clone())).collect();
        let mut keys = self.agent_keys().await?;
        let rows: Vec<AgentRow> = sqlx::query_as(
            "SELECT number, id, tenant, name, scopes, status, generation, created_unix_s \
             FROM agents",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                let agent = agent(row, &names)?;
                let keys = keys.remove(&agent.number).unwrap_or_default().into();
                Ok(AgentEntry {
                    agent: Arc::new(agent),
                    keys,
                })
            })
            .collect()
    }

    async fn agent_keys(&self) -> Result<HashMap<u32, Vec<AgentKey>>, IdentityError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "SELECT agent, public_x FROM agent_keys WHERE status = 'active' ORDER BY kid",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut keys: HashMap<u32, Vec<AgentKey>> = HashMap::new();
        for (agent, x) in rows {
            let public = public_key(&x)?;
            let key = AgentKey {
                kid: public.kid(),
                public,
            };
            keys.entry(unsigned(agent)?).or_default().push(key);
        }
        Ok(keys)
    }

    /// Adds a tenant that was checked.
    pub(crate) async fn add_tenant(
        &self,
        new: &NewTenant,
        now_unix_s: u64,
    ) -> Result<Tenant, IdentityError> {
        let mut tx = self.pool.begin().await?;
        let last = "SELECT COALESCE(MAX(number), 0) FROM tenants";
        let (last,): (i64,) = sqlx::query_as(last).fetch_one(&mut *tx).await?;
        if last >= i64::from(TENANTS_MAX) {
            return Err(IdentityError::TooMany {
                what: "tenants",
                max: TENANTS_MAX,
            });
        }
        let models = serde_json::Value::from(new.models.clone()).to_string();
        let row: TenantRow = (
            last + 1,
            new.name.clone(),
            i64::from(new.weight),
            models,
            signed(new.quota_bytes)?,
            signed(now_unix_s)?,
            limits_text(&new.limits),
            residency_text(&new.residency),
            1,
        );
        let done = sqlx::query(
            "INSERT INTO tenants \
             (number, name, weight, models, quota_bytes, created_unix_s, limits, residency, generation) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (name) DO NOTHING",
        )
        .bind(row.0)
        .bind(&row.1)
        .bind(row.2)
        .bind(&row.3)
        .bind(row.4)
        .bind(row.5)
        .bind(&row.6)
        .bind(&row.7)
        .bind(row.8)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Err(IdentityError::TenantExists(new.name.clone()));
        }
        tx.commit().await?;
        tenant(row)
    }

    /// Gives a tenant its new weight, limits, regions and generation, if it is still of the generation before.
    pub(crate) async fn change_tenant(&self, tenant: &Tenant) -> Result<(), IdentityError> {
        let done = sqlx::query(
            "UPDATE tenants SET weight = $1, limits = $2, residency = $3, generation = $4 \
             WHERE number = $5 AND generation = $6",
        )
        .bind(i64::from(tenant.weight))
        .bind(limits_text(&tenant.limits))
        .bind(residency_text(&tenant.residency))
        .bind(signed(tenant.generation)?)
        .bind(i64::from(tenant.number))
        .bind(signed(tenant.generation)? - 1)
        .execute(&self.pool)
        .await?;
        changed_one(done.rows_affected())
    }

    /// Adds an agent with its key, and gives it its number: `agent.number` is not looked at.
    pub(crate) async fn add_agent(
        &self,
        mut agent: Agent,
        key: &PublicKey,
    ) -> Result<Agent, IdentityError> {
        let mut tx = self.pool.begin().await?;
        let tenant = i64::from(agent.tenant_number);
        let count = "SELECT COUNT(*) FROM agents WHERE tenant = $1";
        let (count,): (i64,) = sqlx::query_as(count)
            .bind(tenant)
            .fetch_one(&mut *tx)
            .await?;
        if count >= i64::from(AGENTS_PER_TENANT_MAX) {
            let what = "agents of this tenant";
            return Err(IdentityError::TooMany {
                what,
                max: AGENTS_PER_TENANT_MAX,
            });
        }
        let last = "SELECT COALESCE(MAX(number), 0) FROM agents";
        let (last,): (i64,) = sqlx::query_as(last).fetch_one(&mut *tx).await?;
        agent.number = unsigned(last + 1)?;
        let done = sqlx::query(
            "INSERT INTO agents \
             (number, id, tenant, name, scopes, status, generation, created_unix_s) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant, name) DO NOTHING",
        )
        .bind(last + 1)
        .bind(&*agent.id)
        .bind(tenant)
        .bind(&*agent.name)
        .bind(agent.scopes.to_string())
        .bind(agent.status.name())
        .bind(signed(agent.generation)?)
        .bind(signed(agent.created_unix_s)?)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            let (tenant, name) = (agent.tenant.to_string(), agent.name.to_string());
            return Err(IdentityError::AgentExists { tenant, name });
        }
        sqlx::query(
            "INSERT INTO agent_keys (kid, agent, public_x, status) VALUES ($1, $2, $3, 'active')",
        )
        .bind(&*key.kid())
        .bind(last + 1)
        .bind(key.x())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(agent)
    }

    /// Gives an agent its new status and generation, if it is still of the generation before.
    pub(crate) async fn set_status(&self, agent: &Agent) -> Result<(), IdentityError> {
        let done = sqlx::query(
            "UPDATE agents SET status = $1, generation = $2 WHERE number = $3 AND generation = $4",
        )
        .bind(agent.status.name())
        .bind(signed(agent.generation)?)
        .bind(i64::from(agent.number))
        .bind(signed(agent.generation)? - 1)
        .execute(&self.pool)
        .await?;
        changed_one(done.rows_affected())
    }

    /// The issuer's keys, oldest first.
    pub(crate) async fn issuer_keys(&self) -> Result<Vec<IssuerKeyRow>, IdentityError> {
        let rows: Vec<(i64, String, Option<i64>)> = sqlx::query_as(
            "SELECT epoch, public_x, retired_unix_s FROM issuer_keys ORDER BY epoch",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(epoch, x, retired)| {
                let retired_unix_s = retired.map(unsigned::<u64>).transpose()?;
                let public = public_key(&x)?;
                Ok(IssuerKeyRow {
                    epoch: unsigned(epoch)?,
                    public,
                    retired_unix_s,
                })
            })
            .collect()
    }

    /// Adds a key of the issuer, which signs from now on; the one that signed until now retires.
    pub(crate) async fn add_issuer_key(
        &self,
        key: &IssuerKeyRow,
        now_unix_s: u64,
    ) -> Result<(), IdentityError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("UPDATE issuer_keys SET retired_unix_s = $1 WHERE retired_unix_s IS NULL")
            .bind(signed(now_unix_s)?)
            .execute(&mut *tx)
            .await?;
        let done = sqlx::query(
            "INSERT INTO issuer_keys (epoch, kid, public_x) VALUES ($1, $2, $3) \
             ON CONFLICT DO NOTHING",
        )
        .bind(signed(key.epoch)?)
        .bind(&*key.public.kid())
        .bind(key.public.x())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Err(IdentityError::Conflict);
        }
        tx.commit().await?;
        Ok(())
    }
}

fn tenant(row: TenantRow) -> Result<Tenant, IdentityError> {
    let (number, name, weight, models, quota_bytes, created_unix_s, limits, residency, generation) =
        row;
    let corrupt = |what: &str| IdentityError::Corrupt(format!("the {what} of tenant {name:?}"));
    let models: Vec<String> = serde_json::from_str(&models).map_err(|_| corrupt("models"))?;
    let limits = serde_json::from_str(&limits).map_err(|_| corrupt("limits"))?;
    let residency = serde_json::from_str(&residency).map_err(|_| corrupt("residency"))?;
    Ok(Tenant {
        name: name.into(),
        number: unsigned(number)?,
        weight: unsigned(weight)?,
        models: models.into(),
        quota_bytes: unsigned(quota_bytes)?,
        limits,
        residency,
        generation: unsigned(generation)?,
        created_unix_s: unsigned(created_unix_s)?,
    })
}

fn limits_text(limits: &Limits) -> String {
    serde_json::json!(limits).to_string()
}

fn residency_text(residency: &Residency) -> String {
    serde_json::json!(residency).to_string()
}

fn changed_one(rows: u64) -> Result<(), IdentityError> {
    match rows {
        1 => Ok(()),
        _ => Err(IdentityError::Conflict),
    }
}

fn agent(row: AgentRow, tenants: &HashMap<u32, Arc<str>>) -> Result<Agent, IdentityError> {
    let (number, id, tenant, name, scopes, status, generation, created_unix_s) = row;
    let corrupt = |what: &str| IdentityError::Corrupt(format!("the {what} of agent {id}"));
    let tenant_number = unsigned(tenant)?;
    Ok(Agent {
        number: unsigned(number)?,
        tenant: tenants
            .get(&tenant_number)
            .cloned()
            .ok_or_else(|| corrupt("tenant"))?,
        tenant_number,
        name: name.into(),
        scopes: Scopes::parse(&scopes).map_err(|_| corrupt("scopes"))?,
        status: status
            .parse::<AgentStatus>()
            .map_err(|_| corrupt("status"))?,
        generation: unsigned(generation)?,
        created_unix_s: unsigned(created_unix_s)?,
        id: id.into(),
    })
}

fn public_key(x: &str) -> Result<PublicKey, IdentityError> {
    PublicKey::from_x(x).ok_or_else(|| IdentityError::Corrupt(format!("the key {x:?}")))
}

fn unsigned<T: TryFrom<i64>>(number: i64) -> Result<T, IdentityError> {
    T::try_from(number).map_err(|_| IdentityError::Corrupt(format!("the number {number}")))
}

fn signed(number: u64) -> Result<i64, IdentityError> {
    i64::try_from(number).map_err(|_| IdentityError::Corrupt(format!("the number {number}")))
}
