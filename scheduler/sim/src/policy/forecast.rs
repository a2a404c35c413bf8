//! What output a request is charged for when it is admitted.
//!
//! The corrections for a wrong forecast are not made here.

use std::collections::{BTreeMap, VecDeque};

use crate::workload::Arrival;

/// How many of a tenant's outputs its forecast is the mean of.
const OUTPUTS_REMEMBERED: usize = 5;

/// Where the forecast comes from.
#[derive(Debug)]
pub(super) enum Forecast {
    /// None is made: each token is charged when it is produced.
    Zero,
    /// The mean of the tenant's last five outputs, rounded down; 0 before the first.
    Mean(BTreeMap<u32, VecDeque<u32>>),
    /// The true length, which no scheduler knows: the best that forecasts can do.
    Oracle,
}

impl Forecast {
    /// Tokens of output to expect.
    pub(super) fn tokens(&self, request: &Arrival) -> u32 {
        match self {
            Forecast::Zero => 0,
            Forecast::Mean(outputs) => outputs.get(&request.tenant).map_or(0, mean),
            Forecast::Oracle => request.output,
        }
    }

    /// Learns the length of an output that has ended.
    pub(super) fn learn(&mut self, request: &Arrival) {
        if let Forecast::Mean(outputs) = self {
            let last = outputs.entry(request.tenant).or_default();
            last.push_back(request.output);
            if last.len() > OUTPUTS_REMEMBERED {
                last.pop_front();
            }
        }
    }
}

fn mean(outputs: &VecDeque<u32>) -> u32 {
    let sum: u64 = outputs.iter().copied().map(u64::from).sum();
    let mean = sum.checked_div(outputs.len() as u64).unwrap_or(0);
    u32::try_from(mean).unwrap_or(u32::MAX)
}
