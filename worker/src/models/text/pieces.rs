//! SentencePiece's byte-pair encoding: pieces with scores, no merges, lone bytes for unknown characters.
//!
//! A text starts as its characters; of all neighbours that make a piece, those of the best score become
//! one, the leftmost first, until none are left (Kudo and Richardson, 2018). A queue over linked symbols
//! does that in n log n steps. Its memory is at most three entries of a queue and one symbol for each
//! character, and nothing of it stays behind a call.

use ahash::AHashMap;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// How SentencePiece writes a space.
pub(super) const SPACE: char = '▁';
/// No neighbour.
const NONE: u32 = u32::MAX;

/// Why pieces make no vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PiecesError {
    #[error("a piece's score is no number")]
    Score,
    #[error("it has no token for some byte, so that not every text could be read")]
    Bytes,
}

/// The pieces that text is made of.
pub(super) struct Pieces {
    /// Each piece's id and score.
    ids: AHashMap<Box<str>, (u32, f32)>,
    /// Pieces that are taken out of a text before anything is merged: by their first character, the
    /// longest first.
    fixed: AHashMap<char, Vec<(Box<str>, u32)>>,
    /// The tokens of the 256 bytes.
    bytes: Box<[u32; 256]>,
    longest_bytes: usize,
}

/// Characters that are together by now.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    /// Bytes; 0 once it went into its left neighbour.
    length: u32,
    left: u32,
    right: u32,
    /// Taken out of the text as it is.
    fixed: Option<u32>,
}

