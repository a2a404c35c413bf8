//! The core's names for things: small numbers that the driver hands out.
//!
//! The driver keeps the tables from users' names to these numbers; no user's string enters the core.

/// Nanoseconds on the driver's monotonic clock, or a span of them.
pub type Nanos = u64;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);
    )*};
}

ids! {
    /// An organisation: the unit of isolation and of fair share.
    TenantId(u32);
    /// An agent of one tenant.
    AgentId(u32);
    /// A model.
    ModelId(u32);
    /// A device: a CPU, a GPU or a MIG instance.
    DeviceId(u32);
    /// Where devices are, and a tenant's data may be: 0 to 63. A device in any other is nobody's.
    RegionId(u8);
    /// One request, unique in the life of the scheduler process.
    RequestId(u64);
    /// One worker process, unique in the life of the scheduler process. Chosen by the core.
    WorkerId(u64);
    /// One grant of a lane to a worker. Chosen by the core; never used twice.
    LeaseId(u64);
}
