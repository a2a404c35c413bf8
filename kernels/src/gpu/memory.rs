//! Reading memory back on the device, and canaries there.

use super::launch::{Argument, Launch, LaunchError, Shape, Span, SpanMut};

/// Enough blocks to fill any device, since these kernels stride.
const BLOCKS: u32 = 1024;
const THREADS: u32 = 256;

/// What the result of a search has to hold before the launch. Afterwards it is how often something was found,
/// and the least offset of it.
pub const NOTHING_FOUND: [u64; 2] = [0, u64::MAX];

/// A grid over `items` that are strided through.
fn over(items: usize) -> Shape {
    let blocks = items.div_ceil(THREADS as usize).clamp(1, BLOCKS as usize);
    Shape {
        grid: [blocks as u32, 1, 1],
        block: THREADS,
        shared_bytes: 0,
    }
}

fn is_pair(kernel: &'static str, result: &SpanMut<'_, u64>) -> Result<(), LaunchError> {
    LaunchError::unless(result.len() == 2, kernel, "the result is two numbers")
}

/// Counts bytes that are not zero, and says which is the first, into `result`, which holds [`NOTHING_FOUND`].
pub fn verify(
    on: &impl Launch,
    bytes: Span<'_, u8>,
    result: &mut SpanMut<'_, u64>,
) -> Result<(), LaunchError> {
    const KERNEL: &str = "verify_zero";
    is_pair(KERNEL, result)?;
    let shape = over(bytes.len() / 16);
    let arguments = &mut [
        bytes.into(),
        Argument::Size(bytes.len() as u64),
        result.as_argument(),
    ];
    // SAFETY: it reads these bytes and writes these two numbers.
    unsafe { on.launch(KERNEL, shape, arguments) }
}

/// Fills memory with the canary of `seed`, as [`crate::canary::fill`] does.
pub fn canary_fill(
    on: &impl Launch,
    bytes: &mut SpanMut<'_, u8>,
    seed: u64,
) -> Result<(), LaunchError> {
    let length = bytes.len() as u64;
    let arguments = &mut [bytes.as_argument(), length.into(), seed.into()];
    let shape = over(length as usize / 8);
    // SAFETY: it writes these bytes.
    unsafe { on.launch("canary_fill", shape, arguments) }
}

/// Counts where any of the first `words` words (8 bytes each) of the canary of `seed` stands, at any byte, and
/// says which place is the first, into `result`, which holds [`NOTHING_FOUND`].
pub fn canary_scan(
    on: &impl Launch,
    bytes: Span<'_, u8>,
    seed: u64,
    words: u64,
    result: &mut SpanMut<'_, u64>,
) -> Result<(), LaunchError> {
    const KERNEL: &str = "canary_scan";
    is_pair(KERNEL, result)?;
    let length = bytes.len() as u64;
    let arguments = &mut [
        bytes.into(),
        length.into(),
        seed.into(),
        words.into(),
        result.as_argument(),
    ];
    // SAFETY: it reads these bytes and writes these two numbers.
    unsafe { on.launch(KERNEL, over(bytes.len()), arguments) }
}
