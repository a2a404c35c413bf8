//! The decoder on any of candle's devices, by candle's own operations.
//!
//! On the processor it is an independent twin of [`super::cpu`], which tests compare; on a GPU one with kernels
//! of our own computes, with the same weights. Nothing that it allocates is kept from one step to the
//! next but weights, keys and values: what candle frees, the worker's allocator zeroes.

mod kv;
mod step;
pub(super) mod weights;

use super::checkpoint::Checkpoint;
use super::model::Model;
use super::names::Names;
use super::{Config, Decoder, DeviceError, FromTable, Given, Mapped, Shape};
use crate::engine::Scrubbed;
use crate::models::LoadError;
use crate::models::scratch::Buffer;
use bulkhead_worker_core::{GoOn, PassKind};
use candle_core::{Device, Tensor};
use kv::CandleKv;
use std::ops::Range;
use step::CandleStep;
use weights::OnDevice;

/// The decoder that runs on a device of candle's.
pub struct CandleDecoder {
    device: Device,
    model: Model<OnDevice>,
    kv: CandleKv,
    logits: Buffer,
    /// Passes that were left on their way: before which stage, and their rows.
    left: [Option<(usize, Tensor)>; 2],
}

impl CandleDecoder {
    /// Reads the weights onto the device. Without memory for keys and values, until it is assigned.
    pub fn load(checkpoint: Checkpoint<'_>, device: Device) -> Result<Self, LoadError> {
        let model = Model::load(checkpoint, &OnDevice(device.clone()))?;
        Ok(CandleDecoder::with(model, device))
    }

    /// On weights that another process laid out, of the model that this config.json describes.
    pub fn on_shared<M: Mapped>(
        config: &[u8],
        mut weights: FromTable<M>,
        device: Device,
    ) -> Result<Self, LoadError> {
        let config = Config::from_json(config)?;
        let model = Model::of(config, Names::HuggingFace, &mut weights)?;
        Ok(CandleDecoder::with(model, device))
    }

    fn with(model: Model<OnDevice>, device: Device) -> Self {
        CandleDecoder {
            kv: CandleKv::empty(model.config.layout()),
            model,
            device,
            logits: Buffer::default(),
            left: [None, None],
        }
    }
}

/// A failure of candle's, without what it says of where in the program it was.
pub(super) fn failed(error: candle_core::Error) -> DeviceError {
    let text = error.to_string();
    DeviceError(text.lines().next().unwrap_or_default().to_owned())
}

impl Decoder for CandleDecoder {
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
        self.kv = CandleKv::empty(layout);
        // Without memory for it every request is answered OVER_QUOTA, with numbers.
        if let Ok(kv) = CandleKv::new(layout, quota_bytes, &self.device) {
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
        let CandleDecoder {
            device,
            model,
            kv,
            logits,
            left,
        } = self;
        let wanted = given.wanted.len();
        let left = &mut left[kind as usize];
        let (from, rows) = left
            .take()
            .map_or((0, None), |(stage, rows)| (stage, Some(rows)));
        let mut step = CandleStep::new(&model.config, device, kv, given, rows)?;
        if let Some(stage) = model.advance(&mut step, wanted > 0, from, go_on)? {
            *left = Some((stage, step.into_rows()?));
            return Ok(None);
        }
        let out = logits.take(wanted * model.config.vocabulary);
        out.copy_from_slice(&step.into_logits());
        Ok(Some(out))
    }

    /// What is not kept goes back to the allocator, which zeroes it on the processor.
    fn keep(&mut self, kind: PassKind, rows: &[usize], answers: &[usize]) -> Scrubbed {
        let answering = self.model.config.layers;
        keep_rows(&mut self.left[kind as usize], answering, rows, answers);
        Scrubbed::default()
    }

    fn clean(&mut self, blocks: Range<u32>) -> Scrubbed {
        self.kv.clean(blocks)
    }

    /// The logits: nothing else is kept.
    fn scrub(&mut self) -> Scrubbed {
        self.logits.scrub()
    }
}

/// Keeps of a pass on its way (its stage, and a tensor of its rows) what is still wanted: these rows, or from the stage
/// `answering` on those that answer.
pub(super) fn keep_rows(
    left: &mut Option<(usize, Tensor)>,
    answering: usize,
    rows: &[usize],
    answers: &[usize],
) {
    let Some((stage, before)) = left.take().filter(|_| !rows.is_empty()) else {
        return;
    };
    let kept = if stage == answering { answers } else { rows };
    let ids: Vec<u32> = kept.iter().map(|row| *row as u32).collect();
    let after = match ids.is_empty() {
        true => before.narrow(0, 0, 0),
        false => Tensor::new(ids, before.device()).and_then(|ids| before.index_select(&ids, 0)),
    };
    // Without its rows a pass begins anew.
    *left = after.ok().map(|rows| (stage, rows));
}
