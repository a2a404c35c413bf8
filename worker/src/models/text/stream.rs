//! Tokens' bytes become text for the caller: whole characters only, and never a part of a stop string.

/// Stop strings of one request at most, and bytes of each.
pub const STOPS_MAX: usize = 16;
/// Bytes of a stop string at most: so much text may have to be held back.
pub const STOP_BYTES_MAX: usize = 256;

/// The text of one answer as it grows.
#[derive(Debug, Default)]
pub struct TextStream {
    stops: Vec<String>,
    /// Bytes of a character that is not complete yet.
    partial: Vec<u8>,
    /// Text that may turn out to begin a stop string.
    held: String,
}

impl TextStream {
    /// A stream that ends before any of `stops`; empty ones are ignored.
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        TextStream {
            stops,
            ..TextStream::default()
        }
    }

    /// Adds a token's bytes. Returns what can be shown now, and true if a stop string came.
    pub fn push(&mut self, bytes: &[u8]) -> (String, bool) {
        self.partial.extend_from_slice(bytes);
        let complete = complete_length(&self.partial);
        let rest = self.partial.split_off(complete);
        self.held.push_str(&String::from_utf8_lossy(&self.partial));
        self.partial = rest;
        let first = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        if let Some(at) = first {
            self.held.truncate(at);
            self.partial.clear();
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.held.len() - self.longest_begin();
        let rest = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, once no more can come. An incomplete character becomes U+FFFD.
    pub fn end(&mut self) -> String {
        let mut text = std::mem::take(&mut self.held);
        text.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.partial)));
        text
    }

    /// Bytes at the end of the held text that a stop string begins with.
    fn longest_begin(&self) -> usize {
        let begins = |stop: &String| {
            let fits = |length: &usize| {
                stop.is_char_boundary(*length) && self.held.ends_with(&stop[..*length])
            };
            (1..stop.len()).rev().find(fits)
        };
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
}

/// How many of the bytes are no beginning of a character that more bytes could complete.
fn complete_length(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    for start in tail..bytes.len() {
        let incomplete = std::str::from_utf8(&bytes[start..])
            .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none());
        if incomplete {
            return start;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything shown, and whether a stop came, with the bytes given in pieces of `size`.
    fn run(text: &[u8], stops: &[&str], size: usize) -> (Vec<String>, bool) {
        let mut stream = TextStream::new(stops.iter().map(ToString::to_string).collect());
        let mut shown = Vec::new();
        for piece in text.chunks(size) {
            let (text, stopped) = stream.push(piece);
            shown.push(text);
            if stopped {
                return (shown, true);
            }
        }
        shown.push(stream.end());
        (shown, false)
    }

    #[test]
    fn characters_come_whole_however_they_are_cut() {
        let text = "Ünïcödé — 漢字 🚢!";
        for size in 1..text.len() {
            let (shown, _) = run(text.as_bytes(), &[], size);
            assert_eq!(shown.concat(), text);
            assert!(!shown.concat().contains('\u{FFFD}'));
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_do_not_hold_up_the_rest() {
        let (shown, _) = run(b"a\xFFb\xE6\xBC", &[], 1);
        assert_eq!(shown.concat(), "a\u{FFFD}b\u{FFFD}");
    }

    #[test]
    fn no_part_of_a_stop_string_is_ever_shown() {
        for size in 1..12 {
            let (shown, stopped) = run("one two STOP three".as_bytes(), &["STOP"], size);
            assert!(stopped);
            assert_eq!(shown.concat(), "one two ");
            let (shown, stopped) = run("a ST b STO".as_bytes(), &["STOP"], size);
            assert!(!stopped);
            assert_eq!(shown.concat(), "a ST b STO");
            let (shown, stopped) = run("aab".as_bytes(), &["ab", "aab"], size);
            assert!(stopped);
            assert_eq!(shown.concat(), "");
        }
        assert_eq!(run("é—ü".as_bytes(), &["—"], 1).0.concat(), "é");
    }
}
