//! Where in shared memory each weight lies, and what of that is believed.
//!
//! A table comes from another process. None is used in which a weight lies beyond the memory, at an odd address, or
//! has a shape that is none; that two lie in one place harms nobody, since weights are only read.

use crate::models::LoadError;
use bulkhead_proto::internal::{Weight as Told, WeightKind, WeightTable};
use prost::Message;

/// The longest table, bytes. One of a thousand layers has half of it.
pub const TABLE_BYTES_MAX: u64 = 4 << 20;

/// What each weight's place is a multiple of, bytes: as the driver's own allocations are aligned.
const ALIGNMENT: usize = 256;
/// Bounds on what a table may say.
const WEIGHTS_MAX: usize = 1 << 16;
const NAME_BYTES_MAX: usize = 256;

/// How a weight's values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Single precision: norms, biases, and matrices that are not bfloat16 in the model's files.
    F32,
    /// The upper half of single precision.
    Bf16,
}

impl Values {
    /// Bytes of one.
    fn width(self) -> usize {
        match self {
            Values::F32 => 4,
            Values::Bf16 => 2,
        }
    }
}

/// A weight's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// How its values are written.
    pub kind: Values,
    /// One number or two, none of them 0.
    pub shape: Vec<usize>,
    /// Bytes from the memory's beginning.
    pub offset: usize,
}

impl Weight {
    /// How many values it has.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Where it ends; none if that is beyond all numbers.
    fn end(&self) -> Option<usize> {
        let bytes = (self.shape.iter()).try_fold(self.kind.width(), |all, n| all.checked_mul(*n));
        bytes?.checked_add(self.offset)
    }
}

/// All weights, in the order of laying them out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    weights: Vec<(String, Weight)>,
    end: usize,
}

impl Table {
    /// Adds a weight behind the last.
    pub(super) fn push(
        &mut self,
        name: String,
        kind: Values,
        shape: &[usize],
    ) -> Result<(), LoadError> {
        let too_large = || LoadError::bad("the model", "its weights are larger than any memory");
        let offset = self.end.checked_next_multiple_of(ALIGNMENT);
        let weight = Weight {
            kind,
            shape: shape.to_vec(),
            offset: offset.ok_or_else(too_large)?,
        };
        self.end = weight.end().ok_or_else(too_large)?;
        self.weights.push((name, weight));
        Ok(())
    }

    /// Bytes of memory that it is about.
    pub fn bytes(&self) -> usize {
        self.end
    }

    /// All weights and their names.
    pub fn weights(&self) -> impl Iterator<Item = (&str, &Weight)> {
        (self.weights.iter()).map(|(name, weight)| (name.as_str(), weight))
    }

    /// As bytes, to hand on.
    pub fn encode(&self) -> Vec<u8> {
        let told = |(name, weight): (&str, &Weight)| Told {
            name: name.to_owned(),
            kind: match weight.kind {
                Values::F32 => WeightKind::F32.into(),
                Values::Bf16 => WeightKind::Bf16.into(),
            },
            shape: weight.shape.iter().map(|size| *size as u64).collect(),
            offset: weight.offset as u64,
        };
        let weights = self.weights().map(told).collect();
        WeightTable { weights }.encode_to_vec()
    }

    /// From such bytes, about memory of this size.
    pub fn decode(bytes: &[u8], memory_bytes: u64) -> Result<Table, LoadError> {
        let bad = |cause: String| LoadError::bad("the table of shared weights", cause);
        let told = WeightTable::decode(bytes).map_err(|error| bad(error.to_string()))?;
        if told.weights.len() > WEIGHTS_MAX {
            return Err(bad(format!("it has more than {WEIGHTS_MAX} weights")));
        }
        let mut table = Table::default();
        for told in told.weights {
            let weight = checked(&told, memory_bytes).map_err(|why| {
                let name: String = told.name.chars().take(NAME_BYTES_MAX).collect();
                bad(format!("{name} {why}"))
            })?;
            table.end = table.end.max(weight.end().unwrap_or_default());
            table.weights.push((told.name, weight));
        }
        Ok(table)
    }
}

