//! What a model takes once it is loaded, reckoned from what its files say of themselves.
//!
//! The worker keeps a matrix in tiles of 32 outputs, quantised ones in groups of 32 inputs with a scale
//! and an offset each; so the bytes of each are known without reading it. What a running worker reports
//! is measured; this is for the choice of a model before it runs.

use super::families::Sizes;

/// Outputs of a tile, and inputs of a group.
const TILE: u64 = 32;
const GROUP: u64 = 32;
/// A scale and an offset, f32 each.
const GROUP_BYTES: u64 = 8;

/// How a weights file keeps the values of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Plain, in this many bits: 16-bit numbers stay so, wider ones become 32.
    Plain { bits: u64 },
    /// Quantised: to the bits that the worker keeps, 4 or 8.
    Quantised { bits: u64 },
}

/// One tensor, as its file announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Outermost first: rows (outputs), then columns (inputs).
    pub shape: Vec<u64>,
    pub kept: Kept,
}

/// What a model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Cost {
    /// Weights, once for each worker that does not share them, bytes.
    pub weights_bytes: u64,
    /// Keys and values of one token of one sequence, bytes; 0 for embeddings.
    pub kv_bytes_per_token: u64,
}

/// What a model with these sizes and tensors takes.
pub fn of(sizes: &Sizes, tensors: &[Tensor]) -> Cost {
    let weights = tensors.iter().map(loaded_bytes);
    let kv = match sizes.family.task() {
        super::Task::Embed => 0,
        // A key and a value per layer and head, f32.
        super::Task::Generate => 2 * 4 * sizes.layers * sizes.kv_heads * sizes.head_width,
    };
    Cost {
        weights_bytes: weights.fold(0, u64::saturating_add),
        kv_bytes_per_token: kv,
    }
}

/// Bytes of one tensor as the worker keeps it.
fn loaded_bytes(tensor: &Tensor) -> u64 {
    let count = tensor
        .shape
        .iter()
        .fold(1, |all: u64, n| all.saturating_mul(*n));
    let [outputs, inputs] = tensor.shape[..] else {
        // Norms and biases are f32.
        return count.saturating_mul(4);
    };
    let weights = outputs.next_multiple_of(TILE).saturating_mul(inputs);
    match tensor.kept {
        Kept::Plain { bits } => weights.saturating_mul(bits / 8),
        Kept::Quantised { bits } => {
            let groups = weights / GROUP;
            (weights.saturating_mul(bits) / 8).saturating_add(groups.saturating_mul(GROUP_BYTES))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::families::Family;
    use super::*;
    use proptest::prelude::*;

    fn tensor(shape: &[u64], kept: Kept) -> Tensor {
        Tensor {
            shape: shape.into(),
            kept,
        }
    }

    #[test]
    fn matrices_are_padded_and_quantised_ones_carry_scales() {
        let plain = Kept::Plain { bits: 32 };
        assert_eq!(loaded_bytes(&tensor(&[33], plain)), 33 * 4);
        assert_eq!(loaded_bytes(&tensor(&[33, 64], plain)), 64 * 64 * 4);
        assert_eq!(
            loaded_bytes(&tensor(&[32, 64], Kept::Plain { bits: 16 })),
            32 * 64 * 2
        );
        let quantised = |bits| loaded_bytes(&tensor(&[32, 64], Kept::Quantised { bits }));
        assert_eq!(quantised(4), 32 * 64 / 2 + 64 * 8);
        assert_eq!(quantised(8), 32 * 64 + 64 * 8);
    }

    /// SmolLM2-135M: 30 layers, 3 heads of 64 for keys and values.
    #[test]
    fn keys_and_values_cost_what_the_worker_says() {
        let sizes = |family| Sizes {
            family,
            layers: 30,
            kv_heads: 3,
            head_width: 64,
        };
        assert_eq!(of(&sizes(Family::Llama), &[]).kv_bytes_per_token, 46_080);
        assert_eq!(of(&sizes(Family::Bert), &[]).kv_bytes_per_token, 0);
    }

    proptest! {
        /// Whatever a header claims, the answer is a number.
        #[test]
        fn no_claim_overflows(shape in proptest::collection::vec(0..=1u64 << 40, 0..4), bits in 4u64..=32) {
            loaded_bytes(&tensor(&shape, Kept::Plain { bits }));
            loaded_bytes(&tensor(&shape, Kept::Quantised { bits }));
        }
    }
}
