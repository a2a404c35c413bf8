//! What the policy crate promises, asked from outside, with callers that were really authenticated.

mod callers;
mod defaults;
mod failing;
mod folder;
mod isolation;
