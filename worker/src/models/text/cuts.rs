//! Where a text is cut, so that encoding it is many short pieces of work.
//!
//! Encoding takes time by the length of a text (0.1 to 1 ms for each KiB, and no input makes that
//! quadratic), and a step must end. A cut between words changes no token. A word that is longer than
//! [`WORD_BYTES_MAX`] is cut too, and then, where the cut is, its tokens may differ from those of the whole.

/// Bytes of a text that are encoded at once, where the text can be divided: about a millisecond.
pub const PIECE_BYTES: usize = 4 << 10;
/// Bytes that a piece may be longer, so that it ends between two words.
pub const WORD_BYTES_MAX: usize = 4 << 10;

/// Where the first piece of a text ends: at `bytes` or within [`WORD_BYTES_MAX`] after it, unless the
/// text ends before. Always at a character's boundary, and beyond 0 where there is text and room.
///
/// The best place is before a single space between a letter and a letter: every pre-tokenizer in use
/// begins a new word there. The next best is where a word ends at white space or a common sign, which all
/// that know words do; and the last resort is any character.
pub fn piece_end(text: &str, bytes: usize) -> usize {
    let most = bytes.saturating_add(WORD_BYTES_MAX);
    if text.len() <= bytes {
        return text.len();
    }
    let from = text.floor_char_boundary(bytes);
    let to = text.floor_char_boundary(most);
    let mut before = ' ';
    let (mut space, mut word_end) = (None, None);
    for (at, character) in text[from..to].char_indices() {
        if let Some(at) = space.take()
            && character.is_alphabetic()
        {
            return from + at;
        }
        if character == ' ' && before.is_alphabetic() {
            space = Some(at);
        }
        if word_end.is_none() && before.is_alphanumeric() && ends_word(character) {
            word_end = Some(from + at);
        }
        before = character;
    }
    match (text.len() <= most, word_end) {
        (true, _) => text.len(),
        (false, Some(end)) => end,
        (false, None) => to,
    }
}

/// True for what no word goes on with. An apostrophe is none of these: `don't` is one word to some.
fn ends_word(character: char) -> bool {
    match character {
        '\'' => false,
        '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}' => true,
        '\u{FF01}'..='\u{FF06}' | '\u{FF08}'..='\u{FF0F}' | '\u{FF1A}'..='\u{FF20}' => true,
        _ => character.is_whitespace() || character.is_ascii_punctuation(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_is_divided_between_words() {
        let text = "one, two three  four 5 six";
        assert_eq!(piece_end(text, 100), text.len());
        assert_eq!(&text[..piece_end(text, 1)], "one, two");
        assert_eq!(&text[..piece_end(text, 9)], "one, two three  four 5 six");
        let all: Vec<&str> = {
            let (mut rest, mut pieces) = ("the quick brown fox", Vec::new());
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(piece_end(rest, 1));
                pieces.push(piece);
                rest = more;
            }
            pieces
        };
        assert_eq!(all, ["the", " quick", " brown", " fox"]);
    }

    #[test]
    fn without_such_a_place_at_the_end_of_a_word_and_else_anywhere() {
        let long = "漢".repeat(WORD_BYTES_MAX);
        let sentence = format!("漢漢。{long}");
        assert_eq!(&sentence[..piece_end(&sentence, 1)], "漢漢");
        let quoted = format!("don't, {long}");
        assert_eq!(&quoted[..piece_end(&quoted, 1)], "don't");
        assert_eq!(piece_end(&long, 10), (10 + WORD_BYTES_MAX) / 3 * 3);
    }

    proptest! {
        #[test]
        fn no_piece_is_longer_than_promised_and_none_is_lost(
            unit in "(\\PC|\\s){1,4}",
            bytes in 1usize..9000,
            length in 0usize..30_000,
        ) {
            let text = unit.repeat(length / unit.len() + 1);
            let end = piece_end(&text, bytes);
            prop_assert!(text.is_char_boundary(end));
            prop_assert!(end <= bytes + WORD_BYTES_MAX);
            prop_assert!(end > 0);
            prop_assert!(end == text.len() || end + 3 >= bytes);
        }
    }
}
