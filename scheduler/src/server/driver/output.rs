//! A generation's output as its worker tells it: the pieces, and how much of them is taken.
//!
//! A worker's words are data. It can say no more of an answer than the answer's tokens can be, and no
//! log-probabilities that nobody asked for, so it cannot fill the scheduler's memory.

use super::Job;
use bulkhead_proto::internal::{Piece, TokenLogprob, Vector};
use prost::Message as _;

/// The longest text that one output token can be, bytes.
const TOKEN_BYTES_MAX: u64 = 1024;
/// The most that one token's log-probabilities can be, bytes: its own text, and of twenty alternatives 64
/// bytes each.
const LOGPROB_BYTES_MAX: u64 = 4096;

/// Newly generated text.
#[derive(Debug, Default)]
pub struct Text {
    pub text: String,
    /// Tokens whose last byte is in the text, where the request asked for log-probabilities.
    pub logprobs: Vec<TokenLogprob>,
}

impl Text {
    /// Adds what came after it.
    pub fn add(&mut self, more: Text) {
        self.text.push_str(&more.text);
        self.logprobs.extend(more.logprobs);
    }

    /// True where there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.logprobs.is_empty()
    }
}

/// The longest vector that a model gives, bytes: 8,192 numbers.
const VECTOR_BYTES_MAX: usize = 4 * 8192;

/// How much a worker said of one answer, and how much it may say.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Of each text there is one vector.
    texts: usize,
    tokens_max: u32,
    /// Alternatives that each token's log-probabilities may name; none: there may be none at all.
    logprobs: Option<u32>,
    text_bytes: u64,
    logprobs_bytes: u64,
    logprobs_tokens: u64,
    /// Output tokens that it had told by its latest piece.
    told: u32,
    pieces: u64,
}

impl Output {
    pub fn of(tokens_max: u32, job: &Job) -> Self {
        Output {
            texts: match job {
                Job::Embed(job) => job.texts.len(),
                Job::Generate(_) => 0,
            },
            tokens_max,
            logprobs: match job {
                Job::Generate(job) => job.logprobs,
                Job::Embed(_) => None,
            },
            text_bytes: 0,
            logprobs_bytes: 0,
            logprobs_tokens: 0,
            told: 0,
            pieces: 0,
        }
    }

    /// False where these are more vectors than there are texts, or one is longer than any.
    pub fn admits_vectors(&self, vectors: &[Vector]) -> bool {
        let fits = |vector: &Vector| vector.values.len() <= VECTOR_BYTES_MAX;
        vectors.len() <= self.texts && vectors.iter().all(fits)
    }

    /// Counts a piece: there is one for each token, and one for what was held back until the end. False where it is more
    /// than the tokens that were told can be, so that a worker cannot say much more than it tells.
    pub fn admits(&mut self, piece: &Piece) -> bool {
        let tokens = u64::from(self.tokens_max);
        let before = std::mem::replace(&mut self.told, piece.output_tokens);
        self.pieces += 1;
        let counts = self.pieces <= u64::from(self.told) + 1;
        if !counts || !(before..=self.tokens_max).contains(&self.told) {
            return false;
        }
        let told = u64::from(self.told);
        self.text_bytes += piece.text.len() as u64;
        self.logprobs_tokens += piece.logprobs.len() as u64;
        self.logprobs_bytes += bytes_of(&piece.logprobs);
        let asked = |entry: &TokenLogprob| {
            let most = self.logprobs.map(|most| most as usize);
            most.is_some_and(|most| entry.top.len() <= most)
        };
        self.text_bytes <= told * TOKEN_BYTES_MAX
            && self.logprobs_tokens <= tokens
            && self.logprobs_bytes <= tokens * LOGPROB_BYTES_MAX
            && piece.logprobs.iter().all(asked)
    }
}

/// Bytes that log-probabilities take on the wire, about what they take in memory.
fn bytes_of(logprobs: &[TokenLogprob]) -> u64 {
    logprobs
        .iter()
        .map(|entry| entry.encoded_len() as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_proto::internal::{Alternative, EmbedJob, GenerateJob};

    fn output(tokens_max: u32, logprobs: Option<u32>) -> Output {
        let job = GenerateJob {
            logprobs,
            ..GenerateJob::default()
        };
        Output::of(tokens_max, &Job::Generate(job))
    }

    fn text(bytes: usize, told: u32) -> Piece {
        Piece {
            text: "x".repeat(bytes),
            output_tokens: told,
            ..Piece::default()
        }
    }

    fn entries(count: usize, alternatives: usize, bytes: usize) -> Piece {
        let one = Alternative {
            bytes: vec![b'x'; bytes],
            ..Alternative::default()
        };
        let entry = TokenLogprob {
            top: vec![one; alternatives],
            ..TokenLogprob::default()
        };
        Piece {
            logprobs: vec![entry; count],
            ..Piece::default()
        }
    }

    #[test]
    fn text_is_taken_up_to_what_the_tokens_can_be() {
        let mut output = output(2, None);
        assert!(output.admits(&text(1024, 1)));
        assert!(!{ output }.admits(&text(1024, 1)), "what was told");
        assert!(output.admits(&text(1024, 2)));
        assert!(!output.admits(&text(1, 2)));
        assert!(!Output::of(0, &Job::Embed(EmbedJob::default())).admits(&text(1, 0)));
    }

    #[test]
    fn there_are_no_more_pieces_than_tokens_that_were_told_and_one() {
        let mut output = output(9, None);
        for told in [1, 2, 2] {
            assert!(output.admits(&text(0, told)), "{told}");
        }
        assert!(!output.admits(&text(0, 2)));
    }

    #[test]
    fn there_are_as_many_vectors_as_texts_and_none_of_an_answer() {
        let vector = |bytes| Vector {
            values: vec![0; bytes],
            ..Vector::default()
        };
        let job = EmbedJob {
            texts: vec!["a".into(), "b".into()],
        };
        let two = Output::of(0, &Job::Embed(job));
        assert!(two.admits_vectors(&[vector(1536), vector(1536)]));
        assert!(two.admits_vectors(&[]), "it may have failed");
        assert!(!two.admits_vectors(&[vector(4), vector(4), vector(4)]));
        assert!(!two.admits_vectors(&[vector(4 * 8192 + 1)]));
        assert!(!output(9, None).admits_vectors(&[vector(4)]));
    }

    #[test]
    fn log_probabilities_are_taken_as_far_as_they_were_asked_for() {
        assert!(!output(9, None).admits(&entries(1, 0, 0)));
        assert!(output(9, Some(0)).admits(&entries(1, 0, 0)));
        assert!(!output(9, Some(0)).admits(&entries(1, 1, 0)));
        assert!(output(9, Some(20)).admits(&entries(9, 20, 64)));
        assert!(!output(9, Some(20)).admits(&entries(10, 20, 64)));
        assert!(!output(9, Some(20)).admits(&entries(1, 1, 9 * 4096)));
    }
}
