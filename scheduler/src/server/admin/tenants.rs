//! What operators do with tenants: make them, and change their weight, limits and regions. A tenant's name, models and memory stay as
//! it was made with, so that no worker of it ever serves by other rules than it began with.

use super::{AdminService, MODEL_NAME_CHARS_MAX, MODELS_NAMED_MAX, failed};
use crate::{
    config::QUOTA_BYTES_MIN,
    server::{catalog::Catalog, clock, errors::Refused},
};
use bulkhead_identity::{Limit, Limits, NewTenant, Residency, TenantChange, TenantUpdate};
use bulkhead_proto::v1::{self, CreateTenantRequest, Tenant, UpdateTenantRequest};
use serde_json::json;
use tonic::{Code, Status};

impl AdminService {
    pub(super) async fn make(&self, asked: CreateTenantRequest) -> Result<Tenant, Status> {
        self.ready().await?;
        let new = NewTenant {
            name: asked.name,
            weight: asked.weight.max(1),
            models: asked.models,
            quota_bytes: asked.quota_bytes,
            limits: named(asked.limits).map(Option::flatten),
            residency: residency(asked.regions)?.unwrap_or_default(),
        };
        servable(&new, &self.app.catalog).map_err(Refused::into_status)?;
        let made = self.app.identity.create_tenant(new, clock::unix_s()).await;
        let tenant = made.map_err(failed)?;
        // Before its record: a tenant that is there is served, whatever becomes of the log.
        self.app.announce(&tenant).await;
        self.record(&tenant.name, "tenant.create", json!({ "tenant": tenant.name, "weight": tenant.weight, "models": tenant.models, "quota_bytes": tenant.quota_bytes, "limits": tenant.limits, "regions": tenant.residency })).await?;
        Ok(self.wire(&tenant))
    }

    pub(super) async fn update(&self, asked: UpdateTenantRequest) -> Result<Tenant, Status> {
        let update = TenantUpdate {
            weight: asked.weight,
            limits: named(asked.limits),
            residency: residency(asked.regions)?,
        };
        if update == TenantUpdate::default() {
            let what = "an update changes a weight, a limit or regions, and this one names none";
            return Err(Refused::new(Code::InvalidArgument, "UPDATE_EMPTY", what).into_status());
        }
        let change = self.app.identity.plan_update(&asked.name, update);
        let change = change.map_err(failed)?;
        let TenantChange { tenant, before } = &change;
        match self.app.is_resident(before) && !self.app.is_resident(tenant) {
            true => self.send_away(&change).await?,
            false => self.change(&change).await?,
        }
        Ok(self.wire(tenant))
    }

    /// What is in force is on record before, whatever becomes of this process.
    async fn change(&self, change: &TenantChange) -> Result<(), Status> {
        self.ready().await?;
        let name = &change.tenant.name;
        let failed_by = |reason: &str| {
            let what = json!({ "tenant": name, "reason": reason });
            self.hand_in(name, "tenant.update.failed", what);
        };
        // One that was not durable in time may be later.
        let recorded = self.record(name, "tenant.update", said(change)).await;
        recorded.inspect_err(|_| failed_by("AUDIT_UNAVAILABLE"))?;
        let changed = self.app.identity.change_tenant(change).await;
        changed.map_err(|error| {
            failed_by(error.reason());
            failed(error)
        })?;
        self.app.announce(&change.tenant).await;
        Ok(())
    }

    /// A tenant may not be here any more. Like all that takes rights away it works while the log is down: it is done first, and
    /// recorded as soon as the log can.
    async fn send_away(&self, change: &TenantChange) -> Result<(), Status> {
        let changed = self.app.identity.change_tenant(change).await;
        changed.map_err(failed)?;
        self.app.announce(&change.tenant).await;
        let name = &change.tenant.name;
        match self.app.submitter.audit.up() {
            true => self.record(name, "tenant.update", said(change)).await,
            false => {
                self.hand_in(name, "tenant.update", said(change));
                Ok(())
            }
        }
    }

    pub(super) fn wire(&self, tenant: &bulkhead_identity::Tenant) -> Tenant {
        let limits = tenant.limits.map(|per_minute| v1::Limit { per_minute });
        let limits = v1::Limits {
            requests: Some(limits.requests),
            tokens: Some(limits.tokens),
            agent_requests: Some(limits.agent_requests),
            agent_tokens: Some(limits.agent_tokens),
        };
        Tenant {
            name: tenant.name.to_string(),
            weight: tenant.weight,
            models: tenant.models.to_vec(),
            quota_bytes: tenant.quota_bytes,
            created_unix_s: tenant.created_unix_s as i64,
            limits: Some(limits),
            regions: Some(v1::Regions {
                names: tenant.residency.regions().to_vec(),
                any: tenant.residency.regions().is_empty(),
            }),
            refused_here: !self.app.is_resident(tenant),
        }
    }
}

fn said(change: &TenantChange) -> serde_json::Value {
    let of = |t: &bulkhead_identity::Tenant| json!({ "weight": t.weight, "limits": t.limits, "regions": t.residency });
    let TenantChange { tenant, before } = change;
    json!({ "tenant": tenant.name, "before": of(before), "after": of(tenant) })
}

/// What was said of each limit.
fn named(limits: Option<v1::Limits>) -> Limits<Option<Limit>> {
    let limits = limits.unwrap_or_default();
    let said = Limits {
        requests: limits.requests,
        tokens: limits.tokens,
        agent_requests: limits.agent_requests,
        agent_tokens: limits.agent_tokens,
    };
    said.map(|limit| limit.map(|limit| limit.per_minute))
}

/// What was said of where a tenant may be. A list that came out empty is no word that it may be anywhere.
fn residency(regions: Option<v1::Regions>) -> Result<Option<Residency>, Status> {
    let Some(regions) = regions else {
        return Ok(None);
    };
    if regions.any != regions.names.is_empty() {
        let what = "regions are either names or any: name some, or say any (`--regions any`)";
        return Err(Refused::new(Code::InvalidArgument, "REGIONS_INVALID", what).into_status());
    }
    Residency::of(regions.names).map(Some).map_err(failed)
}

/// Refuses a tenant that could never be served: its models and its memory stay as they are made. A
/// model that belongs to another tenant counts as unknown, as it does everywhere.
fn servable(new: &NewTenant, catalog: &Catalog) -> Result<(), Refused> {
    let offered = |model: &&String| {
        let entry = catalog.get(model);
        entry.is_some_and(|e| e.owner.is_none_or(|owner| owner == new.name))
    };
    let unknown: Vec<String> = (new.models.iter())
        .filter(|m| !offered(m))
        .take(MODELS_NAMED_MAX)
        .map(|m| m.chars().take(MODEL_NAME_CHARS_MAX).collect())
        .collect();
    if !unknown.is_empty() {
        let what = format!(
            "this server has no model {unknown:?} for the tenant; `bulkhead models list` says which \
             there are, and `bulkhead models reload` has the server find new ones"
        );
        return Err(Refused::new(Code::InvalidArgument, "MODELS_INVALID", what));
    }
    if (1..QUOTA_BYTES_MIN).contains(&new.quota_bytes) {
        let what = format!(
            "a quota of {} bytes is too small to serve with: give at least 1 MiB \
             ({QUOTA_BYTES_MIN} bytes), or 0 for the server's default",
            new.quota_bytes
        );
        return Err(Refused::new(Code::InvalidArgument, "QUOTA_INVALID", what));
    }
    Ok(())
}
