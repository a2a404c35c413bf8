//! Promise 1: one identity, end to end. Tokens, assertions and agents' standing, against the real
//! server over TLS; each refusal with its own reason.

mod assertions;
mod forger;
mod regions;
mod standing;
mod tenants;
mod tokens;

use bulkhead_tests::{options::Options, server::Server};
use std::sync::{Arc, Weak};
use tokio::sync::Mutex;

/// One server for all tests of this file that only ask: it ends with the last of them.
async fn shared() -> Arc<Server> {
    static SHARED: Mutex<Weak<Server>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let server = Arc::new(Server::start(Options::null(0)).await);
    *shared = Arc::downgrade(&server);
    server
}
