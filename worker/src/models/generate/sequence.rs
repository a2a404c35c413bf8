//! One request on its way: from the job that came to the tokens that were generated.

use super::answer::{Answer, Next};
use super::request::{Request, too_long};
use super::sampling::History;
use crate::models::text::{Chat, TextCodec};
use bulkhead_proto::internal::GenerateJob;
use bulkhead_worker_core::Ask;

/// A request that is being generated, or waits for room.
#[derive(Debug)]
pub struct Sequence {
    /// The scheduler's number.
    pub request: u64,
    /// The prompt and what was generated.
    pub tokens: Vec<u32>,
    /// Of these, how many have their keys and values computed.
    pub computed: usize,
    /// Of these, how many are the prompt.
    pub prompt_tokens: usize,
    /// Tokens to generate at most.
    pub max_tokens: u32,
    /// How they are chosen, and what of them is shown.
    pub answer: Answer,
}

impl Sequence {
    /// Checks and encodes a job. The error is for the caller, and quotes nothing of the prompt.
    pub fn new(
        request: u64,
        job: GenerateJob,
        codec: &TextCodec,
        chat: &Chat,
        context_tokens: usize,
    ) -> Result<Self, String> {
        let parsed = Request::parse(job, codec, chat, context_tokens)?;
        let tokens = codec
            .encode(&parsed.prompt)
            .ok_or("the prompt could not be split into tokens".to_owned())?;
        if tokens.is_empty() {
            return Err("the prompt is empty: give `messages` or a `prompt`".to_owned());
        }
        if tokens.len() >= context_tokens {
            return Err(too_long("", tokens.len(), context_tokens));
        }
        let room = u32::try_from(context_tokens - tokens.len()).unwrap_or(u32::MAX);
        Ok(Sequence {
            request,
            computed: 0,
            prompt_tokens: tokens.len(),
            tokens,
            max_tokens: parsed.max_tokens.min(room),
            answer: parsed.answer,
        })
    }

    /// Tokens whose keys and values have to be kept, at worst. The last token's are never needed.
    pub fn kv_tokens(&self) -> usize {
        self.prompt_tokens + self.max_tokens as usize - 1
    }

    /// Tokens generated so far.
    pub fn generated(&self) -> u32 {
        (self.tokens.len() - self.prompt_tokens) as u32
    }

    /// What it could use in the next step.
    pub fn ask(&self) -> Ask {
        Ask {
            tokens: self.tokens.len() - self.computed,
            prompt: self.computed < self.prompt_tokens,
        }
    }

    /// True once its next token can be chosen.
    pub fn is_computed(&self) -> bool {
        self.computed == self.tokens.len()
    }

    /// Chooses the next token and takes it.
    pub fn next(&mut self, logits: &mut [f32], codec: &TextCodec) -> Next {
        let last = self.generated() + 1 >= self.max_tokens;
        let history = History {
            tokens: &self.tokens,
            prompt_tokens: self.prompt_tokens,
        };
        let next = self.answer.next(logits, history, last, codec);
        self.tokens.extend(next.token);
        next
    }
}
