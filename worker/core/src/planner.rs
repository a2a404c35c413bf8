//! The planner: which sequences run, what each pass computes, and whose blocks make room.
//!
//! It owns every decision and sees numbers only. The rules:
//!
//! - **Admission** by what is needed now: a sequence starts once there are blocks for the tokens that
//!   it has, beside what those that run still need for theirs and one more block for each. What it may
//!   generate later is not reserved. The agent with the least virtual time first, its sequences in
//!   order; none overtakes it, so that a long prompt's turn comes.
//! - **Growth** block by block. Where none is free, a block of the prefix cache that nobody uses is given
//!   up; where there is none either, a sequence is **preempted**: of the agent that had the most, the
//!   one let in last. Its blocks are cleaned, and it waits first in its agent's queue with all its tokens to
//!   compute again. Those are counted as overhead and never billed to the agent.
//! - **Progress**: what could never fit alone is refused at once, and the oldest running sequence is
//!   never preempted. So it ends, and then the next is the oldest.
//! - **Passes** ([`Pass`]) may take several steps. What a sequence computes in one counts as computed from its
//!   beginning. One that ends or is preempted meanwhile is taken out of it at once ([`Planner::parts`]), as its
//!   blocks may be another's soon; the others go on.
//!
//! Cleaning is the caller's: it is passed in as a function, and no block that it did not clean is used.

use crate::agents::{Agent, Agents};
use crate::blocks::{BLOCK_TOKENS, Cleaner, blocks_for};
use crate::divide::{Filling, Part};
use crate::memory::Memory;
use crate::pass::{Pass, PassKind};
use crate::price::{Prices, StepWork};
use crate::sequence::{Arrival, Sequence};
use std::collections::{BTreeMap, VecDeque};

/// More blocks are needed than the pool can ever give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed} KV blocks are needed and the whole quota holds {capacity}")]
pub struct CannotFit {
    /// Blocks that the sequence may need.
    pub needed: usize,
    /// Blocks that the pool has for use.
    pub capacity: usize,
}

/// What bounds a planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannerLimits {
    /// Blocks of the pool.
    pub blocks: u32,
    /// Sequences that run at once at most.
    pub sequences_max: usize,
    /// Tokens of a step at most, whatever they cost.
    pub step_tokens_max: usize,
    /// True if whole blocks of prompts stay after their sequences' ends.
    pub prefix_cache: bool,
}

/// The part of a step's time that prompts get even where decoding could fill it: one in so many.
const PROMPT_SHARE: f64 = 4.0;

/// The part of a step's time that the answers of a pass of prompts may take: one in so many. They cannot be left
/// half done.
const ANSWERS_SHARE: f64 = 2.0;

/// How much a pass may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    /// Nanoseconds that there are for decoding in a step.
    pub ns: f64,
    /// Nanoseconds that a pass of prompts may be expected to take, over all of its steps.
    pub reading_ns: f64,
    /// Tokens of a pass at most.
    pub tokens: usize,
    /// Answers of a pass at most.
    pub answers: usize,
}

/// A pass that is on its way.
#[derive(Debug)]
struct Flight {
    number: u64,
    parts: Vec<Part>,
}

/// How a sequence that is over leaves the planner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Blocks of its prompt that the prefix cache keeps.
    pub retained_blocks: usize,
    /// Tokens of its prompt that the prefix cache had.
    pub cached_tokens: usize,
    /// True if any token of it was computed.
    pub began: bool,
}

/// What was done since the planner was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tokens that went into steps, those computed again among them.
    pub tokens_computed: u64,
    /// Tokens that were computed before.
    pub tokens_recomputed: u64,
    /// Tokens of prompts that the cache had.
    pub tokens_cached: u64,
    /// Sequences whose blocks were taken from them.
    pub preemptions: u64,
    /// Blocks cleaned.
    pub blocks_cleaned: u64,
}

/// The planner of one tenant's sequences on one model.
#[derive(Debug)]
pub struct Planner {
    limits: PlannerLimits,
    memory: Memory,
    agents: Agents,
    waiting: BTreeMap<Agent, VecDeque<Sequence>>,
    running: Vec<Sequence>,
    flights: BTreeMap<PassKind, Flight>,
    /// Numbers for orders of arrival and admission, for passes and for steps.
    count: u64,
    step: u64,
    tally: Tally,
}

