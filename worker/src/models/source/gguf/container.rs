//! The GGUF container: a header, metadata by key, and where each tensor is (as published at
//! github.com/ggml-org/ggml/blob/master/docs/gguf.md).
//!
//! Read here rather than by candle because a file is hostile until proven otherwise: lists stay in the
//! file until they are asked for instead of becoming values of many times their size, and nothing is
//! divided, multiplied or allocated by a number that was not checked.

use crate::models::source::Kind;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use std::collections::BTreeMap;
use std::ops::Range;

const MAGIC: &[u8] = b"GGUF";
/// Where no `general.alignment` says otherwise, bytes.
const ALIGNMENT_DEFAULT: usize = 32;
/// The largest alignment that a file may ask for, bytes.
const ALIGNMENT_MAX: usize = 1 << 20;
/// Dimensions of a tensor.
const DIMENSIONS_MAX: u32 = 4;
/// The number by which GGUF calls a list.
const LIST: u32 = 9;

/// A metadata entry.
#[derive(Debug)]
pub(super) enum Entry<'a> {
    /// One value.
    One(Value),
    /// Values of one kind, still as the file has them.
    List {
        kind: u32,
        count: usize,
        at: Reader<'a>,
    },
}

/// Where a tensor is, and what the file says of it.
#[derive(Debug)]
pub(super) struct Info {
    /// As ggml numbers it.
    pub(super) kind: u32,
    /// The last dimension is side by side.
    pub(super) shape: Vec<usize>,
    /// Of the file.
    pub(super) range: Range<usize>,
}

/// All that the header tells.
#[derive(Debug)]
pub(super) struct Container<'a> {
    pub(super) metadata: BTreeMap<&'a str, Entry<'a>>,
    pub(super) tensors: BTreeMap<&'a str, Info>,
}

impl<'a> Container<'a> {
    /// Parses everything before the tensors' data, and checks that those lie in the file, apart.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        if !bytes.starts_with(MAGIC) {
            return Err("it is no GGUF file".into());
        }
        let at = MAGIC.len();
        let mut reader = Reader { bytes, at };
        match reader.u32()? {
            2 | 3 => (),
            other => {
                return Err(format!(
                    "GGUF version {other} is not supported, 2 and 3 are"
                ));
            }
        }
        let (tensors, entries) = (reader.u64()?, reader.u64()?);
        let metadata = metadata(&mut reader, entries)?;
        let infos = infos(&mut reader, tensors)?;
        let start = reader.at.checked_next_multiple_of(alignment(&metadata)?);
        let start = start.ok_or_else(cut)?;
        let tensors = placed(infos, start, bytes.len())?;
        Ok(Container { metadata, tensors })
    }
}

fn cut() -> String {
    "it is cut short: fetch it again".into()
}

fn metadata<'a>(
    reader: &mut Reader<'a>,
    entries: u64,
) -> Result<BTreeMap<&'a str, Entry<'a>>, String> {
    let mut metadata = BTreeMap::new();
    for _ in 0..entries {
        let key = reader.name()?;
        let kind = reader.u32()?;
        let entry = match kind {
            LIST => reader.list()?,
            _ => Entry::One(reader.value(kind)?),
        };
        if metadata.insert(key, entry).is_some() {
            return Err(format!("it has {key} twice"));
        }
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<&str, Entry<'_>>) -> Result<usize, String> {
    let Some(entry) = metadata.get("general.alignment") else {
        return Ok(ALIGNMENT_DEFAULT);
    };
    let said = match entry {
        Entry::One(value) => value.to_u64().ok(),
        Entry::List { .. } => None,
    };
    said.and_then(|said| usize::try_from(said).ok())
        .filter(|said| (1..=ALIGNMENT_MAX).contains(said))
        .ok_or_else(|| "its general.alignment is none".into())
}

/// A tensor as it is listed: name, kind, shape, and how far into the data it begins.
type Listed<'a> = (&'a str, u32, Vec<usize>, u64);

