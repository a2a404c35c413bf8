//! What the front door holds in memory for each tenant, beside the core's queue: requests whose bodies are yet arriving, and
//! answers that are ready and that nobody has read. Bounded for each tenant by itself, so that none can fill the machine with
//! either, and no other is refused for it.
//!
//! An answer is never thrown away for this: whoever is beyond the bound has nothing new taken until there is less.

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
    held: Arc<Mutex<HashMap<u32, u64>>>,
}

impl Buffers {
    /// Each tenant may have so much.
    pub fn new(bytes_max: u64) -> Self {
        Buffers {
            bytes_max,
            held: Arc::default(),
        }
    }

    /// Something of a tenant's to be held, of which there is nothing yet; refused where it has all that it may.
    pub fn open(&self, tenant: u32) -> Result<Held, Refused> {
        let held = self.held.lock().get(&tenant).copied().unwrap_or(0);
        match held < self.bytes_max {
            true => Ok(self.answer(tenant, 0)),
            false => Err(Full.into()),
        }
    }

    /// An answer that is ready: there it is, whatever its tenant may have.
    pub fn answer(&self, tenant: u32, bytes: u64) -> Held {
        let mut held = Held {
            buffers: self.clone(),
            tenant,
            bytes: 0,
        };
        held.add(bytes);
        held
    }
}

/// Bytes that are held for a tenant until this is dropped.
pub struct Held {
    buffers: Buffers,
    tenant: u32,
    bytes: u64,
}

impl Held {
    /// So much more has arrived; refused where that is more than the tenant may have.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Full> {
        match self.add(bytes) <= self.buffers.bytes_max {
            true => Ok(()),
            false => Err(Full),
        }
    }

    /// Returns what the tenant has with it.
    fn add(&mut self, bytes: u64) -> u64 {
        if bytes == 0 {
            return 0;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        let mut held = self.buffers.held.lock();
        let of_tenant = held.entry(self.tenant).or_default();
        *of_tenant = of_tenant.saturating_add(bytes);
        *of_tenant
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut held = self.buffers.held.lock();
        if let Some(of_tenant) = held.get_mut(&self.tenant) {
            *of_tenant = of_tenant.saturating_sub(self.bytes);
            if *of_tenant == 0 {
                held.remove(&self.tenant);
            }
        }
    }
}

/// A tenant has all that it may. The transport hands on the text of an error alone, and no space of it.
#[derive(Debug, thiserror::Error)]
#[error("{FULL}")]
pub struct Full;

pub const FULL: &str = "TENANT_BUFFER_FULL";

impl From<Full> for Refused {
    fn from(Full: Full) -> Self {
        let what = "the requests that your tenant's agents are sending and the answers that they have not read are as many \
                    bytes as may be held for it; read answers, then try again";
        Refused::new(Code::ResourceExhausted, FULL, what).retry(RETRY_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_fills_its_own_bound_and_nobody_elses() {
        let buffers = Buffers::new(100);
        let mut arriving = buffers.open(1).unwrap();
        assert!(arriving.grow(60).is_ok());
        assert!(arriving.grow(41).is_err());
        assert!(buffers.open(1).is_err() && buffers.open(2).is_ok());
        drop(arriving);
        let answers = [buffers.answer(1, 99), buffers.answer(1, 99)];
        assert!(buffers.open(1).is_err(), "answers count, beyond the bound");
        drop(answers);
        assert!(buffers.open(1).is_ok());
        assert!(buffers.held.lock().is_empty(), "nothing is remembered");
    }
}
