//! What is kept of a revoked agent's prompts is dropped with its requests.

use super::Driver;
use bulkhead_core::{AgentId, TenantId, WorkerId};
use bulkhead_proto::internal::{Forget, to_worker};

impl Driver {
    /// Tells the tenant's workers that cache prompts to keep nothing of this agent's. To be called once
    /// its requests are cancelled: what those let go is then forgotten too.
    pub(super) fn forget(&mut self, tenant: TenantId, agent: AgentId) {
        let workers = self.workers.iter();
        let caching = workers
            .filter(|(_, worker)| worker.tenant == tenant && self.caches_prefixes(worker.model));
        let caching: Vec<WorkerId> = caching.map(|(id, _)| *id).collect();
        for worker in caching {
            if let Some(entry) = self.workers.get(&worker) {
                let agent = entry.given.agent(agent);
                self.send(worker, to_worker::Message::Forget(Forget { agent }));
            }
        }
    }
}
