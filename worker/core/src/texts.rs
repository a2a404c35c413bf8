//! Which texts go into the next embedding batch.
//!
//! A request may bring many texts, another one. Taking whole requests would let one of 32 texts stand
//! before one of a single text; so the requests take turns, one text each, and a batch holds whatever
//! fits. One tenant's work only ever comes in here.

use std::collections::VecDeque;

/// One text to compute now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The request it belongs to.
    pub request: u64,
    /// Which of the request's texts.
    pub index: usize,
    /// Its length.
    pub tokens: usize,
}

#[derive(Debug)]
struct Waiting {
    request: u64,
    next: usize,
    tokens: Vec<usize>,
}

/// The texts that wait, by request.
#[derive(Debug, Default)]
pub struct Texts {
    turns: VecDeque<Waiting>,
}

impl Texts {
    /// Adds a request by its texts' lengths, tokens. Without texts it adds nothing.
    pub fn add(&mut self, request: u64, tokens: Vec<usize>) {
        if !tokens.is_empty() {
            self.turns.push_back(Waiting {
                request,
                next: 0,
                tokens,
            });
        }
    }

    /// Drops what waits of a request.
    pub fn cancel(&mut self, request: u64) {
        self.turns.retain(|waiting| waiting.request != request);
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Takes texts of together at most `tokens_max` tokens, and at least one text; the request
    /// whose turn it is first, then each in turn.
    pub fn take(&mut self, tokens_max: usize) -> Vec<Pick> {
        let mut picks = Vec::new();
        let mut room = tokens_max;
        let mut refused = 0;
        while refused < self.turns.len() {
            let Some(mut waiting) = self.turns.pop_front() else {
                break;
            };
            let index = waiting.next;
            let Some(&tokens) = waiting.tokens.get(index) else {
                continue;
            };
            if tokens > room && !picks.is_empty() {
                refused += 1;
                self.turns.push_back(waiting);
                continue;
            }
            room = room.saturating_sub(tokens);
            refused = 0;
            picks.push(Pick {
                request: waiting.request,
                index,
                tokens,
            });
            waiting.next += 1;
            if waiting.next < waiting.tokens.len() {
                self.turns.push_back(waiting);
            }
        }
        picks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_text_does_not_wait_behind_thirty_two() {
        let mut texts = Texts::default();
        texts.add(1, vec![38; 32]);
        texts.add(2, vec![38]);
        let first = texts.take(80);
        assert!(first.iter().any(|pick| pick.request == 2), "{first:?}");
    }

    #[test]
    fn a_text_over_the_budget_still_runs_alone() {
        let mut texts = Texts::default();
        texts.add(1, vec![256, 4]);
        assert_eq!(
            texts.take(100),
            [Pick {
                request: 1,
                index: 0,
                tokens: 256
            }]
        );
        assert_eq!(
            texts.take(100),
            [Pick {
                request: 1,
                index: 1,
                tokens: 4
            }]
        );
        assert!(texts.is_empty());
    }

    proptest! {
        #[test]
        fn every_text_is_taken_once_and_within_the_budget(
            requests in proptest::collection::vec(
                proptest::collection::vec(1usize..300, 1..40), 1..10),
            budget in 1usize..600,
        ) {
            let mut texts = Texts::default();
            let mut expected = Vec::new();
            for (request, lengths) in requests.iter().enumerate() {
                texts.add(request as u64, lengths.clone());
                expected.extend((0..lengths.len()).map(|index| (request as u64, index)));
            }
            let mut seen = Vec::new();
            while !texts.is_empty() {
                let picks = texts.take(budget);
                let sum: usize = picks.iter().map(|pick| pick.tokens).sum();
                prop_assert!(!picks.is_empty());
                prop_assert!(picks.len() == 1 || sum <= budget);
                seen.extend(picks.iter().map(|pick| (pick.request, pick.index)));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, expected);
        }
    }
}
