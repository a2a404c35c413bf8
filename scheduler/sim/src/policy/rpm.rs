//! A limit of requests per minute for each tenant, then first come, first served.
//!
//! What most gateways do. It looks fair because what it refuses is not demand; a table has to show
//! how many were served beside it.

use std::collections::{BTreeMap, VecDeque};

use super::{Fcfs, Policy, Request, Verdict};
use crate::workload::Arrival;

const WINDOW_NS: u64 = 60_000_000_000;

/// Refuses the arrival of a tenant that had `limit` taken in during the last 60 s.
#[derive(Debug)]
pub struct Rpm {
    limit: usize,
    /// When each tenant's requests were taken in, those of the last 60 s; `limit` at most.
    taken: BTreeMap<u32, VecDeque<u64>>,
    queue: Fcfs,
}

impl Rpm {
    /// At most `limit` requests of a tenant in any 60 s.
    pub fn new(limit: usize) -> Self {
        Rpm {
            limit,
            taken: BTreeMap::new(),
            queue: Fcfs::default(),
        }
    }
}

impl Policy for Rpm {
    fn name(&self) -> String {
        format!("RPM({})", self.limit)
    }

    fn arrive(&mut self, request: Request) -> Verdict {
        let now = request.arrival.at_ns;
        let taken = self.taken.entry(request.arrival.tenant).or_default();
        while taken
            .pop_front_if(|at| now.saturating_sub(*at) > WINDOW_NS)
            .is_some()
        {}
        if taken.len() >= self.limit {
            return Verdict::Rejected;
        }
        taken.push_back(now);
        self.queue.arrive(request)
    }

    fn admit(&mut self, fits: &dyn Fn(&Arrival) -> bool) -> Option<Request> {
        self.queue.admit(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(policy: &mut Rpm, at_s: u64) -> Verdict {
        let arrival = Arrival {
            at_ns: at_s * 1_000_000_000,
            tenant: 0,
            input: 1,
            output: 1,
        };
        policy.arrive(Request { index: 0, arrival })
    }

    #[test]
    fn a_refusal_does_not_count_and_a_minute_later_there_is_room() {
        let mut policy = Rpm::new(2);
        let verdicts = [0, 30, 59, 60, 61, 89].map(|at| verdict(&mut policy, at));
        use Verdict::{Rejected, Waits};
        assert_eq!(
            verdicts,
            [Waits, Waits, Rejected, Rejected, Waits, Rejected]
        );
    }
}
