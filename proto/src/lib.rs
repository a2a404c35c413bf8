//! Bulkhead's wire types: the public API (`v1`), what our own processes say to each other
//! (`internal`), and the framing of the latter (`frame`, and `packet` where descriptors travel too).
//!
//! Only generated code and framing live here. Conversions into domain types live with those who
//! need them, and no decision is ever made here.

pub mod frame;
#[cfg(feature = "packets")]
pub mod packet;

/// The API of agents and operators.
pub mod v1 {
    #![allow(clippy::all)]
    tonic::include_proto!("bulkhead.v1");
}

/// Between our own processes.
pub mod internal {
    #![allow(clippy::all)]
    tonic::include_proto!("bulkhead.internal.v1");
}

/// The most steps of a worker that one later step tells of: whoever waits to hear how it does waits no longer than these take.
pub const SILENT_STEPS_MAX: u32 = 16;

/// The compiled descriptors of all .proto files, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
