//! How a batch is divided among blocks for attention over paged keys and values, checked before anything is launched.
//!
//! Where there are few tiles, each is divided by spans of positions too, so that few long sequences keep a whole
//! device busy; results are the same to the bit.

use super::launch::Span;
use crate::compute::paged::{BLOCK_TOKENS, Query};
use std::ops::Range;

/// Shared memory that every device lets a block have without being asked, floats.
const SHARED_FLOATS: usize = (48 << 10) / 4;
/// Lanes of a block at most: with more, the threads that keep the softmax wait for each other.
const LANES_MAX: usize = 16;
/// Numbers that a tile is told, and a tile whose spans are put together.
const TILE_NUMBERS: usize = 6;
const JOIN_NUMBERS: usize = 4;
/// Positions of a span, from a multiple of this on; as in paged.cu. It decides in which order sums are taken, so it
/// is the same on every device.
const SPAN: usize = 512;
/// What a tile is told that is not divided by spans.
const NO_SPAN: u32 = u32::MAX;
/// With more tiles than this none is divided: every head of every tile is a block, enough for any device.
const DIVIDED_MAX: usize = 64;

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
    pub(super) rows: usize,
    pub(super) tables: usize,
    pub(super) joins: usize,
    pub(super) parts: usize,
    pub(super) part_rows: usize,
    blocks: usize,
    pub(super) lanes: usize,
    pub(super) together: usize,
    pub(super) shared_by: usize,
    pub(super) width: usize,
}

/// Floats of shared memory of a block with so many lanes.
pub(super) fn shared_floats(width: usize, lanes: usize) -> usize {
    2 * BLOCK_TOKENS * width + lanes * (2 * width + BLOCK_TOKENS + 7)
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
            joins: 0,
            parts: 0,
            part_rows: 0,
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
        plan.divide(&tiles)?;
        match i32::try_from(plan.numbers.len()) {
            Ok(_) => Ok(plan),
            Err(_) => Err(PlanError::TooMany),
        }
    }

    /// Tells blocks their tiles, by spans where there are few tiles, and which of those are put together.
    fn divide(&mut self, tiles: &[[usize; 4]]) -> Result<(), PlanError> {
        let number = |number| u32::try_from(number).map_err(|_| PlanError::TooMany);
        let spans = |tile: &[usize; 4]| (tile[3] + tile[1] - 1) / SPAN + 1;
        let is_divided = |tile: &[usize; 4]| tiles.len() <= DIVIDED_MAX && spans(tile) > 1;
        let (mut told, mut joins) = (Vec::new(), Vec::new());
        for tile in tiles {
            let [first_row, rows, table, position] = *tile;
            let tile_numbers = [first_row, rows, table, position].map(number);
            let mut tell = |span, part| -> Result<(), PlanError> {
                for number in tile_numbers {
                    told.push(number?);
                }
                told.extend([span, part]);
                Ok(())
            };
            if !is_divided(tile) {
                tell(NO_SPAN, 0)?;
                continue;
            }
            for join in [first_row, rows, self.parts, spans(tile)] {
                joins.push(number(join)?);
            }
            for span in 0..spans(tile) {
                tell(number(span)?, number(self.parts + span)?)?;
            }
            self.parts += spans(tile);
            self.part_rows = self.part_rows.max(rows);
        }
        self.joins = joins.len() / JOIN_NUMBERS;
        self.numbers.extend(joins);
        self.numbers.extend(told);
        Ok(())
    }

    /// Floats of room that it needs for what spans come to, with so many query heads.
    pub fn parts_floats(&self, heads: usize) -> usize {
        self.parts * self.part_rows * heads * (self.width + 2)
    }

    /// What has to be on the device.
    pub fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// Rows of the batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Tiles that they are divided into, each of a divided one's spans counted.
    pub fn tiles(&self) -> usize {
        (self.numbers.len() - self.joins_end()) / TILE_NUMBERS
    }

    /// Where tiles begin among the numbers, behind the joins.
    pub(super) fn joins_end(&self) -> usize {
        self.rows + self.tables + self.joins * JOIN_NUMBERS
    }

    /// Blocks that a pool needs to have all that are named.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    fn tile(&self, nth: usize) -> Option<&[u32]> {
        let tiles = &self.numbers[self.joins_end()..];
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

    /// Some of the numbers.
    pub(super) fn part(&self, range: Range<usize>) -> Span<'a, u32> {
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
