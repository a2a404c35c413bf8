//! What stands before byte-level BPE, by the names that GGUF files give it: how a text is divided into the
//! words inside which merges happen.
//!
//! The patterns are those of the families' published tokenizer.json, and for `default`, which none
//! publishes, the one that GGUF's own readers take.

use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{Result, SplitDelimiterBehavior, Tokenizer};

/// Names and what they mean.
const NAMES: [(&str, Pre); 14] = [
    ("default", Pre::Default),
    ("deepseek-r1-qwen", Pre::Qwen2),
    ("dolma", Pre::Gpt2),
    ("gpt-2", Pre::Gpt2),
    ("llama-bpe", Pre::Llama3),
    ("llama-v3", Pre::Llama3),
    ("llama3", Pre::Llama3),
    ("megrez", Pre::Qwen2),
    ("olmo", Pre::Gpt2),
    ("qwen2", Pre::Qwen2),
    ("smaug-bpe", Pre::Smaug),
    ("smollm", Pre::Digits),
    ("stablelm2", Pre::StableLm2),
    ("tekken", Pre::Tekken),
];

/// GPT-2's words, without what is left of white space.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

/// A way of dividing a text into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pre {
    Default,
    Digits,
    Gpt2,
    Llama3,
    Qwen2,
    Smaug,
    StableLm2,
    Tekken,
}

impl Pre {
    /// The way of that name; the error names it and those that are known.
    pub(super) fn named(name: &str) -> std::result::Result<Pre, String> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, pre)| *pre).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(known, _)| *known).collect();
            format!(
                "pre-tokenizer {name:?} is not supported; these are: {}",
                known.join(", ")
            )
        })
    }

    /// Whether a word that is a token is that token, whatever the merges make of it.
    pub(super) fn whole_words(self) -> bool {
        matches!(self, Pre::Llama3 | Pre::Tekken)
    }

    /// Gives a tokenizer the steps before its model.
    pub(super) fn put_before(self, tokenizer: &mut Tokenizer) -> Result<()> {
        if self == Pre::Qwen2 {
            tokenizer.with_normalizer(Some(NFC))?;
        }
        let steps = Sequence::new(self.steps()?);
        tokenizer.with_pre_tokenizer(Some(steps));
        Ok(())
    }

    fn steps(self) -> Result<Vec<PreTokenizerWrapper>> {
        let gpt2 = PreTokenizerWrapper::from(ByteLevel::new(false, true, true));
        Ok(match self {
            Pre::Gpt2 => vec![gpt2],
            Pre::Digits => vec![Digits::new(true).into(), gpt2],
            Pre::Llama3 | Pre::Smaug => divided(&[&words("{1,3}")])?,
            Pre::Qwen2 | Pre::StableLm2 => divided(&[&words("")])?,
            Pre::Tekken => divided(&[&cased_words()])?,
            Pre::Default => divided(&[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"])?,
        })
    }
}

/// Divides at each pattern's matches in turn, then writes bytes as characters.
fn divided(patterns: &[&str]) -> Result<Vec<PreTokenizerWrapper>> {
    let isolated = SplitDelimiterBehavior::Isolated;
    let split = |pattern: &&str| -> Result<PreTokenizerWrapper> {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        Ok(Split::new(pattern, isolated, false)?.into())
    };
    let mut steps = patterns.iter().map(split).collect::<Result<Vec<_>>>()?;
    steps.push(ByteLevel::new(false, true, false).into());
    Ok(steps)
}

/// Words, numbers of so many digits, signs and spaces.
fn words(digits: &str) -> String {
    format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

/// Words of capitals and then small letters, single digits, signs and spaces.
fn cased_words() -> String {
    let (large, small) = (
        r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
    );
    let first = r"[^\r\n\p{L}\p{N}]?";
    let rest = r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    format!("{first}{large}*{small}+|{first}{large}+{small}*|{rest}")
}
