//! The made-up workloads of VTC (OSDI 2024), by the names that its artefact gives them.
//!
//! Clients send 256 prompt tokens and want 256 back, evenly spaced from time 0, unless said. Where
//! the artefact starts each client at a random offset, ours all start at 0.

use super::{Arrival, Workload};
use crate::draw::Draw;

const NS_PER_S: u64 = 1_000_000_000;
const NS_PER_KS: u64 = 1_000 * NS_PER_S;
const TEN_MINUTES_NS: u64 = 600 * NS_PER_S;
const SIX_MINUTES_NS: u64 = 360 * NS_PER_S;
/// How long a client that goes on and off is either.
const PHASE_NS: u64 = 60 * NS_PER_S;

/// What each request of a client is: its prompt tokens and its tokens of output.
type Shape = (u32, u32);
const EVEN: Shape = (256, 256);

/// Two clients at 1.5 and 3 requests/s, both more than their share, for 360 s.
pub fn overload() -> Workload {
    Workload::new("overload", clients(&[1_500, 3_000], 0, SIX_MINUTES_NS))
}

/// Three clients at 0.4 and five at 0.6 requests/s, together too much, for 360 s.
pub fn overload_multi() -> Workload {
    let rates = [400, 400, 400, 600, 600, 600, 600, 600];
    Workload::new("overload_multi", clients(&rates, 0, SIX_MINUTES_NS))
}

/// Three clients at 0.25, 0.5 and 1.5 requests/s for 600 s; only the last wants more than its share.
pub fn proportional() -> Workload {
    let arrivals = clients(&[250, 500, 1_500], 0, TEN_MINUTES_NS);
    Workload::new("proportional", arrivals)
}

/// Client 0 sends 0.5 requests/s, less than its share, in every other minute; client 1 sends 2/s
/// throughout the 600 s.
pub fn on_off_less() -> Workload {
    Workload::new("on_off_less", on_off([500, 2_000], 0, TEN_MINUTES_NS))
}

/// As [`on_off_less`] at 2 and 3 requests/s: client 0 wants more than its share while it is on.
pub fn on_off_overload() -> Workload {
    Workload::new("on_off_overload", on_off([2_000, 3_000], 0, TEN_MINUTES_NS))
}

/// Client 0 sends 0.5 requests/s, client 1 from 0.2 rising steadily to 2/s after 600 s.
pub fn increase() -> Workload {
    const FROM_PER_KS: u64 = 200;
    const TO_PER_KS: u64 = 2_000;
    let mut arrivals = clients(&[500], 0, TEN_MINUTES_NS);
    let mut at_ns = 0;
    while at_ns < TEN_MINUTES_NS {
        arrivals.push(arrival(at_ns, 1, EVEN));
        let risen = (TO_PER_KS - FROM_PER_KS) * (at_ns / NS_PER_S) / (TEN_MINUTES_NS / NS_PER_S);
        at_ns += NS_PER_KS / (FROM_PER_KS + risen);
    }
    Workload::new("increase", arrivals)
}

/// Poisson arrivals for 600 s: client 0 at 8 requests/s of 64 and 64 tokens, client 1 at 1.5/s of
/// 256 and 256.
pub fn poisson_short_long(seed: u64) -> Workload {
    poisson("poisson_short_long", seed, [(64, 64), EVEN])
}

/// Poisson arrivals for 600 s: client 0 at 8 requests/s of 512 and 32 tokens, client 1 at 1.5/s of
/// 32 and 512.
pub fn short_long_2(seed: u64) -> Workload {
    poisson("short_long_2", seed, [(512, 32), (32, 512)])
}

/// Three phases of 300 s: as [`on_off_less`], then both clients at 1 request/s, then 0.5 and 1.5/s.
pub fn dist_shift() -> Workload {
    const THIRD_NS: u64 = 300 * NS_PER_S;
    let mut arrivals = on_off([500, 2_000], 0, THIRD_NS);
    arrivals.extend(clients(&[1_000, 1_000], THIRD_NS, 2 * THIRD_NS));
    arrivals.extend(clients(&[500, 1_500], 2 * THIRD_NS, 3 * THIRD_NS));
    Workload::new("dist_shift", arrivals)
}

/// One client for each rate, in requests per 1,000 s, evenly spaced in `from_ns..to_ns`.
fn clients(rates_per_ks: &[u64], from_ns: u64, to_ns: u64) -> Vec<Arrival> {
    let each = rates_per_ks.iter().zip(0..).map(|(&per_ks, tenant)| {
        let times = (0..).map(move |nth: u64| from_ns + nth * NS_PER_KS / per_ks);
        let times = times.take_while(move |&at_ns| at_ns < to_ns);
        times.map(move |at_ns| arrival(at_ns, tenant, EVEN))
    });
    each.flatten().collect()
}

/// Two clients, of which client 0 is silent in every other phase.
fn on_off(rates_per_ks: [u64; 2], from_ns: u64, to_ns: u64) -> Vec<Arrival> {
    let mut arrivals = clients(&rates_per_ks, from_ns, to_ns);
    arrivals.retain(|a| a.tenant != 0 || (a.at_ns / PHASE_NS).is_multiple_of(2));
    arrivals
}

fn poisson(name: &'static str, seed: u64, shapes: [Shape; 2]) -> Workload {
    let mut draw = Draw::new(seed);
    let mut arrivals = Vec::new();
    for (tenant, (per_ks, shape)) in (0..).zip([8_000, 1_500].into_iter().zip(shapes)) {
        let mut at_ns = draw.gap_ns(per_ks);
        while at_ns < TEN_MINUTES_NS {
            arrivals.push(arrival(at_ns, tenant, shape));
            at_ns += draw.gap_ns(per_ks);
        }
    }
    Workload::new(name, arrivals)
}

fn arrival(at_ns: u64, tenant: u32, (input, output): Shape) -> Arrival {
    Arrival {
        at_ns,
        tenant,
        input,
        output,
    }
}
