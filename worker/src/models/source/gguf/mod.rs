//! Reading GGUF: metadata by key, tensors by name.

mod container;

use super::{GGUF_FILE as FILE, Raw, Tensors};
use crate::models::LoadError;
use candle_core::quantized::gguf_file::Value;
use container::{Container, Entry, kind_of, name_of};

/// A parsed GGUF file in memory.
#[derive(Debug)]
pub struct Gguf<'a> {
    container: Container<'a>,
    bytes: &'a [u8],
}

fn bad(cause: impl ToString) -> LoadError {
    LoadError::bad(FILE, cause)
}

impl<'a> Gguf<'a> {
    /// Parses the header and the metadata.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LoadError> {
        let container = Container::parse(bytes).map_err(bad)?;
        Ok(Gguf { container, bytes })
    }

    /// A metadata entry that may be absent.
    fn get<T>(
        &self,
        key: &str,
        read: impl Fn(&Value) -> candle_core::Result<T>,
    ) -> Result<Option<T>, LoadError> {
        match self.container.metadata.get(key) {
            None => Ok(None),
            Some(Entry::One(value)) => read(value).map(Some).map_err(|_| wrong(key)),
            Some(Entry::List { .. }) => Err(wrong(key)),
        }
    }

    /// An integer that has to be there, from 1 to `max`.
    pub fn size(&self, key: &str, max: usize) -> Result<usize, LoadError> {
        let size = self
            .get(key, Value::to_u64)?
            .ok_or_else(|| bad(format!("it has no {key}")))?;
        match usize::try_from(size) {
            Ok(size) if (1..=max).contains(&size) => Ok(size),
            _ => Err(bad(format!("{key} is {size}, and 1 to {max} are possible"))),
        }
    }

    /// An integer that may be absent.
    pub fn number(&self, key: &str) -> Result<Option<u32>, LoadError> {
        let number = self.get(key, Value::to_u64)?;
        let number = number.map(|number| u32::try_from(number).map_err(|_| wrong(key)));
        number.transpose()
    }

    /// A float that may be absent.
    pub fn float(&self, key: &str) -> Result<Option<f32>, LoadError> {
        self.get(key, Value::to_f32)
    }

    /// A flag; absent is false.
    pub fn flag(&self, key: &str) -> Result<bool, LoadError> {
        Ok(self.get(key, Value::to_bool)?.unwrap_or(false))
    }

    /// A text that may be absent.
    pub fn text(&self, key: &str) -> Result<Option<String>, LoadError> {
        self.get(key, |value| value.to_string().cloned())
    }

    /// A list that has to be there.
    pub fn list<T>(
        &self,
        key: &str,
        read: impl Fn(&Value) -> candle_core::Result<T>,
    ) -> Result<Vec<T>, LoadError> {
        let entry = self.container.metadata.get(key);
        let entry = entry.ok_or_else(|| bad(format!("it has no {key}")))?;
        let Entry::List { kind, count, at } = entry else {
            return Err(wrong(key));
        };
        let mut reader = at.clone();
        (0..*count)
            .map(|_| {
                let value = reader.value(*kind).map_err(bad)?;
                read(&value).map_err(|_| wrong(key))
            })
            .collect()
    }

    /// True if the metadata has that key.
    pub fn has_key(&self, key: &str) -> bool {
        self.container.metadata.contains_key(key)
    }

    /// How many entries a list has; none if there is no such list.
    pub fn length(&self, key: &str) -> Option<usize> {
        match self.container.metadata.get(key)? {
            Entry::List { count, .. } => Some(*count),
            Entry::One(_) => None,
        }
    }
}

fn wrong(key: &str) -> LoadError {
    bad(format!("{key} is of the wrong kind"))
}