/// The weight that is told of, if it can be.
fn checked(told: &Told, memory_bytes: u64) -> Result<Weight, &'static str> {
    if told.name.len() > NAME_BYTES_MAX {
        return Err("has too long a name");
    }
    let kind = match WeightKind::try_from(told.kind) {
        Ok(WeightKind::F32) => Values::F32,
        Ok(WeightKind::Bf16) => Values::Bf16,
        Ok(WeightKind::Unspecified) | Err(_) => return Err("is of an unknown kind"),
    };
    let size = |size: &u64| usize::try_from(*size).ok().filter(|size| *size > 0);
    let shape: Option<Vec<usize>> = told.shape.iter().map(size).collect();
    let shape = shape.filter(|shape| (1..=2).contains(&shape.len()));
    let weight = Weight {
        kind,
        shape: shape.ok_or("has no shape of a vector or a matrix")?,
        offset: usize::try_from(told.offset).map_err(|_| "begins beyond all memory")?,
    };
    if !weight.offset.is_multiple_of(ALIGNMENT) {
        return Err("begins at an odd place");
    }
    match weight.end() {
        Some(end) if end as u64 <= memory_bytes => Ok(weight),
        _ => Err("ends beyond the memory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(kind: i32, shape: &[u64], offset: u64) -> Told {
        let (name, shape) = ("w".to_owned(), shape.to_vec());
        Told {
            name,
            kind,
            shape,
            offset,
        }
    }

    #[test]
    fn what_is_laid_out_is_found_again() {
        let mut table = Table::default();
        table.push("a".into(), Values::F32, &[3]).expect("small");
        table
            .push("b".into(), Values::Bf16, &[5, 7])
            .expect("small");
        let offsets: Vec<_> = table.weights().map(|(_, weight)| weight.offset).collect();
        assert_eq!((offsets, table.bytes()), (vec![0, 256], 256 + 70));
        let again = Table::decode(&table.encode(), 326).expect("it fits");
        assert_eq!(again, table);
        assert!(Table::decode(&table.encode(), 325).is_err());
        let huge = table.push("c".into(), Values::F32, &[usize::MAX, 2]);
        assert!(huge.is_err());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for bad in [
            told(0, &[1], 0),
            told(3, &[1], 0),
            told(1, &[], 0),
            told(1, &[0], 0),
            told(1, &[1, 1, 1], 0),
            told(1, &[1], 255),
            told(2, &[1], 1 << 20),
            told(1, &[u64::MAX], 0),
            told(1, &[1 << 33, 1 << 33], 0),
            told(1, &[1 << 62, 4], 0),
            told(1, &[1], u64::MAX - 255),
            Told {
                name: "n".repeat(257),
                ..told(1, &[1], 0)
            },
        ] {
            assert!(checked(&bad, 1 << 20).is_err(), "{bad:?}");
        }
        assert!(Table::decode(b"\xff\xff", 1).is_err());
        let many = vec![told(1, &[1], 0); WEIGHTS_MAX + 1];
        assert!(Table::decode(&WeightTable { weights: many }.encode_to_vec(), 256).is_err());
    }

    /// Numbers around those that matter, and any.
    fn number() -> impl Strategy<Value = u64> {
        const EDGES: &[u64] = &[
            0,
            1,
            2,
            255,
            256,
            257,
            4096,
            1 << 31,
            1 << 32,
            1 << 61,
            1 << 62,
            1 << 63,
            u64::MAX,
        ];
        prop_oneof![
            proptest::sample::select(EDGES),
            0..10_000u64,
            (0..100u64).prop_map(|nth| nth * 256),
            any::<u64>(),
        ]
    }

    proptest! {
        #[test]
        fn whatever_a_table_says_what_is_taken_lies_in_the_memory(
            kind in -1..4i32,
            shape in proptest::collection::vec(number(), 0..4),
            offset in number(),
            memory in number(),
        ) {
            let told = told(kind, &shape, offset);
            if let Ok(weight) = checked(&told, memory) {
                // In numbers that cannot overflow.
                let count: u128 = shape.iter().map(|n| u128::from(*n)).product();
                let width = if kind == 1 { 4 } else { 2 };
                prop_assert!(u128::from(offset) + count * width <= u128::from(memory));
                prop_assert!(count > 0 && offset % 256 == 0 && weight.count() as u128 == count);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Table::decode(&bytes, 1 << 30);
        }
    }
}
