//! What is looked for, and what was found.
//!
//! A trace is any 16 bytes in a row of a secret, so that a copy of which half was overwritten is found too. Token ids
//! are looked for as 32-bit and 64-bit little-endian numbers, the two widths in which models take them. Some runs of
//! common words or small numbers lie in every such process, job or no job: a process that never saw the job says
//! which, and they are left out by the caller. Nothing here knows what a server is.

use crate::memory::read_memory;
use aho_corasick::{AhoCorasick, AhoCorasickKind};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read as _},
};

/// Bytes of each piece of a secret that is searched by itself. Any run of 16 bytes of the secret holds one of these
/// pieces whole.
const PIECE: usize = 8;
/// A trace is this many bytes of a secret in a row.
const TRACE: usize = 16;

/// Pieces that were found in memory as part of a trace: which secret's, and from where in it.
pub type Found = BTreeSet<(usize, usize)>;

/// What is looked for.
pub struct Traces {
    secrets: Vec<(&'static str, Vec<u8>)>,
    pieces: Vec<(usize, usize)>,
    finder: AhoCorasick,
}

/// What a job must not leave behind.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Vec<(&'static str, Vec<u8>)>);

impl Secrets {
    /// Any bytes; fewer than a trace hold none.
    pub fn bytes(mut self, what: &'static str, bytes: impl Into<Vec<u8>>) -> Secrets {
        let mut bytes = bytes.into();
        bytes.truncate(bytes.len() / PIECE * PIECE);
        if bytes.len() >= TRACE {
            self.0.push((what, bytes));
        }
        self
    }

    /// Token ids, in both widths.
    pub fn ids(self, what: &'static str, ids: &[u32]) -> Secrets {
        let narrow: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let wide = ids.iter().map(|id| u64::from(*id));
        let wide: Vec<u8> = wide.flat_map(u64::to_le_bytes).collect();
        self.bytes(what, narrow).bytes(what, wide)
    }

    /// How to find them.
    pub fn traces(self) -> Traces {
        let secrets = self.0;
        let places = |(which, (_, bytes)): (usize, &(&str, Vec<u8>))| {
            (0..bytes.len()).step_by(PIECE).map(move |at| (which, at))
        };
        let pieces: Vec<_> = secrets.iter().enumerate().flat_map(places).collect();
        let piece = |(which, at): &(usize, usize)| &secrets[*which].1[*at..*at + PIECE];
        let finder = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::DFA))
            .build(pieces.iter().map(piece));
        Traces {
            finder: finder.expect("a few thousand short patterns"),
            pieces,
            secrets,
        }
    }
}

impl Traces {
    /// Pieces that the secrets have.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// A piece with the one before and the one after it, for a person to judge whether it is one of a job's or a pair of
    /// numbers that lie anywhere.
    pub fn around(&self, (which, at): (usize, usize)) -> (&'static str, &[u8]) {
        let (what, bytes) = &self.secrets[which];
        let end = (at + 2 * PIECE).min(bytes.len());
        (what, &bytes[at.saturating_sub(PIECE)..end])
    }

    /// What the memory of a process holds of them. An error names the process and says what to do.
    pub fn found_in(&self, pid: i32) -> io::Result<Found> {
        let longest = self.secrets.iter().map(|(_, bytes)| bytes.len()).max();
        let mut found = Found::new();
        let read = read_memory(pid, longest.unwrap_or(0), |memory| {
            self.look(memory, &mut found);
        });
        let told = |error: io::Error| {
            let text = format!("reading the memory of process {pid}: {error}; it takes root");
            io::Error::new(error.kind(), text)
        };
        read.map(|()| found).map_err(told)
    }

    fn look(&self, memory: &[u8], found: &mut Found) {
        for hit in self.finder.find_overlapping_iter(memory) {
            let place = self.pieces[hit.pattern().as_usize()];
            let (which, at) = place;
            if run(memory, hit.start(), &self.secrets[which].1, at) >= TRACE {
                found.insert(place);
            }
        }
    }

    /// How many pieces of which kind of secret there are in `found`.
    pub fn tell(&self, found: &Found) -> BTreeMap<&'static str, usize> {
        let mut told = BTreeMap::new();
        for (which, _) in found {
            *told.entry(self.secrets[*which].0).or_default() += 1;
        }
        told
    }
}

/// Length of the run around `found` in which memory and secret agree, `found` being where `at` is.
fn run(memory: &[u8], found: usize, secret: &[u8], at: usize) -> usize {
    let before = memory[..found].iter().rev().zip(secret[..at].iter().rev());
    let after = memory[found..].iter().zip(&secret[at..]);
    before.take_while(|(a, b)| a == b).count() + after.take_while(|(a, b)| a == b).count()
}

/// A random text of 32 lower-case letters: no dictionary holds it, and no tokenizer changes it.
pub fn canary() -> io::Result<String> {
    let mut random = [0u8; 32];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let letters = random.iter().map(|b| char::from(b'a' + b % 26));
    Ok(letters.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bytes_in_a_row_are_a_trace_and_fifteen_are_not() {
        let text: Vec<u8> = (b'a'..=b'z').chain(b'A'..=b'F').collect();
        let traces = Secrets::default().bytes("text", text.clone()).traces();
        let count = |memory: &[u8]| {
            let mut found = Found::new();
            traces.look(memory, &mut found);
            found.len()
        };
        for start in 0..=16 {
            let memory = [b"..", &text[start..start + 16], b".."].concat();
            assert!(count(&memory) > 0, "from {start}");
            let memory = [b"..", &text[start..start + 15], b".."].concat();
            assert_eq!(count(&memory), 0, "from {start}");
        }
    }

    #[test]
    fn a_process_finds_its_own_secrets() {
        let (text, ids) = (canary().unwrap(), [7_000_001, 2, 3, 4, 5, 6, 7, 8_000_003]);
        let secrets = Secrets::default().bytes("text", text.clone());
        let traces = secrets.ids("ids", &ids).traces();
        let wide: Vec<u64> = ids.iter().map(|id| u64::from(*id)).collect();
        let me = std::process::id().try_into().unwrap();
        let found = traces.found_in(me).unwrap();
        assert_eq!(traces.tell(&found).keys().len(), 2, "{found:?}");
        assert!(found.len() <= traces.pieces());
        drop((text, wide));
    }

    #[test]
    fn what_is_too_short_to_be_a_trace_is_not_looked_for() {
        let secrets = Secrets::default().bytes("short", "fifteen bytes..");
        assert_eq!(secrets.traces().pieces(), 0);
    }
}
