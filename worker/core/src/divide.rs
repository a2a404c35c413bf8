//! How the room of a pass is divided among the running sequences.
//!
//! Sequences that decode get one token each, as far as there is room; a part of every step is kept for
//! prompts, so that streams cannot hold up a prompt for ever. Of the prompts, the one of the agent with the
//! least virtual time is read first, then the next.

use crate::agents::Agents;
use crate::blocks::{BLOCK_TOKENS, Cleaner};
use crate::memory::Memory;
use crate::pass::PassKind;
use crate::price::{Prices, StepWork};
use crate::sequence::Sequence;

/// Tokens of one sequence to compute in a pass.
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

/// A pass being filled.
pub(crate) struct Filling<'a> {
    pub running: &'a mut [Sequence],
    pub agents: &'a mut Agents,
    pub memory: &'a mut Memory,
    pub prices: Prices,
    pub kind: PassKind,
    pub room_ns: f64,
    /// What the answers of the pass may take, which come in one piece; the first one whatever it costs.
    pub answers_ns: f64,
    pub tokens_max: usize,
    pub answers_max: usize,
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
        match self.kind {
            PassKind::Decoding => self.decode(),
            PassKind::Reading => {
                while let Some(at) = self.next_prompt() {
                    if self.read(at, clean) == 0 {
                        break;
                    }
                }
            }
        }
    }

    /// One token for each that decodes, as far as there is room; who waited longest of the agent
    /// with the least time first. The first one gets its token whatever it costs.
    fn decode(&mut self) {
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
            let over = self.used_ns + cost > self.room_ns || self.is_full();
            if over && !self.parts.is_empty() {
                return;
            }
            self.take(at, 1, cost);
        }
    }

    fn is_full(&self) -> bool {
        self.work.tokens as usize >= self.tokens_max
            || self.work.answers as usize >= self.answers_max
    }

    /// The oldest prompt of the agent with the least time, of those that are in no pass yet.
    fn next_prompt(&self) -> Option<usize> {
        (0..self.running.len())
            .filter(|at| {
                let one = &self.running[*at];
                one.is_prompt() && (one.room() > 0 || self.memory.available() > 0)
            })
            .min_by_key(|at| {
                let one = &self.running[*at];
                (self.agents.time(one.agent), one.arrived)
            })
    }

    /// Reads as much of a prompt as fits, and of the first one a token whatever it costs. Returns how many
    /// tokens that is.
    fn read(&mut self, at: usize, clean: &mut Cleaner<'_>) -> usize {
        let one = &self.running[at];
        let (room, from, pending) = (one.room(), one.computed, one.pending());
        let answers = self.work.answers as usize;
        let answers_ns = self.prices.answer_ns * (answers + 1) as f64;
        let may_answer =
            answers == 0 || (answers < self.answers_max && answers_ns <= self.answers_ns);
        let most = (pending - usize::from(!may_answer))
            .min(self.tokens_max.saturating_sub(self.work.tokens as usize))
            .min(room + self.memory.available() * BLOCK_TOKENS);
        let cost = |tokens: usize| {
            let blocks = tokens.saturating_sub(room).div_ceil(BLOCK_TOKENS);
            let unclean = blocks.saturating_sub(self.memory.clean());
            self.prices.of(work(from, tokens, tokens == pending))
                + self.prices.block_ns * unclean as f64
        };
        let first = usize::from(self.parts.is_empty());
        let fits = |tokens: usize| tokens <= first || self.used_ns + cost(tokens) <= self.room_ns;
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
        one.pass = Some(self.kind);
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
