//! Workloads: who sends what and when, from a trace or made up.
//!
//! Traces are part of the program text, so nothing is read at run time.

mod synthetic;
mod trace;

pub use synthetic::{
    dist_shift, increase, on_off_less, on_off_overload, overload, overload_multi,
    poisson_short_long, proportional, short_long_2,
};
pub use trace::{ParseError, Problem, arena, azure_conv, parse};

use std::collections::BTreeSet;

use crate::draw::Draw;

/// Arrivals are moved by less than this.
const MOVED_NS: u64 = 1_000_000_000;

/// One request as it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When, in ns since the start of the workload.
    pub at_ns: u64,
    /// Whose it is.
    pub tenant: u32,
    /// Prompt tokens.
    pub input: u32,
    /// Tokens of output that it will have. Only an oracle may look at them before they are produced.
    pub output: u32,
}

/// Arrivals in the order of their time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// How tables call it.
    pub name: &'static str,
    /// In the order of their time.
    pub arrivals: Vec<Arrival>,
    /// How many tenants there are.
    pub tenants: usize,
}

impl Workload {
    /// Puts arrivals in order; those of the same time keep the order they came in.
    pub fn new(name: &'static str, mut arrivals: Vec<Arrival>) -> Self {
        arrivals.sort_by_key(|arrival| arrival.at_ns);
        let tenants = arrivals.iter().map(|a| a.tenant).collect::<BTreeSet<_>>();
        Workload {
            name,
            tenants: tenants.len(),
            arrivals,
        }
    }

    /// The same with each arrival moved by up to a second. A single run of a trace says little: between two that differ by
    /// no more than this, figures of the same policy differ by a sixth.
    #[must_use]
    pub fn moved(&self, seed: u64) -> Workload {
        let mut draw = Draw::new(seed);
        let arrivals = self.arrivals.iter().map(|arrival| Arrival {
            at_ns: arrival.at_ns.saturating_add(draw.below(MOVED_NS)),
            ..*arrival
        });
        Workload::new(self.name, arrivals.collect())
    }

    /// The same requests, each so many times as late: a workload that would be too much at once.
    #[must_use]
    pub fn stretched(&self, factor: u64) -> Workload {
        let arrivals = self.arrivals.iter().map(|arrival| Arrival {
            at_ns: arrival.at_ns.saturating_mul(factor),
            ..*arrival
        });
        Workload::new(self.name, arrivals.collect())
    }
}
