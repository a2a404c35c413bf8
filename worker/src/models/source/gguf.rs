//! Reading GGUF: metadata by key, tensors as rows that can be packed.
//!
//! candle parses the container and the K-quants. The common 4 and 8 bit formats are taken over bit by
//! bit, since they are affine per 32 weights as our packed form is; the others become 8 bits per 32
//! weights, which moves no weight by more than 1/510 of its group's range.

use super::GGUF_FILE as FILE;
use crate::models::LoadError;
use bulkhead_kernels::compute::{GROUP, Rows};
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use std::io::Cursor;

/// A parsed GGUF file in memory.
pub struct Gguf<'a> {
    content: Content,
    bytes: &'a [u8],
}

fn bad(cause: impl ToString) -> LoadError {
    LoadError::bad(FILE, cause)
}

impl<'a> Gguf<'a> {
    /// Parses the header and the metadata.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LoadError> {
        let content = Content::read(&mut Cursor::new(bytes)).map_err(bad)?;
        Ok(Gguf { content, bytes })
    }

    fn value(&self, key: &str) -> Result<&Value, LoadError> {
        self.content
            .metadata
            .get(key)
            .ok_or_else(|| bad(format!("it has no {key}")))
    }

    /// A metadata entry that may be absent.
    fn get<T>(
        &self,
        key: &str,
        read: impl Fn(&Value) -> candle_core::Result<T>,
    ) -> Result<Option<T>, LoadError> {
        let value = self.content.metadata.get(key);
        let read = |value| read(value).map_err(|_| bad(format!("{key} is of the wrong kind")));
        value.map(read).transpose()
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
        self.get(key, Value::to_u32)
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
        let wrong = |_| bad(format!("{key} is of the wrong kind"));
        let values = self.value(key)?.to_vec().map_err(wrong)?;
        values
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map_err(wrong)
    }

    /// True if there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<QTensor, LoadError> {
        // Checked before reading, so that no size but the expected is ever allocated.
        let info = self.content.tensor_infos.get(name);
        let info = info.ok_or_else(|| bad(format!("it has no tensor {name}")))?;
        if info.shape.dims() != shape {
            return Err(bad(format!(
                "{name} is {:?}, and {shape:?} is needed",
                info.shape.dims()
            )));
        }
        let mut reader = Cursor::new(self.bytes);
        self.content
            .tensor(&mut reader, name, &Device::Cpu)
            .map_err(|error| bad(format!("{name}: {error}")))
    }

    /// A vector as f32.
    pub fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        plain(&self.tensor(name, &[length])?).map_err(|error| bad(format!("{name}: {error}")))
    }

    /// A matrix as rows to pack.
    pub fn rows(&self, name: &str, outputs: usize, inputs: usize) -> Result<Rows, LoadError> {
        let tensor = self.tensor(name, &[outputs, inputs])?;
        let fail = |error: candle_core::Error| bad(format!("{name}: {error}"));
        let rows = match tensor.dtype() {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {
                Rows::F32(plain(&tensor).map_err(fail)?)
            }
            GgmlDType::Q4_0 => q4_0(&tensor.data().map_err(fail)?),
            GgmlDType::Q4_1 => q4_1(&tensor.data().map_err(fail)?),
            GgmlDType::Q8_0 => q8_0(&tensor.data().map_err(fail)?),
            _ => requantise(&plain(&tensor).map_err(fail)?),
        };
        Ok(rows)
    }
}

fn plain(tensor: &QTensor) -> candle_core::Result<Vec<f32>> {
    tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()
}

/// A half-precision number's value.
fn half(low: u8, high: u8) -> f32 {
    let bits = u32::from(u16::from_le_bytes([low, high]));
    let (sign, exponent, fraction) = (bits >> 15 << 31, bits >> 10 & 31, bits & 1023);
    let magnitude = match exponent {
        0 => fraction as f32 / (1 << 24) as f32,
        31 => f32::from_bits(0xFF << 23 | fraction << 13),
        _ => f32::from_bits((exponent + 112) << 23 | fraction << 13),
    };
    f32::from_bits(magnitude.to_bits() | sign)
}

