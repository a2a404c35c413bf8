//! The decoder on an NVIDIA GPU. Built, not yet run: no machine with a GPU has tried it.
//!
//! Products are candle's (cuBLAS, and its kernels for quantised weights); norms, rotary positions, keys and
//! values and attention are kernels of our own. Weights lie in one pool; keys and values in a second, whose blocks
//! are those of the processor's; and all that a pass allocates in a third, with a greatest size, which is scrubbed
//! as a whole when nothing of a pass is left. See docs/GPU.md for what lies elsewhere.

mod lend;
mod ops;
mod step;

use super::candle::{keep_rows, weights::OnDevice};
use super::checkpoint::Checkpoint;
use super::model::Model;
use super::names::Names;
use super::{Answers, Config, Decoder, DeviceError, FromTable, Given, Shape};
use crate::engine::Scrubbed;
use crate::models::LoadError;
use crate::models::scratch::{Buffer, sum};
use bulkhead_kernels::compute::choice::Wish;
use bulkhead_kernels::gpu::cuda::{Gpu, JobPool, WeightPool, Workspace};
use bulkhead_kernels::gpu::{CHOOSE_TOKENS_MAX, scrub_on_chip};
use bulkhead_kernels::pool::CudaPool;
use bulkhead_kernels::{Pool, PoolError, Residue};
use bulkhead_worker_core::{GoOn, PassKind};
use candle_core::{Device, Tensor};
pub use lend::{Borrowed, GpuLender};
use std::ops::Range;
use step::CudaStep;

/// Blocks of one pool at most: what the book-keeping is bounded by.
const BLOCKS_MAX: u64 = 1 << 20;
/// What a pass may allocate: rows of every width, and a matrix that was quantised, as floats.
const JOB_BYTES_MAX: usize = 8 << 30;

/// A GPU that is open: its context, our kernels, compiled for it, and cuBLAS with its workspace.
pub struct OpenGpu {
    workspace: Workspace,
    weights: WeightPool,
    device: Device,
    gpu: Gpu,
}

/// The decoder that runs on a GPU.
pub struct CudaDecoder {
    // Before everything that is allocated in its pools.
    model: Model<OnDevice>,
    left: [Option<(usize, Tensor)>; 2],
    kv: Option<CudaPool>,
    job: Option<JobPool>,
    workspace: Workspace,
    _weights: WeightPool,
    device: Device,
    gpu: Gpu,
    logits: Buffer,
}

fn bad(error: impl ToString) -> LoadError {
    LoadError::Device {
        cause: error.to_string(),
    }
}

impl OpenGpu {
    /// Opens the GPU of this number, as the driver counts those that it lets this process see, and has everything
    /// looked up that driver and libraries look up in files when they are first used.
    pub fn open(ordinal: usize) -> Result<Self, LoadError> {
        // Its faster products of quantised weights keep what they multiply in buffers that nobody can scrub.
        candle_core::quantized::cuda::set_force_dmmv(true);
        let device = Device::new_cuda_with_stream(ordinal).map_err(bad)?;
        let of_candle = device.as_cuda_device().map_err(bad)?;
        let gpu = Gpu::on(of_candle.cuda_stream()).map_err(bad)?;
        let weights = WeightPool::install(&gpu).map_err(bad)?;
        let workspace = Workspace::give(&gpu, of_candle.cublas_handle()).map_err(bad)?;
        use_once(&device).map_err(bad)?;
        Ok(OpenGpu {
            workspace,
            weights,
            device,
            gpu,
        })
    }
}

/// A copy to the device, a product (cuBLAS), a kernel of candle's (which the driver may have to compile), and a copy
/// back. Of numbers, and nobody's.
fn use_once(device: &Device) -> candle_core::Result<()> {
    let numbers = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], device)?;
    let product = numbers.matmul(&numbers.t()?)?;
    (product + 1.0)?.to_vec2::<f32>().map(drop)
}

impl CudaDecoder {
    /// Reads the weights onto a GPU. Without memory for keys and values, until it is assigned.
    pub fn load(checkpoint: Checkpoint<'_>, opened: OpenGpu) -> Result<Self, LoadError> {
        Self::with(opened, |device, _| {
            Model::load(checkpoint, &OnDevice(device.clone()))
        })
    }

    /// The same on weights that a keeper laid out, of the model that this config.json describes.
    pub fn borrowing(config: &[u8], opened: OpenGpu, weights: Borrowed) -> Result<Self, LoadError> {
        let config = Config::from_json(config)?;
        Self::with(opened, |device, gpu| {
            let (table, memory) = weights.on(device, gpu)?;
            let mut weights = FromTable::new(&table, memory);
            Model::of(config, Names::HuggingFace, &mut weights)
        })
    }

    fn with(
        opened: OpenGpu,
        model: impl FnOnce(&Device, &Gpu) -> Result<Model<OnDevice>, LoadError>,
    ) -> Result<Self, LoadError> {
        let OpenGpu {
            workspace,
            weights,
            device,
            gpu,
        } = opened;
        let model = model(&device, &gpu)?;
        let job = JobPool::install(&gpu, JOB_BYTES_MAX).map_err(bad)?;
        Ok(CudaDecoder {
            model,
            left: [None, None],
            kv: None,
            job: Some(job),
            workspace,
            _weights: weights,
            device,
            gpu,
            logits: Buffer::default(),
        })
    }

    fn block_bytes(&self) -> u64 {
        self.model.config.layout().block_bytes() as u64
    }

