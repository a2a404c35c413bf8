//! What the caller is told of an answer: its text, and its tokens' log-probabilities in pace with it.
//!
//! A token's log-probabilities come with the text that holds its last byte, so they wait while that text
//! is held back. Of a stop string nothing is told; a token that it cuts is told with what is shown of it.

use crate::models::text::TextStream;
use bulkhead_proto::internal::TokenLogprob;
use std::collections::VecDeque;

/// One answer's text and log-probabilities.
#[derive(Debug, Default)]
pub struct Telling {
    stream: TextStream,
    /// Not told yet: where each token's bytes end, and its log-probabilities.
    waiting: VecDeque<(usize, TokenLogprob)>,
}

/// What can be told now.
#[derive(Debug, Default)]
pub struct Told {
    /// Whole characters.
    pub text: String,
    /// Tokens whose last byte is in the text.
    pub logprobs: Vec<TokenLogprob>,
    /// The stop string that came. Nothing is told after it.
    pub stop: Option<String>,
}

impl Told {
    /// Adds what is told after it.
    pub fn add(&mut self, more: Told) {
        self.text.push_str(&more.text);
        self.logprobs.extend(more.logprobs);
    }
}

impl Telling {
    /// Ends before any of `stops`.
    pub fn new(stops: Vec<String>) -> Self {
        Telling {
            stream: TextStream::new(stops),
            waiting: VecDeque::new(),
        }
    }

    /// Adds a token's bytes and, where the request asked for them, its log-probabilities.
    pub fn push(&mut self, bytes: &[u8], logprobs: Option<TokenLogprob>) -> Told {
        if let Some(logprobs) = logprobs {
            let end = self.stream.taken() + bytes.len();
            self.waiting.push_back((end, logprobs));
        }
        let shown = self.stream.push(bytes);
        let mut told = self.told(shown.text);
        if shown.stop.is_some() {
            let cut = self.cut();
            told.logprobs.extend(cut);
        }
        told.stop = shown.stop;
        told
    }

    /// What was held back, once no more can come.
    pub fn end(&mut self) -> Told {
        let text = self.stream.end();
        self.told(text)
    }

    fn told(&mut self, text: String) -> Told {
        let shown = self.stream.shown();
        let whole = self.waiting.partition_point(|(end, _)| *end <= shown);
        let whole = self.waiting.drain(..whole);
        Told {
            text,
            logprobs: whole.map(|(_, logprobs)| logprobs).collect(),
            stop: None,
        }
    }

    /// The token of which a part was shown before the stop string; the others are forgotten.
    fn cut(&mut self) -> Option<TokenLogprob> {
        let (end, logprobs) = self.waiting.drain(..).next()?;
        (end - logprobs.bytes.len() < self.stream.shown()).then_some(logprobs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(token: usize, bytes: &[u8]) -> Option<TokenLogprob> {
        Some(TokenLogprob {
            token: token as u32,
            bytes: bytes.to_vec(),
            ..TokenLogprob::default()
        })
    }

    /// Tokens of all kinds: words, parts of characters, bytes that are no text, and none at all.
    fn tokens() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let word = proptest::sample::select(vec!["a", "ab", "b a", "", "é", "🚢", "\n"]);
        let half = proptest::sample::select(vec![&b"\xC3"[..], b"\xA9", b"\xF0\x9F", b"\x9A\xA2"]);
        let token = prop_oneof![
            4 => word.prop_map(|word| word.as_bytes().to_vec()),
            2 => half.prop_map(<[u8]>::to_vec),
            1 => proptest::collection::vec(any::<u8>(), 0..3),
        ];
        proptest::collection::vec(token, 0..30)
    }

    const STOPS: [&str; 5] = ["ba", "ab\n", "é", "aéa", "🚢"];

    proptest! {
        #[test]
        fn tokens_are_told_in_order_with_their_last_byte(
            tokens in tokens(),
            stops in proptest::sample::subsequence(&STOPS, 0..4),
        ) {
            let mut telling = Telling::new(stops.iter().map(ToString::to_string).collect());
            let (mut text, mut told, mut came) = (String::new(), Vec::new(), Vec::new());
            let mut stop = None;
            for (at, bytes) in tokens.iter().enumerate() {
                let now = telling.push(bytes, entry(at, bytes));
                came.extend_from_slice(bytes);
                text.push_str(&now.text);
                told.extend(now.logprobs);
                stop = now.stop;
                if stop.is_some() {
                    break;
                }
                // Every token that ends within what was shown, and no other.
                let shown = telling.stream.shown();
                prop_assert_eq!(&String::from_utf8_lossy(&came[..shown]), &text);
                let mut end = 0;
                let whole = tokens.iter().take_while(|token| {
                    end += token.len();
                    end <= shown
                });
                prop_assert_eq!(told.len(), whole.take(at + 1).count());
            }
            let order: Vec<u32> = told.iter().map(|entry| entry.token).collect();
            prop_assert!(order.iter().copied().eq(0..order.len() as u32));
            if stop.is_some() {
                // The last may reach into the stop string; all before it are shown whole.
                let shown = telling.stream.shown();
                let before: usize = told.iter().map(|entry| entry.bytes.len()).sum();
                let last = told.last().map_or(0, |entry| entry.bytes.len());
                prop_assert!(before >= shown && (before == shown || before - last < shown));
                return Ok(());
            }
            let rest = telling.end();
            text.push_str(&rest.text);
            prop_assert_eq!(told.len() + rest.logprobs.len(), tokens.len());
            prop_assert_eq!(String::from_utf8_lossy(&came), text);
        }
    }
}