/// Two neighbours that make a piece.
#[derive(Clone, Copy)]
struct Pair {
    score: f32,
    left: u32,
    right: u32,
    /// Bytes of both: less than they have when either has changed since.
    length: u32,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        let score = self.score.total_cmp(&other.score);
        score.then_with(|| Reverse(self.left).cmp(&Reverse(other.left)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl Pieces {
    /// A vocabulary of `scored` pieces (text, id, score), of `fixed` ones that no merge makes or takes
    /// apart, and of the tokens of lone `bytes`.
    pub(super) fn new<'a>(
        scored: impl IntoIterator<Item = (&'a str, u32, f32)>,
        fixed: impl IntoIterator<Item = (&'a str, u32)>,
        bytes: impl IntoIterator<Item = (u8, u32)>,
    ) -> Result<Self, PiecesError> {
        let mut ids: AHashMap<Box<str>, (u32, f32)> = AHashMap::new();
        for (text, id, score) in scored {
            if score.is_nan() {
                return Err(PiecesError::Score);
            }
            // 0 and -0 are the same score.
            ids.insert(text.into(), (id, score + 0.0));
        }
        let mut by_start: AHashMap<char, Vec<(Box<str>, u32)>> = AHashMap::new();
        for (text, id) in fixed {
            if let Some(start) = text.chars().next() {
                by_start.entry(start).or_default().push((text.into(), id));
            }
        }
        for texts in by_start.values_mut() {
            texts.sort_by_key(|(text, _)| Reverse(text.len()));
        }
        let mut of_byte = [None; 256];
        for (byte, id) in bytes {
            of_byte[usize::from(byte)] = Some(id);
        }
        let mut bytes = Box::new([0; 256]);
        for (place, id) in bytes.iter_mut().zip(of_byte) {
            *place = id.ok_or(PiecesError::Bytes)?;
        }
        Ok(Pieces {
            longest_bytes: ids.keys().map(|text| text.len()).max().unwrap_or(0),
            ids,
            fixed: by_start,
            bytes,
        })
    }

    /// The ids of a text; none if it is longer than 4 GiB.
    pub(super) fn encode(&self, text: &str) -> Option<Vec<u32>> {
        let text = text.replace(' ', SPACE.encode_utf8(&mut [0; 4]));
        u32::try_from(text.len()).ok()?;
        let mut symbols = self.symbols(&text);
        self.merge(&text, &mut symbols);
        let mut ids = Vec::new();
        for symbol in symbols.iter().filter(|symbol| symbol.length > 0) {
            let piece = symbol.text(&text);
            match symbol.fixed.or(self.ids.get(piece).map(|(id, _)| *id)) {
                Some(id) => ids.push(id),
                None => ids.extend(piece.bytes().map(|byte| self.bytes[usize::from(byte)])),
            }
        }
        Some(ids)
    }

    /// The text's characters and fixed pieces, in a row.
    fn symbols(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        let mut at = 0;
        while let Some(first) = text[at..].chars().next() {
            let of_start = self.fixed.get(&first).into_iter().flatten();
            let fixed = of_start
                .filter(|(piece, _)| text[at..].starts_with(&**piece))
                .map(|(piece, id)| (piece.len(), *id))
                .next();
            let length = fixed.map_or(first.len_utf8(), |(length, _)| length);
            let nth = symbols.len() as u32;
            symbols.push(Symbol {
                start: at as u32,
                length: length as u32,
                left: nth.checked_sub(1).unwrap_or(NONE),
                right: nth + 1,
                fixed: fixed.map(|(_, id)| id),
            });
            at += length;
        }
        if let Some(last) = symbols.last_mut() {
            last.right = NONE;
        }
        symbols
    }

    fn merge(&self, text: &str, symbols: &mut [Symbol]) {
        let pairs = (1..symbols.len() as u32).filter_map(|at| self.pair(text, symbols, at - 1, at));
        let mut queue: BinaryHeap<Pair> = pairs.collect();
        while let Some(pair) = queue.pop() {
            let (left, right) = (symbols[pair.left as usize], symbols[pair.right as usize]);
            let gone = left.length == 0 || right.length == 0;
            if gone || left.length + right.length != pair.length {
                continue;
            }
            symbols[pair.left as usize].length = pair.length;
            symbols[pair.left as usize].right = right.right;
            symbols[pair.right as usize].length = 0;
            if let Some(next) = symbols.get_mut(right.right as usize) {
                next.left = pair.left;
            }
            queue.extend(self.pair(text, symbols, left.left, pair.left));
            queue.extend(self.pair(text, symbols, pair.left, right.right));
        }
    }

    /// Two neighbours, if there are two and they make a piece.
    fn pair(&self, text: &str, symbols: &[Symbol], left: u32, right: u32) -> Option<Pair> {
        let (a, b) = (symbols.get(left as usize)?, symbols.get(right as usize)?);
        let length = a.length + b.length;
        if a.fixed.is_some() || b.fixed.is_some() || length as usize > self.longest_bytes {
            return None;
        }
        let start = a.start as usize;
        let (_, score) = self.ids.get(&text[start..start + length as usize])?;
        Some(Pair {
            score: *score,
            left,
            right,
            length,
        })
    }
}

impl Symbol {
    fn text<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start as usize..][..self.length as usize]
    }
}

/// The byte that a token like `<0x0A>` stands for.
pub(super) fn lone_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    // The library's numbers may have a sign.
    match hex.len() == 2 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        true => u8::from_str_radix(hex, 16).ok(),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(scored: &[(&str, f32)], fixed: &[&str]) -> Pieces {
        let scored = scored.iter().zip(256..);
        Pieces::new(
            scored.map(|((text, score), id)| (*text, id, *score)),
            fixed.iter().copied().zip(1000..),
            (0..=255).map(|byte| (byte, u32::from(byte))),
        )
        .expect("a vocabulary")
    }

    #[test]
    fn the_best_score_goes_first_and_of_equals_the_leftmost() {
        let some = pieces(&[("a", -9.0), ("b", -9.0), ("ab", -2.0), ("ba", -1.0)], &[]);
        assert_eq!(some.encode("aba"), Some(vec![256, 259]));
        let equal = pieces(&[("a", -9.0), ("aa", -1.0)], &[]);
        assert_eq!(equal.encode("aaa"), Some(vec![257, 256]));
    }

    #[test]
    fn fixed_pieces_are_found_first_the_longest_and_never_merged() {
        let some = pieces(&[("a", -9.0), ("aZ", -1.0), ("Z", -9.0)], &["ZZ", "ZZZ"]);
        assert_eq!(some.encode("aZZZZ"), Some(vec![256, 1001, 258]));
    }

    #[test]
    fn what_no_piece_has_becomes_its_bytes() {
        let some = pieces(&[], &[]);
        assert_eq!(some.encode(" é"), Some(vec![0xE2, 0x96, 0x81, 0xC3, 0xA9]));
        assert_eq!(some.encode(""), Some(vec![]));
    }

    #[test]
    fn vocabularies_that_could_not_read_everything_are_refused() {
        let bytes = |end: u8| (0..=end).map(|byte| (byte, u32::from(byte)));
        let none: [(&str, u32); 0] = [];
        let made = |score, end| Pieces::new([("a", 300, score)], none, bytes(end)).err();
        assert_eq!(made(f32::NAN, 255), Some(PiecesError::Score));
        assert_eq!(made(0.0, 254), Some(PiecesError::Bytes));
        assert_eq!(made(0.0, 255), None);
    }

    #[test]
    fn lone_bytes_have_two_digits() {
        assert_eq!(lone_byte("<0x0A>"), Some(10));
        for other in ["<0xA>", "<0x00A>", "<0xGG>", "0x0A", "<0x+A>"] {
            assert_eq!(lone_byte(other), None, "{other}");
        }
    }
}
