//! The header of a GGUF file: its metadata, as far as it is needed, and which tensors it holds.
//!
//! The format is published with ggml (versions 2 and 3). Values are read one after the other and the
//! long ones are skipped, so that nothing is allocated that the file only claims.

use super::{
    cost::{Kept, Tensor},
    places::{self, Place},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};

/// Most entries of metadata, tensors, and dimensions of one tensor.
const ENTRIES_MAX: u64 = 1 << 16;
const DIMENSIONS_MAX: u32 = 4;
/// Longest key or kept text, bytes.
const TEXT_BYTES_MAX: u64 = 1 << 16;
/// The whole header at most, bytes: vocabularies are of a few megabytes.
const HEADER_BYTES_MAX: u64 = 256 << 20;
/// Lists in lists.
const DEPTH_MAX: u32 = 2;
/// Where tensors start, unless the file says otherwise, bytes.
const ALIGNMENT: u64 = 32;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("is no GGUF file that can be used: {0}")]
    Header(String),
    #[error("is cut short: {has} of {needs} bytes are there; fetch it again")]
    Short { has: u64, needs: u64 },
}

/// What a header says.
#[derive(Debug, Default)]
pub struct Header {
    numbers: BTreeMap<String, u64>,
    texts: BTreeMap<String, String>,
    lists: BTreeSet<String>,
    pub tensors: Vec<Tensor>,
}

impl Header {
    /// A whole number of the metadata.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.numbers.get(key).copied()
    }

    /// True if the metadata has a list of that name.
    pub fn has_list(&self, key: &str) -> bool {
        self.lists.contains(key)
    }

    /// A text of the metadata.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.texts.get(key).map(String::as_str)
    }
}

