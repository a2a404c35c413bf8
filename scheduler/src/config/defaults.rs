//! The configuration that works where nothing is said: a laptop, loopback addresses alone, and bounds
//! that one machine can hold.

use super::{Audit, Cpu, Gpu, GpuUse, Limits, Models, Scheduling, Server, Worker};
use std::net::SocketAddr;

impl Default for Server {
    fn default() -> Self {
        Server {
            listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            operators: SocketAddr::from(([127, 0, 0, 1], 9464)),
            names: Vec::new(),
            issuer: String::new(),
            region: "local".into(),
            drain_ms: 10_000,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes_max: 4 << 20,
            header_bytes_max: 16 << 10,
            streams_per_connection_max: 256,
            connections_max: 1024,
            tenant_buffer_bytes_max: 128 << 20,
            unread_ms: 30_000,
            idle_ms: 300_000,
            texts_per_request_max: 2048,
            output_tokens_max: 4096,
        }
    }
}

impl Default for Scheduling {
    fn default() -> Self {
        Scheduling {
            queue_bytes_max: 256 << 20,
            tenant_reserved_bytes: 1 << 20,
            tenant_queue_requests_max: 4096,
            tenant_open_requests_max: 8192,
            tenant_requests_per_minute: 0,
            tenant_tokens_per_minute: 0,
            agent_requests_per_minute: 0,
            agent_tokens_per_minute: 0,
            batch_tokens_max: 4096,
            quantum_ms: 50,
            switch_percent: 3,
            burst_ms: 500,
            step_limit_ms: 25,
            release_grace_ms: 2_000,
            start_attempts_max: 3,
        }
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Cpu {
            lanes: 1,
            workers_max: 16,
            threads: 0,
        }
    }
}

impl Default for Gpu {
    fn default() -> Self {
        Gpu {
            use_: GpuUse::Auto,
            lanes: 1,
            workers_max: 4,
            quota_bytes: 4 << 30,
            worker_bytes: 16 << 30,
        }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Worker {
            quota_bytes: 256 << 20,
            scratch_bytes: 1 << 30,
            required_layers: [
                "no_new_privs",
                "non_dumpable",
                "rlimits",
                "landlock",
                "seccomp",
            ]
            .map(String::from)
            .to_vec(),
            share_weights: true,
            spares: 1,
        }
    }
}

impl Default for Models {
    fn default() -> Self {
        Models {
            dir: Default::default(),
            null: false,
            null_ns_per_token: 0,
            prefix_cache: Vec::new(),
            prefix_cache_idle_ms: 300_000,
            unload_after_ms: 600_000,
        }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Audit {
            bytes_max: 0,
            pending_max: 65_536,
        }
    }
}
