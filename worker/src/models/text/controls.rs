//! The control tokens (`<|im_start|>` and its like): their literals, and where they stand in a text.
//!
//! They are found in one pass over a text, however many there are and whatever the text is: a prompt of
//! megabytes is divided before anything bounds its tokens.

use aho_corasick::{AhoCorasick, MatchKind};
use std::cmp::Reverse;
use std::ops::Range;

/// The control tokens of a vocabulary.
#[derive(Debug)]
pub(super) struct Controls {
    /// The longest first.
    literals: Vec<(String, u32)>,
    /// Ascending.
    ids: Vec<u32>,
    finder: AhoCorasick,
}

impl Controls {
    /// Of tokens' literals and ids; those without a literal stand nowhere in a text.
    pub(super) fn new(tokens: impl Iterator<Item = (String, u32)>) -> Result<Self, String> {
        let mut literals: Vec<(String, u32)> =
            tokens.filter(|(text, _)| !text.is_empty()).collect();
        literals.sort_by_key(|(text, _)| Reverse(text.len()));
        let mut ids: Vec<u32> = literals.iter().map(|(_, id)| *id).collect();
        ids.sort_unstable();
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(literals.iter().map(|(text, _)| text))
            .map_err(|error| error.to_string())?;
        Ok(Controls {
            literals,
            ids,
            finder,
        })
    }

    /// Literals and ids, the longest literal first.
    pub(super) fn literals(&self) -> &[(String, u32)] {
        &self.literals
    }

    /// True for a control token's id.
    pub(super) fn holds(&self, token: u32) -> bool {
        self.ids.binary_search(&token).is_ok()
    }

    /// Where in `text` control tokens are written out, and which; of several at one place the longest.
    pub(super) fn find<'t>(
        &'t self,
        text: &'t str,
    ) -> impl Iterator<Item = (Range<usize>, u32)> + 't {
        self.finder
            .find_iter(text)
            .map(|found| (found.range(), self.literals[found.pattern().as_usize()].1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_is_found_wherever_it_stands() {
        let tokens = [("<s>", 1), ("<s>x", 2), ("", 3), ("é>", 4)];
        let tokens = tokens.map(|(text, id)| (text.to_owned(), id));
        let controls = Controls::new(tokens.into_iter()).expect("few");
        let found: Vec<_> = controls.find("a<s>xé><s<s>").collect();
        assert_eq!(found, [(1..5, 2), (5..8, 4), (10..13, 1)]);
        assert!(controls.holds(4) && !controls.holds(3));
        assert_eq!(controls.find("").count(), 0);
    }

    #[test]
    fn a_vocabulary_without_control_tokens_finds_none() {
        let controls = Controls::new(std::iter::empty()).expect("none");
        assert_eq!(controls.find("<s>").count(), 0);
    }
}
