//! How the room of a step is divided among the running sequences.
//!
//! Decoding goes first, so that streams flow while a long prompt is read in pieces beside them; but a
//! part of every step is kept for prompts, so that streams cannot hold up a prompt for ever. Of the
//! prompts, the one of the agent with the least virtual time is read first, then the next.

use crate::agents::Agents;
use crate::blocks::{BLOCK_TOKENS, Cleaner};
use crate::memory::Memory;
use crate::price::{Prices, StepWork};
use crate::sequence::Sequence;

/// The part of a step's time that prompts get even where decoding could fill it: one in so many.
const PROMPT_SHARE: f64 = 4.0;

/// Where a single token of a prompt takes nearly all of the room or more than that, how many times what it
/// takes the step may: after thousands of tokens one more costs the reading of all of them, and a few
/// beside it next to nothing, so that with one at a time a prompt would take ten times as long.
const CRAMPED: f64 = 1.25;

/// Tokens of one sequence to compute in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Whose.
    pub request: u64,
    /// The first one's place in its sequence.
    pub from: usize,
    /// How many.
    pub tokens: usize,
    /// True if these end what is known of the sequence, so that its next token can be chosen.
    pub answers: bool,
}

/// A step being filled.
pub(crate) struct Filling<'a> {
    pub running: &'a mut [Sequence],
    pub agents: &'a mut Agents,
    pub memory: &'a mut Memory,
    pub prices: Prices,
    pub room_ns: f64,
    pub tokens_max: usize,
    /// The number of this step.
    pub step: u64,
    pub used_ns: f64,
    pub work: StepWork,
    pub recomputed: u64,
    pub parts: Vec<Part>,
}

/// Work of `tokens` tokens of a sequence from `from` on.
fn work(from: usize, tokens: usize, answers: bool) -> StepWork {
    let (from, tokens) = (from as u64, tokens as u64);
    StepWork {
        tokens,
        reads: from + tokens,
        positions: from * tokens + tokens * (tokens + 1) / 2,
        answers: u64::from(answers),
    }
}

impl Filling<'_> {
    pub fn fill(&mut self, clean: &mut Cleaner<'_>) {
        let prompts = self.running.iter().any(|one| !one.decodes());
        let kept = if prompts {
            (self.room_ns - self.used_ns).max(0.0) / PROMPT_SHARE
        } else {
            0.0
        };
        // Where there is no room for both, they take turns.
        let skip = prompts && self.step % 2 == 1;
        self.decode(self.room_ns - kept, skip);
        while let Some(at) = self.next_prompt() {
            if self.read(at, clean) == 0 {
                break;
            }
        }
        if self.parts.is_empty() {
            self.decode(f64::INFINITY, false);
        }
    }

    /// One token for each that decodes, as far as there is room; who waited longest of the agent
    /// with the least time first. The first one gets its token whatever it costs, unless `skip`.
    fn decode(&mut self, room_ns: f64, skip: bool) {
        let (running, agents) = (&*self.running, &*self.agents);
        let mut order: Vec<usize> = (0..running.len())
            .filter(|at| running[*at].decodes() && running[*at].room() > 0)
            .collect();
        order.sort_by_key(|at| {
            let one = &running[*at];
            (agents.time(one.agent), one.served, one.arrived)
        });
        for at in order {
            let cost = self.prices.of(work(self.running[at].computed, 1, true));
            let must = self.parts.is_empty() && !skip;
            if !must && (self.used_ns + cost > room_ns || self.is_full()) {
                return;
            }
            self.take(at, 1, cost);
            if room_ns.is_infinite() {
                return;
            }
        }
    }

    fn is_full(&self) -> bool {
        self.work.tokens as usize >= self.tokens_max
    }

    /// The oldest prompt of the agent with the least time, of those that were given nothing yet.
    fn next_prompt(&self) -> Option<usize> {
        (0..self.running.len())
            .filter(|at| {
                let one = &self.running[*at];
                let open = one.pending() > 0 && !one.decodes() && one.served < self.step;
                open && (one.room() > 0 || self.memory.available() > 0)
            })
            .min_by_key(|at| {
                let one = &self.running[*at];
                (self.agents.time(one.agent), one.arrived)
            })
    }

    /// Reads as much of a prompt as fits. Returns how many tokens that is.
    fn read(&mut self, at: usize, clean: &mut Cleaner<'_>) -> usize {
        let one = &self.running[at];
        let (room, from, pending) = (one.room(), one.computed, one.pending());
        let most = pending
            .min(self.tokens_max.saturating_sub(self.work.tokens as usize))
            .min(room + self.memory.available() * BLOCK_TOKENS);
        let cost = |tokens: usize| {
            let blocks = tokens.saturating_sub(room).div_ceil(BLOCK_TOKENS);
            let unclean = blocks.saturating_sub(self.memory.clean());
            self.prices.of(work(from, tokens, tokens == pending))
                + self.prices.block_ns * unclean as f64
        };
        let room_ns = match self.parts.is_empty() {
            true => self.room_ns.max((self.used_ns + cost(1)) * CRAMPED),
            false => self.room_ns,
        };
        let fits = |tokens: usize| self.used_ns + cost(tokens) <= room_ns;
        let mut tokens = greatest(most, fits);
        let cost = cost(tokens);
        tokens = self.make_room(at, tokens, clean);
        if tokens > 0 {
            self.take(at, tokens, cost);
        }
        tokens
    }

    /// Blocks for so many tokens; returns for how many there are.
    fn make_room(&mut self, at: usize, tokens: usize, clean: &mut Cleaner<'_>) -> usize {
        let one = &mut self.running[at];
        while one.room() < tokens && self.memory.grow(&mut one.table, clean) {}
        tokens.min(one.room())
    }

    fn take(&mut self, at: usize, tokens: usize, cost_ns: f64) {
        let one = &mut self.running[at];
        let from = one.computed;
        let (new, again) = one.advance(tokens);
        let answers = one.pending() == 0;
        one.served = self.step;
        self.agents.charge(one.agent, new);
        self.recomputed += again as u64;
        self.used_ns += cost_ns;
        let done = work(from, tokens, answers);
        self.work.tokens += done.tokens;
        self.work.reads += done.reads;
        self.work.positions += done.positions;
        self.work.answers += done.answers;
        self.parts.push(Part {
            request: one.request,
            from,
            tokens,
            answers,
        });
        let whole = |tokens: usize| (tokens.min(one.prompt) / BLOCK_TOKENS).min(one.hashes.len());
        let (before, after) = (whole(from), whole(from + tokens));
        if before < after {
            self.memory
                .keep(one.agent, &mut one.table, &one.hashes, before, after);
        }
    }
}

/// The greatest number up to `most` for which `fits`, which holds up to some number and not beyond.
fn greatest(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut good, mut bad) = (0, most + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    good
}
