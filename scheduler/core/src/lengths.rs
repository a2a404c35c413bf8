//! How long answers turn out to be: what an agent is charged for before its answer is there.
//!
//! A mean that follows its latest answers, held towards its tenant's where the agent has few of its own. Held so, it
//! shares better than the mean of an agent's last five answers, VTC's own forecast, and than knowing the lengths
//! (`scheduler/sim`). Whatever is expected, what an answer turned out to be is what its agent pays. Never a promise: no
//! request is refused or cut for it.

/// A mean is of the latest answers, of at most twice so many.
const REMEMBERED: u64 = 64;
/// So many answers of the tenant's mean are added to an agent's own.
const HELD_BY: u64 = 10;
/// Expected where no answer is known yet, tokens: about a paragraph.
const UNKNOWN: u64 = 200;

/// Lengths of answers that came to their end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lengths {
    tokens: u64,
    answers: u64,
}

impl Lengths {
    /// Learns of an answer of so many tokens.
    pub(crate) fn learn(&mut self, tokens: u32) {
        if self.answers >= 2 * REMEMBERED {
            self.tokens /= 2;
            self.answers /= 2;
        }
        self.tokens += u64::from(tokens);
        self.answers += 1;
    }

    /// The mean, held towards that of `tenant`, tokens.
    pub(crate) fn expect(&self, tenant: &Lengths) -> u64 {
        let held_to = (tenant.tokens + UNKNOWN) / (tenant.answers + 1);
        (self.tokens + HELD_BY * held_to) / (self.answers + HELD_BY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_expected_to_be_as_its_tenant_until_it_is_known() {
        let (mut tenant, mut agent) = (Lengths::default(), Lengths::default());
        assert_eq!(agent.expect(&tenant), UNKNOWN);
        for _ in 0..500 {
            tenant.learn(100);
        }
        assert!((99..=101).contains(&agent.expect(&tenant)));
        for _ in 0..10 {
            agent.learn(300);
        }
        assert!((199..=201).contains(&agent.expect(&tenant)));
        for _ in 0..1000 {
            agent.learn(20);
        }
        assert!((20..=30).contains(&agent.expect(&tenant)), "it follows");
    }

    #[test]
    fn the_greatest_answers_do_not_overflow() {
        let mut lengths = Lengths::default();
        for _ in 0..1000 {
            lengths.learn(u32::MAX);
        }
        assert!(lengths.expect(&lengths) <= u64::from(u32::MAX));
    }
}
