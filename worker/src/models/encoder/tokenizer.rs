//! tokenizer.json, with the limits of the model instead of those of the file, and without its caches.
//!
//! WordPiece (BERT), Unigram (XLM-R) and byte-level BPE (RoBERTa). The library keeps a cache of the words
//! that it has seen for the latter two; with room for none it keeps none.

use crate::models::LoadError;
use crate::models::text::{PIECE_BYTES, guard, piece_end};
use tokenizers::{ModelWrapper, PreTokenizerWrapper, Tokenizer};

const FILE: &str = "tokenizer.json";

/// Bytes of a text that can matter, for each token that the model reads: in most writing a token is 3 to
/// 9. What is beyond that is cut off unread, so that an enormous text costs no time.
const TOKEN_BYTES_MAX: usize = 16;
/// As many are read of any text, for those that begin with spaces or with no words at all.
const TEXT_BYTES_MIN: usize = 32 << 10;

/// What a tokenizer must be able to read when it is loaded: nothing, words, other scripts, numbers,
/// characters of 1 to 4 bytes, some that belong together.
const TRIALS: [&str; 2] = [
    "",
    "A ship's log, étanche\n\t— Переборка, 水密隔壁 123 e\u{301} 🚢",
];

/// The text encoder.
pub struct TextEncoder {
    tokenizer: Tokenizer,
    tokens_max: usize,
    /// Whether words are divided for themselves.
    by_words: bool,
    around: Around,
}

/// The special tokens that stand before and after every text.
#[derive(Default)]
struct Around {
    before: Vec<u32>,
    after: Vec<u32>,
}

/// A text on its way: how far it was read, and the tokens of that.
#[derive(Debug, Default)]
pub struct Reading {
    bytes: usize,
    ids: Vec<u32>,
}

fn bad(cause: impl ToString) -> LoadError {
    LoadError::bad(FILE, cause)
}

impl TextEncoder {
    /// Parses tokenizer.json for a model of `vocabulary` words; texts are cut to `tokens_max` and
    /// never padded.
    pub fn parse(bytes: &[u8], tokens_max: usize, vocabulary: usize) -> Result<Self, LoadError> {
        let mut tokenizer = guard::parse(bytes).map_err(bad)?;
        let model = without_cache(tokenizer.get_model().clone())?;
        tokenizer.with_model(model);
        // What the file says of either is for other programs.
        tokenizer
            .with_truncation(None)
            .map_err(bad)?
            .with_padding(None);
        let by_words = tokenizer.get_pre_tokenizer().is_some_and(divides_at_spaces);
        let around = around(&tokenizer)?;
        let added = around.before.len() + around.after.len();
        if added >= tokens_max {
            return Err(bad(format!(
                "it adds {added} tokens to each text, and the model reads {tokens_max}"
            )));
        }
        let encoder = TextEncoder {
            tokenizer,
            tokens_max,
            by_words,
            around,
        };
        encoder.check_ids(vocabulary)?;
        Ok(encoder)
    }

    /// Refuses a tokenizer that is not this model's: one that knows ids beyond its words.
    fn check_ids(&self, vocabulary: usize) -> Result<(), LoadError> {
        let mut greatest = self.tokenizer.get_vocab(true).into_values().max();
        // The tokens that are put around a text have ids of their own.
        let mut ids = Vec::new();
        for trial in TRIALS {
            guard::survived(|| self.append(trial, &mut ids))
                .map_err(bad)?
                .ok_or_else(|| bad("it cannot read a text"))?;
        }
        greatest = greatest.max(ids.into_iter().max());
        match greatest {
            Some(id) if (id as usize) < vocabulary => Ok(()),
            Some(id) => Err(bad(format!(
                "it has a token of id {id}, and the model's vocab_size is {vocabulary}: are both of \
                 the same model?"
            ))),
            None => Err(bad("its vocabulary is empty")),
        }
    }

    /// How many bytes the next [`read`](Self::read) of a text reads, about.
    pub fn next_bytes(&self, text: &str, reading: &Reading) -> usize {
        let rest = self.bytes_read(text) - reading.bytes;
        match self.by_words {
            true => rest.min(PIECE_BYTES),
            false => rest,
        }
    }

