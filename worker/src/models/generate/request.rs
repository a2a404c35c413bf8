//! A job as it came, checked: what to read, how to choose tokens, when to stop.
//!
//! Nothing is turned into token ids here: that takes time by the length of the text, so it happens
//! inside steps. No error quotes anything of a prompt.

use super::answer::Answer;
use super::sampling::{LOGPROBS_MAX, Sampler, Sampling};
use super::telling::Telling;
use crate::models::text::{Chat, Part, STOP_BYTES_MAX, STOPS_MAX, TextCodec};
use bulkhead_proto::internal::GenerateJob;
use std::time::{SystemTime, UNIX_EPOCH};

/// Tokens that a request for 0 gets.
const MAX_TOKENS_DEFAULT: u32 = 256;
/// Stop tokens of one request at most.
const STOP_TOKENS_MAX: usize = 64;

/// Bytes of a token of a prompt at most, over the whole prompt: real text is around four. What is longer than a
/// context of such is refused unread, since a conversation is rendered in one piece.
const TOKEN_BYTES_MAX: usize = 16;
/// Bytes that are read however short the context is.
const PROMPT_BYTES_MIN: usize = 64 << 10;

/// A request that makes sense.
#[derive(Debug)]
pub struct Request {
    /// The prompt, not encoded yet. Never empty.
    pub prompt: Vec<Part>,
    /// Tokens to generate at most, as far as the context has room; at least 1.
    pub max_tokens: u32,
    /// How to choose them, and what to show.
    pub answer: Answer,
}

impl Request {
    /// Checks a job. The error is for the caller, and says what to do next.
    pub fn parse(
        job: GenerateJob,
        codec: &TextCodec,
        chat: &Chat,
        context_tokens: usize,
    ) -> Result<Self, String> {
        let max_tokens = match job.max_tokens {
            0 => MAX_TOKENS_DEFAULT,
            wish => wish,
        };
        Ok(Request {
            prompt: prompt(&job, codec, chat, context_tokens)?,
            max_tokens,
            answer: answer(job, codec, max_tokens)?,
        })
    }
}

/// How to choose the answer's tokens, and when to stop.
fn answer(job: GenerateJob, codec: &TextCodec, max_tokens: u32) -> Result<Answer, String> {
    let long = |stop: &String| stop.len() > STOP_BYTES_MAX;
    if job.stop.len() > STOPS_MAX || job.stop.iter().any(long) {
        return Err(format!(
            "at most {STOPS_MAX} stop strings of {STOP_BYTES_MAX} bytes each are possible"
        ));
    }
    if job.stop_token_ids.len() > STOP_TOKENS_MAX {
        return Err(format!(
            "at most {STOP_TOKENS_MAX} stop_token_ids are possible"
        ));
    }
    let vocabulary = codec.vocabulary();
    let mut named = job.logit_bias.keys().chain(&job.stop_token_ids);
    if let Some(unknown) = named.find(|token| **token as usize >= vocabulary) {
        return Err(format!(
            "there is no token {unknown}: this model's ids are below {vocabulary}"
        ));
    }
    if job.min_tokens > max_tokens {
        return Err("min_tokens must not be above max_tokens".to_owned());
    }
    if job.logprobs.is_some_and(|most| most > LOGPROBS_MAX) {
        return Err(format!("logprobs is at most {LOGPROBS_MAX}"));
    }
    let sampling = Sampling {
        temperature: job.temperature,
        top_k: job.top_k,
        top_p: job.top_p,
        min_p: job.min_p,
        repetition: job.repetition_penalty,
        presence: job.presence_penalty,
        frequency: job.frequency_penalty,
        bias: job.logit_bias.into_iter().collect(),
        seed: job.seed,
    };
    Ok(Answer {
        sampler: Sampler::new(sampling).map_err(|error| error.to_string())?,
        to_messages: !job.messages.is_empty(),
        telling: Telling::new(job.stop),
        stop_tokens: job.stop_token_ids,
        min_tokens: job.min_tokens as usize,
        ignore_ends: job.ignore_eos,
        logprobs: job.logprobs,
    })
}

/// The prompt's parts. What cannot fit, by its length alone, is not even looked at.
fn prompt(
    job: &GenerateJob,
    codec: &TextCodec,
    chat: &Chat,
    context_tokens: usize,
) -> Result<Vec<Part>, String> {
    let turns = job.messages.iter().map(|turn| turn.content.len());
    let bytes = turns.sum::<usize>() + job.prompt.len();
    let least = codec.tokens_at_least(bytes);
    if least >= context_tokens {
        return Err(too_long("at least ", least, context_tokens));
    }
    let most = (context_tokens * TOKEN_BYTES_MAX).max(PROMPT_BYTES_MIN);
    if bytes > most {
        return Err(format!(
            "the prompt has {bytes} bytes, and this model's context of {context_tokens} tokens is taken \
             to hold {most} at most; shorten it"
        ));
    }
    let parts: Vec<Part> = if job.messages.is_empty() {
        // A raw prompt is its caller's alone, roles and all.
        let begin = codec.begin().map(Part::Control);
        begin.into_iter().chain(codec.split(&job.prompt)).collect()
    } else {
        chat.parts(&job.messages, codec, now_unix_s())
            .map_err(|error| error.to_string())?
    };
    if parts.is_empty() {
        return Err("the prompt is empty: give `messages` or a `prompt`".to_owned());
    }
    Ok(parts)
}

/// What the machine says the time is, for templates that state the date.
fn now_unix_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The words for a prompt over the model's context.
pub fn too_long(about: &str, tokens: usize, context_tokens: usize) -> String {
    format!(
        "the prompt has {about}{tokens} tokens, and this model takes at most {}; shorten it",
        context_tokens - 1
    )
}
