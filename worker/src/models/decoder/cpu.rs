//! A decoder on the CPU: the model, its threads, its scratch and its keys and values.

use super::kv::Kv;
use super::model::{Model, Scratch};
use super::{Decoder, Row, Shape};
use crate::engine::Scrubbed;
use crate::models::Compute;
use crate::models::scratch::sum;
use std::ops::Range;

/// The decoder that runs on this machine's processor.
#[derive(Debug)]
pub struct CpuDecoder {
    compute: Compute,
    model: Model,
    kv: Kv,
    scratch: Scratch,
}

impl CpuDecoder {
    /// Without memory for keys and values, until it is assigned.
    pub fn new(model: Model, compute: Compute) -> Self {
        CpuDecoder {
            kv: Kv::empty(model.layout()),
            compute,
            model,
            scratch: Scratch::default(),
        }
    }
}

impl Decoder for CpuDecoder {
    fn shape(&self) -> Shape {
        Shape {
            vocabulary: self.model.vocabulary(),
            context_tokens: self.model.context_tokens(),
            block_bytes: self.model.layout().block_bytes() as u64,
        }
    }

    fn assign(&mut self, quota_bytes: u64) -> u32 {
        let layout = self.model.layout();
        // Without memory for a pool every request is answered OVER_QUOTA, with numbers.
        self.kv = Kv::new(layout, quota_bytes).unwrap_or_else(|_| Kv::empty(layout));
        self.kv.blocks()
    }

    fn forward(&mut self, rows: &[Row], wanted: &[usize], tables: &[&[u32]]) -> &mut [f32] {
        let CpuDecoder {
            compute,
            model,
            kv,
            scratch,
        } = self;
        compute.run(|| model.forward(rows, wanted, tables, kv, scratch))
    }

    fn clean(&mut self, blocks: Range<u32>) -> Scrubbed {
        self.kv.clean(blocks)
    }

    /// Stacks are overwritten and cannot be read back.
    fn scrub(&mut self) -> Scrubbed {
        let stacks = Scrubbed {
            zeroed: self.compute.scrub_stacks(),
            ..Scrubbed::default()
        };
        sum(self.scratch.scrub(), stacks)
    }
}
