//! Tenants, agents and agents' public keys, in memory: what every request asks, without I/O.
//!
//! Filled from the store when it is opened, and changed only after the store has made a change
//! durable. Readers hold the lock for one lookup and take an `Arc`, never a copy.

use crate::key::PublicKey;
use crate::{Agent, Tenant};
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A public key of an agent.
#[derive(Clone, Debug)]
pub(crate) struct AgentKey {
    pub(crate) kid: Arc<str>,
    pub(crate) public: PublicKey,
}

/// An agent with its keys.
#[derive(Clone, Debug)]
pub(crate) struct AgentEntry {
    pub(crate) agent: Arc<Agent>,
    pub(crate) keys: Arc<[AgentKey]>,
}

#[derive(Default)]
struct Tables {
    tenants: BTreeMap<Arc<str>, Arc<Tenant>>,
    agents: HashMap<Arc<str>, AgentEntry>,
}

/// Everything that is known about who may call.
#[derive(Default)]
pub(crate) struct Directory {
    tables: RwLock<Tables>,
}

impl Directory {
    /// A directory of these.
    pub(crate) fn new(tenants: Vec<Tenant>, agents: Vec<AgentEntry>) -> Directory {
        let tenants = tenants
            .into_iter()
            .map(|t| (t.name.clone(), Arc::new(t)))
            .collect();
        let agents = agents
            .into_iter()
            .map(|entry| (entry.agent.id.clone(), entry))
            .collect();
        Directory {
            tables: RwLock::new(Tables { tenants, agents }),
        }
    }

    pub(crate) fn tenant(&self, name: &str) -> Option<Arc<Tenant>> {
        self.tables.read().tenants.get(name).cloned()
    }

    /// All tenants, by name.
    pub(crate) fn tenants(&self) -> Vec<Arc<Tenant>> {
        self.tables.read().tenants.values().cloned().collect()
    }

    pub(crate) fn agent(&self, id: &str) -> Option<Arc<Agent>> {
        self.tables
            .read()
            .agents
            .get(id)
            .map(|entry| entry.agent.clone())
    }

    pub(crate) fn entry(&self, id: &str) -> Option<AgentEntry> {
        self.tables.read().agents.get(id).cloned()
    }

    /// The agents of a tenant, or of all of them, by number.
    pub(crate) fn agents(&self, tenant: Option<&str>) -> Vec<Arc<Agent>> {
        let tables = self.tables.read();
        let all = tables.agents.values().map(|entry| &entry.agent);
        let asked = all.filter(|agent| tenant.is_none_or(|name| &*agent.tenant == name));
        let mut agents: Vec<_> = asked.cloned().collect();
        agents.sort_by_key(|agent| agent.number);
        agents
    }

    pub(crate) fn add_tenant(&self, tenant: Arc<Tenant>) {
        self.tables
            .write()
            .tenants
            .insert(tenant.name.clone(), tenant);
    }

    /// Puts a changed tenant in place, unless a newer change was quicker.
    pub(crate) fn change_tenant(&self, tenant: &Arc<Tenant>) {
        if let Some(known) = self.tables.write().tenants.get_mut(&tenant.name)
            && known.generation < tenant.generation
        {
            *known = tenant.clone();
        }
    }

    pub(crate) fn add_agent(&self, entry: AgentEntry) {
        self.tables
            .write()
            .agents
            .insert(entry.agent.id.clone(), entry);
    }

    /// Puts a changed agent in place, unless a newer change was quicker.
    pub(crate) fn change_agent(&self, agent: &Arc<Agent>) {
        if let Some(entry) = self.tables.write().agents.get_mut(&agent.id)
            && entry.agent.generation < agent.generation
        {
            entry.agent = agent.clone();
        }
    }
}