    /// How many bytes of a text are read at most.
    fn bytes_read(&self, text: &str) -> usize {
        let most = (self.tokens_max * TOKEN_BYTES_MAX).max(TEXT_BYTES_MIN);
        text.floor_char_boundary(most)
    }

    /// Reads a text's next piece: where words are divided for themselves, the pieces' tokens are those of
    /// the whole text. True once nothing more can matter; none if the tokenizer cannot read it.
    pub fn read(&self, text: &str, reading: &mut Reading) -> Option<bool> {
        let rest = &text[reading.bytes..self.bytes_read(text)];
        let piece = match self.by_words {
            true => &rest[..piece_end(rest, PIECE_BYTES)],
            false => rest,
        };
        let encoding = self.tokenizer.encode_fast(piece, false).ok()?;
        reading.ids.extend_from_slice(encoding.get_ids());
        reading.bytes += piece.len();
        Some(piece.len() == rest.len() || reading.ids.len() > self.room())
    }

    /// Tokens of a text at most, beside those around it.
    fn room(&self) -> usize {
        self.tokens_max - self.around.before.len() - self.around.after.len()
    }

    /// Adds the token ids of a text that was read to `ids`, special tokens included. True where the end of
    /// the text does not count.
    pub fn finish(&self, text: &str, reading: &Reading, ids: &mut Vec<u32>) -> bool {
        let fit = reading.ids.len().min(self.room());
        ids.extend_from_slice(&self.around.before);
        ids.extend_from_slice(&reading.ids[..fit]);
        ids.extend_from_slice(&self.around.after);
        fit < reading.ids.len() || reading.bytes < text.len()
    }

    /// Reads a text to its end, and adds its token ids to `ids`. True where the end of the text does not
    /// count; none if the tokenizer cannot read it.
    pub fn append(&self, text: &str, ids: &mut Vec<u32>) -> Option<bool> {
        let mut reading = Reading::default();
        while !self.read(text, &mut reading)? {}
        Some(self.finish(text, &reading, ids))
    }
}

/// What the file's post-processor puts around a text. One that does more is refused: pieces of a text could
/// not be put together without it.
fn around(tokenizer: &Tokenizer) -> Result<Around, LoadError> {
    let unreadable = || bad("it cannot read a text");
    let mut found = Around::default();
    for trial in TRIALS {
        let encoded = |special| guard::survived(|| tokenizer.encode_fast(trial, special).ok());
        let plain = encoded(false).map_err(bad)?.ok_or_else(unreadable)?;
        let whole = encoded(true).map_err(bad)?.ok_or_else(unreadable)?;
        let (plain, whole, mask) = (
            plain.get_ids(),
            whole.get_ids(),
            whole.get_special_tokens_mask(),
        );
        if plain.is_empty() {
            continue;
        }
        let first = mask.iter().take_while(|special| **special == 1).count();
        let last = first + plain.len();
        if whole.get(first..last) != Some(plain) {
            return Err(bad(
                "its post_processor does more than put tokens around a text, which is not supported",
            ));
        }
        found.before = whole[..first].to_vec();
        found.after = whole[last..].to_vec();
    }
    Ok(found)
}

/// Whether no token can hold a space and something before it.
fn divides_at_spaces(step: &PreTokenizerWrapper) -> bool {
    match step {
        PreTokenizerWrapper::BertPreTokenizer(_)
        | PreTokenizerWrapper::Whitespace(_)
        | PreTokenizerWrapper::WhitespaceSplit(_) => true,
        PreTokenizerWrapper::Metaspace(step) => step.split,
        PreTokenizerWrapper::ByteLevel(step) => step.use_regex,
        PreTokenizerWrapper::Sequence(steps) => steps.as_ref().iter().any(divides_at_spaces),
        _ => false,
    }
}

/// The model with room for no word in its cache, and without what would make it answer at random.
fn without_cache(mut model: ModelWrapper) -> Result<ModelWrapper, LoadError> {
    model.resize_cache(0);
    model.clear_cache();
    match &mut model {
        ModelWrapper::WordPiece(_) | ModelWrapper::Unigram(_) => {}
        ModelWrapper::BPE(bpe) => bpe.dropout = None,
        ModelWrapper::WordLevel(_) => {
            return Err(bad(
                "WordLevel tokenizers are not supported; WordPiece, Unigram and BPE are",
            ));
        }
    }
    Ok(model)
}