impl Planner {
    /// Nothing to do, all blocks clean.
    pub fn new(limits: PlannerLimits) -> Self {
        Planner {
            memory: Memory::new(limits.blocks, limits.prefix_cache),
            limits,
            agents: Agents::default(),
            waiting: BTreeMap::new(),
            running: Vec::new(),
            flights: BTreeMap::new(),
            count: 0,
            step: 0,
            tally: Tally::default(),
        }
    }

    /// Takes a sequence, or refuses one that could not run even alone.
    pub fn add(&mut self, arrival: Arrival) -> Result<(), CannotFit> {
        let needed = blocks_for(arrival.kv_tokens());
        let capacity = self.memory.capacity();
        if needed > capacity {
            return Err(CannotFit { needed, capacity });
        }
        self.agents.enter(arrival.agent, arrival.weight);
        self.count += 1;
        let queue = self.waiting.entry(arrival.agent).or_default();
        queue.push_back(Sequence::new(arrival, self.count));
        Ok(())
    }

    /// Lets go of a sequence, whatever it was doing. Its blocks are dirty from now on.
    pub fn end(&mut self, request: u64) -> Option<Ended> {
        let sequence = self.remove(request)?;
        self.agents.leave(sequence.agent);
        Some(Ended {
            cached_tokens: sequence.cached,
            began: sequence.billed > 0,
            retained_blocks: self.memory.end(request, sequence.table),
        })
    }

    fn remove(&mut self, request: u64) -> Option<Sequence> {
        if let Some(at) = self.running.iter().position(|one| one.request == request) {
            return Some(self.stop(at));
        }
        let mut queues = self.waiting.iter_mut();
        let (agent, sequence) = queues.find_map(|(agent, queue)| {
            let at = queue.iter().position(|one| one.request == request)?;
            Some((*agent, queue.remove(at)?))
        })?;
        self.drop_empty(agent);
        Some(sequence)
    }

    fn drop_empty(&mut self, agent: Agent) {
        if self.waiting.get(&agent).is_some_and(VecDeque::is_empty) {
            self.waiting.remove(&agent);
        }
    }

    /// A sequence whose part answered has one more token.
    pub fn push(&mut self, request: u64) {
        if let Some(one) = self.running.iter_mut().find(|one| one.request == request) {
            one.known += 1;
        }
    }

    /// A sequence that runs no longer, and is in no pass.
    fn stop(&mut self, at: usize) -> Sequence {
        let mut sequence = self.running.remove(at);
        if let Some(kind) = sequence.pass.take()
            && let Some(flight) = self.flights.get_mut(&kind)
        {
            flight.parts.retain(|part| part.request != sequence.request);
            if flight.parts.is_empty() {
                self.flights.remove(&kind);
            }
        }
        sequence
    }

    /// Plans what a step begins: a pass of each kind of which none is on its way. Each has at least one token,
    /// where any sequence can go on, and beyond that what fits into `room` at these prices.
    pub fn plan(&mut self, prices: Prices, room: Room, clean: &mut Cleaner<'_>) -> Vec<Pass> {
        self.step += 1;
        self.grow_decoding(clean);
        self.free_for_oldest();
        self.admit();
        let reading = self.flights.contains_key(&PassKind::Reading)
            || self.running.iter().any(Sequence::is_prompt);
        let kept = if reading { 1.0 / PROMPT_SHARE } else { 0.0 };
        let mut passes = Vec::new();
        for (kind, room_ns) in [
            (PassKind::Decoding, room.ns * (1.0 - kept)),
            (PassKind::Reading, room.reading_ns),
        ] {
            if !self.flights.contains_key(&kind) {
                passes.extend(self.fill(kind, prices, room_ns, room, clean));
            }
        }
        passes
    }

