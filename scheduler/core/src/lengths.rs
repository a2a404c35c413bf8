//! How long answers turn out to be: what an agent is charged for before its answer is there.
//!
//! A mean that follows its latest answers, held towards its tenant's where the agent has few of its own. Held so, it
//! shares better than the mean of an agent's last five answers, VTC's own forecast, and than knowing the lengths
//! (`scheduler/sim`). Whatever is expected, what an answer turned out to be is what its agent pays. Never a promise: no
//! request is refused or cut for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::AgentId;

/// A mean is of the latest answers, of at most twice so many.
const REMEMBERED: u64 = 64;
/// So many answers of the tenant's mean are added to an agent's own.
const HELD_BY: u64 = 10;
/// Expected where no answer is known yet, tokens: about a paragraph.
const UNKNOWN: u64 = 200;
/// Agents of one tenant whose own means are kept: those that answered last.
const AGENTS_MAX: usize = 4096;

/// Lengths of the answers of one tenant's agents.
#[derive(Debug, Default)]
pub struct LengthBook {
    agents: BTreeMap<AgentId, (u64, Lengths)>,
    /// By when they answered last.
    order: BTreeSet<(u64, AgentId)>,
    answers: u64,
    /// Of all of them together, those that were forgotten included.
    tenant: Lengths,
}

impl LengthBook {
    /// Learns of an answer of so many tokens.
    pub fn learn(&mut self, agent: AgentId, tokens: u32) {
        self.answers += 1;
        self.tenant.learn(tokens);
        let (last, lengths) = self.agents.entry(agent).or_default();
        lengths.learn(tokens);
        self.order.remove(&(*last, agent));
        *last = self.answers;
        self.order.insert((*last, agent));
        if self.order.len() > AGENTS_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.agents.remove(&oldest);
        }
    }

    /// Tokens that an answer of this agent is expected to have, of at most `most`.
    pub fn expect(&self, agent: AgentId, most: u32) -> u32 {
        if most == 0 {
            return 0;
        }
        u32::try_from(self.mean(agent))
            .unwrap_or(u32::MAX)
            .min(most)
    }

    fn mean(&self, agent: AgentId) -> u64 {
        let own = self.agents.get(&agent).map(|(_, lengths)| *lengths);
        own.unwrap_or_default().expect(&self.tenant)
    }
}

/// Lengths of answers that came to their end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lengths {
    tokens: u64,
    answers: u64,
}

impl Lengths {
    fn learn(&mut self, tokens: u32) {
        if self.answers >= 2 * REMEMBERED {
            self.tokens /= 2;
            self.answers /= 2;
        }
        self.tokens += u64::from(tokens);
        self.answers += 1;
    }

    /// The mean, held towards that of `tenant`, tokens.
    fn expect(&self, tenant: &Lengths) -> u64 {
        let held_to = (tenant.tokens + UNKNOWN) / (tenant.answers + 1);
        (self.tokens + HELD_BY * held_to) / (self.answers + HELD_BY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: AgentId = AgentId(1);

    #[test]
    fn an_agent_is_expected_to_be_as_its_tenant_until_it_is_known() {
        let mut book = LengthBook::default();
        assert_eq!(book.mean(AGENT), UNKNOWN);
        for n in 0..500 {
            book.learn(AgentId(2 + n % 7), 100);
        }
        assert!((99..=101).contains(&book.mean(AGENT)));
        for _ in 0..10 {
            book.learn(AGENT, 300);
        }
        assert!((190..=220).contains(&book.mean(AGENT)));
        for _ in 0..1000 {
            book.learn(AGENT, 20);
        }
        assert!((20..=30).contains(&book.mean(AGENT)), "it follows");
    }

    #[test]
    fn the_greatest_answers_do_not_overflow() {
        let mut book = LengthBook::default();
        for _ in 0..1000 {
            book.learn(AGENT, u32::MAX);
        }
        assert!(book.mean(AGENT) <= u64::from(u32::MAX));
    }

    #[test]
    fn it_is_bounded_and_forgets_who_answered_longest_ago() {
        let mut book = LengthBook::default();
        for n in 0..=AGENTS_MAX as u32 {
            book.learn(AgentId(n), 500);
        }
        assert_eq!(
            (book.agents.len(), book.order.len()),
            (AGENTS_MAX, AGENTS_MAX)
        );
        assert!(!book.agents.contains_key(&AgentId(0)));
    }
}
