//! Characters that stand in for those of messages while a template runs.
//!
//! Every character of which a control token's literal is made has, while one conversation is rendered, a
//! stand-in in Unicode's private planes that occurs in no message. Messages go into the template with
//! stand-ins; so whatever the template cuts, joins or moves, a control token in what comes out is made of
//! characters that the template wrote. Stand-ins are one for one: lengths and places are those of the text.

use minijinja::value::Object;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// The private planes: their first code points, and how many each has.
const PLANES: [u32; 2] = [0xF_0000, 0x10_0000];
const PLANE_CHARS: u32 = 0xFFFE;
/// Not in the alphabet.
const NONE: u16 = u16::MAX;

/// The characters that need a stand-in.
#[derive(Debug)]
pub(super) struct Alphabet {
    /// Ascending.
    chars: Vec<char>,
    /// Where each ASCII character is in these.
    ascii: [u16; 128],
}

impl Alphabet {
    /// Those of `literals`; of letters both cases, since templates change that. White space is none of them,
    /// since templates trim it, unless a literal is nothing else. None where they are too many.
    pub(super) fn of<'a>(literals: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut chars = BTreeSet::new();
        for literal in literals {
            let blank = literal.trim().is_empty();
            let needed = literal.chars().filter(|one| blank || !one.is_whitespace());
            chars.extend(
                needed.flat_map(|one| [one.to_ascii_lowercase(), one.to_ascii_uppercase()]),
            );
        }
        let chars: Vec<char> = chars.into_iter().collect();
        let mut ascii = [NONE; 128];
        for (nth, one) in chars.iter().enumerate() {
            if let Some(place) = ascii.get_mut(*one as usize) {
                *place = nth as u16;
            }
        }
        (chars.len() < usize::from(NONE)).then_some(Alphabet { chars, ascii })
    }

    fn place(&self, one: char) -> Option<u32> {
        match self.ascii.get(one as usize) {
            Some(place) => (*place != NONE).then_some(u32::from(*place)),
            None => self.chars.binary_search(&one).ok().map(|at| at as u32),
        }
    }
}

/// The stand-ins of one conversation.
#[derive(Debug)]
pub(super) struct StandIns {
    alphabet: Arc<Alphabet>,
    first: u32,
}

impl Object for StandIns {}

impl StandIns {
    /// Of private characters that neither the messages hold nor a control token; none if there are not
    /// enough.
    pub(super) fn choose<'a>(
        alphabet: Arc<Alphabet>,
        messages: impl Iterator<Item = &'a str>,
    ) -> Option<Self> {
        let size = alphabet.chars.len().max(1) as u32;
        let per_plane = PLANE_CHARS / size;
        // Blocks of `size` characters are numbered through both planes.
        let block = |one: char| {
            let (nth, plane) = [(1, PLANES[1]), (0, PLANES[0])]
                .into_iter()
                .find(|(_, plane)| *plane <= one as u32)?;
            Some(nth * per_plane + (one as u32 - plane) / size)
        };
        let chars = messages
            .flat_map(str::chars)
            .chain(alphabet.chars.iter().copied());
        let taken: HashSet<u32> = chars.filter_map(block).collect();
        let free = (0..2 * per_plane).find(|block| !taken.contains(block))?;
        let first = PLANES[(free / per_plane) as usize] + free % per_plane * size;
        Some(StandIns { alphabet, first })
    }

    /// A text with stand-ins.
    pub(super) fn hide(&self, text: &str) -> String {
        // Most characters have stand-ins, and those are longer.
        let mut hidden = String::with_capacity(4 * text.len());
        hidden.extend(text.chars().map(|one| self.hidden(one)));
        hidden
    }

    /// The text behind stand-ins.
    pub(super) fn show(&self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len() / 2);
        shown.extend(text.chars().map(|one| self.shown(one).unwrap_or(one)));
        shown
    }

    pub(super) fn hidden(&self, one: char) -> char {
        let place = self.alphabet.place(one);
        let stand_in = place.and_then(|place| char::from_u32(self.first + place));
        stand_in.unwrap_or(one)
    }

    /// What a stand-in stands for; none if it is not one.
    pub(super) fn shown(&self, one: char) -> Option<char> {
        let place = (one as u32).checked_sub(self.first)?;
        self.alphabet.chars.get(place as usize).copied()
    }

    /// True where a text has a stand-in.
    pub(super) fn within(&self, text: &str) -> bool {
        text.chars().any(|one| self.shown(one).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stand_ins(literals: &[&str], messages: &[&str]) -> Option<StandIns> {
        let alphabet = Alphabet::of(literals.iter().copied()).expect("few");
        StandIns::choose(Arc::new(alphabet), messages.iter().copied())
    }

    #[test]
    fn what_a_literal_is_made_of_has_a_stand_in() {
        let these = stand_ins(&["<|im end|>", "<｜Ende｜>"], &[]).expect("enough");
        let hidden = these.hide("<|IM_END|> ｜ xyz");
        assert!(hidden.ends_with(" xyz") && hidden.contains('_'));
        assert!(!hidden.contains(['<', '|', 'I', 'M', 'E', 'N', 'D', '>', '｜']));
        let blank = stand_ins(&["\n\n", "<s>"], &[]).expect("enough");
        assert_eq!(blank.hide(" \n").chars().next(), Some(' '));
        assert!(!blank.hide(" \n").contains('\n'));
    }

    #[test]
    fn messages_that_leave_none_are_refused() {
        let all: String = (0..2 * PLANE_CHARS)
            .filter_map(|nth| {
                char::from_u32(PLANES[(nth / PLANE_CHARS) as usize] + nth % PLANE_CHARS)
            })
            .collect();
        assert!(stand_ins(&["<s>"], &[&all]).is_none());
    }

    proptest! {
        #[test]
        fn every_text_comes_back_and_shows_nothing_of_a_literal(
            text in "(\\PC|[<|>a-z]|[\u{F0000}-\u{F0040}]|[\u{100000}-\u{100010}]){0,40}",
        ) {
            let these = stand_ins(&["<|im_end|>", "\u{F0080}>"], &[&text]).expect("enough");
            prop_assert!(!these.within(&text));
            let hidden = these.hide(&text);
            let shows = hidden.contains(['<', '|', '>', 'i', 'M', '\u{F0080}']);
            prop_assert!(!shows);
            prop_assert_eq!(hidden.chars().count(), text.chars().count());
            prop_assert_eq!(these.show(&hidden), text);
        }
    }
}
