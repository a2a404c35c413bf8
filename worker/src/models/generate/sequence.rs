//! One request on its way: its tokens, and how the next one is chosen and told.

use super::answer::{Answer, Next};
use super::request::Request;
use super::sampling::History;
use crate::models::decoder::Found;
use crate::models::text::TextCodec;
use bulkhead_kernels::compute::choice::Wish;

/// A request that is being generated, or waits for room.
#[derive(Debug)]
pub struct Sequence {
    /// The prompt and what was generated.
    pub tokens: Vec<u32>,
    /// Of these, how many are the prompt.
    pub prompt_tokens: usize,
    /// Tokens to generate at most.
    pub max_tokens: u32,
    /// How they are chosen, and what of them is shown.
    pub answer: Answer,
}

impl Sequence {
    /// With the prompt's tokens, of which there are fewer than the context has.
    pub fn new(request: Request, tokens: Vec<u32>, context_tokens: usize) -> Self {
        let room = u32::try_from(context_tokens - tokens.len()).unwrap_or(u32::MAX);
        Sequence {
            prompt_tokens: tokens.len(),
            tokens,
            max_tokens: request.max_tokens.min(room),
            answer: request.answer,
        }
    }

    /// Tokens generated so far.
    pub fn generated(&self) -> u32 {
        (self.tokens.len() - self.prompt_tokens) as u32
    }

    /// What there is to know to choose the next token where its logits are; nothing where more than the token is
    /// wanted of them.
    pub fn wish(&mut self, codec: &TextCodec) -> Option<Wish> {
        let history = History {
            tokens: &self.tokens,
            prompt_tokens: self.prompt_tokens,
        };
        self.answer.wish(history, codec)
    }

    /// Takes the next token, once it is chosen.
    pub fn next(&mut self, found: Found<'_>, codec: &TextCodec) -> Next {
        let last = self.generated() + 1 >= self.max_tokens;
        let history = History {
            tokens: &self.tokens,
            prompt_tokens: self.prompt_tokens,
        };
        let next = self.answer.next(found, history, last, codec);
        self.tokens.extend(next.token);
        next
    }
}