/// A file that is lent is never freed here, so a tensor can be read again.
impl Tensors for &Gguf<'_> {
    fn has(&self, name: &str) -> bool {
        self.container.tensors.contains_key(name)
    }

    fn raw<'s>(&'s mut self, name: &'s str, shape: &[usize]) -> Result<Raw<'s>, LoadError> {
        let info = self.container.tensors.get(name);
        let info = info.ok_or_else(|| bad(format!("it has no tensor {name}")))?;
        if info.shape != shape {
            let is = &info.shape;
            return Err(bad(format!("{name} is {is:?}, and {shape:?} is needed")));
        }
        let kind = kind_of(info.kind).ok_or_else(|| {
            let is = name_of(info.kind);
            bad(format!(
                "{name} is {is}; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K are \
                 supported"
            ))
        })?;
        Ok(Raw {
            kind,
            bytes: self.bytes.get(info.range.clone()).unwrap_or_default(),
            name,
            file: FILE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
    use candle_core::{Device, Tensor};
    use std::io::Cursor;

    /// A file as candle writes it: a matrix in 8 bits and a plain vector.
    fn file() -> Vec<u8> {
        let tensor = |count: usize, shape: &[usize], dtype| {
            let values: Vec<f32> = (0..count).map(|at| at as f32).collect();
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).expect("it fits");
            QTensor::quantize(&tensor, dtype).expect("it quantises")
        };
        let matrix = tensor(128, &[2, 64], GgmlDType::Q8_0);
        let vector = tensor(3, &[3], GgmlDType::F32);
        let names = Value::Array(vec![
            Value::String("x".into()),
            Value::String("yz\0".into()),
        ]);
        let metadata = [
            ("general.name", &Value::String("test".into())),
            ("sizes.layers", &Value::U32(7)),
            ("names", &names),
            ("flags", &Value::Array(vec![Value::Bool(true)])),
        ];
        let mut bytes = Cursor::new(Vec::new());
        gguf_file::write(&mut bytes, &metadata, &[("m", &matrix), ("v", &vector)])
            .expect("it writes");
        bytes.into_inner()
    }

    #[test]
    fn metadata_and_tensors_are_read() {
        let bytes = file();
        let gguf = Gguf::parse(&bytes).expect("it parses");
        assert_eq!(
            gguf.text("general.name").expect("a text"),
            Some("test".into())
        );
        assert_eq!(gguf.size("sizes.layers", 10).expect("a size"), 7);
        assert!(gguf.size("sizes.layers", 6).is_err());
        assert!(gguf.size("general.name", 6).is_err());
        assert_eq!(gguf.number("absent").expect("absent"), None);
        let names = gguf.list("names", |value| value.to_string().cloned());
        assert_eq!(names.expect("texts"), ["x", "yz"]);
        assert_eq!(gguf.length("flags"), Some(1));
        assert!(gguf.list("general.name", Value::to_u32).is_err());
        assert!(gguf.list("names", Value::to_u32).is_err());
        let mut tensors = &gguf;
        assert_eq!(tensors.vector("v", 3).expect("there"), [0.0, 1.0, 2.0]);
        assert_eq!(tensors.floats("m", &[2, 64]).expect("there").len(), 128);
        assert!(tensors.rows("m", 2, 64).is_ok());
        assert!(tensors.rows("m", 64, 2).is_err());
        assert!(tensors.vector("w", 3).is_err());
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_refused() {
        let bytes = file();
        // The writer pads behind the last tensor.
        let end = bytes.len() - (32 - 12);
        for keep in 0..end {
            assert!(Gguf::parse(&bytes[..keep]).is_err(), "{keep} bytes");
        }
    }

    #[test]
    fn whatever_byte_is_changed_there_is_an_answer() {
        let bytes = file();
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7F, 0x80, 0xFF] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let Ok(gguf) = Gguf::parse(&changed) else {
                    continue;
                };
                let mut tensors = &gguf;
                let _ = gguf.list("names", |value| value.to_string().cloned());
                let _ = tensors.vector("v", 3);
                let _ = tensors.rows("m", 2, 64);
            }
        }
    }

    /// A header with these counts, then these words.
    fn header(tensors: u64, entries: u64, rest: &[u8]) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(entries.to_le_bytes());
        bytes.extend(rest);
        bytes
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn refused(bytes: &[u8]) -> String {
        Gguf::parse(bytes).expect_err("refused").to_string()
    }

    #[test]
    fn lying_counts_lengths_and_shapes_are_refused() {
        for other in [&b""[..], b"hi", b"some text"] {
            assert!(refused(other).contains("no GGUF file"));
        }
        assert!(refused(&header(u64::MAX, 0, &[])).contains("cut short"));
        assert!(refused(&header(0, u64::MAX, &[])).contains("cut short"));
        assert!(refused(&header(0, 1, &words(&[u64::MAX, 1]))).contains("cut short"));
        let entry = |kind: u32, value: &[u8]| {
            let mut bytes = words(&[17]);
            bytes.extend(b"general.alignment");
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
            header(0, 1, &bytes)
        };
        // Lists of more than there is, of lists, of nothing known; an alignment of zero.
        let list = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &words(&[count])].concat();
        assert!(refused(&entry(9, &list(8, u64::MAX))).contains("cut short"));
        assert!(refused(&entry(9, &list(12, u64::MAX / 4))).contains("cut short"));
        assert!(refused(&entry(9, &list(9, 1))).contains("lists of lists"));
        assert!(refused(&entry(9, &list(77, 1))).contains("77"));
        assert!(refused(&entry(77, &[])).contains("77"));
        assert!(refused(&entry(4, &0u32.to_le_bytes())).contains("alignment"));
        assert!(Gguf::parse(&entry(4, &64u32.to_le_bytes())).is_ok());
        let tensor = |kind: u32, shape: &[u64], offset: u64| {
            let mut bytes = words(&[1]);
            bytes.extend(b"t");
            bytes.extend((shape.len() as u32).to_le_bytes());
            bytes.extend(words(shape));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(words(&[offset]));
            bytes
        };
        let one = |kind, shape: &[u64], offset| {
            let mut bytes = header(1, 0, &tensor(kind, shape, offset));
            bytes.resize(512, 0);
            bytes
        };
        assert!(Gguf::parse(&one(0, &[32], 0)).is_ok());
        assert!(refused(&one(0, &[u64::MAX, u64::MAX], 0)).contains("impossible shape"));
        assert!(refused(&one(8, &[33], 0)).contains("impossible shape"));
        assert!(refused(&one(0, &[1 << 40], 0)).contains("cut short"));
        assert!(refused(&one(0, &[32], u64::MAX)).contains("cut short"));
        assert!(refused(&one(0, &[1; 5], 0)).contains("5 dimensions"));
        let twice = [tensor(0, &[32], 0), tensor(0, &[32], 64)].concat();
        let mut twice = header(2, 0, &twice);
        twice.resize(1024, 0);
        assert!(refused(&twice).contains("inside another"));
    }

    #[test]
    fn formats_that_cannot_be_read_are_refused_by_name() {
        let mut bytes = file();
        let at = bytes
            .windows(9)
            .position(|window| window == b"\x01\0\0\0\0\0\0\0v")
            .expect("the vector");
        // Behind the name, the number of dimensions and the only one.
        bytes[at + 9 + 4 + 8] = 23;
        let gguf = Gguf::parse(&bytes).expect("only reading it is refused");
        let error = (&gguf).vector("v", 3).expect_err("refused").to_string();
        assert!(
            error.contains("IQ4_XS") && error.contains("Q2_K to Q6_K"),
            "{error}"
        );
    }
}
