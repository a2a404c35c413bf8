//! One request on its way: from the job that came to the tokens that were generated.

use super::sampling::Sampler;
use crate::models::text::{Chat, Part, STOP_BYTES_MAX, STOPS_MAX, TextCodec, TextStream};
use bulkhead_proto::internal::GenerateJob;
use bulkhead_worker_core::Ask;

/// Tokens that a request for 0 gets.
const MAX_TOKENS_DEFAULT: u32 = 256;

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
    /// How to choose them.
    pub sampler: Sampler,
    /// Their text.
    pub stream: TextStream,
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
        let sampler = Sampler::new(job.temperature, job.top_p, job.seed)
            .map_err(|error| error.to_string())?;
        let long = |stop: &String| stop.len() > STOP_BYTES_MAX;
        if job.stop.len() > STOPS_MAX || job.stop.iter().any(long) {
            return Err(format!(
                "at most {STOPS_MAX} stop strings of {STOP_BYTES_MAX} bytes each are possible"
            ));
        }
        let bytes = job
            .messages
            .iter()
            .map(|turn| turn.content.len())
            .sum::<usize>();
        let least = codec.tokens_at_least(bytes + job.prompt.len());
        if least >= context_tokens {
            return Err(too_long("at least ", least, context_tokens));
        }
        let parts = if job.messages.is_empty() {
            // A raw prompt is its caller's alone, roles and all.
            let begin = codec.begin().map(Part::Control);
            begin.into_iter().chain(codec.split(&job.prompt)).collect()
        } else {
            chat.parts(&job.messages, codec)
                .map_err(|error| error.to_string())?
        };
        let tokens = codec
            .encode(&parts)
            .ok_or("the prompt could not be split into tokens".to_owned())?;
        if tokens.is_empty() {
            return Err("the prompt is empty: give `messages` or a `prompt`".to_owned());
        }
        if tokens.len() >= context_tokens {
            return Err(too_long("", tokens.len(), context_tokens));
        }
        let wish = if job.max_tokens == 0 {
            MAX_TOKENS_DEFAULT
        } else {
            job.max_tokens
        };
        let room = u32::try_from(context_tokens - tokens.len()).unwrap_or(u32::MAX);
        Ok(Sequence {
            request,
            computed: 0,
            prompt_tokens: tokens.len(),
            tokens,
            max_tokens: wish.min(room),
            sampler,
            stream: TextStream::new(job.stop),
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

    /// Takes the next token. Returns the text to show now and, at the end, why it ended.
    pub fn push(&mut self, token: u32, codec: &TextCodec) -> (String, Option<&'static str>) {
        if codec.ends(token) {
            return (self.stream.end(), Some("stop"));
        }
        self.tokens.push(token);
        let (mut text, stopped) = self.stream.push(codec.bytes_of(token));
        if stopped {
            return (text, Some("stop"));
        }
        if self.generated() >= self.max_tokens {
            text.push_str(&self.stream.end());
            return (text, Some("length"));
        }
        (text, None)
    }
}

fn too_long(about: &str, tokens: usize, context_tokens: usize) -> String {
    format!(
        "the prompt has {about}{tokens} tokens, and this model takes at most {}; shorten it",
        context_tokens - 1
    )
}