fn infos<'a>(reader: &mut Reader<'a>, count: u64) -> Result<Vec<Listed<'a>>, String> {
    let mut infos = Vec::new();
    for _ in 0..count {
        let name = reader.name()?;
        let dimensions = reader.u32()?;
        if dimensions > DIMENSIONS_MAX {
            return Err(format!("{name} has {dimensions} dimensions"));
        }
        let mut shape = (0..dimensions)
            .map(|_| reader.size())
            .collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        infos.push((name, reader.u32()?, shape, reader.u64()?));
    }
    infos.sort_by_key(|(_, _, _, offset)| *offset);
    Ok(infos)
}

/// Finds the tensors in the file. They come in order of their offsets.
fn placed(
    infos: Vec<Listed<'_>>,
    start: usize,
    file_bytes: usize,
) -> Result<BTreeMap<&str, Info>, String> {
    let mut tensors = BTreeMap::new();
    let mut free = start;
    for (name, kind, shape, offset) in infos {
        let count = shape
            .iter()
            .try_fold(1usize, |all, size| all.checked_mul(*size));
        // One of a kind that is not known is never read, so how long it is does not matter.
        let bytes = match kind_of(kind) {
            Some(kind) => count.and_then(|count| kind.bytes_of(count)),
            None => Some(0),
        };
        let bytes = bytes.ok_or_else(|| format!("{name} has an impossible shape, {shape:?}"))?;
        let at = usize::try_from(offset)
            .ok()
            .and_then(|at| at.checked_add(start));
        let end = at.and_then(|at| at.checked_add(bytes));
        let (Some(at), Some(end)) = (at, end.filter(|end| *end <= file_bytes)) else {
            return Err(format!("{name} ends behind the file's end, so {}", cut()));
        };
        if at < free {
            return Err(format!("{name} lies inside another tensor"));
        }
        free = end;
        let range = at..end;
        if tensors.insert(name, Info { kind, shape, range }).is_some() {
            return Err(format!("it has {name} twice"));
        }
    }
    Ok(tensors)
}

/// The kinds that can be read.
pub(super) fn kind_of(number: u32) -> Option<Kind> {
    Some(match number {
        0 => Kind::F32,
        1 => Kind::F16,
        2 => Kind::Blocks(GgmlDType::Q4_0),
        3 => Kind::Blocks(GgmlDType::Q4_1),
        6 => Kind::Blocks(GgmlDType::Q5_0),
        7 => Kind::Blocks(GgmlDType::Q5_1),
        8 => Kind::Blocks(GgmlDType::Q8_0),
        10 => Kind::Blocks(GgmlDType::Q2K),
        11 => Kind::Blocks(GgmlDType::Q3K),
        12 => Kind::Blocks(GgmlDType::Q4K),
        13 => Kind::Blocks(GgmlDType::Q5K),
        14 => Kind::Blocks(GgmlDType::Q6K),
        30 => Kind::Bf16,
        _ => return None,
    })
}

/// What ggml calls a kind that cannot be read.
pub(super) fn name_of(number: u32) -> String {
    let name = match number {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24..=27 => "an integer",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("of kind {number}"),
    };
    name.into()
}

/// A place in the file.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).ok_or_else(cut)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(cut)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| cut())
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn size(&mut self) -> Result<usize, String> {
        usize::try_from(self.u64()?).map_err(|_| cut())
    }

    fn string(&mut self) -> Result<&'a [u8], String> {
        let length = self.size()?;
        self.take(length)
    }

    fn name(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.string()?).map_err(|_| "a name in it is no text".into())
    }

    /// A value of a kind that is no list.
    pub(super) fn value(&mut self, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.array()?)),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => Value::Bool(u8::from_le_bytes(self.array()?) != 0),
            8 => {
                // Some files end their texts with a zero, and some cut a character in half.
                let text = String::from_utf8_lossy(self.string()?);
                Value::String(text.trim_end_matches('\0').to_owned())
            }
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("metadata of kind {other} is not known")),
        })
    }

    /// Passes over a list, checking that all of it is there.
    fn list(&mut self) -> Result<Entry<'a>, String> {
        let kind = self.u32()?;
        let count = self.size()?;
        let at = self.clone();
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                for _ in 0..count {
                    self.string()?;
                }
                0
            }
            LIST => return Err("lists of lists are not supported".into()),
            other => return Err(format!("a list of kind {other} is not known")),
        };
        self.take(count.checked_mul(width).ok_or_else(cut)?)?;
        Ok(Entry::List { kind, count, at })
    }
}