    fn fill(
        &mut self,
        kind: PassKind,
        prices: Prices,
        room_ns: f64,
        room: Room,
        clean: &mut Cleaner<'_>,
    ) -> Option<Pass> {
        let mut filling = Filling {
            running: &mut self.running,
            agents: &mut self.agents,
            memory: &mut self.memory,
            prices,
            kind,
            room_ns,
            answers_ns: room.ns / ANSWERS_SHARE,
            tokens_max: self.limits.step_tokens_max.min(room.tokens),
            answers_max: room.answers,
            step: self.step,
            used_ns: prices.step_ns,
            work: StepWork::default(),
            recomputed: 0,
            parts: Vec::new(),
        };
        filling.fill(clean);
        if filling.parts.is_empty() {
            return None;
        }
        self.count += 1;
        let pass = Pass {
            number: self.count,
            kind,
            parts: filling.parts,
            work: filling.work,
            expected_ns: filling.used_ns,
        };
        self.tally.tokens_computed += pass.work.tokens;
        self.tally.tokens_recomputed += filling.recomputed;
        let parts = pass.parts.clone();
        let number = pass.number;
        self.flights.insert(kind, Flight { number, parts });
        Some(pass)
    }

    /// What is left of a pass that is on its way: nothing may be written any more into the blocks of a sequence that
    /// is not among it.
    pub fn parts(&self, pass: &Pass) -> &[Part] {
        let flight = self.flights.get(&pass.kind);
        let flight = flight.filter(|flight| flight.number == pass.number);
        flight.map_or(&[], |flight| &flight.parts)
    }

    /// A pass that is on its way has come to its end.
    pub fn complete(&mut self, pass: &Pass) {
        if self.parts(pass).is_empty() {
            return;
        }
        let flight = self.flights.remove(&pass.kind);
        for part in flight.into_iter().flat_map(|flight| flight.parts) {
            let found = self
                .running
                .iter_mut()
                .find(|one| one.request == part.request);
            let Some(one) = found else {
                continue;
            };
            one.pass = None;
            let whole =
                |tokens: usize| (tokens.min(one.prompt) / BLOCK_TOKENS).min(one.hashes.len());
            let (before, after) = (whole(part.from), whole(part.from + part.tokens));
            if before < after {
                self.memory
                    .keep(one.agent, &mut one.table, &one.hashes, before, after);
            }
        }
    }

    /// Blocks for those that decode, the oldest first.
    fn grow_decoding(&mut self, clean: &mut Cleaner<'_>) {
        let mut order: Vec<(u64, u64)> = self
            .running
            .iter()
            .filter(|one| one.decodes() && one.room() == 0)
            .map(|one| (one.arrived, one.request))
            .collect();
        order.sort_unstable();
        for (_, request) in order {
            // It may be preempted itself, by another or by its own need.
            while let Some(at) = (self.running.iter()).position(|one| one.request == request) {
                if self.memory.grow(&mut self.running[at].table, clean) || !self.preempt() {
                    break;
                }
            }
        }
    }

    /// The oldest can always go on.
    fn free_for_oldest(&mut self) {
        loop {
            let oldest = self.running.iter().min_by_key(|one| one.arrived);
            let stuck = oldest.is_some_and(|one| one.pass.is_none() && one.room() == 0);
            if !stuck || self.memory.available() > 0 || !self.preempt() {
                return;
            }
        }
    }

    /// Takes the blocks of one sequence. False if there is none but the oldest.
    fn preempt(&mut self) -> bool {
        let oldest = self.running.iter().map(|one| one.arrived).min();
        let victim = (0..self.running.len())
            .filter(|at| Some(self.running[*at].arrived) != oldest)
            .max_by_key(|at| {
                let one = &self.running[*at];
                (self.agents.time(one.agent), one.admitted)
            });
        let Some(victim) = victim else {
            return false;
        };
        let mut sequence = self.stop(victim);
        self.memory
            .end(sequence.request, std::mem::take(&mut sequence.table));
        sequence.computed = 0;
        self.tally.preemptions += 1;
        let queue = self.waiting.entry(sequence.agent).or_default();
        queue.push_front(sequence);
        true
    }

