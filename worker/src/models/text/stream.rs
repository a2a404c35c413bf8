//! Tokens' bytes become text for the caller: whole characters only, and never a part of a stop string.
//!
//! What is shown in all depends on the bytes alone, never on how they were divided into tokens: a stop
//! string counts from the byte that completes it, and of several the one that is complete first ends
//! the answer (of those that end at one byte, the longest).

/// Stop strings of one request at most.
pub const STOPS_MAX: usize = 16;
/// Bytes of a stop string at most: so much text may have to be held back.
pub const STOP_BYTES_MAX: usize = 256;

/// The text of one answer as it grows.
#[derive(Debug, Default)]
pub struct TextStream {
    stops: Vec<String>,
    /// Bytes not shown yet: an incomplete character, or what may turn out to begin a stop string.
    held: Vec<u8>,
    /// Bytes shown, as they came: before any of them were replaced.
    shown: usize,
}

/// What can be shown now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Whole characters; bytes that are no text became U+FFFD.
    pub text: String,
    /// The stop string that came. Nothing is shown after it.
    pub stop: Option<String>,
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

    /// Adds a token's bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Shown {
        self.held.extend_from_slice(bytes);
        if let Some((at, stop)) = self.first_stop() {
            let stop = Some(stop.to_owned());
            self.held.truncate(at);
            return Shown {
                text: self.end(),
                stop,
            };
        }
        let free = self.held.len() - self.longest_begin();
        Shown {
            text: self.show(free.min(complete_length(&self.held))),
            stop: None,
        }
    }

    /// What was held back, once no more can come. An incomplete character becomes U+FFFD.
    pub fn end(&mut self) -> String {
        self.show(self.held.len())
    }

    /// Bytes shown so far, counted as they came.
    pub fn shown(&self) -> usize {
        self.shown
    }

    /// Bytes that came so far, less those of a stop string and what followed it.
    pub fn taken(&self) -> usize {
        self.shown + self.held.len()
    }

    fn show(&mut self, bytes: usize) -> String {
        let rest = self.held.split_off(bytes);
        let shown = std::mem::replace(&mut self.held, rest);
        self.shown += bytes;
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Where the first stop string begins, and which it is.
    fn first_stop(&self) -> Option<(usize, &str)> {
        let ends = self.stops.iter().filter_map(|stop| {
            let at = find(&self.held, stop.as_bytes())?;
            Some((at + stop.len(), at, stop.as_str()))
        });
        ends.min_by_key(|(end, at, _)| (*end, *at))
            .map(|(_, at, stop)| (at, stop))
    }

    /// Bytes at the end of what is held that a stop string begins with.
    fn longest_begin(&self) -> usize {
        let begins = |stop: &String| {
            let fits = |length: &usize| self.held.ends_with(&stop.as_bytes()[..*length]);
            (1..stop.len()).rev().find(fits)
        };
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
}

/// Where `needle`, which is not empty, first is in `bytes`.
fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
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
    use proptest::prelude::*;

    /// Everything shown, piece by piece, and the stop string that came.
    fn run<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
        stops: &[&str],
    ) -> (Vec<String>, Option<String>) {
        let mut stream = TextStream::new(stops.iter().map(ToString::to_string).collect());
        let mut shown = Vec::new();
        let mut came = 0;
        for piece in pieces {
            let now = stream.push(piece);
            came += piece.len();
            shown.push(now.text);
            if now.stop.is_some() {
                assert_eq!(stream.shown(), stream.taken());
                return (shown, now.stop);
            }
            assert_eq!(stream.taken(), came);
            assert!(stream.shown() <= came);
        }
        shown.push(stream.end());
        assert_eq!(stream.shown(), came);
        (shown, None)
    }

    /// What is to be shown in all: up to the first stop string to be complete, of those the longest.
    fn expected(bytes: &[u8], stops: &[&str]) -> (String, Option<String>) {
        for end in 1..=bytes.len() {
            let ends = stops.iter().filter(|stop| !stop.is_empty());
            let ends = ends.filter(|stop| bytes[..end].ends_with(stop.as_bytes()));
            if let Some(stop) = ends.max_by_key(|stop| stop.len()) {
                let text = String::from_utf8_lossy(&bytes[..end - stop.len()]);
                return (text.into_owned(), Some(stop.to_string()));
            }
        }
        (String::from_utf8_lossy(bytes).into_owned(), None)
    }

    /// The bytes, cut where `cuts` says.
    fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        at.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
    }

    const STOPS: [&str; 9] = ["a", "ab", "bab", "abab\n", "é", "é—b", "—", "🚢a", "\n\n"];

    /// Text and bytes that are none, from few different ones, so that stop strings come often.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let text = proptest::sample::select(vec!["a", "b", "\n", "é", "—", "🚢", "漢"]);
        let part = prop_oneof![
            8 => text.prop_map(|text| text.as_bytes().to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 1..4),
            1 => Just("🚢".as_bytes()[..2].to_vec()),
        ];
        proptest::collection::vec(part, 0..30).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn what_is_shown_depends_on_the_bytes_alone(
            bytes in bytes(),
            cuts in proptest::collection::vec(any::<usize>(), 0..40),
            stops in proptest::sample::subsequence(&STOPS, 0..4),
        ) {
            let (shown, stop) = run(cut(&bytes, &cuts), &stops);
            prop_assert_eq!((shown.concat(), stop), expected(&bytes, &stops));
        }

        #[test]
        fn nothing_shown_is_taken_back_and_no_character_is_halved(
            text in "[ab\n]{0,6}[é—🚢漢ab\n]{0,30}",
            cuts in proptest::collection::vec(any::<usize>(), 0..40),
            stops in proptest::sample::subsequence(&STOPS, 0..4),
        ) {
            let (shown, _) = run(cut(text.as_bytes(), &cuts), &stops);
            prop_assert!(text.starts_with(&shown.concat()));
        }
    }

    #[test]
    fn characters_come_whole_however_they_are_cut() {
        let text = "Ünïcödé — 漢字 🚢!";
        for size in 1..text.len() {
            let (shown, _) = run(text.as_bytes().chunks(size), &[]);
            assert_eq!(shown.concat(), text);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_do_not_hold_up_the_rest() {
        let (shown, _) = run(b"a\xFFb\xE6\xBC".chunks(1), &[]);
        assert_eq!(shown, ["a", "\u{FFFD}", "b", "", "", "\u{FFFD}"]);
    }

    #[test]
    fn no_part_of_a_stop_string_is_ever_shown_wherever_it_is_cut() {
        let text = "one two STOP three";
        for cut in 0..text.len() {
            let (a, b) = text.as_bytes().split_at(cut);
            let (shown, stop) = run([a, b], &["STOP"]);
            assert_eq!(
                (shown.concat().as_str(), stop.as_deref()),
                ("one two ", Some("STOP"))
            );
        }
        let (shown, stop) = run(b"a ST b STO".chunks(1), &["STOP"]);
        assert_eq!((shown.concat().as_str(), stop), ("a ST b STO", None));
    }

    #[test]
    fn of_overlapping_stop_strings_the_first_to_be_complete_ends_the_answer() {
        for size in 1..6 {
            let run = |text: &'static str, stops: &[&str]| {
                let (shown, stop) = run(text.as_bytes().chunks(size), stops);
                (shown.concat(), stop.unwrap_or_default())
            };
            assert_eq!(run("xabcd", &["abcd", "bc"]), ("xa".into(), "bc".into()));
            // Two that end together: the longer one, of which nothing was shown either.
            assert_eq!(run("aab", &["ab", "aab"]), (String::new(), "aab".into()));
            assert_eq!(run("aaab", &["aab"]), ("a".into(), "aab".into()));
            assert_eq!(run("é—ü", &["—", ""]), ("é".into(), "—".into()));
        }
    }
}
