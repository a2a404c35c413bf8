//! Attention over paged keys and values: how a batch is divided among blocks, checked before anything is launched.

use super::kv::{Blocks, Stored, holds};
use super::launch::{Launch, LaunchError, Shape, Span, SpanMut};
use crate::compute::paged::{Attention, BLOCK_TOKENS, Query};
use std::ops::Range;

const THREADS: u32 = 128;
/// Shared memory that every device lets a block have without being asked, floats.
const SHARED_FLOATS: usize = (48 << 10) / 4;
/// Lanes of a block at most: with more, the threads that keep the softmax wait for each other.
const LANES_MAX: usize = 16;
/// Numbers that a tile is told.
const TILE_NUMBERS: usize = 4;

/// Why a batch cannot be computed. A defect of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not even one lane fits.
    #[error("heads are {width} wide, and a block has no room for more than {SHARED_FLOATS} floats")]
    Width {
        /// Floats of a head.
        width: usize,
    },
    /// A position lies beyond its sequence's blocks.
    #[error("row {row} has a position beyond its blocks")]
    Position {
        /// Which row.
        row: usize,
    },
    /// More than the kernels count.
    #[error("there are more rows or blocks than kernels can count")]
    TooMany,
}

/// A batch as the kernels need it: where each row's keys and values go, the tables of its sequences, and its
/// tiles, one behind the other, so that one copy takes all of it to the device.
#[derive(Clone, Debug)]
pub struct Plan {
    numbers: Vec<u32>,
    rows: usize,
    tables: usize,
    blocks: usize,
    lanes: usize,
    together: usize,
    shared_by: usize,
    width: usize,
}

/// Floats of shared memory of a block with so many lanes.
fn shared_floats(width: usize, lanes: usize) -> usize {
    2 * BLOCK_TOKENS * width + lanes * (2 * width + BLOCK_TOKENS + 3)
}

impl Plan {
    /// For these rows, of heads `width` wide of which `shared_by` share a key-value head. Rows of one table whose
    /// positions follow each other are computed together.
    pub fn new(queries: &[Query<'_>], width: usize, shared_by: usize) -> Result<Self, PlanError> {
        let fit = |lanes: &usize| shared_floats(width, *lanes) <= SHARED_FLOATS;
        let Some(lanes_max) = (1..=LANES_MAX).rev().find(fit) else {
            return Err(PlanError::Width { width });
        };
        let together = shared_by.clamp(1, lanes_max);
        let mut plan = Plan {
            numbers: Vec::new(),
            rows: queries.len(),
            tables: 0,
            blocks: 0,
            lanes: 0,
            together,
            shared_by,
            width,
        };
        for (row, query) in queries.iter().enumerate() {
            let block = query.blocks.get(query.position / BLOCK_TOKENS);
            let block = *block.ok_or(PlanError::Position { row })?;
            plan.blocks = plan.blocks.max(block as usize + 1);
            let slot = (query.position % BLOCK_TOKENS) as u32;
            let place = block.checked_mul(BLOCK_TOKENS as u32);
            plan.numbers.push(place.ok_or(PlanError::TooMany)? + slot);
        }
        let mut tiles = Vec::new();
        let rows_max = lanes_max / together;
        let mut table: Option<(*const [u32], usize)> = None;
        for run in runs(queries, rows_max) {
            let (first, last) = (queries[run.start], queries[run.end - 1]);
            let needed = &first.blocks[..last.position / BLOCK_TOKENS + 1];
            // Tiles of one sequence follow each other and share its table, the longest of which is the last's.
            let whole = &first.blocks[..needed.len()];
            let start = match table {
                Some((of, start)) if std::ptr::addr_eq(of, first.blocks) => {
                    let known = plan.numbers.len() - start;
                    plan.numbers.extend(whole.iter().skip(known));
                    start
                }
                _ => {
                    let start = plan.numbers.len();
                    plan.numbers.extend(whole);
                    start
                }
            };
            table = Some((first.blocks, start));
            let highest = needed.iter().copied().max().unwrap_or(0);
            plan.blocks = plan.blocks.max(highest as usize + 1);
            plan.lanes = plan.lanes.max(run.len() * together);
            tiles.push([run.start, run.len(), start - plan.rows, first.position]);
        }
        plan.tables = plan.numbers.len() - plan.rows;
        for number in tiles.into_iter().flatten() {
            plan.numbers
                .push(u32::try_from(number).map_err(|_| PlanError::TooMany)?);
        }
        match i32::try_from(plan.numbers.len()) {
            Ok(_) => Ok(plan),
            Err(_) => Err(PlanError::TooMany),
        }
    }

    /// What has to be on the device.
    pub fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// Rows of the batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Tiles that they are divided into.
    pub fn tiles(&self) -> usize {
        (self.numbers.len() - self.rows - self.tables) / TILE_NUMBERS
    }

    /// Blocks that a pool needs to have all that are named.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    fn tile(&self, nth: usize) -> Option<&[u32]> {
        let tiles = &self.numbers[self.rows + self.tables..];
        tiles.get(nth * TILE_NUMBERS..(nth + 1) * TILE_NUMBERS)
    }
}

