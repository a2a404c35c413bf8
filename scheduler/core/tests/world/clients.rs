//! Clients: who sends what, and when. Closed loops keep a number of requests open, open loops send at their own pace;
//! both rest now and then. They never look at what the scheduler does beyond how their own requests end.

use std::collections::BTreeMap;

use bulkhead_core::*;

use super::draw::Draw;
use crate::sim::{Act, MS, SECOND, Sim};

/// Calls below this are the world's own.
pub const CALLS_FROM: usize = 8;

struct Client {
    tenant: TenantId,
    agent: AgentId,
    model: ModelId,
    tokens_in_max: u32,
    tokens_out_max: u32,
    /// So many are kept open; 0 for an open loop.
    keeps: u32,
    pause_ns: Nanos,
    awake: bool,
    /// Open, or about to be sent.
    out: u32,
}

#[derive(Default)]
pub struct Clients {
    all: Vec<Client>,
    open: BTreeMap<RequestId, usize>,
    /// Some requests have a deadline.
    pub hurried: bool,
}

impl Clients {
    /// Several agents of a tenant, for one to three models. `greedy`: at least one of them has always more to do than
    /// fits into a batch.
    pub fn add(&mut self, tenant: TenantId, greedy: bool, draw: &mut Draw, sim: &mut Sim) {
        for n in 0..draw.small(u32::from(!greedy) + 1, 4) {
            let generates = draw.one_in(2);
            let closed = greedy && n == 0 || draw.one_in(3);
            let client = Client {
                tenant,
                agent: AgentId(tenant.0 * 8 + draw.small(0, 3)),
                model: ModelId(draw.small(1, 3)),
                tokens_in_max: draw.small(20, 500),
                tokens_out_max: if generates { draw.small(1, 400) } else { 0 },
                keeps: if closed { draw.small(1, 6) } else { 0 },
                pause_ns: draw.between(MS / 100, 50 * MS),
                awake: true,
                out: 0,
            };
            self.all.push(client);
            let id = self.all.len() - 1;
            if greedy && n == 0 {
                let client = &mut self.all[id];
                client.keeps = 6_000 / (client.tokens_in_max + client.tokens_out_max) + 2;
                client.pause_ns = MS / 100;
            }
            self.wake(id, draw, sim);
        }
    }

    fn wake(&mut self, id: usize, draw: &mut Draw, sim: &mut Sim) {
        let client = &mut self.all[id];
        for _ in client.out..client.keeps.max(1) {
            client.out += 1;
            sim.at(
                sim.now + draw.between(0, 2 * MS),
                Act::Call(CALLS_FROM + id),
            );
        }
    }

    /// One client rests, or comes back.
    pub fn turn_one(&mut self, draw: &mut Draw, sim: &mut Sim) {
        let id = draw.between(0, self.all.len() as u64 - 1) as usize;
        self.all[id].awake ^= true;
        if self.all[id].awake {
            self.wake(id, draw, sim);
        }
    }

    /// The time has come to send one.
    pub fn call(&mut self, id: usize, draw: &mut Draw, sim: &mut Sim) {
        let client = &mut self.all[id];
        client.out -= 1;
        if client.awake {
            self.send(id, draw, sim);
            self.collect(draw, sim);
        }
        let client = &mut self.all[id];
        if client.awake && client.keeps == 0 && client.out == 0 {
            client.out = 1;
            let pause = draw.between(client.pause_ns / 2, client.pause_ns * 4);
            sim.at(sim.now + pause, Act::Call(CALLS_FROM + id));
        }
    }

    fn send(&mut self, id: usize, draw: &mut Draw, sim: &mut Sim) {
        let client = &mut self.all[id];
        client.out += u32::from(client.keeps > 0);
        let mut submission = sim.submission(client.tenant, draw.small(1, client.tokens_in_max));
        submission.agent = client.agent;
        submission.model = client.model;
        submission.tokens_out_max = client.tokens_out_max;
        if self.hurried && draw.one_in(8) {
            submission.deadline = Some(sim.now + draw.between(0, SECOND));
        }
        let answer = draw.small(0, client.tokens_out_max);
        sim.answers.insert(submission.request, answer);
        self.open.insert(submission.request, id);
        sim.offer(submission);
    }

    /// What is over makes room for the next of a closed loop.
    pub fn collect(&mut self, draw: &mut Draw, sim: &mut Sim) {
        for (request, refused) in std::mem::take(&mut sim.over) {
            let Some(id) = self.open.remove(&request) else {
                continue;
            };
            let client = &mut self.all[id];
            if client.keeps == 0 {
                continue;
            }
            client.out -= 1;
            if client.awake && client.out < client.keeps {
                client.out += 1;
                // Who is refused does not ask again at once.
                let least = if refused { 20 * MS } else { 0 };
                let pause = draw.between(least, least + client.pause_ns);
                sim.at(sim.now + pause, Act::Call(CALLS_FROM + id));
            }
        }
    }

    /// Some open request.
    pub fn any_open(&self, draw: &mut Draw) -> Option<RequestId> {
        let (first, last) = (self.open.keys().next()?, self.open.keys().next_back()?);
        let from = RequestId(draw.between(first.0, last.0));
        self.open.range(from..).next().map(|(id, _)| *id)
    }

    pub fn any_agent(&self, draw: &mut Draw) -> AgentId {
        self.all[draw.between(0, self.all.len() as u64 - 1) as usize].agent
    }
}
