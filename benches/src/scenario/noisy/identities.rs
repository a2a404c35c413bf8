//! Who sends: under whose names, and so in which order the server takes what it is sent.
//!
//! Ours: the victim and the aggressor are tenants of their own. First come, first served: everybody is one agent of one
//! tenant. Among one agent's requests the core's order is that of arrival (the earliest deadline first, and all have the
//! same time from their arrival on; whoever abuses deadlines keeps them to himself, see [`super::aggressors`]), and a batch
//! holds whatever came first, whoever sent it. So the same server is its own yardstick, with the same queue bounds: the one
//! tenant has the sum of what the tenants have. Requests for two models can share no batch in either.
//!
//! No scheduler of another kind is here, and nothing that the server does not offer everybody.

use super::aggressors::Aggressor;
use crate::{Failure, args::ServerArgs, server::Server};
use bulkhead_client::{AgentClient, Credentials};

/// The tenants' names in the server's metrics.
pub const VICTIM: &str = "victim";
pub const AGGRESSOR: &str = "aggressor";
const EVERYBODY: &str = "everybody";

/// Tenants under ours. The one of the other order has as much as all of these.
const TENANTS: u64 = 2;

/// Settings that bound a tenant's queue and memory, with what they are where nobody sets them: the server's own defaults,
/// but for memory, of which the longest prompt takes more.
const BOUNDS: [(&str, u64); 4] = [
    ("scheduling.tenant_reserved_bytes", 1 << 20),
    ("scheduling.tenant_queue_requests_max", 4096),
    ("scheduling.tenant_open_requests_max", 8192),
    ("worker.quota_bytes", 512 << 20),
];

/// In which order requests are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Ours,
    Arrival,
}

impl Order {
    /// The name in figures.
    pub fn word(self) -> &'static str {
        match self {
            Order::Ours => "ours",
            Order::Arrival => "fcfs",
        }
    }
}

/// A server of its own, with those who will send to it.
pub struct Stand {
    pub order: Order,
    pub server: Server,
    /// The victim's connection, which nobody else uses.
    pub victim: AgentClient,
    /// One for each of the aggressor's agents; the same one again and again where everybody is one.
    pub aggressors: Vec<Credentials>,
}

impl Stand {
    /// Starts a server for this order.
    pub async fn start(
        order: Order,
        aggressor: Aggressor,
        args: &ServerArgs,
    ) -> Result<Stand, Failure> {
        let agents = aggressor.agents();
        let tenants = match order {
            Order::Ours => 1,
            Order::Arrival => TENANTS,
        };
        let mut args = args.clone();
        args.settings = of_tenants(tenants, &args.settings)?;
        let server = Server::start(&args).await?;
        let (victim, aggressors) = match order {
            Order::Ours => {
                let victim = server.tenant(VICTIM).await?;
                let aggressors = server.agents(AGGRESSOR, agents).await?;
                (victim, aggressors)
            }
            Order::Arrival => {
                let one = server.agents(EVERYBODY, 1).await?.remove(0);
                let victim = AgentClient::connect(one.clone(), None).await?;
                (victim, vec![one; agents])
            }
        };
        Ok(Stand {
            order,
            server,
            victim,
            aggressors,
        })
    }
}

/// The same settings, with the bounds of so many tenants for each tenant.
fn of_tenants(tenants: u64, settings: &[String]) -> Result<Vec<String>, Failure> {
    let key = |setting: &String| setting.split('=').next().map(|key| key.trim().to_owned());
    let mut all: Vec<String> = settings
        .iter()
        .filter(|setting| {
            let key = key(setting);
            !BOUNDS
                .iter()
                .any(|(bound, _)| key.as_deref() == Some(bound))
        })
        .cloned()
        .collect();
    for (bound, default) in BOUNDS {
        let set = settings
            .iter()
            .find(|setting| key(setting).as_deref() == Some(bound));
        let each = match set.and_then(|setting| setting.split_once('=')) {
            Some((_, value)) => value.trim().replace('_', "").parse()?,
            None => default,
        };
        all.push(format!("{bound}={}", each * tenants));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_tenant_has_what_all_tenants_have() {
        let own = [
            "scheduling.quantum_ms=20".to_owned(),
            "scheduling.tenant_queue_requests_max = 10".to_owned(),
        ];
        let all = of_tenants(TENANTS, &own).unwrap();
        assert_eq!(all.len(), 1 + BOUNDS.len(), "{all:?}");
        assert!(all.contains(&own[0]));
        assert!(all.contains(&"scheduling.tenant_queue_requests_max=20".to_owned()));
        assert!(all.contains(&"worker.quota_bytes=1073741824".to_owned()));
    }
}
