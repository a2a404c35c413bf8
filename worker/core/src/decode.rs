//! How a generation step's tokens are shared among the running sequences.
//!
//! A sequence that decodes asks for one token, one whose prompt is not read yet for many. Decoding goes
//! first, so that streams flow while a long prompt is read in pieces beside them; but a part of every
//! step is kept for prompts, so that streams cannot hold up a prompt for ever.

/// The part of a step that prompts get even where decoding could fill it: one in so many tokens.
const PROMPT_SHARE: usize = 4;

/// What one sequence could use now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Tokens of it that are known and not computed yet.
    pub tokens: usize,
    /// True while these are of its prompt.
    pub prompt: bool,
}

/// Tokens for each of `asks` (oldest sequence first), together at most `budget`, and at least one if
/// anybody asked. `turn` rotates who decodes first where not everybody can.
pub fn share(asks: &[Ask], budget: usize, turn: usize) -> Vec<usize> {
    let mut given = vec![0; asks.len()];
    let mut room = budget.max(1);
    let prompts: usize = asks
        .iter()
        .filter(|ask| ask.prompt)
        .map(|ask| ask.tokens)
        .sum();
    let kept = prompts.min(room.div_ceil(PROMPT_SHARE));
    let decoding: Vec<usize> = (0..asks.len())
        .filter(|at| !asks[*at].prompt && asks[*at].tokens > 0)
        .collect();
    for step in 0..decoding.len().min(room - kept) {
        given[decoding[(turn + step) % decoding.len()]] = 1;
    }
    room -= given.iter().sum::<usize>();
    for (at, ask) in asks.iter().enumerate().filter(|(_, ask)| ask.prompt) {
        given[at] = ask.tokens.min(room);
        room -= given[at];
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn prompt(tokens: usize) -> Ask {
        Ask {
            tokens,
            prompt: true,
        }
    }
    const DECODE: Ask = Ask {
        tokens: 1,
        prompt: false,
    };

    #[test]
    fn streams_flow_while_a_prompt_is_read() {
        assert_eq!(share(&[prompt(500), DECODE, DECODE], 32, 0), [30, 1, 1]);
    }

    #[test]
    fn a_prompt_is_read_while_streams_could_fill_the_step() {
        let mut asks = vec![DECODE; 20];
        asks.push(prompt(50));
        let given = share(&asks, 8, 0);
        assert_eq!(given[20], 2);
        assert_eq!(given.iter().sum::<usize>(), 8);
    }

    #[test]
    fn everybody_decodes_in_turn() {
        let asks = [DECODE; 3];
        let mut seen = [0; 3];
        for turn in 0..6 {
            for (count, given) in seen.iter_mut().zip(share(&asks, 1, turn)) {
                *count += given;
            }
        }
        assert_eq!(seen, [2, 2, 2]);
    }

    proptest! {
        #[test]
        fn no_step_is_over_its_budget_or_empty(
            asks in proptest::collection::vec((1usize..400, any::<bool>()), 1..30),
            budget in 0usize..200, turn in 0usize..1000,
        ) {
            let asks: Vec<Ask> = asks.into_iter()
                .map(|(tokens, prompt)| Ask { tokens: if prompt { tokens } else { 1 }, prompt })
                .collect();
            let given = share(&asks, budget, turn);
            let sum: usize = given.iter().sum();
            prop_assert!((1..=budget.max(1)).contains(&sum));
            prop_assert!(given.iter().zip(&asks).all(|(given, ask)| *given <= ask.tokens));
        }
    }
}
