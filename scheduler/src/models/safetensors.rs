//! The header of a safetensors file: which tensors it holds. The tensors themselves are not read.
//!
//! The format is 8 bytes of length, a JSON object, and the tensors' bytes, as published with the
//! safetensors library. Nothing is allocated that the file only claims.

use super::{
    cost::{Kept, Tensor},
    places::{self, Place},
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    io::{self, Read},
};

/// Longest header that is read, bytes. The library's own bound.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("is no safetensors file: {0}")]
    Header(String),
    #[error("is cut short: {has} of {needs} bytes are there; fetch it again")]
    Short { has: u64, needs: u64 },
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The tensors that the file of `bytes` bytes behind `reader` holds.
pub fn tensors(mut reader: impl Read, bytes: u64) -> Result<Vec<Tensor>, SafetensorsError> {
    let mut length = [0; 8];
    reader
        .read_exact(&mut length)
        .map_err(|_| SafetensorsError::Short {
            has: bytes,
            needs: 8,
        })?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX {
        let what = format!("its header would be of {length} bytes");
        return Err(SafetensorsError::Header(what));
    }
    if length + 8 > bytes {
        return Err(SafetensorsError::Short {
            has: bytes,
            needs: length + 8,
        });
    }
    let mut header = Vec::new();
    reader.take(length).read_to_end(&mut header)?;
    let wrong = |e: serde_json::Error| SafetensorsError::Header(e.to_string());
    let mut entries: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&header).map_err(wrong)?;
    entries.remove("__metadata__");
    let mut tensors = Vec::with_capacity(entries.len());
    let mut places = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let entry: Entry = serde_json::from_value(entry).map_err(wrong)?;
        places.push(place(name, &entry).map_err(SafetensorsError::Header)?);
        tensors.push(Tensor {
            kept: kept(&entry.dtype),
            shape: entry.shape,
        });
    }
    let end = places::end_of(places).map_err(SafetensorsError::Header)?;
    let needs = end.saturating_add(8 + length);
    if needs > bytes {
        return Err(SafetensorsError::Short { has: bytes, needs });
    }
    Ok(tensors)
}

/// Where a tensor's bytes are, if they are as many as its shape takes.
fn place(name: String, entry: &Entry) -> Result<Place, String> {
    let wrong = |what: String| format!("tensor {:?} {what}", places::short(&name));
    let Some(bits) = bits(&entry.dtype) else {
        let dtype: String = entry.dtype.chars().take(16).collect();
        return Err(wrong(format!("is of the unknown type {dtype:?}")));
    };
    let (start, end) = entry.data_offsets;
    let sizes = entry.shape.iter();
    let values = sizes.fold(1, |all: u64, n| all.saturating_mul(*n));
    let bytes = values.saturating_mul(bits) / 8;
    if end.checked_sub(start) != Some(bytes) {
        return Err(wrong(format!(
            "of the shape {:?} takes {bytes} bytes, and is said to lie from {start} to {end}",
            entry.shape
        )));
    }
    Ok(Place { name, start, end })
}

/// Bits of one value. The format's own names.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" => 64,
        _ => return None,
    })
}

fn kept(dtype: &str) -> Kept {
    Kept::Plain {
        bits: if matches!(dtype, "F16" | "BF16") {
            16
        } else {
            32
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Tensor>, SafetensorsError> {
        tensors(bytes, bytes.len() as u64)
    }

    const ONE: &str = "{\"__metadata__\":{\"format\":\"pt\"},\
                       \"w\":{\"dtype\":\"BF16\",\"shape\":[2,4],\"data_offsets\":[0,16]}}";

    #[test]
    fn tensors_are_listed_without_being_read() {
        let found = read(&file(ONE, 16)).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].shape.as_slice(), found[0].kept),
            (&[2, 4][..], Kept::Plain { bits: 16 })
        );
    }

    #[test]
    fn a_file_that_was_cut_short_says_so() {
        let whole = file(ONE, 16);
        for cut in [0, 4, 8, 20, whole.len() - 1] {
            let error = read(&whole[..cut]).unwrap_err();
            assert!(
                matches!(error, SafetensorsError::Short { .. }),
                "{cut}: {error}"
            );
        }
    }

    #[test]
    fn a_claim_of_a_huge_header_allocates_nothing() {
        let mut bytes = file(ONE, 16);
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(read(&bytes), Err(SafetensorsError::Header(_))));
    }

    #[test]
    fn tensors_that_cannot_be_are_named() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            let header = format!(
                "{{\"w\":{{\"dtype\":{dtype:?},\"shape\":{shape},\"data_offsets\":{offsets}}},\
                 \"v\":{{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}}}"
            );
            read(&file(&header, 64)).unwrap_err().to_string()
        };
        let huge = "[18446744073709551615,18446744073709551615]";
        for (error, part) in [
            (one("F3", "[4]", "[8,24]"), "unknown type \"F3\""),
            (one("F32", "[4]", "[8,20]"), "takes 16 bytes"),
            (one("F32", "[4]", "[24,8]"), "from 24 to 8"),
            (one("F32", huge, "[8,24]"), "is said to lie"),
            (one("F32", "[4]", "[4,20]"), "share bytes"),
            (one("F32", "[4]", "[56,72]"), "cut short"),
            (one("F32", "[-4]", "[8,24]"), "invalid value"),
        ] {
            assert!(
                error.contains(part) && error.lines().count() == 1,
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&bytes);
            let _ = read(&file(&String::from_utf8_lossy(&bytes), 0));
        }
    }
}
