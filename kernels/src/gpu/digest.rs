//! Digests of memory on the device, as [`crate::digest`] defines them.

use super::launch::{Device, Launch, LaunchError, Shape, Span, SpanMut, as_bytes, as_bytes_mut};
use crate::digest::{Key, LANES, PIECE_BYTES};

const KERNEL: &str = "digest";
/// Words of a piece.
const PIECE_WORDS: usize = PIECE_BYTES / size_of::<u64>();
/// Blocks for each multiprocessor: as many as it can run at once. The kernel strides.
const BLOCKS_EACH: usize = 8;
/// Shared memory of the sum over a block, bytes: a number for each warp.
const SUM_BYTES: u32 = 32 * 8;

/// The digest of each piece of these words, which nobody else writes meanwhile: what is written is in some digest or in
/// none. Takes 8 bytes of the device's memory for each piece while it runs. Waits.
pub fn digests<D: Device>(
    on: &D,
    words: Span<'_, u64>,
    key: &Key,
) -> Result<Vec<u64>, LaunchError> {
    let steps = on.upload(as_bytes(&key.steps()))?;
    let mut found = vec![0u64; words.len().div_ceil(PIECE_WORDS)];
    let mut out = on.upload(as_bytes(&found))?;
    launch(on, words, on.span(&steps), &mut on.span_mut(&mut out))?;
    on.download(&out, as_bytes_mut(&mut found))?;
    Ok(found)
}

fn launch(
    on: &impl Launch,
    words: Span<'_, u64>,
    steps: Span<'_, u64>,
    out: &mut SpanMut<'_, u64>,
) -> Result<(), LaunchError> {
    let pieces = words.len().div_ceil(PIECE_WORDS);
    let fits = steps.len() == LANES + 2 && out.len() == pieces;
    LaunchError::unless(fits, KERNEL, "there is a digest for each piece")?;
    if pieces == 0 {
        return Ok(());
    }
    let blocks = (on.multiprocessors().max(1) as usize).saturating_mul(BLOCKS_EACH);
    let shape = Shape {
        grid: [pieces.min(blocks) as u32, 1, 1],
        block: LANES as u32,
        shared_bytes: SUM_BYTES,
    };
    let length = words.len() as u64;
    let arguments = &mut [words.into(), length.into(), steps.into(), out.as_argument()];
    // SAFETY: it reads these words and steps, and writes a digest for each piece of the words.
    unsafe { on.launch(KERNEL, shape, arguments) }
}
