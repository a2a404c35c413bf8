//! Clients of Bulkhead: of the agents' port as an agent, of the admin socket, and of the operators'
//! port.
//!
//! The command line, the demo, the load generator and the tests call servers in this one way. An
//! agent's client trusts exactly the authority that its credentials name, speaks TLS 1.3 only, and
//! keeps its token fresh without being asked. No secret is ever printed or logged from here, no call
//! waits without a bound, and nothing of the server is linked in.

mod admin;
mod agent;
mod assertion;
mod credentials;
mod error;
pub mod load;
mod operators;
mod tls;
mod token;

pub use admin::Admin;
pub use agent::AgentClient;
pub use credentials::{Credentials, Reserved};
pub use error::{ClientError, Refusal};
pub use operators::{Metrics, Operators};
pub use tls::{Alpn, Server};
pub use token::{AccessToken, TokenSource};
