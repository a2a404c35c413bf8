//! What the front door holds in memory for each tenant, beside the core's queue: requests whose bodies are yet arriving, and
//! answers that are being made or that nobody has read. Bounded for each tenant by itself, so that none can fill the machine
//! with either, and no other is refused for it.
//!
//! Inside a tenant whoever has less than its part of the bound is let in even where siblings have used it up: so what a
//! tenant holds is beyond its bound by what so many parts come to, and no agent keeps the others out. An answer that was
//! promised room is never thrown away.

use super::errors::Refused;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tonic::Code;

/// When to ask again: an answer is soon read by whoever reads at all.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The books of all tenants; clones share them.
#[derive(Clone)]
pub struct Buffers {
    bytes_max: u64,
    /// Of those tenants for which there is anything, by their numbers.
    tenants: Arc<Mutex<HashMap<u32, Tenant>>>,
}

#[derive(Default)]
struct Tenant {
    bytes: u64,
    /// Of those agents for which there is anything.
    agents: HashMap<u32, u64>,
}

impl Tenant {
    /// Whether an agent may have so many bytes more.
    fn may(&self, agent: u32, more: u64, bytes_max: u64) -> bool {
        let own = self.agents.get(&agent).copied().unwrap_or(0);
        let part = bytes_max / (self.agents.len() as u64 + 1);
        self.bytes.saturating_add(more) <= bytes_max || own.saturating_add(more) <= part
    }
}

impl Buffers {
    /// Each tenant may have so much.
    pub fn new(bytes_max: u64) -> Self {
        Buffers {
            bytes_max,
            tenants: Arc::default(),
        }
    }

    /// Something of an agent's to be held, of which there is nothing yet.
    pub fn hold(&self, tenant: u32, agent: u32) -> Held {
        Held {
            buffers: self.clone(),
            tenant,
            agent,
            bytes: 0,
        }
    }
}

/// An answer in the books: clones are one entry, which goes with the last of them.
#[derive(Clone)]
pub struct Booked(Arc<Mutex<Held>>);

impl Booked {
    pub fn new(held: Held) -> Self {
        Booked(Arc::new(Mutex::new(held)))
    }

    /// It turns out to be so many bytes.
    pub fn is(&self, bytes: u64) {
        self.0.lock().is(bytes);
    }
}

/// Bytes that are held for an agent until this is dropped.
pub struct Held {
    buffers: Buffers,
    tenant: u32,
    agent: u32,
    bytes: u64,
}

impl Held {
    /// So much more is held; nothing is where that is more than the agent may have.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Full> {
        self.add(bytes, self.buffers.bytes_max)
    }

    /// It turns out to be so many bytes. There they are, whatever the agent may have.
    pub fn is(&mut self, bytes: u64) {
        let more = bytes.saturating_sub(self.bytes);
        let _ = self.add(more, u64::MAX);
    }

    fn add(&mut self, bytes: u64, bytes_max: u64) -> Result<(), Full> {
        if bytes == 0 {
            return Ok(());
        }
        let mut tenants = self.buffers.tenants.lock();
        let tenant = tenants.entry(self.tenant).or_default();
        if !tenant.may(self.agent, bytes, bytes_max) {
            if tenant.agents.is_empty() {
                tenants.remove(&self.tenant);
            }
            return Err(Full);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        tenant.bytes = tenant.bytes.saturating_add(bytes);
        let own = tenant.agents.entry(self.agent).or_default();
        *own = own.saturating_add(bytes);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut tenants = self.buffers.tenants.lock();
        let Some(tenant) = tenants.get_mut(&self.tenant) else {
            return;
        };
        tenant.bytes = tenant.bytes.saturating_sub(self.bytes);
        if let Some(own) = tenant.agents.get_mut(&self.agent) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                tenant.agents.remove(&self.agent);
            }
        }
        if tenant.agents.is_empty() {
            tenants.remove(&self.tenant);
        }
    }
}

/// An agent has all that it may.
#[derive(Debug)]
pub struct Full;

impl From<Full> for Refused {
    fn from(Full: Full) -> Self {
        let what = "what your tenant's agents are sending, what they wait for and what they have not read are as many bytes as \
                    may be held for it; read answers, then try again, with fewer texts at a time";
        Refused::new(Code::ResourceExhausted, "TENANT_BUFFER_FULL", what).retry(RETRY_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(buffers: &Buffers, tenant: u32, agent: u32, bytes: u64) -> Option<Held> {
        let mut held = buffers.hold(tenant, agent);
        held.grow(bytes).ok().map(|()| held)
    }

    #[test]
    fn a_tenant_fills_its_own_bound_and_nobody_elses() {
        let buffers = Buffers::new(100);
        let all = held(&buffers, 1, 1, 100).unwrap();
        assert!(held(&buffers, 1, 1, 1).is_none());
        assert!(held(&buffers, 2, 1, 100).is_some());
        drop(all);
        let mut more = held(&buffers, 1, 1, 100).unwrap();
        more.is(70);
        more.is(130);
        assert!(held(&buffers, 1, 2, 50).is_some() && held(&buffers, 1, 1, 1).is_none());
        drop(more);
        assert!(buffers.tenants.lock().is_empty(), "nothing is remembered");
    }

    /// Fails where one agent keeps its siblings out.
    #[test]
    fn who_has_less_than_its_part_is_let_in() {
        let buffers = Buffers::new(100);
        let _greedy = held(&buffers, 1, 1, 100).unwrap();
        let mut modest = held(&buffers, 1, 2, 50).unwrap();
        assert!(modest.grow(1).is_err(), "no more than its part");
        assert!(held(&buffers, 1, 3, 33).is_some());
        assert!(held(&buffers, 1, 1, 1).is_none());
    }
}
