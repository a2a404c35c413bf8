//! Sequences that live on the device as the planner says, and what has to hold in every step.

use crate::device::{Content, Device};
use bulkhead_worker_core::{
    Agent, Arrival, BLOCK_TOKENS, BlockHash, CannotFit, Part, Pass, Planner, PlannerLimits, Prices,
    Room,
};
use std::collections::{BTreeMap, HashSet};

/// A token costs 1, a block that has to be cleaned 1, nothing else anything.
pub const PRICES: Prices = Prices {
    step_ns: 0.0,
    token_ns: 1.0,
    read_ns: 0.0,
    position_ns: 0.0,
    answer_ns: 0.0,
    block_ns: 1.0,
};

/// A request of a simulation.
#[derive(Clone, Debug)]
pub struct Job {
    pub agent: u64,
    pub weight: u32,
    /// Prompts of one family begin alike.
    pub family: u64,
    pub prompt: usize,
    pub answer: usize,
}

struct Live {
    contents: Vec<Content>,
    prompt: usize,
    answer: usize,
}

/// Planner, device and the sequences.
pub struct World {
    pub planner: Planner,
    pub device: Device,
    limits: PlannerLimits,
    live: BTreeMap<u64, Live>,
    /// Tokens billed to each agent: computed, and not computed before.
    pub served: BTreeMap<u64, u64>,
    owners: BTreeMap<u64, (u64, usize)>,
    pub done: Vec<u64>,
    pub steps: u64,
    /// Passes that are on their way, and how many steps each still takes.
    underway: Vec<(Pass, usize)>,
    /// How many steps the passes to come take, in turn.
    pub lengths: Vec<usize>,
    /// Parts that were taken out of a pass.
    pub withdrawn: usize,
    /// Time beside the steps, one of which takes 1.
    idle: u64,
}

/// The n-th token of a family, and all before it.
fn content(family: u64, place: usize) -> Content {
    1 + family * 1_000_000 + place as u64
}

impl World {
    pub fn new(limits: PlannerLimits) -> Self {
        World {
            planner: Planner::new(limits),
            device: Device::new(limits.blocks),
            limits,
            live: BTreeMap::new(),
            served: BTreeMap::new(),
            owners: BTreeMap::new(),
            done: Vec::new(),
            steps: 0,
            underway: Vec::new(),
            lengths: vec![1],
            withdrawn: 0,
            idle: 0,
        }
    }

    pub fn add(&mut self, request: u64, job: &Job) -> Result<(), CannotFit> {
        let contents: Vec<Content> = (0..job.prompt).map(|at| content(job.family, at)).collect();
        let ends = contents.chunks_exact(BLOCK_TOKENS);
        self.planner.add(Arrival {
            request,
            agent: Agent(job.agent),
            weight: job.weight,
            prompt_tokens: job.prompt,
            max_tokens: job.answer,
            hashes: ends
                .map(|block| BlockHash(block[BLOCK_TOKENS - 1].into()))
                .collect(),
        })?;
        let live = Live {
            contents,
            prompt: job.prompt,
            answer: job.answer,
        };
        self.live.insert(request, live);
        self.owners.insert(request, (job.agent, 0));
        Ok(())
    }

    /// Nothing happens for a time.
    pub fn pass(&mut self, time: u64) {
        self.idle += time;
    }

    /// Drops from the cache what nobody used for so long, in steps.
    pub fn expire(&mut self, idle: u64) {
        self.planner.at(self.steps + self.idle);
        let device = &mut self.device;
        while self
            .planner
            .expire_one(idle, &mut |block| device.clean(block))
        {}
        assert!(
            self.planner
                .next_expiry(idle)
                .is_none_or(|at| at > self.steps + self.idle)
        );
    }

    /// One step with room for so many tokens.
    pub fn step(&mut self, room: usize) {
        self.steps += 1;
        self.planner.at(self.steps + self.idle);
        let device = &mut self.device;
        let room_for = Room {
            ns: room as f64,
            reading_ns: room as f64,
            tokens: usize::MAX,
            answers: usize::MAX,
        };
        let begun = self
            .planner
            .plan(PRICES, room_for, &mut |block| device.clean(block));
        assert!(self.planner.running() <= self.limits.sequences_max);
        self.shrink();
        for pass in begun {
            self.check(&pass, room);
            self.lengths.rotate_left(1);
            self.underway.push((pass, self.lengths[0]));
        }
        let parts = self.underway.iter().flat_map(|(pass, _)| &pass.parts);
        let requests: Vec<u64> = parts.map(|part| part.request).collect();
        let different: HashSet<&u64> = requests.iter().collect();
        assert_eq!(different.len(), requests.len(), "a sequence twice");
        for (pass, left) in std::mem::take(&mut self.underway) {
            if left > 1 {
                self.underway.push((pass, left - 1));
            } else {
                self.over(&pass);
            }
        }
    }

    /// Sequences that ended or made room are in no pass any more.
    fn shrink(&mut self) {
        for (pass, _) in &mut self.underway {
            let left = self.planner.parts(pass);
            self.withdrawn += pass.parts.len() - left.len();
            pass.parts = left.to_vec();
        }
        self.underway.retain(|(pass, _)| !pass.parts.is_empty());
    }

    fn check(&mut self, pass: &Pass, room: usize) {
        let tokens: usize = pass.parts.iter().map(|part| part.tokens).sum();
        assert!(tokens > 0, "a pass of nothing");
        assert_eq!(tokens as u64, pass.work.tokens);
        assert!(tokens <= self.limits.step_tokens_max);
        assert!(tokens <= room.max(1), "{tokens} tokens, room for {room}");
        for part in &pass.parts {
            let (agent, seen) = self.owners.get_mut(&part.request).expect("it was added");
            let to = part.from + part.tokens;
            let new = to.saturating_sub(part.from.max(*seen));
            *self.served.entry(*agent).or_default() += new as u64;
            *seen = to.max(*seen);
        }
    }

    /// All of it is written at its end: whatever was cleaned meanwhile would show.
    fn over(&mut self, pass: &Pass) {
        for part in &pass.parts {
            self.run(part);
        }
        self.planner.complete(pass);
        assert!(self.planner.parts(pass).is_empty());
        for part in pass.parts.iter().filter(|part| part.answers) {
            self.answer(part.request);
        }
    }

    fn run(&mut self, part: &Part) {
        let live = &self.live[&part.request];
        for position in part.from..part.from + part.tokens {
            let table = self.planner.blocks(part.request);
            self.device.compute(table, position, &live.contents);
        }
        let ends = part.from + part.tokens == live.contents.len();
        assert_eq!(part.answers, ends);
    }

    /// A token that no other sequence has, or the end.
    fn answer(&mut self, request: u64) {
        let live = self.live.get_mut(&request).expect("it lives");
        let place = live.contents.len();
        live.contents.push(content(1_000 + request, place));
        if live.contents.len() == live.prompt + live.answer {
            self.end(request);
            self.done.push(request);
        } else {
            self.planner.push(request);
        }
    }

    pub fn end(&mut self, request: u64) {
        if self.live.remove(&request).is_some() {
            self.planner.end(request).expect("the planner had it");
        }
    }

    pub fn lives(&self) -> bool {
        !self.live.is_empty()
    }

    pub fn lives_on(&self, request: u64) -> bool {
        self.live.contains_key(&request)
    }

    /// Cleans all that is dirty.
    pub fn clean_all(&mut self) {
        let device = &mut self.device;
        while self.planner.dirty_blocks() > 0 {
            self.planner.clean_one(&mut |block| device.clean(block));
        }
    }
}
