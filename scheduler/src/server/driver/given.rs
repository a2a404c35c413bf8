//! The numbers by which a worker knows its requests, its leases and its agents. They are its own: they tell nothing of
//! anybody else's, and one that it was not given names nothing.

use super::output::Output;
use bulkhead_core::{AgentId, RequestId};
use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
};

/// A request in a worker's hands.
#[derive(Debug)]
pub(super) struct One {
    pub request: RequestId,
    /// What this worker said of its answer so far.
    pub output: Output,
}

/// What one worker was given and has not let go of.
#[derive(Debug, Default)]
pub(super) struct Given {
    requests: HashMap<u64, One>,
    numbers: HashMap<RequestId, u64>,
    /// The last number of a request, and of a lease.
    requests_given: u64,
    leases_given: u64,
    /// Names agents, for this worker alone.
    key: RandomState,
}

impl Given {
    /// The next request, of which the worker may say so much: also once it has ended for everybody else.
    pub(super) fn request(&mut self, request: RequestId, output: Output) -> u64 {
        self.requests_given += 1;
        let one = One { request, output };
        self.requests.insert(self.requests_given, one);
        self.numbers.insert(request, self.requests_given);
        self.requests_given
    }

    /// The next lease.
    pub(super) fn lease(&mut self) -> u64 {
        self.leases_given += 1;
        self.leases_given
    }

    /// An agent: always the same.
    pub(super) fn agent(&self, agent: AgentId) -> u64 {
        self.key.hash_one(agent)
    }

    /// How many requests it holds.
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Which request the worker speaks of, and what it has said of it.
    pub(super) fn spoken_of(&mut self, number: u64) -> Option<&mut One> {
        self.requests.get_mut(&number)
    }

    /// What the worker knows a request by.
    pub(super) fn number_of(&self, request: RequestId) -> Option<u64> {
        self.numbers.get(&request).copied()
    }

    /// It speaks of a request for the last time.
    pub(super) fn let_go(&mut self, number: u64) -> Option<One> {
        let one = self.requests.remove(&number)?;
        self.numbers.remove(&one.request);
        Some(one)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Job, *};
    use bulkhead_proto::internal::EmbedJob;

    #[test]
    fn numbers_are_a_workers_own_and_name_what_it_holds_alone() {
        let (mut one, mut other) = (Given::default(), Given::default());
        let none = Output::of(0, &Job::Embed(EmbedJob::default()));
        let (ours, theirs) = (RequestId(700), RequestId(900));
        assert_eq!(one.request(ours, none), other.request(theirs, none));
        assert_eq!(one.spoken_of(1).unwrap().request, ours);
        assert_eq!(one.number_of(ours), Some(1));
        assert!(one.spoken_of(2).is_none());
        assert_eq!(one.let_go(1).unwrap().request, ours);
        assert!(one.let_go(1).is_none() && one.spoken_of(1).is_none());
        assert_eq!(one.number_of(ours), None);
        assert_eq!(one.request(theirs, none), 2, "no number comes again");
        assert_eq!(one.agent(AgentId(3)), one.agent(AgentId(3)));
        assert_ne!(one.agent(AgentId(3)), other.agent(AgentId(3)));
        assert_eq!((one.lease(), one.lease()), (1, 2));
    }
}
