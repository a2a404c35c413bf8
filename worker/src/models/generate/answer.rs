//! An answer as it grows: which token comes next, what of it is shown, and whether it is over.
//!
//! A token's log-probabilities are told with the text that holds its last byte, so they wait while that
//! text is held back, and those of a stop string are never told. Everything here follows from the
//! request and the tokens chosen so far.

use super::sampling::{History, Likelihoods, Sampler};
use crate::models::text::{TextCodec, TextStream};
use bulkhead_proto::internal::{Alternative, Finished, Outcome, Piece, TokenLogprob};
use std::collections::VecDeque;

/// Bytes told of an alternative at most. It is no part of the text, so its beginning will do.
const ALTERNATIVE_BYTES_MAX: usize = 64;

/// What one request wants of its answer, and the answer's state.
#[derive(Debug)]
pub struct Answer {
    /// How to choose.
    pub sampler: Sampler,
    /// The text.
    pub stream: TextStream,
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
    /// What was not told yet.
    pub untold: Untold,
}

/// Log-probabilities of tokens whose text is not shown yet, with where in the text each begins and ends.
pub type Untold = VecDeque<(std::ops::Range<usize>, TokenLogprob)>;

/// What one more token did.
#[derive(Debug, Default)]
pub struct Next {
    /// The token, if it is a part of the answer.
    pub token: Option<u32>,
    text: String,
    logprobs: Vec<TokenLogprob>,
    /// Set where the answer is over. The request's number and counts are left to fill in.
    pub finished: Option<Finished>,
}

impl Next {
    /// What there is to show of it, if anything. `output_tokens` counts those so far.
    pub fn piece(&mut self, request: u64, output_tokens: u32) -> Option<Piece> {
        let empty = self.text.is_empty() && self.logprobs.is_empty();
        (!empty).then(|| Piece {
            request,
            text: std::mem::take(&mut self.text),
            output_tokens,
            logprobs: std::mem::take(&mut self.logprobs),
        })
    }
}

impl Answer {
    /// Chooses the token that follows `history`; the answer is over with it at the latest if it is the
    /// `last`.
    pub fn next(
        &mut self,
        logits: &mut [f32],
        history: History<'_>,
        last: bool,
        codec: &TextCodec,
    ) -> Next {
        let early = history.generated() < self.min_tokens;
        let ends = self.stop_tokens.iter().chain(codec.end_tokens());
        let banned = ends.copied().filter(|_| early);
        let Some(token) = self.sampler.choose(logits, history, banned) else {
            return self.broken();
        };
        let stop_token = self.stop_tokens.contains(&token).then_some(token);
        if stop_token.is_some() || (codec.ends(token) && !self.ignore_ends) {
            return self.stop(Finished {
                stop_token,
                ..Finished::default()
            });
        }
        let first = self.to_messages && history.generated() == 0;
        let bytes_of = |token| codec.bytes_of(token, first);
        self.report(logits, token, bytes_of);
        let shown = self.stream.push(bytes_of(token));
        let mut next = match shown.stop {
            Some(stop_sequence) => self.stop(Finished {
                stop_sequence,
                ..Finished::default()
            }),
            None if last => self.over("length", Finished::default()),
            None => Next::default(),
        };
        next.text.insert_str(0, &shown.text);
        next.token = Some(token);
        if next.finished.is_none() {
            next.logprobs = self.told();
        }
        next
    }

    fn stop(&mut self, finished: Finished) -> Next {
        self.over("stop", finished)
    }

    /// Shows what was held back.
    fn over(&mut self, reason: &str, finished: Finished) -> Next {
        let text = self.stream.end();
        let mut logprobs = self.told();
        // A token that a stop string cuts is told with what is shown of it.
        let cut = self.untold.drain(..).next();
        let cut = cut.filter(|(bytes, _)| bytes.start < self.stream.shown());
        logprobs.extend(cut.map(|(_, logprob)| logprob));
        Next {
            token: None,
            text,
            logprobs,
            finished: Some(Finished {
                outcome: Outcome::Ok.into(),
                finish_reason: reason.into(),
                ..finished
            }),
        }
    }

    fn broken(&mut self) -> Next {
        let detail = "the model gave no number that a token could be chosen by; its weights or the \
                      device are broken";
        Next {
            finished: Some(Finished {
                outcome: Outcome::Internal.into(),
                detail: detail.into(),
                ..Finished::default()
            }),
            ..Next::default()
        }
    }

    /// Notes how likely a token was, before its bytes are added to the text.
    fn report<'a>(&mut self, logits: &[f32], token: u32, bytes_of: impl Fn(u32) -> &'a [u8]) {
        let likelihoods = self
            .logprobs
            .and_then(|most| Likelihoods::of(logits, token, most));
        let Some(Likelihoods { chosen, top }) = likelihoods else {
            return;
        };
        let bytes = bytes_of(token);
        let start = self.stream.taken();
        let top = top.into_iter().map(|(token, logprob)| {
            let bytes = bytes_of(token);
            Alternative {
                token,
                bytes: bytes[..bytes.len().min(ALTERNATIVE_BYTES_MAX)].to_vec(),
                logprob,
            }
        });
        let entry = TokenLogprob {
            token,
            bytes: bytes.to_vec(),
            logprob: chosen,
            top: top.collect(),
        };
        self.untold.push_back((start..start + bytes.len(), entry));
    }

    /// The entries whose text has been shown whole.
    fn told(&mut self) -> Vec<TokenLogprob> {
        let shown = self.stream.shown();
        let whole = self.untold.partition_point(|(bytes, _)| bytes.end <= shown);
        self.untold.drain(..whole).map(|(_, entry)| entry).collect()
    }
}
