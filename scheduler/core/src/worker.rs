//! A worker: one process, for one tenant and one model, on one device, in its whole life.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::core::Request;
use crate::lane::{IdleKey, Lease, WaitKey};
use crate::turns::Switch;
use crate::{AgentId, DeviceId, ModelId, Nanos, RequestId, TenantId, WorkerId};

/// Requests that a worker finished and that are still remembered, so that saying it twice is
/// harmless while inventing a request is not.
const RECENT_REQUESTS_MAX: usize = 64;

/// Where a worker is in its life. Absent before, absent after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// `StartWorker` was said.
    Starting,
    /// Loaded, sealed and assigned. Holds a lease or does not.
    Ready,
    /// `StopWorker` was said: it had no work, and its end is in good order.
    Stopping,
    /// `KillWorker` was said: its word is not taken any more, but it still occupies its lane.
    Killed,
}

/// What a worker means to the scheduler just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Cannot run: starting or ending.
    Absent,
    /// Could run, has nothing to run.
    Idle,
    /// Has work and no lane.
    Waiting,
    /// Occupies a lane.
    Leased,
}

/// What the core knows of one worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub id: WorkerId,
    pub tenant: TenantId,
    pub model: ModelId,
    pub device: DeviceId,
    pub life: Life,
    pub started_at: Nanos,
    pub ready_at: Nanos,
    pub last_used: Nanos,
    /// Number of its latest lease, for turns among the workers of one tenant; 0 before the first.
    pub last_lease: u64,
    /// Leases in a row that came back unasked without any progress.
    pub fruitless: u32,
    /// What it takes to give it the lane and have it back.
    pub switch: Switch,
    /// Lane time of all leases that it has given back.
    pub released_ns: Nanos,
    /// Lane time of leases in which no token was done to its end: it belongs to those that are done next.
    pub unpriced_ns: Nanos,
    /// Gets nothing new, so that another can have its place.
    pub retiring: bool,
    /// It is where its tenant may not be any more, and retires for that.
    pub astray: bool,
    /// It was killed for no fault of its own: it holds nothing, serves no queue, and is only yet to die.
    pub abandoned: bool,
    /// Its device went down under it: it may hang in its driver for ever.
    pub device_lost: bool,
    pub kv_bytes: u64,
    pub lease: Option<Lease>,
    /// Held by it and not ended.
    pub assigned: BTreeMap<RequestId, Held>,
    /// Ended for everybody else (cancelled, out of time), but it has not said so yet.
    pub dropped: BTreeMap<RequestId, Dropped>,
    /// Lane time that it had had by when each of those ended.
    dropped_at: BTreeSet<(Nanos, RequestId)>,
    /// How many of both each agent has.
    agents: BTreeMap<AgentId, usize>,
    /// Sums over both.
    tokens: u64,
    cost_ns: Nanos,
    pub finished_any: bool,
    /// Its start followed a failure.
    pub restart: bool,
    pub wait: Option<WaitKey>,
    pub idle: Option<IdleKey>,
    recent_requests: Recent<RequestId>,
}

impl Worker {
    pub(crate) fn new(
        id: WorkerId,
        tenant: TenantId,
        model: ModelId,
        device: DeviceId,
        now: Nanos,
    ) -> Self {
        Worker {
            id,
            tenant,
            model,
            device,
            life: Life::Starting,
            started_at: now,
            ready_at: now,
            last_used: now,
            last_lease: 0,
            fruitless: 0,
            switch: Switch::default(),
            released_ns: 0,
            unpriced_ns: 0,
            retiring: false,
            astray: false,
            abandoned: false,
            device_lost: false,
            kv_bytes: 0,
            lease: None,
            assigned: BTreeMap::new(),
            dropped: BTreeMap::new(),
            dropped_at: BTreeSet::new(),
            agents: BTreeMap::new(),
            tokens: 0,
            cost_ns: 0,
            finished_any: false,
            restart: false,
            wait: None,
            idle: None,
            recent_requests: Recent::new(RECENT_REQUESTS_MAX),
        }
    }

    /// `queued`: whether its queue has something for it.
    pub(crate) fn class(&self, queued: bool) -> Class {
        match self.life {
            _ if self.lease.is_some() => Class::Leased,
            Life::Ready if self.holds_work() || (queued && !self.retiring) => Class::Waiting,
            Life::Ready => Class::Idle,
            Life::Starting | Life::Stopping | Life::Killed => Class::Absent,
        }
    }

    /// Whether it holds anything, be it only a request that it has yet to drop.
    pub(crate) fn holds_work(&self) -> bool {
        !self.assigned.is_empty() || !self.dropped.is_empty()
    }

    pub(crate) fn is_leaving(&self) -> bool {
        matches!(self.life, Life::Stopping | Life::Killed)
    }

    /// What it holds, in tokens as they count in a batch.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Lane time that what it holds was expected to take.
    pub(crate) fn expected_ns(&self) -> Nanos {
        self.cost_ns
    }

