//! tokenizer.json, with the limits of the model instead of those of the file, and without its caches.
//!
//! WordPiece (BERT), Unigram (XLM-R) and byte-level BPE (RoBERTa). The library keeps a cache of the words
//! that it has seen for the latter two; with room for none it keeps none.

use crate::models::LoadError;
use crate::models::text::guard;
use tokenizers::{ModelWrapper, PostProcessor, PreTokenizerWrapper, Tokenizer, TruncationParams};

const FILE: &str = "tokenizer.json";

/// Bytes of a text that can matter, for each token that the model reads: in most writing a token is 3 to
/// 9. What is beyond that is cut off unread, so that an enormous text costs no time.
const TOKEN_BYTES_MAX: usize = 16;
/// As many are read of any text, for those that begin with spaces or with no words at all.
const TEXT_BYTES_MIN: usize = 32 << 10;
/// Bytes that are tried first, for each token that the model reads: enough for most long texts.
const TOKEN_BYTES_USUAL: usize = 8;

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
        let added = tokenizer
            .get_post_processor()
            .map_or(0, |processor| processor.added_tokens(false));
        if added >= tokens_max {
            return Err(bad(format!(
                "it adds {added} tokens to each text, and the model reads {tokens_max}"
            )));
        }
        let truncation = TruncationParams {
            max_length: tokens_max,
            ..TruncationParams::default()
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(bad)?
            .with_padding(None);
        let by_words = tokenizer.get_pre_tokenizer().is_some_and(divides_at_spaces);
        let encoder = TextEncoder {
            tokenizer,
            tokens_max,
            by_words,
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

    /// How many bytes of a text of so many are read at most.
    pub fn bytes_read(&self, bytes: usize) -> usize {
        bytes.min((self.tokens_max * TOKEN_BYTES_MAX).max(TEXT_BYTES_MIN))
    }

    /// Adds a text's token ids to `ids`, special tokens included. True where the end of the text was
    /// not read; none if the tokenizer cannot read it.
    pub fn append(&self, text: &str, ids: &mut Vec<u32>) -> Option<bool> {
        // Where words are divided for themselves, the first words' tokens are those of the whole text;
        // and if they are more than fit, the rest need not be read.
        let begin = begin_of(text, self.tokens_max * TOKEN_BYTES_USUAL);
        if let Some(begin) = begin.filter(|_| self.by_words) {
            let before = ids.len();
            if self.append_all(begin, ids)? {
                return Some(true);
            }
            ids.truncate(before);
        }
        let end = text.floor_char_boundary(self.bytes_read(text.len()));
        Some(self.append_all(&text[..end], ids)? || end < text.len())
    }

    /// True where not all tokens fit.
    fn append_all(&self, text: &str, ids: &mut Vec<u32>) -> Option<bool> {
        let encoding = self.tokenizer.encode_fast(text, true).ok()?;
        ids.extend_from_slice(encoding.get_ids());
        Some(!encoding.get_overflowing().is_empty())
    }
}

/// The whole words in about the first `bytes` of a longer text.
fn begin_of(text: &str, bytes: usize) -> Option<&str> {
    if text.len() <= bytes {
        return None;
    }
    let begin = &text[..text.floor_char_boundary(bytes)];
    // The last space may be followed by marks that belong to it, so the cut is before it.
    let words = begin[..begin.rfind(' ')?].trim_end();
    (!words.is_empty()).then_some(words)
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
