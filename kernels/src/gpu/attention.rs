//! Attention over paged keys and values, as a [`super::Plan`] divides it among blocks.

use super::kv::{Blocks, Stored, holds};
use super::launch::{Launch, LaunchError, Shape, Span, SpanMut};
use super::plan::{Uploaded, shared_floats};
use crate::compute::paged::Attention;

const THREADS: u32 = 128;
/// Threads of a block that puts parts of one row together: each has some numbers of some heads.
const JOIN_THREADS: u32 = 256;

/// What attention finds for the plan's rows: `q` has their queries, all heads side by side, and so many floats from
/// row to row; `out` gets a row of all query heads for each. `parts` is room for [`super::Plan::parts_floats`], of any
/// content.
pub fn attend<T: Stored>(
    on: &impl Launch,
    (q, stride): (Span<'_, f32>, usize),
    from: Span<'_, T>,
    how: &Attention,
    plan: &Uploaded<'_>,
    parts: &mut SpanMut<'_, f32>,
    out: &mut SpanMut<'_, f32>,
) -> Result<(), LaunchError> {
    let Blocks { all, layout, layer } = Blocks {
        all: from,
        layout: how.layout,
        layer: how.layer,
    };
    holds(T::ATTEND, (all.len(), layout, layer), plan)?;
    let of = plan.plan;
    let heads = layout.heads * of.shared_by;
    let width = heads * layout.width;
    let fits = layout.width == of.width && width <= stride && q.len() == of.rows * stride;
    LaunchError::unless(fits, T::ATTEND, "the queries are not those of the plan")?;
    let fits = out.len() == of.rows * width;
    LaunchError::unless(fits, T::ATTEND, "there is not as much room as queries")?;
    let fits = parts.len() >= of.parts_floats(heads);
    LaunchError::unless(fits, T::ATTEND, "there is not as much room as parts")?;
    if of.rows == 0 {
        return Ok(());
    }
    let shape = Shape {
        grid: [
            of.tiles() as u32,
            layout.heads as u32,
            of.shared_by.div_ceil(of.together) as u32,
        ],
        block: THREADS,
        shared_bytes: (shared_floats(layout.width, of.lanes) * size_of::<f32>()) as u32,
    };
    let tables = of.rows..of.rows + of.tables;
    let arguments = &mut [
        q.into(),
        (stride as u64).into(),
        all.into(),
        (layout.block() as u64).into(),
        (layout.keys(0, layer, 0) as u64).into(),
        plan.part(tables).into(),
        plan.part(of.joins_end()..of.numbers().len()).into(),
        parts.as_argument(),
        (of.part_rows as u32).into(),
        out.as_argument(),
        (width as u64).into(),
        (of.shared_by as u32).into(),
        (of.together as u32).into(),
        (layout.width as u32).into(),
        how.scale.into(),
        // A window that no sequence fills is none.
        how.window
            .map_or(0, |window| u32::try_from(window).unwrap_or(0))
            .into(),
    ];
    // SAFETY: it reads the queries, and blocks that the plan names, which are all in the pool, and writes the
    // results of the plan's rows, or the parts that there is room for.
    unsafe { on.launch(T::ATTEND, shape, arguments) }?;
    join(on, plan, parts, out, heads)
}

/// Puts together what tiles came to that were divided by spans.
fn join(
    on: &impl Launch,
    plan: &Uploaded<'_>,
    parts: &mut SpanMut<'_, f32>,
    out: &mut SpanMut<'_, f32>,
    heads: usize,
) -> Result<(), LaunchError> {
    const KERNEL: &str = "attend_join";
    let of = plan.plan;
    if of.joins == 0 {
        return Ok(());
    }
    let shape = Shape {
        grid: [of.joins as u32, of.part_rows as u32, 1],
        block: JOIN_THREADS,
        shared_bytes: 0,
    };
    let arguments = &mut [
        plan.part(of.rows + of.tables..of.joins_end()).into(),
        parts.as_argument(),
        (of.part_rows as u32).into(),
        out.as_argument(),
        ((heads * of.width) as u64).into(),
        (heads as u32).into(),
        (of.width as u32).into(),
    ];
    // SAFETY: it reads the parts, all of which were just written as far as rows go, and writes results of the
    // plan's rows.
    unsafe { on.launch(KERNEL, shape, arguments) }
}
