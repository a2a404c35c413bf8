//! The decoder on this machine's processor: everything computed in place, in buffers that are kept and
//! scrubbed.

mod kv;
mod step;
mod weights;

use super::checkpoint::Checkpoint;
use super::model::Model;
use super::{Decoder, DeviceError, Given, Shape};
use crate::engine::Scrubbed;
use crate::models::scratch::sum;
use crate::models::{Compute, LoadError};
use bulkhead_worker_core::{GoOn, PassKind};
use kv::Kv;
use std::ops::Range;
use step::{CpuStep, Scratch};
use weights::Packed;

/// The decoder that runs on this machine's processor.
pub struct CpuDecoder {
    model: Model<Packed>,
    kv: Kv,
    scratch: Scratch,
    compute: Compute,
}

/// Weights that were read for the processor, and have no thread yet.
pub struct CpuModel(Model<Packed>);

impl CpuModel {
    /// Reads the weights. Starts no thread.
    pub fn load(checkpoint: Checkpoint<'_>) -> Result<Self, LoadError> {
        Model::load(checkpoint, &Packed).map(CpuModel)
    }
}

impl CpuDecoder {
    /// Without memory for keys and values, until it is assigned.
    pub fn new(model: CpuModel, compute: Compute) -> Self {
        CpuDecoder {
            kv: Kv::empty(model.0.config.layout()),
            model: model.0,
            scratch: Scratch::default(),
            compute,
        }
    }
}

impl Decoder for CpuDecoder {
    fn shape(&self) -> Shape {
        Shape {
            vocabulary: self.model.config.vocabulary,
            context_tokens: self.model.config.context_tokens,
            layers: self.model.config.layers,
            block_bytes: self.model.config.layout().block_bytes() as u64,
            weights_bytes: self.model.bytes(),
        }
    }

    fn assign(&mut self, quota_bytes: u64) -> u32 {
        let layout = self.model.config.layout();
        // What was there goes first: the two need not fit at once.
        self.kv = Kv::empty(layout);
        // Without memory for a pool every request is answered OVER_QUOTA, with numbers.
        if let Ok(kv) = Kv::new(layout, quota_bytes) {
            self.kv = kv;
        }
        self.kv.blocks()
    }

    fn advance(
        &mut self,
        kind: PassKind,
        given: Given<'_>,
        go_on: &mut GoOn<'_>,
    ) -> Result<Option<&mut [f32]>, DeviceError> {
        let CpuDecoder {
            model,
            kv,
            scratch,
            compute,
        } = self;
        let from = scratch.left(kind).take();
        let wanted = given.wanted.len();
        let stopped = compute.run(|| {
            let mut step = CpuStep::new(&model.config, given, kv, scratch);
            if let Some(stage) = from {
                step.resume(kind, stage);
            }
            let stopped = model.advance(&mut step, wanted > 0, from.unwrap_or(0), go_on)?;
            if stopped.is_some() {
                step.leave(kind);
            }
            Ok(stopped)
        })?;
        *scratch.left(kind) = stopped;
        if stopped.is_some() {
            return Ok(None);
        }
        Ok(Some(scratch.logits.take(wanted * model.config.vocabulary)))
    }

    fn keep(&mut self, kind: PassKind, rows: &[usize], answers: &[usize]) -> Scrubbed {
        let config = &self.model.config;
        let answering = *self.scratch.left(kind) == Some(config.layers);
        let kept = if answering { answers } else { rows };
        let scrubbed = self.scratch.keep(kind, kept, config.hidden);
        if rows.is_empty() {
            *self.scratch.left(kind) = None;
        }
        scrubbed
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