/// Divides queries into runs of one table and of positions that follow each other, `longest` at most.
fn runs<'q>(
    queries: &'q [Query<'q>],
    longest: usize,
) -> impl Iterator<Item = Range<usize>> + use<'q> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let first = queries.get(start)?;
        let follows = |(nth, query): &(usize, &Query<'_>)| {
            std::ptr::eq(query.blocks, first.blocks) && query.position == first.position + nth
        };
        let all = queries[start..].iter().take(longest).enumerate();
        let run = start..start + all.take_while(follows).count();
        start = run.end;
        Some(run)
    })
}

/// A plan whose numbers are on the device.
#[derive(Clone, Copy, Debug)]
pub struct Uploaded<'a> {
    pub(super) plan: &'a Plan,
    numbers: Span<'a, u32>,
}

impl<'a> Uploaded<'a> {
    /// Vouches for it.
    ///
    /// # Safety
    /// `numbers` holds [`Plan::numbers`] when a kernel reads it.
    pub unsafe fn new(plan: &'a Plan, numbers: Span<'a, u32>) -> Self {
        Uploaded { plan, numbers }
    }

    fn part(&self, range: Range<usize>) -> Span<'a, u32> {
        match self.numbers.part(range) {
            Some(part) => part,
            None => unreachable!("the numbers are the plan's"),
        }
    }

    /// Where each row goes.
    pub(super) fn places(&self) -> Span<'a, u32> {
        self.part(0..self.plan.rows)
    }

    /// The table of a tile's sequence, and how many of its positions are there once the tile is computed.
    pub(super) fn table_of(&self, tile: usize) -> Option<(Span<'a, u32>, usize)> {
        let tile = self.plan.tile(tile)?;
        let start = self.plan.rows + tile[2] as usize;
        let count = tile[3] as usize + tile[1] as usize;
        Some((
            self.part(start..start + count.div_ceil(BLOCK_TOKENS)),
            count,
        ))
    }
}

/// What attention finds for the plan's rows: `q` has their queries, all heads side by side, `stride` floats from
/// row to row, and `out` gets a row of all query heads for each.
pub fn attend<T: Stored>(
    on: &impl Launch,
    q: Span<'_, f32>,
    stride: usize,
    from: Span<'_, T>,
    how: &Attention,
    plan: &Uploaded<'_>,
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
    if of.rows == 0 {
        return Ok(());
    }
    let grid = [
        of.tiles() as u32,
        layout.heads as u32,
        of.shared_by.div_ceil(of.together) as u32,
    ];
    let shape = Shape {
        grid,
        block: THREADS,
        shared_bytes: (shared_floats(layout.width, of.lanes) * size_of::<f32>()) as u32,
    };
    let tables = of.rows..of.rows + of.tables;
    let tiles = tables.end..of.numbers.len();
    let arguments = &mut [
        q.into(),
        (stride as u64).into(),
        all.into(),
        (layout.block() as u64).into(),
        (layout.keys(0, layer, 0) as u64).into(),
        plan.part(tables).into(),
        plan.part(tiles).into(),
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
    // results of the plan's rows.
    unsafe { on.launch(T::ATTEND, shape, arguments) }
}
