//! The numbers by which a worker knows its requests, its leases and its agents. They are its own: they tell nothing of
//! anybody else's, and one that it was not given names nothing.

use bulkhead_core::{AgentId, RequestId};
use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
};

/// What one worker was given and has not let go of.
#[derive(Debug, Default)]
pub(super) struct Given {
    requests: HashMap<u64, RequestId>,
    numbers: HashMap<RequestId, u64>,
    /// The last number of a request, and of a lease.
    requests_given: u64,
    leases_given: u64,
    /// Names agents, for this worker alone.
    key: RandomState,
}

impl Given {
    /// The next request.
    pub(super) fn request(&mut self, request: RequestId) -> u64 {
        self.requests_given += 1;
        self.requests.insert(self.requests_given, request);
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

    /// Which request the worker speaks of.
    pub(super) fn spoken_of(&self, number: u64) -> Option<RequestId> {
        self.requests.get(&number).copied()
    }

    /// What the worker knows a request by.
    pub(super) fn number_of(&self, request: RequestId) -> Option<u64> {
        self.numbers.get(&request).copied()
    }

    /// It speaks of a request for the last time.
    pub(super) fn let_go(&mut self, number: u64) -> Option<RequestId> {
        let request = self.requests.remove(&number)?;
        self.numbers.remove(&request);
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_a_workers_own_and_name_what_it_holds_alone() {
        let (mut one, mut other) = (Given::default(), Given::default());
        assert_eq!(one.request(RequestId(700)), other.request(RequestId(900)));
        assert_eq!(one.spoken_of(1), Some(RequestId(700)));
        assert_eq!(one.number_of(RequestId(700)), Some(1));
        assert_eq!(one.spoken_of(2), None);
        assert_eq!(one.let_go(1), Some(RequestId(700)));
        assert_eq!((one.let_go(1), one.spoken_of(1)), (None, None));
        assert_eq!(one.number_of(RequestId(700)), None);
        assert_eq!(one.request(RequestId(900)), 2, "no number comes again");
        assert_eq!(one.agent(AgentId(3)), one.agent(AgentId(3)));
        assert_ne!(one.agent(AgentId(3)), other.agent(AgentId(3)));
        assert_eq!((one.lease(), one.lease()), (1, 2));
    }
}
