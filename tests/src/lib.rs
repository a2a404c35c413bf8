//! What the tests of the whole system share: the real programs run as an operator runs them, agents
//! that speak the wire by themselves, and readers of what is left behind (processes, log).
//!
//! The agents here use none of our own client code, so that a mistake cannot hide by being made on
//! both sides. Nothing is mocked.

pub mod admin;
pub mod agent;
pub mod gpus;
pub mod http;
pub mod hub;
pub mod jwt;
pub mod metadata;
pub mod models;
pub mod options;
pub mod ports;
pub mod process;
pub mod programs;
pub mod raw;
pub mod records;
pub mod server;
pub mod source;
pub mod tiny;
pub mod wait;