/// 16 bytes of low nibbles (the first 16 weights) and high nibbles (the others).
fn nibbles(bytes: &[u8], q: &mut Vec<u8>) {
    q.extend(bytes.iter().map(|byte| byte & 15));
    q.extend(bytes.iter().map(|byte| byte >> 4));
}

fn q4_0(data: &[u8]) -> Rows {
    let (mut scale, mut offset, mut q) = (Vec::new(), Vec::new(), Vec::new());
    for block in data.as_chunks::<18>().0 {
        let d = half(block[0], block[1]);
        scale.push(d);
        offset.push(-8.0 * d);
        nibbles(&block[2..], &mut q);
    }
    Rows::Affine {
        scale,
        offset,
        q,
        bits: 4,
    }
}

fn q4_1(data: &[u8]) -> Rows {
    let (mut scale, mut offset, mut q) = (Vec::new(), Vec::new(), Vec::new());
    for block in data.as_chunks::<20>().0 {
        scale.push(half(block[0], block[1]));
        offset.push(half(block[2], block[3]));
        nibbles(&block[4..], &mut q);
    }
    Rows::Affine {
        scale,
        offset,
        q,
        bits: 4,
    }
}

fn q8_0(data: &[u8]) -> Rows {
    let (mut scale, mut offset, mut q) = (Vec::new(), Vec::new(), Vec::new());
    for block in data.as_chunks::<34>().0 {
        let d = half(block[0], block[1]);
        scale.push(d);
        offset.push(-128.0 * d);
        q.extend(block[2..].iter().map(|byte| byte ^ 0x80));
    }
    Rows::Affine {
        scale,
        offset,
        q,
        bits: 8,
    }
}

/// Any other format, from its values.
fn requantise(values: &[f32]) -> Rows {
    let (mut scale, mut offset, mut q) = (Vec::new(), Vec::new(), Vec::new());
    for group in values.chunks(GROUP) {
        let low = group.iter().copied().fold(f32::MAX, f32::min);
        let high = group.iter().copied().fold(f32::MIN, f32::max);
        let step = (high - low) / 255.0;
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        scale.push(step);
        offset.push(low);
        q.extend(group.iter().map(|x| ((x - low) * inverse).round() as u8));
    }
    Rows::Affine {
        scale,
        offset,
        q,
        bits: 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Tensor;

    #[test]
    fn halves_have_their_values() {
        for (bits, value) in [
            (0x3C00u16, 1.0),
            (0xC000, -2.0),
            (0x0001, 5.960_464_5e-8),
            (0x7BFF, 65504.0),
            (0, 0.0),
        ] {
            let [low, high] = bits.to_le_bytes();
            assert_eq!(half(low, high), value);
        }
        assert!(half(0x00, 0x7C).is_infinite() && half(0x01, 0x7C).is_nan());
    }

    #[test]
    fn each_format_taken_over_bit_by_bit_agrees_with_candle() {
        type Take = fn(&[u8]) -> Rows;
        let noise: Vec<f32> = (0..1024).map(|at| (at as f32 * 0.7).sin() * 3.0).collect();
        let tensor = Tensor::from_vec(noise, (4, 256), &Device::Cpu).expect("sizes agree");
        let take: [(GgmlDType, Take); 3] = [
            (GgmlDType::Q4_0, q4_0),
            (GgmlDType::Q4_1, q4_1),
            (GgmlDType::Q8_0, q8_0),
        ];
        for (dtype, take) in take {
            let quantised = QTensor::quantize(&tensor, dtype).expect("it quantises");
            let ours = take(&quantised.data().expect("on the CPU")).values();
            for (ours, theirs) in ours.iter().zip(plain(&quantised).expect("on the CPU")) {
                assert!(
                    (ours - theirs).abs() < 1e-5,
                    "{dtype:?}: {ours} is not {theirs}"
                );
            }
        }
    }

    #[test]
    fn other_formats_lose_less_than_a_step() {
        let noise: Vec<f32> = (0..64).map(|at| (at as f32 * 0.7).sin()).collect();
        for (ours, exact) in requantise(&noise).values().iter().zip(&noise) {
            assert!((ours - exact).abs() <= 2.0 / 510.0 + 1e-6);
        }
    }
}
