//! Keys and values into a pool's blocks, and out of them. The layout is that of [`crate::compute::paged`].

use super::launch::{Launch, LaunchError, Plain, Shape, Span, SpanMut};
use super::plan::Uploaded;
use crate::compute::paged::Layout;

const THREADS: u32 = 128;

/// A number of 16 bits as IEEE 754 has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct F16(pub u16);

/// The upper 16 bits of an f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

// SAFETY: they are integers.
unsafe impl Plain for F16 {}
// SAFETY: they are integers.
unsafe impl Plain for Bf16 {}

/// What keys and values can be kept as.
pub trait Stored: Plain {
    /// Kernels for it.
    const STORE: &'static str;
    /// The same.
    const GATHER: &'static str;
    /// The same.
    const ATTEND: &'static str;
}

impl Stored for f32 {
    const STORE: &'static str = "kv_store_f32";
    const GATHER: &'static str = "kv_gather_f32";
    const ATTEND: &'static str = "attend_f32";
}

impl Stored for F16 {
    const STORE: &'static str = "kv_store_f16";
    const GATHER: &'static str = "kv_gather_f16";
    const ATTEND: &'static str = "attend_f16";
}

impl Stored for Bf16 {
    const STORE: &'static str = "kv_store_bf16";
    const GATHER: &'static str = "kv_gather_bf16";
    const ATTEND: &'static str = "attend_bf16";
}

/// One layer of a pool's blocks, to read.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a, T> {
    /// The pool.
    pub all: Span<'a, T>,
    /// What its blocks hold.
    pub layout: Layout,
    /// Which layer.
    pub layer: usize,
}

/// One layer of a pool's blocks, to write.
#[derive(Debug)]
pub struct BlocksMut<'a, T> {
    /// The pool.
    pub all: SpanMut<'a, T>,
    /// What its blocks hold.
    pub layout: Layout,
    /// Which layer.
    pub layer: usize,
}

/// An error unless the layer is one of the layout's, and the pool has all blocks that a plan names.
pub(super) fn holds(
    kernel: &'static str,
    (len, layout, layer): (usize, Layout, usize),
    plan: &Uploaded<'_>,
) -> Result<(), LaunchError> {
    let fits = layer < layout.layers && layout.heads > 0 && layout.width > 0;
    LaunchError::unless(fits, kernel, "there is no such layer")?;
    let fits = plan.plan.blocks() <= len / layout.block();
    LaunchError::unless(fits, kernel, "the plan names blocks that are not there")
}

/// Puts keys and values of the plan's rows into its places. In each row of `rows`, `stride` apart, the keys of all
/// heads stand behind `skip` floats, and the values behind those.
pub fn store<T: Stored>(
    on: &impl Launch,
    rows: Span<'_, f32>,
    (stride, skip): (usize, usize),
    plan: &Uploaded<'_>,
    to: &mut BlocksMut<'_, T>,
) -> Result<(), LaunchError> {
    let layout = to.layout;
    holds(T::STORE, (to.all.len(), layout, to.layer), plan)?;
    let count = plan.plan.rows();
    let fits = skip + 2 * layout.heads * layout.width <= stride && rows.len() == count * stride;
    LaunchError::unless(fits, T::STORE, "there are not as many rows as places")?;
    if count == 0 {
        return Ok(());
    }
    let shape = Shape {
        grid: [count as u32, 1, 1],
        block: THREADS,
        shared_bytes: 0,
    };
    let arguments = &mut [
        rows.into(),
        (stride as u64).into(),
        (skip as u32).into(),
        plan.places().into(),
        to.all.as_argument(),
        (layout.block() as u64).into(),
        (layout.keys(0, to.layer, 0) as u64).into(),
        (layout.heads as u32).into(),
        (layout.width as u32).into(),
    ];
    // SAFETY: it reads the rows, and writes into blocks that the plan names, which are all in the pool.
    unsafe { on.launch(T::STORE, shape, arguments) }
}

/// Copies keys and values of a sequence out of their blocks: of every position up to the last that the `tile`-th
/// tile of the plan computes, a row of all heads.
pub fn gather<T: Stored>(
    on: &impl Launch,
    from: Blocks<'_, T>,
    plan: &Uploaded<'_>,
    tile: usize,
    keys: &mut SpanMut<'_, f32>,
    values: &mut SpanMut<'_, f32>,
) -> Result<(), LaunchError> {
    let layout = from.layout;
    holds(T::GATHER, (from.all.len(), layout, from.layer), plan)?;
    let Some((table, count)) = plan.table_of(tile) else {
        return LaunchError::unless(false, T::GATHER, "there is no such tile");
    };
    let floats = count * layout.heads * layout.width;
    let fits = keys.len() == floats && values.len() == floats;
    LaunchError::unless(fits, T::GATHER, "there is not as much room as positions")?;
    let shape = Shape {
        grid: [count as u32, 1, 1],
        block: THREADS,
        shared_bytes: 0,
    };
    let arguments = &mut [
        from.all.into(),
        (layout.block() as u64).into(),
        (layout.keys(0, from.layer, 0) as u64).into(),
        table.into(),
        0u32.into(),
        keys.as_argument(),
        values.as_argument(),
        (layout.heads as u32).into(),
        (layout.width as u32).into(),
    ];
    // SAFETY: it reads blocks that the plan names, which are all in the pool, and writes a row for each position.
    unsafe { on.launch(T::GATHER, shape, arguments) }
}
