//! The tamper-evident audit log: records, encryption, Merkle trees, signed checkpoints, recovery,
//! the offline verifier, and the process that writes it all (`bulkhead-audit`).
//!
//! The log is a process and a user of its own, so that whoever takes over the scheduler can lie from
//! then on but can neither read nor change what was recorded. Everything that the log knows is derived
//! from one journal: what is in it and synced is true, anything else is not. `FORMAT.md` describes every
//! byte, so that others can write a verifier of their own.
//!
//! What never happens here: a plaintext body touches the disk; a record is acknowledged before it is
//! durable; a checkpoint is signed over what is not durable; anything depends on the rest of Bulkhead
//! other than the wire types.

mod codec;
mod entry;
mod fsutil;
mod record;
mod replay;
mod sealing;
#[cfg(test)]
mod testing;

pub mod checkpoint;
pub mod journal;
pub mod keys;
pub mod log;
pub mod note;
pub mod read;
pub mod serve;
pub mod tree;
pub mod verify;

pub use record::{
    BODY_BYTES_MAX, Kind, REQUEST_ID_BYTES_MAX, SESSION_BYTES_MAX, tenant_name_valid,
};