/// The header of the file of `bytes` bytes behind `reader`.
pub fn header(reader: impl Read, bytes: u64) -> Result<Header, GgufError> {
    let mut walk = Walk {
        reader: reader.take(HEADER_BYTES_MAX),
        at: 0,
    };
    let read = walk.header(bytes);
    match read {
        // The file ended inside its header.
        Err(GgufError::Read(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Err(GgufError::Short {
                has: bytes,
                needs: walk.at.max(bytes) + 1,
            })
        }
        other => other,
    }
}

struct Walk<R> {
    reader: R,
    /// Bytes read so far.
    at: u64,
}

fn wrong<T>(what: impl Into<String>) -> Result<T, GgufError> {
    Err(GgufError::Header(what.into()))
}

impl<R: Read> Walk<R> {
    fn header(&mut self, bytes: u64) -> Result<Header, GgufError> {
        if &self.bytes::<4>()? != b"GGUF" {
            return wrong("it does not begin with GGUF");
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return wrong(format!("version {version}; 2 and 3 are known"));
        }
        let (tensors, entries) = (self.u64()?, self.u64()?);
        if tensors > ENTRIES_MAX || entries > ENTRIES_MAX {
            return wrong("it claims too many entries");
        }
        let mut header = Header::default();
        for _ in 0..entries {
            let key = self.text()?;
            let kind = self.u32()?;
            self.value(&key, kind, &mut header, 0)?;
        }
        let mut places = Vec::new();
        for _ in 0..tensors {
            let (tensor, place) = self.tensor()?;
            header.tensors.push(tensor);
            places.push(place);
        }
        let end = places::end_of(places).map_err(GgufError::Header)?;
        let alignment = header.number("general.alignment").unwrap_or(ALIGNMENT);
        let alignment = alignment.clamp(1, 1 << 20);
        let needs = self.at.next_multiple_of(alignment).saturating_add(end);
        match needs > bytes {
            true => Err(GgufError::Short { has: bytes, needs }),
            false => Ok(header),
        }
    }

    /// Reads a value; keeps whole numbers, flags and short texts.
    fn value(
        &mut self,
        key: &str,
        kind: u32,
        to: &mut Header,
        depth: u32,
    ) -> Result<(), GgufError> {
        let number = match kind {
            0 | 1 | 7 => Some(u64::from(self.bytes::<1>()?[0])),
            2 | 3 => Some(u64::from(u16::from_le_bytes(self.bytes()?))),
            4 | 5 => Some(u64::from(self.u32()?)),
            10 | 11 => Some(self.u64()?),
            6 => self.skip(4)?,
            12 => self.skip(8)?,
            8 => {
                let length = self.u64()?;
                if length > TEXT_BYTES_MAX || depth > 0 {
                    self.skip(length)?
                } else {
                    let text = self.string(length)?;
                    to.texts.insert(key.into(), text);
                    None
                }
            }
            9 if depth < DEPTH_MAX => {
                let (kind, count) = (self.u32()?, self.u64()?);
                if depth == 0 {
                    to.lists.insert(key.into());
                }
                for _ in 0..count {
                    self.value(key, kind, to, depth + 1)?;
                }
                None
            }
            other => return wrong(format!("a value of the unknown kind {other}")),
        };
        if let Some(number) = number.filter(|_| depth == 0) {
            to.numbers.insert(key.into(), number);
        }
        Ok(())
    }

    /// A tensor, and where its bytes are behind the header.
    fn tensor(&mut self) -> Result<(Tensor, Place), GgufError> {
        let name = self.text()?;
        let named = |what: String| format!("tensor {:?} {what}", places::short(&name));
        let dimensions = self.u32()?;
        if dimensions > DIMENSIONS_MAX {
            return wrong(named(format!("has {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.u64()?);
        }
        // The file has the innermost first.
        shape.reverse();
        let (kind, offset) = (self.u32()?, self.u64()?);
        let Some((block, bytes, kept)) = quantisation(kind) else {
            return wrong(named(format!("is of the unknown kind {kind}")));
        };
        let count = shape.iter().fold(1, |all: u64, n| all.saturating_mul(*n));
        if shape.last().is_some_and(|row| row % block != 0) {
            let what =
                format!("of the shape {shape:?} has rows that are no whole blocks of {block}");
            return wrong(named(what));
        }
        let Some(end) = offset.checked_add((count / block).saturating_mul(bytes)) else {
            return wrong(named(format!(
                "is said to lie at {offset}, which no file reaches"
            )));
        };
        let place = Place {
            name,
            start: offset,
            end,
        };
        Ok((Tensor { shape, kept }, place))
    }

    fn text(&mut self) -> Result<String, GgufError> {
        let length = self.u64()?;
        if length > TEXT_BYTES_MAX {
            return wrong("a name without end");
        }
        self.string(length)
    }

    fn string(&mut self, length: u64) -> Result<String, GgufError> {
        let mut text = vec![0; length as usize];
        self.reader.read_exact(&mut text)?;
        self.at += length;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn skip(&mut self, bytes: u64) -> Result<Option<u64>, GgufError> {
        let skipped = io::copy(&mut (&mut self.reader).take(bytes), &mut io::sink())?;
        self.at += skipped;
        match skipped == bytes {
            true => Ok(None),
            false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }
}

/// Weights and bytes of a block of ggml's kind of this number, and how the worker keeps it: formats
/// of 4 bits with one scale per 32 stay so, all other quantised ones become 8 bits.
fn quantisation(kind: u32) -> Option<(u64, u64, Kept)> {
    let plain = |bits| Kept::Plain { bits };
    let quantised = |bits| Kept::Quantised { bits };
    Some(match kind {
        0 => (1, 4, plain(32)),
        1 | 30 => (1, 2, plain(16)),
        2 => (32, 18, quantised(4)),
        3 => (32, 20, quantised(4)),
        6 => (32, 22, quantised(8)),
        7 => (32, 24, quantised(8)),
        8 => (32, 34, quantised(8)),
        9 => (32, 40, quantised(8)),
        10 => (256, 84, quantised(8)),
        11 => (256, 110, quantised(8)),
        // Q4_K: the worker keeps its four bits.
        12 => (256, 144, quantised(4)),
        13 => (256, 176, quantised(8)),
        14 => (256, 210, quantised(8)),
        15 => (256, 292, quantised(8)),
        _ => return None,
    })
}

#[cfg(test)]
pub mod testing {
    //! A GGUF file made by hand, for tests.

    fn text(text: &str) -> Vec<u8> {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes
    }

    /// A model of `architecture` with one tensor of 64 x 32 in Q8_0, a list, and `more` numbers.
    pub fn file(architecture: &str, more: &[(&str, u32)]) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend((more.len() as u64 + 2).to_le_bytes());
        bytes.extend(text("general.architecture"));
        bytes.extend(8u32.to_le_bytes());
        bytes.extend(text(architecture));
        bytes.extend(text("tokenizer.ggml.tokens"));
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(8u32.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        bytes.extend([text("a"), text("b")].concat());
        for (key, number) in more {
            bytes.extend(text(key));
            bytes.extend(4u32.to_le_bytes());
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(text("token_embd.weight"));
        bytes.extend(2u32.to_le_bytes());
        bytes.extend([32u64, 64].map(u64::to_le_bytes).concat());
        bytes.extend(8u32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(32) + 64 * 34, 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Header, GgufError> {
        header(bytes, bytes.len() as u64)
    }

    #[test]
    fn metadata_and_tensors_are_read() {
        let found = read(&testing::file("llama", &[("llama.block_count", 7)])).unwrap();
        assert_eq!(found.text("general.architecture"), Some("llama"));
        assert_eq!(found.number("llama.block_count"), Some(7));
        assert_eq!(
            found.text("tokenizer.ggml.tokens"),
            None,
            "lists are skipped"
        );
        let tensor = &found.tensors[0];
        assert_eq!(
            (tensor.shape.as_slice(), tensor.kept),
            (&[64, 32][..], Kept::Quantised { bits: 8 })
        );
    }

    #[test]
    fn a_file_that_was_cut_short_says_so_wherever() {
        let whole = testing::file("llama", &[]);
        for cut in [0, 3, 10, 40, 100, whole.len() - 1] {
            let error = read(&whole[..cut]).unwrap_err();
            assert!(matches!(error, GgufError::Short { .. }), "{cut}: {error}");
        }
    }

    #[test]
    fn tensors_that_cannot_be_are_named() {
        let whole = testing::file("llama", &[]);
        let name = b"token_embd.weight";
        let at = (whole.windows(name.len()).position(|w| w == name)).unwrap() + name.len();
        // Dimensions, the sizes of two, kind, offset.
        let with = |skip: usize, bytes: &[u8]| {
            let mut file = whole.clone();
            file[at + skip..at + skip + bytes.len()].copy_from_slice(bytes);
            read(&file).unwrap_err().to_string()
        };
        for (error, part) in [
            (with(0, &9u32.to_le_bytes()), "9 dimensions"),
            (with(4, &33u64.to_le_bytes()), "no whole blocks of 32"),
            (with(4, &(u64::MAX - 31).to_le_bytes()), "cut short"),
            (with(24, &(1u64 << 40).to_le_bytes()), "cut short"),
            (with(20, &99u32.to_le_bytes()), "unknown kind 99"),
            (with(24, &u64::MAX.to_le_bytes()), "no file reaches"),
        ] {
            assert!(
                error.contains(part) && error.lines().count() == 1,
                "{error}"
            );
        }
    }

    proptest! {
        /// Whatever one byte of a file becomes, the answer is a header or an error.
        #[test]
        fn any_change_is_answered(at in 0usize..200, to in any::<u8>()) {
            let mut bytes = testing::file("llama", &[("llama.block_count", 7)]);
            bytes[at] = to;
            let _ = read(&bytes);
        }
    }
}