    /// Zeroes and reads back a range of the pool.
    fn cleaned(&mut self, range: Range<usize>) -> Result<Residue, PoolError> {
        let Some(kv) = &mut self.kv else {
            return Err(PoolError::OutOfRange {
                start: range.start,
                end: range.end,
                quota: 0,
            });
        };
        kv.zero(range.clone())?;
        kv.verify(range)
    }

    /// Everything on the GPU that a pass has been in: what is on chip, cuBLAS's workspace, and the jobs' pool.
    fn scrubbed(&mut self) -> Result<Scrubbed, PoolError> {
        // First, since it allocates a little of the pool.
        let on_chip = scrub_on_chip(&self.gpu)?;
        let shared = u64::from(on_chip.multiprocessors) * u64::from(on_chip.shared_bytes);
        let on_chip = match on_chip.is_clean() {
            true => Scrubbed::read_back(shared, Residue::default()),
            // One that was not reached counts as dirty throughout.
            false => Scrubbed::unknown(shared),
        };
        let found = self.workspace.scrub()?;
        let mut done = sum(on_chip, Scrubbed::read_back(self.workspace.bytes(), found));
        if let Some(job) = &mut self.job {
            let report = job.scrub(&|| 0)?;
            done = sum(
                done,
                Scrubbed {
                    zeroed: report.bytes_zeroed,
                    verified: report.bytes_verified,
                    residue: report.residue_bytes,
                    first_residue: report.first_residue,
                },
            );
        }
        Ok(done)
    }
}

impl Decoder for CudaDecoder {
    fn shape(&self) -> Shape {
        Shape {
            vocabulary: self.model.config.vocabulary,
            context_tokens: self.model.config.context_tokens,
            layers: self.model.config.layers,
            block_bytes: self.block_bytes(),
            weights_bytes: self.model.bytes(),
        }
    }

    fn assign(&mut self, quota_bytes: u64) -> u32 {
        // What was there goes first: the two need not fit at once.
        self.kv = None;
        let blocks = (quota_bytes / self.block_bytes()).min(BLOCKS_MAX);
        let bytes = (blocks * self.block_bytes()) as usize;
        // Without memory for it every request is answered OVER_QUOTA, with numbers.
        self.kv = CudaPool::on(&self.gpu, bytes).ok();
        self.kv.as_ref().map_or(0, |_| blocks as u32)
    }

    fn advance(
        &mut self,
        kind: PassKind,
        given: Given<'_>,
        go_on: &mut GoOn<'_>,
    ) -> Result<Option<&mut [f32]>, DeviceError> {
        let answers = self.answer(kind, given, &[], go_on)?;
        Ok(answers.map(|answers| answers.logits))
    }

    fn chooses(&self) -> bool {
        self.model.config.vocabulary <= CHOOSE_TOKENS_MAX
    }

    fn answer(
        &mut self,
        kind: PassKind,
        given: Given<'_>,
        wishes: &[Option<Wish>],
        go_on: &mut GoOn<'_>,
    ) -> Result<Option<Answers<'_>>, DeviceError> {
        let CudaDecoder {
            model,
            left,
            kv,
            device,
            gpu,
            logits,
            ..
        } = self;
        let Some(kv) = kv else {
            return Err(DeviceError("there is no memory for keys and values".into()));
        };
        let wanted = given.wanted.len();
        let left = &mut left[kind as usize];
        let (from, rows) = left
            .take()
            .map_or((0, None), |(stage, rows)| (stage, Some(rows)));
        let mut step = CudaStep::new(&model.config, device, gpu, kv, given, rows)?;
        step.wish(wishes);
        if let Some(stage) = model.advance(&mut step, wanted > 0, from, go_on)? {
            *left = Some((stage, step.into_rows()?));
            return Ok(None);
        }
        let (left, chosen) = step.into_answers();
        let logits = logits.take(left.len());
        logits.copy_from_slice(&left);
        Ok(Some(Answers { logits, chosen }))
    }

    /// What is not kept goes back to the jobs' pool, and is zeroed with it.
    fn keep(&mut self, kind: PassKind, rows: &[usize], answers: &[usize]) -> Scrubbed {
        let answering = self.model.config.layers;
        keep_rows(&mut self.left[kind as usize], answering, rows, answers);
        Scrubbed::default()
    }

    fn clean(&mut self, blocks: Range<u32>) -> Scrubbed {
        let block = self.block_bytes();
        let bytes = blocks.len() as u64 * block;
        let range = blocks.start as usize * block as usize..blocks.end as usize * block as usize;
        match self.cleaned(range) {
            Ok(found) => Scrubbed::read_back(bytes, found),
            Err(_) => Scrubbed::unknown(bytes),
        }
    }

    /// Rows of passes that are on their way wait on the host meanwhile: a pool is scrubbed as a whole.
    fn scrub(&mut self) -> Scrubbed {
        let moved = |left: &mut Option<(usize, Tensor)>, to: &Device| {
            // Without its rows a pass begins anew.
            let rows = left.take().map(|(stage, rows)| (stage, rows.to_device(to)));
            *left = rows.and_then(|(stage, rows)| Some((stage, rows.ok()?)));
        };
        for left in &mut self.left {
            moved(left, &Device::Cpu);
        }
        let unknown = Scrubbed {
            residue: JOB_BYTES_MAX as u64,
            ..Scrubbed::default()
        };
        let on_gpu = self.scrubbed().unwrap_or(unknown);
        for left in &mut self.left {
            moved(left, &self.device);
        }
        sum(self.logits.scrub(), on_gpu)
    }
}
