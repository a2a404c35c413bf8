//! The published metric: how far service was from fair, and what it cost to be fair.
//!
//! As VTC's artefact computes it. Floats are used here and for drawing workloads, nowhere else. A
//! rejected request makes no demand, as in the published figures, so that rejecting looks fair:
//! read `served` beside `offered`.

use std::collections::{BTreeMap, BTreeSet};

use crate::cost::cost;
use crate::shared::{Outcome, Served};
use crate::workload::Workload;

/// The time that is looked at, s: so much, or for as long as requests come where they come for longer.
const SPAN_MIN_S: f64 = 600.0;
/// Left out at its start, s.
const WARM_UP_S: f64 = 30.0;
/// The rest is cut into parts of this length; the points between them are the samples.
const PART_S: f64 = 28.5;
/// Service and demand are means over a window of this width around a sample, s.
const WINDOW_S: f64 = 60.0;
/// How many tenants are heavy.
const HEAVY: usize = 3;

/// One line of the published table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The policy's name.
    pub policy: String,
    /// The greatest difference of any sample, cost per second.
    pub max_diff: f64,
    /// The mean difference of the samples, cost per second.
    pub avg_diff: f64,
    /// Their variance, of the whole and not of a sample.
    pub var_diff: f64,
    /// Tokens in and out of what was served, per second until the last had finished.
    pub tok_s: f64,
    /// Requests served.
    pub served: usize,
    /// Requests that arrived.
    pub offered: usize,
    /// 99th percentile of the time to the first token of the three tenants who offered the most cost,
    /// s; `None` if nothing of theirs was served.
    pub ttft_p99_heavy_s: Option<f64>,
    /// The same of all other tenants.
    pub ttft_p99_light_s: Option<f64>,
}

impl Row {
    /// What `outcome` amounts to for `workload`.
    pub fn new(policy: String, workload: &Workload, outcome: &Outcome) -> Row {
        let diffs = diffs(workload, &outcome.served);
        let avg_diff = mean(&diffs);
        let squares = diffs.iter().map(|diff| (diff - avg_diff).powi(2));
        let heavy = heaviest(workload);
        Row {
            policy,
            max_diff: diffs.iter().copied().fold(0.0, f64::max),
            avg_diff,
            var_diff: mean(&squares.collect::<Vec<_>>()),
            tok_s: throughput(&outcome.served),
            served: outcome.served.len(),
            offered: workload.arrivals.len(),
            ttft_p99_heavy_s: ttft_p99(&outcome.served, |tenant| heavy.contains(&tenant)),
            ttft_p99_light_s: ttft_p99(&outcome.served, |tenant| !heavy.contains(&tenant)),
        }
    }
}

/// The difference in service at each sample, 28.5 s apart and 19 in 600 s, in cost per second: over all
/// clients, the sum of how far each is behind the one served most, or off its own demand, whichever
/// is less.
pub fn diffs(workload: &Workload, served: &[Served]) -> Vec<f64> {
    let last = workload.arrivals.last().map_or(0, |last| last.at_ns);
    let parts = ((seconds(last).max(SPAN_MIN_S) - WARM_UP_S) / PART_S) as u32;
    let samples = (1..parts).map(|nth| WARM_UP_S + PART_S * f64::from(nth));
    samples.map(|at_s| diff(served, at_s)).collect()
}

/// 99th percentile, by nearest rank, of the time to the first token over the tenants that are
/// `counted`, s; `None` if nothing of theirs was served.
pub fn ttft_p99(served: &[Served], counted: impl Fn(u32) -> bool) -> Option<f64> {
    let counted = served.iter().filter(|s| counted(s.tenant));
    let mut waits = counted
        .map(|s| s.first_token_ns.saturating_sub(s.arrived_ns))
        .collect::<Vec<_>>();
    waits.sort_unstable();
    let rank = (waits.len() * 99).div_ceil(100);
    waits.get(rank.checked_sub(1)?).copied().map(seconds)
}

fn diff(served: &[Served], at_s: f64) -> f64 {
    let (from_s, to_s) = (at_s - WINDOW_S / 2.0, at_s + WINDOW_S / 2.0);
    let mut rates = BTreeMap::<u32, (f64, f64)>::new();
    let there = |s: &&Served| seconds(s.arrived_ns) <= to_s && seconds(s.finished_ns) >= from_s;
    for request in served.iter().filter(there) {
        let (service, demand) = rates.entry(request.tenant).or_default();
        *service += service_within(request, from_s, to_s) / WINDOW_S;
        *demand += demand_within(request, from_s, to_s) / WINDOW_S;
    }
    let most = rates
        .values()
        .map(|(service, _)| *service)
        .fold(0.0, f64::max);
    let behind = rates
        .values()
        .map(|(service, demand)| (most - service).min((demand - service).abs()));
    behind.sum()
}

/// The part of a request's cost that falls into the window, its whole cost being spread evenly from
/// its first token to its last. One of a single token has no such span and counts nowhere.
fn service_within(request: &Served, from_s: f64, to_s: f64) -> f64 {
    let (start, end) = (
        seconds(request.first_token_ns),
        seconds(request.finished_ns),
    );
    if end <= start {
        return 0.0;
    }
    let overlap = (end.min(to_s) - start.max(from_s)).max(0.0);
    cost(request.input, request.output) as f64 * overlap / (end - start)
}

fn demand_within(request: &Served, from_s: f64, to_s: f64) -> f64 {
    let within = (from_s..=to_s).contains(&seconds(request.arrived_ns));
    if within {
        cost(request.input, request.output) as f64
    } else {
        0.0
    }
}

fn throughput(served: &[Served]) -> f64 {
    let tokens: u64 = served
        .iter()
        .map(|s| u64::from(s.input) + u64::from(s.output))
        .sum();
    let total_s = seconds(served.iter().map(|s| s.finished_ns).max().unwrap_or(0));
    if total_s > 0.0 {
        tokens as f64 / total_s
    } else {
        0.0
    }
}

/// The tenants that offered the most cost; of equals, those of the least id.
fn heaviest(workload: &Workload) -> BTreeSet<u32> {
    let mut offered = BTreeMap::<u32, u64>::new();
    for arrival in &workload.arrivals {
        *offered.entry(arrival.tenant).or_default() += cost(arrival.input, arrival.output);
    }
    let mut order = offered.into_iter().collect::<Vec<_>>();
    order.sort_by_key(|&(tenant, cost)| (std::cmp::Reverse(cost), tenant));
    order
        .into_iter()
        .take(HEAVY)
        .map(|(tenant, _)| tenant)
        .collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Arrival;

    #[test]
    fn samples_are_the_published_ones_and_go_on_for_as_long_as_requests_come() {
        let samples = |last_s: u64| {
            let arrival = Arrival {
                at_ns: last_s * 1_000_000_000,
                tenant: 0,
                input: 1,
                output: 1,
            };
            diffs(&Workload::new("last", vec![arrival]), &[]).len()
        };
        assert_eq!([360, 600, 601, 1_200].map(samples), [19, 19, 19, 40]);
    }
}
