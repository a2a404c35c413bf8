//! What the tests of the whole system share: the real programs run as an operator runs them, agents
//! that speak the wire by themselves, and readers of what is left behind (memory, processes, log).
//!
//! The agents here use none of our own client code, so that a mistake cannot hide by being made on
//! both sides. Nothing is mocked.

pub mod metadata;
pub mod source;
