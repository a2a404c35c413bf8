//! An answer as it grows: which token comes next, what of it is shown, and whether it is over.
//!
//! Everything here follows from the request and the tokens chosen so far.

use super::sampling::{History, Likelihoods, Sampler};
use super::telling::{Telling, Told};
use crate::models::decoder::Found;
use crate::models::text::TextCodec;
use bulkhead_kernels::compute::choice::Wish;
use bulkhead_proto::internal::{Alternative, Finished, Outcome, Piece, TokenLogprob};

/// Bytes told of an alternative at most. It is no part of the text, so its beginning will do.
const ALTERNATIVE_BYTES_MAX: usize = 64;

/// What one request wants of its answer, and the answer's state.
#[derive(Debug)]
pub struct Answer {
    /// How to choose.
    pub sampler: Sampler,
    /// What is told of it.
    pub telling: Telling,
    /// It answers messages: its first word has no space before it, whatever the vocabulary writes.
    pub to_messages: bool,
    /// Tokens that end it.
    pub stop_tokens: Vec<u32>,
    /// Tokens before none of those that would end it is chosen.
    pub min_tokens: usize,
    /// Go on past the model's own ends.
    pub ignore_ends: bool,
    /// Alternatives to tell of each token; none: no log-probabilities at all.
    pub logprobs: Option<u32>,
}

/// What one more token did.
#[derive(Debug, Default)]
pub struct Next {
    /// The token, if it is a part of the answer.
    pub token: Option<u32>,
    told: Told,
    /// Set where the answer is over. The request's number and counts are left to fill in.
    pub finished: Option<Finished>,
}

impl Next {
    /// What there is to tell of it, if anything: of each token at least that it is there, since its agent pays for it.
    /// `output_tokens` counts those so far.
    pub fn piece(&mut self, request: u64, output_tokens: u32) -> Option<Piece> {
        let Told { text, logprobs, .. } = std::mem::take(&mut self.told);
        let tells = self.token.is_some() || !text.is_empty() || !logprobs.is_empty();
        tells.then_some(Piece {
            request,
            text,
            output_tokens,
            logprobs,
        })
    }
}

impl Answer {
    /// What there is to know to choose the token that follows `history` where its logits are; nothing where
    /// log-probabilities are wanted, which need all of them.
    pub fn wish(&mut self, history: History<'_>, codec: &TextCodec) -> Option<Wish> {
        if self.logprobs.is_some() {
            return None;
        }
        let banned = banned(&self.stop_tokens, self.min_tokens, history, codec);
        Some(self.sampler.wish(history, banned))
    }

    /// Takes the token that follows `history`, chosen here if it was not yet; the answer is over with it at the
    /// latest if it is the `last`.
    pub fn next(
        &mut self,
        found: Found<'_>,
        history: History<'_>,
        last: bool,
        codec: &TextCodec,
    ) -> Next {
        let (token, logits) = match found {
            Found::Logits(logits) => {
                let banned = banned(&self.stop_tokens, self.min_tokens, history, codec);
                (self.sampler.choose(logits, history, banned), Some(&*logits))
            }
            Found::Token(token) => (token, None),
        };
        let Some(token) = token else {
            return broken();
        };
        let stop_token = self.stop_tokens.contains(&token).then_some(token);
        if stop_token.is_some() || (codec.ends(token) && !self.ignore_ends) {
            return Next {
                token: None,
                told: self.telling.end(),
                finished: Some(Finished {
                    stop_token,
                    ..over("stop")
                }),
            };
        }
        let first = self.to_messages && history.generated() == 0;
        self.take(token, logits, last, |token| codec.bytes_of(token, first))
    }

    /// Adds a token to the answer.
    fn take<'a>(
        &mut self,
        token: u32,
        logits: Option<&[f32]>,
        last: bool,
        bytes_of: impl Fn(u32) -> &'a [u8],
    ) -> Next {
        let logprobs = self.likelihoods(logits, token, &bytes_of);
        let mut told = self.telling.push(bytes_of(token), logprobs);
        let finished = match told.stop.take() {
            Some(stop_sequence) => Some(Finished {
                stop_sequence,
                ..over("stop")
            }),
            None => last.then(|| over("length")),
        };
        if finished.is_some() {
            told.add(self.telling.end());
        }
        Next {
            token: Some(token),
            told,
            finished,
        }
    }

    /// How likely a token was, where the request asked for it.
    fn likelihoods<'a>(
        &self,
        logits: Option<&[f32]>,
        token: u32,
        bytes_of: impl Fn(u32) -> &'a [u8],
    ) -> Option<TokenLogprob> {
        let Likelihoods { chosen, top } = Likelihoods::of(logits?, token, self.logprobs?)?;
        let top = top.into_iter().map(|(token, logprob)| {
            let bytes = bytes_of(token);
            Alternative {
                token,
                bytes: bytes[..bytes.len().min(ALTERNATIVE_BYTES_MAX)].to_vec(),
                logprob,
            }
        });
        Some(TokenLogprob {
            token,
            bytes: bytes_of(token).to_vec(),
            logprob: chosen,
            top: top.collect(),
        })
    }
}

/// The tokens that would end an answer before it has as many as it must.
fn banned<'a>(
    stop_tokens: &'a [u32],
    min_tokens: usize,
    history: History<'_>,
    codec: &'a TextCodec,
) -> impl Iterator<Item = u32> + use<'a> {
    let early = history.generated() < min_tokens;
    let ends = stop_tokens.iter().chain(codec.end_tokens());
    ends.copied().filter(move |_| early)
}

/// The end of an answer that is as it should be.
fn over(reason: &str) -> Finished {
    Finished {
        outcome: Outcome::Ok.into(),
        finish_reason: reason.into(),
        ..Finished::default()
    }
}

/// The end of an answer whose logits say nothing.
fn broken() -> Next {
    let detail = "the model gave no number that a token could be chosen by; its weights or the device \
                  are broken";
    Next {
        finished: Some(Finished {
            outcome: Outcome::Internal.into(),
            detail: detail.into(),
            ..Finished::default()
        }),
        ..Next::default()
    }
}
