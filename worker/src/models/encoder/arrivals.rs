//! Texts become tokens, a bounded number in each step.
//!
//! A request may bring megabytes of text, and dividing them into tokens takes as long as some layers
//! do. So it happens inside the steps, in pieces of texts, requests in turns; how long a piece will take is
//! learned from those before.

use super::tokenizer::{Reading, TextEncoder};
use bulkhead_worker_core::StepCost;
use std::collections::VecDeque;
use std::vec;

/// A byte of text before anything was measured, nanoseconds.
const BYTE_NS_GUESS: u64 = 200;

/// The tokens of a request's texts, one text behind the other.
#[derive(Debug, Default)]
pub struct Tokens {
    ids: Vec<u32>,
    ends: Vec<usize>,
    truncated: Vec<bool>,
}

impl Tokens {
    /// How many texts.
    pub fn texts(&self) -> usize {
        self.ends.len()
    }

    /// The ids of one text.
    pub fn ids(&self, text: usize) -> &[u32] {
        let start = if text == 0 { 0 } else { self.ends[text - 1] };
        &self.ids[start..self.ends[text]]
    }

    /// Whether the end of a text was not read.
    pub fn truncated(&self, text: usize) -> bool {
        self.truncated[text]
    }
}

/// A request of which all texts were read, or of which one cannot be.
#[derive(Debug)]
pub enum Arrived {
    /// Ready to be computed.
    Ready(u64, Tokens),
    /// A text could not be divided into tokens, or has none.
    Unreadable(u64),
}

#[derive(Debug)]
struct Arriving {
    request: u64,
    texts: vec::IntoIter<String>,
    /// Of the first of these.
    reading: Reading,
    tokens: Tokens,
}

/// The requests whose texts are not all tokens yet.
#[derive(Debug)]
pub struct Arrivals {
    queue: VecDeque<Arriving>,
    /// In bytes.
    cost: StepCost,
}

impl Default for Arrivals {
    fn default() -> Self {
        Arrivals {
            queue: VecDeque::new(),
            cost: StepCost::new(1, BYTE_NS_GUESS),
        }
    }
}

impl Arrivals {
    /// Adds a request with at least one text.
    pub fn add(&mut self, request: u64, texts: Vec<String>) {
        self.queue.push_back(Arriving {
            request,
            tokens: Tokens {
                ends: Vec::with_capacity(texts.len()),
                truncated: Vec::with_capacity(texts.len()),
                ..Tokens::default()
            },
            texts: texts.into_iter(),
            reading: Reading::default(),
        });
    }

    /// Drops a request; false if it is not here.
    pub fn cancel(&mut self, request: u64) -> bool {
        let before = self.queue.len();
        self.queue.retain(|arriving| arriving.request != request);
        self.queue.len() < before
    }

    /// True when nothing is left to read.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Reads texts for about `limit_ns`, and at least a piece of one.
    pub fn read(
        &mut self,
        encoder: &TextEncoder,
        limit_ns: u64,
        now_ns: &dyn Fn() -> u64,
    ) -> Vec<Arrived> {
        let mut arrived = Vec::new();
        let began = now_ns();
        let mut spent: u64 = 0;
        while let Some(mut first) = self.queue.pop_front() {
            let text = first.texts.as_slice().first();
            let bytes = text.map_or(0, |text| encoder.next_bytes(text, &first.reading)) as u64;
            if spent > 0 && spent.saturating_add(self.cost.predict_ns(bytes)) > limit_ns {
                self.queue.push_front(first);
                break;
            }
            let readable = first.read_piece(encoder);
            let now = now_ns().saturating_sub(began);
            self.cost.observe(bytes, now.saturating_sub(spent));
            spent = now.max(1);
            match (readable, first.texts.as_slice()) {
                (false, _) => arrived.push(Arrived::Unreadable(first.request)),
                (true, []) => arrived.push(Arrived::Ready(first.request, first.tokens)),
                (true, _) => self.queue.push_back(first),
            }
        }
        arrived
    }
}

impl Arriving {
    /// Reads a piece of the next text; false if it cannot be divided into tokens, or into none at all.
    fn read_piece(&mut self, encoder: &TextEncoder) -> bool {
        let Some(text) = self.texts.as_slice().first() else {
            return true;
        };
        match encoder.read(text, &mut self.reading) {
            None => return false,
            Some(false) => return true,
            Some(true) => {}
        }
        let before = self.tokens.ids.len();
        let truncated = encoder.finish(text, &self.reading, &mut self.tokens.ids);
        self.reading = Reading::default();
        self.texts.next();
        self.tokens.ends.push(self.tokens.ids.len());
        self.tokens.truncated.push(truncated);
        self.tokens.ids.len() > before
    }
}
