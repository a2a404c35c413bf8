//! What a caller may do: Cedar policies, checked strictly when they are loaded, and the [`Permit`] that
//! a decision yields.
//!
//! Admission takes a [`Permit`] and nothing else, and only [`PolicyEngine::authorize`] makes one. The
//! default policies are always in force; an operator adds to them with `*.cedar` files in a folder,
//! and a folder that does not load changes nothing (last good).
//!
//! Two rules hold whatever the policies say. An error while any policy is evaluated denies: Cedar
//! skips a policy that fails, a `forbid` too, and a skipped `forbid` permits. And a model of another
//! tenant is answered exactly as one that does not exist, so that nobody learns what others have.
//!
//! What never happens here: no identity is established (a [`Principal`](bulkhead_identity::Principal)
//! is the proof of it), no queue or limit is known, nothing is logged, no clock is read.

mod decision;
mod engine;
mod entities;
mod load;
mod permitted;

pub use decision::{Action, Denied, DenyReason, ModelFacts, Permit};
pub use engine::PolicyEngine;
pub use load::{FILE_BYTES_MAX, FILES_MAX, POLICIES_MAX, PolicyError};
