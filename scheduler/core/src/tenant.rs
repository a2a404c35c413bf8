//! A tenant: its settings, its virtual time, its queues and its accounts.

use std::collections::BTreeMap;

use crate::agents::AgentBook;
use crate::backoff::Backoff;
use crate::core::Request;
use crate::lengths::LengthBook;
use crate::queue::{Queue, Slot};
use crate::rates::{Meters, Rate};
use crate::vtime::{self, VTime};
use crate::{AgentId, ModelId, Nanos, TenantId, TenantSettings, WorkerId};

/// Everything the core knows of one tenant. Lives as long as the core.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub settings: TenantSettings,
    /// Exact up to the core's `now`: lane time of running leases counts as it passes.
    pub time: VTime,
    /// Competes for lanes: a worker of it runs, or could run if it had a lane.
    pub competing: bool,
    pub flows: BTreeMap<ModelId, Flow>,
    /// How long its agents' answers are, whatever model they are from.
    pub lengths: LengthBook,
    pub meters: Meters,
    /// Accepted, waiting.
    pub queued: u32,
    /// Accepted, not yet ended.
    pub open: u32,
    /// Predicted cost of what waits.
    pub queued_cost_ns: u128,
    /// Workers of it that are starting.
    pub starting: u32,
    /// Lane time received since the core began.
    pub lane_ns: Nanos,
    /// What restarts of its workers took since the core began.
    pub restart_ns: Nanos,
    pub owed: Owed,
}

/// What of one tenant concerns one model: its queue, and the worker that serves it.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    pub queue: Queue,
    /// Those whose requests wait in it, and those who owe for what they had of its workers.
    pub agents: AgentBook,
    pub worker: Option<WorkerId>,
    /// Starts in a row that failed.
    pub failures: u32,
    /// Workers in a row that died without finishing any request.
    pub deaths: u32,
    /// Failures and deaths since a worker last served for a good while.
    pub backoff: Backoff,
    /// The last start was refused for good, and none has come to anything since.
    pub refused: bool,
    /// Nothing is started before this.
    pub not_before: Nanos,
    /// Its place among those that want a worker started, while it has one.
    pub want: Option<WantKey>,
}

impl Flow {
    /// Whether it has work, no worker, and may have one started.
    pub(crate) fn wants_worker(&self, now: Nanos) -> bool {
        !self.queue.is_empty() && self.worker.is_none() && self.not_before <= now
    }

    /// One more request of this agent waits.
    pub(crate) fn enqueue(&mut self, agent: AgentId, slot: Slot) {
        let time = self.agents.enqueue(agent);
        self.queue.push(agent, time, slot);
    }

    /// A request of this agent waits no longer.
    pub(crate) fn dequeue(&mut self, agent: AgentId, slot: Slot) {
        self.queue.remove(agent, slot);
        self.agents.dequeue(agent);
    }

    fn charge_agent(&mut self, agent: AgentId, before_ns: Nanos, now_ns: Nanos) {
        let time = match now_ns.checked_sub(before_ns) {
            Some(more_ns) => self.agents.charge(agent, more_ns),
            None => self.agents.refund(agent, before_ns - now_ns),
        };
        self.queue.retime(agent, time);
    }
}

/// Order of start slots: fewest workers of the tenant starting already, then least virtual time.
pub(crate) type WantKey = (u32, VTime, TenantId, ModelId);

impl Tenant {
    pub(crate) fn new(settings: TenantSettings) -> Self {
        Tenant {
            settings,
            time: 0,
            competing: false,
            flows: BTreeMap::new(),
            lengths: LengthBook::default(),
            meters: Meters::default(),
            queued: 0,
            open: 0,
            queued_cost_ns: 0,
            starting: 0,
            lane_ns: 0,
            restart_ns: 0,
            owed: Owed::default(),
        }
    }

    /// What it may have a minute, and each of its agents.
    pub(crate) fn rates(&self) -> (Rate, Rate) {
        (self.settings.rate, self.settings.agent_rate)
    }

    /// A request has come to so many tokens, and gives back what it took beyond that.
    pub(crate) fn meter(&mut self, request: &mut Request, tokens: u64, now: Nanos) {
        let metered = std::mem::replace(&mut request.metered, 0);
        let rates = self.rates();
        let spare = metered.saturating_sub(tokens);
        self.meters.give_back(rates, request.agent, spare, now);
    }

    pub(crate) fn weight(&self) -> u32 {
        self.settings.weight
    }

    /// Charges lane time.
    pub(crate) fn charge(&mut self, lane_ns: Nanos) {
        self.advance(lane_ns);
        self.lane_ns = self.lane_ns.saturating_add(lane_ns);
    }

    /// Charges the start of a worker that had to be started again, as if it had been lane time.
    pub(crate) fn charge_restart(&mut self, took_ns: Nanos) {
        self.advance(took_ns);
        self.restart_ns = self.restart_ns.saturating_add(took_ns);
    }

    /// From now on an agent has been charged so much for a request: it is charged what it was not, and refunded
    /// what it was beyond that.
    pub(crate) fn charge_agent(&mut self, request: &mut Request, cost_ns: Nanos) {
        let before_ns = std::mem::replace(&mut request.charged_ns, cost_ns);
        if let Some(flow) = self.flows.get_mut(&request.model) {
            flow.charge_agent(request.agent, before_ns, cost_ns);
        }
    }

    fn advance(&mut self, ns: Nanos) {
        let span = vtime::from_lane(ns, self.weight());
        self.time = self.time.saturating_add(span);
    }
}

/// A tenant's account of the share that it was owed.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    settled_ns: u128,
    joined_at: u128,
}

/// Divides the lane time that passes by weight among those who compete for it, in constant time:
/// one sum of lane time ÷ total weight runs for all, and each reads the difference off it.
#[derive(Debug, Default)]
pub(crate) struct ShareClock {
    per_weight: u128,
    weights: u128,
}

impl ShareClock {
    /// `lane_ns` of lane time have passed, on all lanes together.
    pub(crate) fn advance(&mut self, lane_ns: u128) {
        let per_weight = (lane_ns << 32).checked_div(self.weights);
        self.per_weight += per_weight.unwrap_or(0);
    }

    pub(crate) fn join(&mut self, owed: &mut Owed, weight: u32) {
        self.weights += u128::from(weight);
        owed.joined_at = self.per_weight;
    }

    pub(crate) fn leave(&mut self, owed: &mut Owed, weight: u32) {
        owed.settled_ns = self.owed_ns(owed, weight, true);
        self.weights -= u128::from(weight);
    }

    /// The share owed so far, in nanoseconds of lane time.
    pub(crate) fn owed_ns(&self, owed: &Owed, weight: u32, competing: bool) -> u128 {
        if !competing {
            return owed.settled_ns;
        }
        let span = self.per_weight - owed.joined_at;
        owed.settled_ns + (span.saturating_mul(u128::from(weight)) >> 32)
    }

    /// Sum of the weights of all who compete.
    pub(crate) fn weights(&self) -> u128 {
        self.weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_owed_by_weight_and_only_while_competing() {
        let (mut clock, mut a, mut b) = (ShareClock::default(), Owed::default(), Owed::default());
        clock.join(&mut a, 1);
        clock.advance(100);
        clock.join(&mut b, 3);
        clock.advance(400);
        clock.leave(&mut b, 3);
        clock.advance(50);
        assert_eq!(clock.owed_ns(&a, 1, true), 250);
        assert_eq!(clock.owed_ns(&b, 3, false), 300);
    }
}
