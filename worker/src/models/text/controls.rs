//! Tokens that stand for a literal of their own (`<|im_start|>` and its like): where they stand in a text.
//!
//! They are found in one pass over a text, however many there are and whatever the text is: a prompt of
//! megabytes is divided before anything bounds its tokens.

use super::pieces::lone_byte;
use aho_corasick::{AhoCorasick, MatchKind};
use std::cmp::Reverse;
use std::ops::Range;

/// A token with a literal, and which of the text around it belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Literal {
    pub(super) text: String,
    pub(super) id: u32,
    /// White space before it is part of it.
    pub(super) takes_left: bool,
    /// White space after it is part of it.
    pub(super) takes_right: bool,
    /// It is none between letters, digits and underscores.
    pub(super) alone: bool,
}

impl Literal {
    pub(super) fn new(text: impl Into<String>, id: u32) -> Self {
        Literal {
            text: text.into(),
            id,
            ..Literal::default()
        }
    }
}

/// True for a literal that looks like a mark and not like a word: some files call their `[INST]` and
/// `<tool_call>` words. Lone bytes (`<0x0A>`) are words.
pub(super) fn is_mark(text: &str) -> bool {
    let enclosed = |from, to| text.len() > 2 && text.starts_with(from) && text.ends_with(to);
    (enclosed('<', '>') || enclosed('[', ']')) && lone_byte(text).is_none()
}

/// The control tokens of a vocabulary, or the words that were added to it.
#[derive(Debug)]
pub(super) struct Controls {
    /// The longest first.
    literals: Vec<Literal>,
    /// Ascending.
    ids: Vec<u32>,
    finder: AhoCorasick,
}

impl Controls {
    /// Of tokens; those without a literal stand nowhere in a text.
    pub(super) fn new(tokens: impl Iterator<Item = Literal>) -> Result<Self, String> {
        let mut literals: Vec<Literal> = tokens.filter(|token| !token.text.is_empty()).collect();
        literals.sort_by_key(|token| Reverse(token.text.len()));
        let mut ids: Vec<u32> = literals.iter().map(|token| token.id).collect();
        ids.sort_unstable();
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(literals.iter().map(|token| &token.text))
            .map_err(|error| error.to_string())?;
        Ok(Controls {
            literals,
            ids,
            finder,
        })
    }

    /// The tokens, the longest literal first.
    pub(super) fn literals(&self) -> &[Literal] {
        &self.literals
    }

    /// True for the id of one of them.
    pub(super) fn holds(&self, token: u32) -> bool {
        self.ids.binary_search(&token).is_ok()
    }

    /// Where in `text` they are written out, and which; of several at one place the longest. The white
    /// space that belongs to one is in its range; no two ranges overlap.
    pub(super) fn find<'t>(
        &'t self,
        text: &'t str,
    ) -> impl Iterator<Item = (Range<usize>, u32)> + 't {
        self.search(text, true)
    }

    /// The same in a text whose words are not all its author's: none of them can unmake a token by
    /// standing beside it.
    pub(super) fn find_among_words<'t>(
        &'t self,
        text: &'t str,
    ) -> impl Iterator<Item = (Range<usize>, u32)> + 't {
        self.search(text, false)
    }

    fn search<'t>(
        &'t self,
        text: &'t str,
        alone: bool,
    ) -> impl Iterator<Item = (Range<usize>, u32)> + 't {
        let mut taken = 0;
        self.finder.find_iter(text).filter_map(move |found| {
            let token = &self.literals[found.pattern().as_usize()];
            let (before, after) = (&text[..found.start()], &text[found.end()..]);
            let unmade = alone && token.alone && within_word(before, after);
            if unmade || found.start() < taken {
                return None;
            }
            let start = match token.takes_left {
                true => taken + before[taken..].trim_end().len(),
                false => found.start(),
            };
            taken = match token.takes_right {
                true => text.len() - after.trim_start().len(),
                false => found.end(),
            };
            Some((start..taken, token.id))
        })
    }
}

/// True where a word goes on to the left or to the right.
fn within_word(before: &str, after: &str) -> bool {
    let word = |character: char| character.is_alphanumeric() || character == '_';
    before.chars().next_back().is_some_and(word) || after.chars().next().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tokens: &[Literal], text: &str) -> Vec<(Range<usize>, u32)> {
        let controls = Controls::new(tokens.iter().cloned()).expect("few");
        controls.find(text).collect()
    }

    #[test]
    fn the_longest_is_found_wherever_it_stands() {
        let tokens = [("<s>", 1), ("<s>x", 2), ("", 3), ("é>", 4)];
        let tokens = tokens.map(|(text, id)| Literal::new(text, id));
        let controls = Controls::new(tokens.clone().into_iter()).expect("few");
        assert_eq!(
            found(&tokens, "a<s>xé><s<s>"),
            [(1..5, 2), (5..8, 4), (10..13, 1)]
        );
        assert!(controls.holds(4) && !controls.holds(3));
        assert_eq!(controls.find("").count(), 0);
    }

    #[test]
    fn a_vocabulary_without_control_tokens_finds_none() {
        assert_eq!(found(&[], "<s>"), []);
    }

    #[test]
    fn white_space_belongs_to_tokens_that_take_it() {
        let token = |takes_left, takes_right, alone| Literal {
            takes_left,
            takes_right,
            alone,
            ..Literal::new("<m>", 7)
        };
        let of = |token: Literal, text| found(&[token], text);
        assert_eq!(of(token(true, false, false), "a \n<m> b"), [(1..6, 7)]);
        assert_eq!(of(token(false, true, false), "a <m> \n b"), [(2..8, 7)]);
        let both = of(token(true, true, false), "<m>  <m> ");
        assert_eq!(both, [(0..5, 7), (5..9, 7)], "white space is taken once");
        let alone = of(token(false, false, true), "a<m> <m>_ <m>.");
        assert_eq!(alone, [(10..13, 7)]);
    }

    #[test]
    fn marks_are_enclosed_and_no_bytes() {
        for mark in ["<think>", "[INST]", "<|im_end|>", "</s>"] {
            assert!(is_mark(mark), "{mark}");
        }
        for word in ["<0x0A>", "  ", "<>", "[", "a>", "<a", "(x)"] {
            assert!(!is_mark(word), "{word}");
        }
    }
}
