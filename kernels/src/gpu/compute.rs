//! Norms and rotary positions.

use super::launch::{Launch, LaunchError, Shape, Span, SpanMut, count};

/// Threads of a block that goes over one row.
const ROW_THREADS: u32 = 256;
/// Threads of a block that goes over one head: heads are 64 to 256 wide.
const HEAD_THREADS: u32 = 64;
/// Shared memory of the sum over a block, bytes: a float for each warp.
const SUM_BYTES: u32 = 32 * 4;
/// `out = x / sqrt(mean(x²) + epsilon) * weight` for whole rows as wide as `weight`.
pub fn rms_norm(
    on: &impl Launch,
    x: Span<'_, f32>,
    weight: Span<'_, f32>,
    epsilon: f32,
    out: &mut SpanMut<'_, f32>,
) -> Result<(), LaunchError> {
    const KERNEL: &str = "rms_norm";
    let width = weight.len();
    let fits = width > 0 && x.len().is_multiple_of(width) && out.len() == x.len();
    LaunchError::unless(fits, KERNEL, "rows and result are of other widths")?;
    if x.is_empty() {
        return Ok(());
    }
    let shape = Shape {
        grid: [count(x.len() / width, KERNEL)?, 1, 1],
        block: ROW_THREADS,
        shared_bytes: SUM_BYTES,
    };
    let arguments = &mut [
        x.into(),
        weight.into(),
        out.as_argument(),
        1u32.into(),
        count(width, KERNEL)?.into(),
        (width as u64).into(),
        (width as u64).into(),
        epsilon.into(),
    ];
    // SAFETY: it reads the rows and the weight, and writes the result, which is as long as the rows.
    unsafe { on.launch(KERNEL, shape, arguments) }
}

/// The same in place for `heads` heads as wide as `weight` at the beginning of every row; rows are `stride` apart.
pub fn rms_norm_heads(
    on: &impl Launch,
    rows: &mut SpanMut<'_, f32>,
    stride: usize,
    heads: usize,
    weight: Span<'_, f32>,
    epsilon: f32,
) -> Result<(), LaunchError> {
    const KERNEL: &str = "rms_norm";
    let width = weight.len();
    let fits = width > 0 && heads > 0 && heads * width <= stride;
    LaunchError::unless(fits, KERNEL, "heads are wider than their row")?;
    // The last row may end with its heads.
    let tail = usize::from(rows.len() % stride >= heads * width);
    let whole = rows.len() / stride + tail;
    if whole == 0 {
        return Ok(());
    }
    let shape = Shape {
        grid: [count(whole * heads, KERNEL)?, 1, 1],
        block: HEAD_THREADS,
        shared_bytes: SUM_BYTES,
    };
    let arguments = &mut [
        rows.as_argument(),
        weight.into(),
        rows.as_argument(),
        count(heads, KERNEL)?.into(),
        count(width, KERNEL)?.into(),
        (stride as u64).into(),
        (stride as u64).into(),
        epsilon.into(),
    ];
    // SAFETY: it reads and writes the heads of rows that lie in `rows`.
    unsafe { on.launch(KERNEL, shape, arguments) }
}

/// How heads are turned.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// Heads at the beginning of each row that are turned.
    pub heads: usize,
    /// Width of a head.
    pub width: usize,
    /// Floats from row to row.
    pub stride: usize,
    /// Neighbouring dimensions turn together, and not one of the lower half with one of the upper.
    pub neighbours: bool,
}

/// Turns heads of whole rows in place. `turns` holds, for each row, cosine and sine of every pair, and is as
/// wide as a head.
pub fn rotate(
    on: &impl Launch,
    rows: &mut SpanMut<'_, f32>,
    turns: Span<'_, f32>,
    how: Rotation,
) -> Result<(), LaunchError> {
    const KERNEL: &str = "rotate";
    let Rotation {
        heads,
        width,
        stride,
        neighbours,
    } = how;
    let fits = width > 1 && heads > 0 && heads * width <= stride;
    LaunchError::unless(fits, KERNEL, "heads are wider than their row")?;
    let whole = rows.len() / stride;
    let fits = rows.len() == whole * stride && turns.len() == whole * width;
    LaunchError::unless(fits, KERNEL, "there are not as many turns as rows")?;
    if whole == 0 {
        return Ok(());
    }
    let shape = Shape {
        grid: [count(whole, KERNEL)?, 1, 1],
        block: ROW_THREADS,
        shared_bytes: 0,
    };
    let arguments = &mut [
        rows.as_argument(),
        turns.into(),
        count(heads, KERNEL)?.into(),
        count(width, KERNEL)?.into(),
        (stride as u64).into(),
        u32::from(neighbours).into(),
    ];
    // SAFETY: it writes heads of the rows, and reads a turn for each of their pairs.
    unsafe { on.launch(KERNEL, shape, arguments) }
}
