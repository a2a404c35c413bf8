//! What a request costs: the one price list of policies and metric.
//!
//! The linear cost of VTC (OSDI 2024). Here nothing is measured and nothing is weighted by tenant.

/// Price of one prompt token, `w_p` in the paper.
pub const INPUT_PRICE: u64 = 1;
/// Price of one token of output, `w_q` in the paper.
pub const OUTPUT_PRICE: u64 = 2;

/// The cost of `input` prompt tokens and `output` tokens of output.
pub fn cost(input: u32, output: u32) -> u64 {
    INPUT_PRICE * u64::from(input) + OUTPUT_PRICE * u64::from(output)
}
