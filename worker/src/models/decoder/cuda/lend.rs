//! A GPU's memory lent to other processes, and weights in such memory. Built, not yet run: no machine with a GPU has
//! tried it.
//!
//! Tensors on memory that another process laid out are never dropped: candle would free what is not its own. A process
//! that has such ends by `_exit`, and the driver unmaps it all then.

use super::{OpenGpu, bad};
use crate::models::LoadError;
use crate::models::decoder::{Lender, Mapped, TABLE_BYTES_MAX, Table, Values, Weight};
use crate::process;
use bulkhead_kernels::digest::Key;
use bulkhead_kernels::gpu::cuda::{Gpu, Imported, Shareable};
use bulkhead_proto::internal::SharedWeights;
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Device, Storage, Tensor};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// A GPU whose memory a keeper lends.
pub struct GpuLender {
    opened: OpenGpu,
    memory: Option<Shareable>,
}

impl GpuLender {
    /// One that is open.
    pub fn of(opened: OpenGpu) -> Self {
        GpuLender {
            opened,
            memory: None,
        }
    }

    fn memory(&mut self) -> Result<&mut Shareable, LoadError> {
        let memory = self.memory.as_mut();
        memory.ok_or_else(|| bad("no memory was taken"))
    }
}

impl Lender for GpuLender {
    fn take(&mut self, bytes: usize) -> Result<(), LoadError> {
        self.memory = Some(Shareable::new(&self.opened.gpu, bytes).map_err(bad)?);
        Ok(())
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), LoadError> {
        self.memory()?.write(offset, bytes).map_err(bad)
    }

    fn lend(&mut self) -> Result<(u64, OwnedFd), LoadError> {
        let memory = self.memory()?;
        Ok((memory.bytes() as u64, memory.export().map_err(bad)?))
    }

    fn digests(&mut self, key: &Key) -> Result<Vec<u64>, LoadError> {
        self.memory()?.digests(key).map_err(bad)
    }
}

/// What a worker was given of its model's keeper.
pub struct Borrowed {
    table: Table,
    memory: OwnedFd,
    bytes: usize,
}

impl Borrowed {
    /// Takes it from the descriptors that the launcher left.
    pub(crate) fn take(shared: &SharedWeights) -> Result<Self, LoadError> {
        let table = process::take_file(shared.table_fd).and_then(whole);
        let memory = process::take_file(shared.memory_fd).map_err(bad)?;
        Ok(Borrowed {
            table: Table::decode(&table.map_err(bad)?, shared.memory_bytes)?,
            memory: memory.into(),
            bytes: usize::try_from(shared.memory_bytes).map_err(bad)?,
        })
    }

    /// Maps the memory.
    pub(super) fn on(self, device: &Device, gpu: &Gpu) -> Result<(Table, OnGpu), LoadError> {
        let memory = Imported::new(gpu, self.memory, self.bytes).map_err(bad)?;
        if !memory.is_read_only() {
            process::say(format_args!(
                "the driver maps shared weights for writing alone: only digests guard them"
            ));
        }
        let device = device.clone();
        Ok((self.table, OnGpu { device, memory }))
    }
}

/// All of a table's bytes. Every worker has the same file, so none moves its position.
fn whole(file: File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(TABLE_BYTES_MAX);
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Shared memory, mapped.
pub(super) struct OnGpu {
    device: Device,
    memory: Imported,
}

impl OnGpu {
    fn slice(&self, weight: &Weight) -> Option<CudaStorageSlice> {
        let (offset, count) = (weight.offset, weight.count());
        match weight.kind {
            Values::F32 => self.memory.slice(offset, count).map(CudaStorageSlice::F32),
            Values::Bf16 => self.memory.slice(offset, count).map(CudaStorageSlice::BF16),
        }
    }
}

impl Mapped for OnGpu {
    fn tensor(&self, weight: &Weight) -> candle_core::Result<Tensor> {
        let Some(slice) = self.slice(weight) else {
            candle_core::bail!("it does not lie in the memory");
        };
        let device = self.device.as_cuda_device()?.clone();
        let storage = Storage::Cuda(CudaStorage { slice, device });
        let shape = weight.shape.as_slice();
        let tensor = Tensor::from_storage(storage, shape, BackpropOp::none(), false);
        // So that it is never dropped, whoever drops the other.
        std::mem::forget(tensor.clone());
        Ok(tensor)
    }
}
