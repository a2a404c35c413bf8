//! `bulkhead`: the server and the command line in one binary.
mod config;
mod server;
fn main() {}
