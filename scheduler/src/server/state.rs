//! What the front door's handlers share.

use super::{catalog::Catalog, driver, faults::Faults, submit::Submitter};
use crate::config::Config;
use bulkhead_core::{Rate, Regions, TenantId, TenantSettings};
use bulkhead_identity::{Agent, Identity, Limits, Tenant};
use bulkhead_policy::PolicyEngine;
use metrics_exporter_prometheus::PrometheusHandle;
use std::{ops::Deref, sync::Arc};
use tokio::sync::oneshot;

/// Shared state; clones are cheap.
#[derive(Clone)]
pub struct App(Arc<Inner>);

/// What `App` derefs to.
pub struct Inner {
    pub config: Config,
    pub identity: Identity,
    pub policy: PolicyEngine,
    pub catalog: Arc<Catalog>,
    pub faults: Arc<Faults>,
    /// Held while the models are read again: one at a time.
    pub reloading: tokio::sync::Mutex<()>,
    pub submitter: Submitter,
    pub metrics: PrometheusHandle,
    pub issuer: String,
    pub ca_pem: String,
}

impl Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    pub fn new(inner: Inner) -> Self {
        App(Arc::new(inner))
    }

    /// Tells the driver of a tenant, new or changed. Once this is done nothing of it begins by former settings.
    pub async fn announce(&self, tenant: &Tenant) {
        let scheduling = &self.config.scheduling;
        let (quota_bytes, gpu_quota_bytes) = match tenant.quota_bytes {
            0 => (self.config.worker.quota_bytes, self.config.gpu.quota_bytes),
            own => (own, own),
        };
        let by_default = Limits {
            requests: u64::from(scheduling.tenant_requests_per_minute),
            tokens: scheduling.tenant_tokens_per_minute,
            agent_requests: u64::from(scheduling.agent_requests_per_minute),
            agent_tokens: scheduling.agent_tokens_per_minute,
        };
        let limits = (tenant.limits).with(by_default, |own, default| own.unwrap_or(default));
        let facts = driver::TenantFacts {
            number: TenantId(tenant.number),
            name: tenant.name.clone(),
            generation: tenant.generation,
            quota_bytes,
            gpu_quota_bytes,
            residency: tenant.residency.regions().to_vec(),
            settings: TenantSettings {
                regions: match self.is_resident(tenant) {
                    true => Regions::ANY,
                    false => Regions::NONE,
                },
                weight: tenant.weight.max(1),
                queue_requests_max: scheduling.tenant_queue_requests_max,
                open_requests_max: scheduling.tenant_open_requests_max,
                rate: rate(limits.requests, limits.tokens),
                agent_rate: rate(limits.agent_requests, limits.agent_tokens),
            },
        };
        let (told, heard) = oneshot::channel();
        let message = driver::Message::Tenant(facts, told);
        if self.submitter.driver.send(message).await.is_err() || heard.await.is_err() {
            tracing::error!("the driver is gone");
        }
    }

    /// Whether this server is where a tenant may be.
    pub fn is_resident(&self, tenant: &Tenant) -> bool {
        tenant.residency.admits(&self.config.server.region)
    }

    /// Records a refusal where the agent is known and has not used up its records; else it is counted
    /// into the next aggregate.
    pub fn record_refusal(&self, agent: Option<&Agent>, reason: &'static str) {
        match agent {
            Some(agent) => self.submitter.record_refusal(agent, reason, ""),
            None => self.submitter.refusals.count(reason),
        }
    }
}

fn rate(requests: u64, tokens: u64) -> Rate {
    let requests = u32::try_from(requests).unwrap_or(u32::MAX);
    Rate { requests, tokens }
}