    /// Lane time that it has had in all its life.
    pub(crate) fn lane_ns(&self, now: Nanos) -> Nanos {
        let lease = self.lease.as_ref();
        let lease_ns = lease.map_or(0, |lease| now.saturating_sub(lease.granted_at));
        self.released_ns.saturating_add(lease_ns)
    }

    pub(crate) fn holds_of(&self, agent: AgentId) -> bool {
        self.agents.contains_key(&agent)
    }

    /// When it has to have let go of what has ended, if it keeps the lane that it has: so much of its lane time after it
    /// was told. Without a lane it cannot say so.
    pub(crate) fn let_go_by(&self, grace_ns: Nanos) -> Option<Nanos> {
        let granted_at = self.lease.as_ref()?.granted_at;
        let (first_ns, _) = self.dropped_at.first()?;
        let left_ns = first_ns
            .saturating_add(grace_ns)
            .saturating_sub(self.released_ns);
        Some(granted_at.saturating_add(left_ns))
    }

    pub(crate) fn take_in(&mut self, request: RequestId, held: Held) {
        *self.agents.entry(held.agent).or_default() += 1;
        self.tokens = self.tokens.saturating_add(held.tokens);
        self.cost_ns = self.cost_ns.saturating_add(held.cost_ns);
        self.assigned.insert(request, held);
    }

    /// A request that it holds counts for so many tokens by now.
    pub(crate) fn grew(&mut self, request: RequestId, tokens: u64) {
        if let Some(held) = self.assigned.get_mut(&request) {
            let more = tokens.saturating_sub(held.tokens);
            held.tokens += more;
            self.tokens = self.tokens.saturating_add(more);
        }
    }

    /// The request has ended for everybody but this worker.
    pub(crate) fn drop_later(&mut self, id: RequestId, request: Request, now: Nanos) {
        if let Some(held) = self.assigned.remove(&id) {
            let lane_ns = self.lane_ns(now);
            let dropped = Dropped {
                held,
                request,
                lane_ns,
            };
            self.dropped.insert(id, dropped);
            self.dropped_at.insert((lane_ns, id));
        }
    }

    /// Lets go of a request that it spoke of, and says what it was.
    pub(crate) fn let_go(&mut self, id: RequestId) -> Spoken {
        let (held, spoken) = if let Some(held) = self.assigned.remove(&id) {
            (held, Spoken::Live)
        } else if let Some(dropped) = self.dropped.remove(&id) {
            self.dropped_at.remove(&(dropped.lane_ns, id));
            (dropped.held, Spoken::Dropped(Box::new(dropped.request)))
        } else if self.recent_requests.contains(&id) {
            return Spoken::Again;
        } else {
            return Spoken::NeverGiven;
        };
        self.tokens = self.tokens.saturating_sub(held.tokens);
        self.cost_ns = self.cost_ns.saturating_sub(held.cost_ns);
        if let Entry::Occupied(mut of_agent) = self.agents.entry(held.agent) {
            *of_agent.get_mut() -= 1;
            if *of_agent.get() == 0 {
                of_agent.remove();
            }
        }
        self.recent_requests.push(id);
        spoken
    }

    /// Takes everything from it: what has not ended, and what had.
    pub(crate) fn let_go_of_all(&mut self) -> (Vec<RequestId>, Vec<Request>) {
        (self.tokens, self.cost_ns) = (0, 0);
        self.agents.clear();
        self.dropped_at.clear();
        let held = std::mem::take(&mut self.assigned);
        let dropped = std::mem::take(&mut self.dropped).into_values();
        (
            held.into_keys().collect(),
            dropped.map(|dropped| dropped.request).collect(),
        )
    }
}

/// A request in a worker's hands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub agent: AgentId,
    /// What it counts for in a batch, tokens.
    pub tokens: u64,
    /// Lane time that it was expected to take.
    pub cost_ns: Nanos,
}

/// A request in a worker's hands that has ended for everybody else.
#[derive(Debug)]
pub(crate) struct Dropped {
    pub held: Held,
    pub request: Request,
    /// Lane time that the worker had had by then.
    lane_ns: Nanos,
}

/// How a request that a worker named stands to it.
#[derive(Debug)]
pub(crate) enum Spoken {
    Live,
    Dropped(Box<Request>),
    Again,
    NeverGiven,
}

/// The last few of something.
#[derive(Debug)]
struct Recent<T> {
    items: VecDeque<T>,
    items_max: usize,
}

impl<T: PartialEq> Recent<T> {
    fn new(items_max: usize) -> Self {
        Recent {
            items: VecDeque::new(),
            items_max,
        }
    }

    fn push(&mut self, item: T) {
        if self.items.len() == self.items_max {
            self.items.pop_front();
        }
        self.items.push_back(item);
    }

    fn contains(&self, item: &T) -> bool {
        self.items.contains(item)
    }
}