    /// Lets sequences in while there is room for the one whose turn it is.
    fn admit(&mut self) {
        while self.running.len() < self.limits.sequences_max {
            let heads = self.waiting.iter();
            let heads = heads.filter_map(|(agent, queue)| Some((*agent, queue.front()?)));
            let next = heads.min_by_key(|(agent, one)| (self.agents.time(*agent), one.arrived));
            let Some((agent, one)) = next else {
                return;
            };
            if !self.has_room_for(one) {
                return;
            }
            let queue = self.waiting.get_mut(&agent);
            let Some(mut one) = queue.and_then(VecDeque::pop_front) else {
                return;
            };
            self.drop_empty(agent);
            self.begin(&mut one);
            self.running.push(one);
        }
    }

    fn has_room_for(&self, one: &Sequence) -> bool {
        if self.running.is_empty() {
            return true;
        }
        let promised: usize = self.running.iter().map(|one| one.blocks_wanted() + 1).sum();
        let (known, idle) = self.memory.known(one.reusable());
        let wanted = one.blocks_wanted() - known + 1;
        promised + wanted <= self.memory.available() - idle
    }

    fn begin(&mut self, one: &mut Sequence) {
        self.count += 1;
        one.admitted = self.count;
        let mut table = std::mem::take(&mut one.table);
        let known = self.memory.begin(one.agent, &mut table, one.reusable());
        let tokens = known * BLOCK_TOKENS;
        one.table = table;
        one.computed = tokens;
        if one.billed == 0 {
            one.cached = tokens;
        }
        self.tally.tokens_cached += tokens as u64;
    }

    /// The blocks of a running sequence, in the order of its tokens.
    pub fn blocks(&self, request: u64) -> &[u32] {
        let found = self.running.iter().find(|one| one.request == request);
        found.map_or(&[], |one| one.table.indices())
    }

    /// True while there is a sequence.
    pub fn has_sequences(&self) -> bool {
        !(self.running.is_empty() && self.waiting.is_empty())
    }

    /// Sequences that run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Tokens that the whole pool has room for.
    pub fn capacity_tokens(&self) -> usize {
        self.memory.capacity() * BLOCK_TOKENS
    }

    /// Blocks that are live or dirty, without those that only the prefix cache holds.
    pub fn held_blocks(&self) -> usize {
        self.memory.held()
    }

    /// Blocks that only the prefix cache holds.
    pub fn cached_blocks(&self) -> usize {
        self.memory.idle()
    }

    /// Gives up every block that only the prefix cache holds.
    pub fn drop_cached(&mut self) {
        self.memory.drop_cached();
    }

    /// What time it is, nanoseconds from any beginning, never backwards. What the cache has counts as
    /// unused from the time that was told last before its last user ended.
    pub fn at(&mut self, now_ns: u64) {
        self.memory.at(now_ns);
    }

    /// When [`Planner::expire_one`] has something to do.
    pub fn next_expiry(&self, idle_ns: u64) -> Option<u64> {
        self.memory.next_expiry(idle_ns)
    }

    /// Cleans one block of the prefix cache that nobody used for `idle_ns`, or that is to be forgotten.
    /// False if there is none.
    pub fn expire_one(&mut self, idle_ns: u64, clean: &mut Cleaner<'_>) -> bool {
        self.memory.expire_one(idle_ns, clean)
    }

    /// Lets the prefix cache keep nothing that only this agent's prompts have: what is used now goes when
    /// it is let go.
    pub fn forget(&mut self, agent: Agent) {
        self.memory.forget(agent);
    }

    /// Blocks that wait to be cleaned.
    pub fn dirty_blocks(&self) -> usize {
        self.memory.dirty()
    }

    /// Cleans one of those.
    pub fn clean_one(&mut self, clean: &mut Cleaner<'_>) {
        self.memory.clean_one(clean);
    }

    /// True once no block of a sequence that ended is dirty.
    pub fn is_clean(&self, request: u64) -> bool {
        self.memory.is_clean(request)
    }

    /// Free blocks that were in use, and are to be checked once more now that nothing runs.
    pub fn blocks_to_recheck(&self) -> usize {
        self.memory.to_recheck()
    }

    /// Cleans and reads one of those again.
    pub fn recheck_one(&mut self, clean: &mut Cleaner<'_>) {
        self.memory.recheck(clean);
    }

    /// What was done since the planner was made.
    pub fn tally(&self) -> Tally {
        Tally {
            blocks_cleaned: self.memory.cleaned(),
            ..self.tally
        }
    }
}
