//! GPUs, watched from outside the scheduler: what is seen, how it is told, and what is to be thought of it.
//!
//! NVML loads a vendor's library, opens device nodes and can hang with its driver. So a process of its own
//! asks it (`bulkhead-gpus`, [`watch`]), with nothing in its hands that belongs to a tenant, and tells the
//! scheduler in packets ([`wire`]). The scheduler, which may open no device, judges what it hears
//! ([`health`]): without a clock, and without believing that the numbers are sane.

pub mod health;
pub mod process;
pub mod watch;
pub mod wire;
