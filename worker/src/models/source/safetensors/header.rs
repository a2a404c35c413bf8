//! The header of a safetensors file: which tensors there are, and where.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// Bytes of the length in front.
const LENGTH_BYTES: usize = 8;

/// What a header says of a tensor. Offsets count from the end of the header.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) data_offsets: (usize, usize),
}

/// The tensors that a file says it has, and where in the file the first one begins. They lie one
/// behind the other and fill the file: no byte is in two of them.
pub(super) fn header(bytes: &[u8]) -> Result<(usize, Vec<(String, Entry)>), String> {
    let cut = || "it is cut short: fetch it again".to_owned();
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>().ok_or_else(cut)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut())?;
    let (text, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let Entries(entries) =
        serde_json::from_slice(text).map_err(|error| format!("its header: {error}"))?;
    let mut entries: Vec<_> = entries.into_iter().collect();
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut end = 0;
    for (name, entry) in &entries {
        if entry.data_offsets.0 != end || entry.data_offsets.1 < end {
            return Err(format!("{name} does not begin where the one before ends"));
        }
        end = entry.data_offsets.1;
        if !entry.fits() {
            return Err(format!("{name} has not the bytes that its shape asks for"));
        }
    }
    match end == data.len() {
        true => Ok((LENGTH_BYTES + length, entries)),
        false if end > data.len() => Err(cut()),
        false => Err("it is longer than its tensors".to_owned()),
    }
}

impl Entry {
    /// True if shape and bytes agree; tensors of kinds that are never read need not.
    fn fits(&self) -> bool {
        let width = match self.dtype.as_str() {
            "F32" => 4,
            "F16" | "BF16" => 2,
            _ => return true,
        };
        let count = self
            .shape
            .iter()
            .try_fold(width, |all: usize, size| all.checked_mul(*size));
        count == Some(self.data_offsets.1 - self.data_offsets.0)
    }
}

/// A header's tensors; each name once.
struct Entries(BTreeMap<String, Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let entry = map.next_value()?;
            if entries.insert(name, entry).is_some() {
                return Err(A::Error::custom("two tensors have one name"));
            }
        }
        Ok(Entries(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_header(text: &str, data: usize) -> Vec<u8> {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn lying_headers_are_refused() {
        let entry = |dtype: &str, shape: &str, from: &str, to: &str| {
            format!(r#""dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]"#)
        };
        let one = |entry: String| format!(r#"{{"a":{{{entry}}}}}"#);
        let good = one(entry("F32", "[2]", "0", "8"));
        assert!(header(&with_header(&good, 8)).is_ok());
        let max = u64::MAX.to_string();
        for (lie, data) in [
            (good.clone(), 7),
            (good.clone(), 9),
            (one(entry("F32", "[3]", "0", "8")), 8),
            (one(entry("F32", "[2]", "4", "12")), 12),
            (one(entry("F32", "[2]", "8", "0")), 8),
            (one(entry("F32", &format!("[{max},{max}]"), "0", "8")), 8),
            (one(entry("F32", "[-2]", "0", "8")), 8),
            (one(entry("F32", "[2.5]", "0", "8")), 8),
            (one(entry("I8", "[1]", "0", &max)), 8),
            (
                format!(
                    r#"{{"a":{{{}}},"b":{{{}}}}}"#,
                    entry("F32", "[2]", "0", "8"),
                    entry("F32", "[2]", "0", "8")
                ),
                8,
            ),
            (
                format!(
                    r#"{{"a":{{{}}},"a":{{{}}}}}"#,
                    entry("F32", "[2]", "0", "8"),
                    entry("F32", "[2]", "8", "16")
                ),
                16,
            ),
            ("[]".into(), 0),
            ("[".repeat(10_000), 0),
        ] {
            assert!(header(&with_header(&lie, data)).is_err(), "{lie}");
        }
        assert!(header(&u64::MAX.to_le_bytes()).is_err());
        let whole = with_header(&good, 8);
        for keep in 0..whole.len() {
            assert!(header(&whole[..keep]).is_err(), "{keep} bytes");
        }
    }
}
