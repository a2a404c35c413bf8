//! Searching a process's memory for traces of a prompt: its text, and its token ids.
//!
//! Text is looked for in pieces, so that a copy of which half was overwritten is found too; ids as
//! 32-bit and 64-bit little-endian numbers, the two widths in which models take them.

use crate::process;
use memchr::memmem::Finder;

/// Bytes of each piece of a text that is searched by itself. Any run of 16 bytes of the text holds
/// one of these pieces whole.
const PIECE: usize = 8;
/// A trace of a text is this many bytes of it in a row.
const TRACE: usize = 16;

/// What is looked for.
pub struct Traces {
    texts: Vec<Vec<u8>>,
    ids: Vec<Vec<u8>>,
}

impl Traces {
    /// Any 16 bytes in a row of `text`, and all of `ids` in a row.
    pub fn of(text: &str, ids: &[u32]) -> Traces {
        assert!(
            text.len() >= TRACE && text.len().is_multiple_of(PIECE),
            "a canary's length"
        );
        assert!(
            ids.is_empty() || ids.len() >= 8,
            "fewer ids could be there by chance"
        );
        let mut numbers = Vec::new();
        if !ids.is_empty() {
            numbers.push(ids.iter().flat_map(|id| id.to_le_bytes()).collect());
            let wide = ids.iter().map(|id| u64::from(*id));
            numbers.push(wide.flat_map(u64::to_le_bytes).collect());
        }
        Traces {
            texts: vec![text.as_bytes().to_vec()],
            ids: numbers,
        }
    }

    /// How often the memory of a process holds a trace.
    pub fn count_in(&self, pid: i32) -> usize {
        let longest = self
            .texts
            .iter()
            .chain(&self.ids)
            .map(Vec::len)
            .max()
            .unwrap_or(0);
        let mut places = 0;
        let read = process::read_memory(pid, longest, |piece| places += self.count(piece));
        read.unwrap_or_else(|e| panic!("reading the memory of {pid}: {e}"));
        places
    }

    fn count(&self, memory: &[u8]) -> usize {
        let texts = self.texts.iter().map(|text| text_traces(memory, text));
        let ids = self
            .ids
            .iter()
            .map(|ids| Finder::new(ids).find_iter(memory).count());
        texts.chain(ids).sum()
    }
}

fn text_traces(memory: &[u8], text: &[u8]) -> usize {
    let mut traces = 0;
    for at in (0..text.len()).step_by(PIECE) {
        let piece = Finder::new(&text[at..at + PIECE]);
        traces += piece
            .find_iter(memory)
            .filter(|found| run(memory, *found, text, at) >= TRACE)
            .count();
    }
    traces
}

/// Length of the run around `found` in which memory and text agree, `found` being where `at` is.
fn run(memory: &[u8], found: usize, text: &[u8], at: usize) -> usize {
    let before = memory[..found].iter().rev().zip(text[..at].iter().rev());
    let after = memory[found..].iter().zip(&text[at..]);
    before.take_while(|(a, b)| a == b).count() + after.take_while(|(a, b)| a == b).count()
}

/// A random text of 32 lower-case letters: no dictionary holds it, and no tokenizer changes it.
pub fn canary() -> String {
    crate::agent::random(32)
        .iter()
        .map(|b| char::from(b'a' + b % 26))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bytes_in_a_row_are_a_trace_and_fifteen_are_not() {
        let text: Vec<u8> = (b'a'..=b'z').chain(b'A'..=b'F').collect();
        for start in 0..=16 {
            let memory = [b"..", &text[start..start + 16], b".."].concat();
            assert!(text_traces(&memory, &text) > 0, "from {start}");
            let memory = [b"..", &text[start..start + 15], b".."].concat();
            assert_eq!(text_traces(&memory, &text), 0, "from {start}");
        }
    }

    #[test]
    fn a_process_finds_its_own_secrets() {
        let (text, ids) = (canary(), [7_000_001, 2, 3, 4, 5, 6, 7, 8_000_003]);
        let traces = Traces::of(&text, &ids);
        let wide: Vec<u64> = ids.iter().map(|id| u64::from(*id)).collect();
        let me = std::process::id().try_into().unwrap();
        assert!(traces.count_in(me) > 2);
        drop(wide);
    }
}
