//! What each value may be. Every bound is named with its key, so that an operator knows what to mend.

use super::{Config, ConfigError, LAYERS, QUOTA_BYTES_MIN, SCRATCH_BYTES_MIN, SPARES_MAX};
use bulkhead_identity::is_region;
use bulkhead_kernels::Measure;

impl Config {
    /// Holds every value against its bounds. Again after values were changed by hand.
    pub fn check(&self) -> Result<(), ConfigError> {
        let s = &self.scheduling;
        bound(
            "limits.message_bytes_max",
            self.limits.message_bytes_max,
            |n| (1024..=8 << 20).contains(&n),
            "must be between 1 KiB and 8 MiB",
        )?;
        bound(
            "limits.connections_max",
            self.limits.connections_max,
            |n| n > 0,
            "must be at least 1",
        )?;
        bound(
            "limits.tenant_buffer_bytes_max",
            self.limits.tenant_buffer_bytes_max,
            |n| n >= 2 * self.limits.message_bytes_max as u64,
            "must be at least twice message_bytes_max",
        )?;
        bound(
            "limits.unread_ms",
            self.limits.unread_ms,
            |n| n >= 100,
            "must be at least 100",
        )?;
        bound(
            "limits.streams_per_connection_max",
            self.limits.streams_per_connection_max,
            |n| n > 0,
            "must be at least 1",
        )?;
        bound(
            "scheduling.quantum_ms",
            s.quantum_ms,
            |n| (1..=60_000).contains(&n),
            "must be between 1 and 60,000",
        )?;
        bound(
            "scheduling.switch_percent",
            s.switch_percent,
            |n| n <= 50,
            "must be at most 50",
        )?;
        bound(
            "scheduling.burst_ms",
            s.burst_ms,
            |n| n <= 60_000,
            "must be at most 60,000",
        )?;
        bound(
            "scheduling.step_limit_ms",
            s.step_limit_ms,
            |n| (1..=10_000).contains(&n),
            "must be between 1 and 10,000",
        )?;
        bound(
            "scheduling.release_grace_ms",
            s.release_grace_ms,
            |n| n >= 4 * s.step_limit_ms,
            "must be at least four times step_limit_ms",
        )?;
        bound(
            "scheduling.batch_tokens_max",
            s.batch_tokens_max,
            |n| n > 0,
            "must be at least 1",
        )?;
        bound(
            "scheduling.start_attempts_max",
            s.start_attempts_max,
            |n| n > 0,
            "must be at least 1",
        )?;
        bound(
            "scheduling.queue_bytes_max",
            s.queue_bytes_max,
            |n| n >= s.tenant_reserved_bytes,
            "must be at least tenant_reserved_bytes",
        )?;
        bound(
            "cpu.lanes",
            self.cpu.lanes,
            |n| (1..=8).contains(&n),
            "must be between 1 and 8",
        )?;
        bound(
            "cpu.workers_max",
            self.cpu.workers_max,
            |n| n > 0,
            "must be at least 1",
        )?;
        let gpu = &self.gpu;
        bound(
            "gpu.lanes",
            gpu.lanes,
            |n| (1..=8).contains(&n),
            "must be between 1 and 8",
        )?;
        bound(
            "gpu.workers_max",
            gpu.workers_max,
            |n| (1..=256).contains(&n),
            "must be between 1 and 256",
        )?;
        bound(
            "gpu.quota_bytes",
            gpu.quota_bytes,
            |n| n >= QUOTA_BYTES_MIN,
            "must be at least 1 MiB",
        )?;
        bound(
            "gpu.worker_bytes",
            gpu.worker_bytes,
            |n| n > gpu.quota_bytes,
            "must be more than gpu.quota_bytes: the model comes on top",
        )?;
        bound(
            "worker.quota_bytes",
            self.worker.quota_bytes,
            |n| n >= QUOTA_BYTES_MIN,
            "must be at least 1 MiB",
        )?;
        bound(
            "worker.scratch_bytes",
            self.worker.scratch_bytes,
            |n| n >= SCRATCH_BYTES_MIN,
            "must be at least 128 MiB",
        )?;
        bound(
            "worker.spares",
            self.worker.spares,
            |n| n <= SPARES_MAX,
            "must be at most 64",
        )?;
        bound(
            "models.prefix_cache_idle_ms",
            self.models.prefix_cache_idle_ms,
            |n| (1..=86_400_000).contains(&n),
            "must be between 1 and 86,400,000, a day",
        )?;
        bound(
            "audit.pending_max",
            self.audit.pending_max,
            |n| n > 0,
            "must be at least 1",
        )?;
        bound(
            "server.region",
            self.server.region.clone(),
            |region| is_region(&region),
            "must be 1 to 63 characters, A-Z, a-z, 0-9 and \"-_.\", and not \"any\", so that tenants can be bound to it",
        )?;
        bound(
            "server.operators",
            self.server.operators,
            |a| a.ip().is_loopback(),
            "must be a loopback address: metrics name tenants and are not authenticated",
        )?;
        for name in &self.unsafe_.disable {
            bound(
                "unsafe.disable",
                name.clone(),
                |n| match n.strip_prefix("zeroing.") {
                    Some(one) => Measure::named(one).is_some(),
                    None => n == "zeroing",
                },
                "must be \"zeroing\", or of it \"zeroing.heap\", \".stacks\", \".scratch\" or \".blocks\": nothing \
                 else can be switched off",
            )?;
        }
        let unknown = |name: &&String| !LAYERS.contains(&name.as_str());
        match self.worker.required_layers.iter().find(unknown) {
            Some(name) => Err(ConfigError::Layer {
                name: name.clone(),
                known: LAYERS.join(", "),
            }),
            None => Ok(()),
        }
    }
}

fn bound<T: std::fmt::Display + Clone>(
    key: &'static str,
    value: T,
    holds: impl Fn(T) -> bool,
    bound: &'static str,
) -> Result<(), ConfigError> {
    if holds(value.clone()) {
        return Ok(());
    }
    Err(ConfigError::Bound {
        key,
        value: value.to_string(),
        bound,
    })
}
