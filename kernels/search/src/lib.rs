//! Searching a process's memory, from outside, for traces of a job: texts, token ids, vectors.
//!
//! The tests demand with it that nothing is found, and the bench counts with it what another server leaves behind: one
//! search, so that the two cannot differ. It is a crate of its own, and no feature of another, since a build of the whole
//! workspace would switch a feature on in the server's programs too: none of them has a use for another process's memory,
//! or for the automaton that looks for a thousand patterns at once. Only `/proc` is read, nothing is written, and no
//! process is stopped. Reading a sealed worker's memory takes root.

mod memory;
mod traces;

pub use memory::{read_memory, readable};
pub use traces::{Found, Secrets, Traces, canary};
