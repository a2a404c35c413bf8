//! A tenant: its settings, where it stands, its queues and its accounts.

use std::collections::hash_map::Entry;

use crate::backoff::Backoff;
use crate::core::Request;
use crate::few::Few;
use crate::lengths::LengthBook;
use crate::map::IdMap;
use crate::places::{AgentPlaces, Room};
use crate::queue::Queue;
use crate::rates::{Meters, Rate};
use crate::standing::{Part, Standing};
use crate::vtime::{self, VTime};
use crate::{
    AgentId, Bound, DeviceId, DeviceKind, ModelId, Nanos, RequestId, TenantId, TenantSettings,
    WorkerId,
};

/// Everything the core knows of one tenant. Lives as long as the core.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub settings: TenantSettings,
    /// On each device on which it has ever had a worker.
    pub parts: Few<DeviceId, Part>,
    /// Among those who want places for workers, on devices of each kind.
    pub places: [Standing; 2],
    pub flows: Few<ModelId, Flow>,
    /// How long its agents' answers are, whatever model they are from.
    pub lengths: LengthBook,
    pub meters: Meters,
    /// How many requests each agent has open, if any.
    pub agents: IdMap<AgentId, u32>,
    /// Who of them is let in.
    pub agent_places: AgentPlaces,
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
}

/// What of one tenant concerns one model: its queue, and the worker that serves it.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    pub queue: Queue,
    pub worker: Option<WorkerId>,
    /// Where that is.
    pub device: Option<DeviceId>,
    /// Nothing has changed since its worker was given all that fits.
    pub filled: bool,
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

    pub(crate) fn serve_by(&mut self, worker: WorkerId, device: DeviceId) {
        (self.worker, self.device) = (Some(worker), Some(device));
    }

    pub(crate) fn no_more_by(&mut self, worker: WorkerId) {
        if self.worker == Some(worker) {
            (self.worker, self.device) = (None, None);
        }
    }

    fn charge_agent(&mut self, agent: AgentId, before_ns: Nanos, now_ns: Nanos) {
        match now_ns.checked_sub(before_ns) {
            Some(more_ns) => self.queue.charge(agent, more_ns),
            None => self.queue.refund(agent, before_ns - now_ns),
        }
    }
}

/// Order of start slots: fewest workers of the tenant starting already, then least virtual time among those who want places
/// on devices of that kind.
pub(crate) type WantKey = (u32, VTime, TenantId, ModelId);

impl Tenant {
    pub(crate) fn new(settings: TenantSettings) -> Self {
        Tenant {
            settings,
            parts: Few::default(),
            places: Default::default(),
            flows: Few::default(),
            lengths: LengthBook::default(),
            meters: Meters::default(),
            agents: IdMap::default(),
            agent_places: AgentPlaces::default(),
            queued: 0,
            open: 0,
            queued_cost_ns: 0,
            starting: 0,
            lane_ns: 0,
            restart_ns: 0,
        }
    }

    /// What it may have a minute, and each of its agents.
    pub(crate) fn rates(&self) -> (Rate, Rate) {
        (self.settings.rate, self.settings.agent_rate)
    }

    /// A request has come to so many tokens. Once: what it took in advance is then settled.
    pub(crate) fn meter(&mut self, request: &mut Request, tokens: u64, now: Nanos) {
        if let Some(taken) = request.metered.take() {
            let rates = self.rates();
            self.meters.settle(rates, request.agent, taken, tokens, now);
        }
    }

    pub(crate) fn flow_or_new(&mut self, model: ModelId) -> &mut Flow {
        self.flows.get_or_insert_with(model, Flow::default)
    }

    /// Open requests of this agent.
    pub(crate) fn open_of(&self, agent: AgentId) -> u32 {
        self.agents.get(&agent).copied().unwrap_or(0)
    }

    /// A request of this agent has been accepted. Whether it is the only one that is open.
    pub(crate) fn opened(&mut self, agent: AgentId) -> bool {
        let of_agent = self.agents.entry(agent).or_default();
        *of_agent += 1;
        let only = *of_agent == 1;
        self.open += 1;
        self.agent_places.agents += u32::from(only);
        only
    }

    /// A request of this agent has ended. Whether no other is open.
    pub(crate) fn closed(&mut self, agent: AgentId) -> bool {
        let Entry::Occupied(mut of_agent) = self.agents.entry(agent) else {
            return false;
        };
        *of_agent.get_mut() -= 1;
        let last = *of_agent.get() == 0;
        if last {
            of_agent.remove();
        }
        self.open -= 1;
        self.agent_places.agents -= u32::from(last);
        last
    }

    /// Takes a request out of its queue.
    pub(crate) fn waits_no_longer(&mut self, id: RequestId, request: &Request) {
        self.queued = self.queued.saturating_sub(1);
        self.queued_cost_ns -= u128::from(request.cost_ns);
        if let Some(flow) = self.flows.get_mut(&request.model) {
            flow.queue.remove(request.agent, request.slot(id));
        }
    }

    /// What is taken of a bound on its requests; `None` where it is another's.
    pub(crate) fn room(&self, bound: Bound) -> Option<Room> {
        let (taken, max) = match bound {
            Bound::TenantOpen => (self.open, self.settings.open_requests_max),
            Bound::TenantQueue => (self.queued, self.settings.queue_requests_max),
            _ => return None,
        };
        Some(Room { taken, max })
    }

    pub(crate) fn weight(&self) -> u32 {
        self.settings.weight
    }

    /// Competes for lanes: a worker of it runs, or could run if it had a lane.
    pub(crate) fn competes(&self) -> bool {
        self.places.iter().any(|standing| standing.competing)
    }

    /// Its virtual time on a device.
    pub(crate) fn time_on(&self, device: DeviceId) -> VTime {
        self.parts.get(&device).map_or(0, |part| part.standing.time)
    }

    /// Charges lane time of a device.
    pub(crate) fn charge(&mut self, on: (DeviceId, DeviceKind), lane_ns: Nanos) {
        self.advance(on, lane_ns);
        self.lane_ns = self.lane_ns.saturating_add(lane_ns);
    }

    /// Charges the start of a worker that had to be started again, as if it had been lane time.
    pub(crate) fn charge_restart(&mut self, on: (DeviceId, DeviceKind), took_ns: Nanos) {
        self.advance(on, took_ns);
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

    fn advance(&mut self, (device, kind): (DeviceId, DeviceKind), ns: Nanos) {
        let span = vtime::from_lane(ns, self.weight());
        let part = self.parts.get_mut(&device).map(|part| &mut part.standing);
        let place = &mut self.places[kind as usize];
        for standing in part.into_iter().chain([place]) {
            standing.time = standing.time.saturating_add(span);
        }
    }
}
