//! An NVIDIA GPU that launches the kernels. Built, not yet run: no machine with a GPU has tried it.
//!
//! The kernels are compiled by NVRTC when a GPU is opened, for the GPU that is found, and not by nvcc at build
//! time: so the crate builds where there is no toolkit, what the emulation tests is the text that runs, and no
//! PTX is newer than the driver that it meets. It takes about a second, once a process. NVRTC opens files of its
//! own, so a process that shuts itself off from files opens its GPU before it does.

#[cfg(feature = "cuda-linked")]
mod blas;
mod job;
mod own;
mod shared;
mod views;
mod weights;

#[cfg(feature = "cuda-linked")]
pub use blas::Workspace;
pub use job::JobPool;
pub(crate) use own::{Found, OwnPool};
pub use shared::{Imported, Shareable};
pub use views::{PlanOnGpu, Reading, Writing, choose};
pub use weights::WeightPool;

use super::launch::{Argument, Device, Launch, LaunchError, Plain, Shape, Span, SpanMut};
use super::{DEVICE, KERNELS, source};
use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, result, sys};
use cudarc::nvrtc::{self, CompileOptions};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Arc;

/// A GPU with all kernels loaded, which launches on one stream.
#[derive(Clone, Debug)]
pub struct Gpu {
    stream: Arc<CudaStream>,
    functions: Arc<BTreeMap<&'static str, CudaFunction>>,
    multiprocessors: u32,
    shared_bytes_max: u32,
}

/// True where the driver's library is there. A program that is linked against it would not have started
/// otherwise.
pub fn has_driver() -> bool {
    #[cfg(feature = "cuda-linked")]
    return true;
    // SAFETY: loading the library runs its initialisers, which is what is wanted; asked because the wrapper panics
    // where it is missing.
    #[cfg(not(feature = "cuda-linked"))]
    unsafe {
        sys::is_culib_present()
    }
}

/// True where NVIDIA's driver is loaded. Then a GPU that cannot be opened is a failure, to tests at least, and not
/// the absence of one.
pub fn has_device_nodes() -> bool {
    std::path::Path::new("/dev/nvidiactl").exists()
}

/// True where NVRTC is there.
fn has_compiler() -> bool {
    #[cfg(feature = "cuda-linked")]
    return true;
    // SAFETY: as for the driver's library.
    #[cfg(not(feature = "cuda-linked"))]
    unsafe {
        nvrtc::sys::is_culib_present()
    }
}

pub(crate) fn failed(at: &'static str) -> impl Fn(DriverError) -> LaunchError {
    move |error| LaunchError::Device {
        at,
        detail: error.to_string(),
    }
}

impl Gpu {
    /// Opens the GPU of this number, on a stream of its own.
    pub fn new(ordinal: usize) -> Result<Self, LaunchError> {
        const AT: &str = "opening the GPU";
        if !has_driver() {
            return Err(LaunchError::Device {
                at: AT,
                detail: "the CUDA driver library is missing: install NVIDIA's driver".into(),
            });
        }
        let context = CudaContext::new(ordinal).map_err(failed(AT))?;
        Gpu::on(context.new_stream().map_err(failed(AT))?)
    }

    /// With a stream that is there already.
    pub fn on(stream: Arc<CudaStream>) -> Result<Self, LaunchError> {
        const AT: &str = "loading the kernels";
        let context = stream.context();
        let attribute = |which| context.attribute(which).map_err(failed(AT));
        let shared =
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let multiprocessors =
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let module = context.load_module(compile(context)?).map_err(failed(AT))?;
        let mut functions = BTreeMap::new();
        for name in KERNELS {
            let function = module.load_function(name).map_err(failed(AT))?;
            if name.ends_with("_shared") {
                // Beyond 48 KiB only what was asked for.
                let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                function.set_attribute(most, shared).map_err(failed(AT))?;
            }
            functions.insert(*name, function);
        }
        Ok(Gpu {
            stream,
            functions: functions.into(),
            multiprocessors: multiprocessors.unsigned_abs(),
            shared_bytes_max: shared.unsigned_abs(),
        })
    }

    /// The stream that everything is launched on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Waits for all that was launched.
    pub fn synchronise(&self) -> Result<(), LaunchError> {
        self.stream.synchronize().map_err(failed("waiting"))
    }

    /// Fills memory with zero.
    pub(crate) fn zero(&self, bytes: &mut SpanMut<'_, u8>) -> Result<(), LaunchError> {
        let (at, length) = (bytes.address(), bytes.len());
        // SAFETY: the span is memory of this device that nobody else uses.
        unsafe { result::memset_d8_async(at, 0, length, self.stream.cu_stream()) }
            .map_err(failed("filling memory"))
    }
}

/// The kernels for this very GPU.
fn compile(context: &Arc<CudaContext>) -> Result<nvrtc::Ptx, LaunchError> {
    const AT: &str = "compiling the kernels";
    let missing = |detail: String| LaunchError::Device { at: AT, detail };
    if !has_compiler() {
        return Err(missing(
            "NVRTC is missing: install CUDA's libnvrtc, of a version that the driver knows".into(),
        ));
    }
    let (major, minor) = context.compute_capability().map_err(failed(AT))?;
    let options = CompileOptions {
        options: vec![format!("--gpu-architecture=compute_{major}{minor}")],
        name: Some("bulkhead.cu".into()),
        ..CompileOptions::default()
    };
    nvrtc::compile_ptx_with_opts(source(DEVICE), options)
        .map_err(|error| missing(error.to_string()))
}

impl Launch for Gpu {
    unsafe fn launch(
        &self,
        kernel: &'static str,
        shape: Shape,
        arguments: &mut [Argument],
    ) -> Result<(), LaunchError> {
        let Some(function) = self.functions.get(kernel) else {
            return LaunchError::unless(false, kernel, "there is no such kernel");
        };
        let bound = self.stream.context().bind_to_thread();
        bound.map_err(failed(kernel))?;
        let mut pointers: Vec<*mut c_void> = arguments.iter_mut().map(Argument::pointer).collect();
        let [x, y, z] = shape.grid;
        // SAFETY: the function is of a module that lives as long as it; the driver copies the arguments before it
        // returns; that they are the kernel's is the caller's word.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                (x, y, z),
                (shape.block, 1, 1),
                shape.shared_bytes,
                self.stream.cu_stream(),
                &mut pointers,
            )
        }
        .map_err(failed(kernel))
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn shared_bytes_max(&self) -> u32 {
        self.shared_bytes_max
    }
}

/// A block of the device's current pool.
#[derive(Debug)]
pub struct Block {
    stream: Arc<CudaStream>,
    address: sys::CUdeviceptr,
    len: usize,
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.address != 0 {
            // Nothing can be reported from here. The driver frees it once all that was launched before has ended.
            // SAFETY: the block is this value's own, and freed once.
            let _ = unsafe { result::free_async(self.address, self.stream.cu_stream()) };
        }
    }
}

impl Device for Gpu {
    type Memory = Block;

    fn upload(&self, bytes: &[u8]) -> Result<Block, LaunchError> {
        const AT: &str = "copying to the GPU";
        let stream = self.stream.cu_stream();
        self.stream.context().bind_to_thread().map_err(failed(AT))?;
        let mut block = Block {
            stream: self.stream.clone(),
            address: 0,
            len: bytes.len(),
        };
        if !bytes.is_empty() {
            // SAFETY: the stream is alive. The memory is written at once.
            block.address =
                unsafe { result::malloc_async(stream, bytes.len()) }.map_err(failed(AT))?;
            // SAFETY: the block is as long as the bytes, which outlive the copy: it is waited for.
            unsafe { result::memcpy_htod_async(block.address, bytes, stream) }
                .and_then(|()| self.stream.synchronize())
                .map_err(failed(AT))?;
        }
        Ok(block)
    }

    fn download(&self, memory: &Block, bytes: &mut [u8]) -> Result<(), LaunchError> {
        const AT: &str = "copying from the GPU";
        LaunchError::unless(bytes.len() == memory.len, AT, "the lengths differ")?;
        if bytes.is_empty() {
            return self.synchronise();
        }
        self.stream.context().bind_to_thread().map_err(failed(AT))?;
        // SAFETY: the block is as long as the bytes, which outlive the copy: it is waited for.
        unsafe { result::memcpy_dtoh_async(bytes, memory.address, self.stream.cu_stream()) }
            .and_then(|()| self.stream.synchronize())
            .map_err(failed(AT))
    }

    fn span<'a, T: Plain>(&self, memory: &'a Block) -> Span<'a, T> {
        // SAFETY: the block lives as long as the span, and is of the current device.
        unsafe { Span::new(memory.address, memory.len / size_of::<T>()) }
    }

    fn span_mut<'a, T: Plain>(&self, memory: &'a mut Block) -> SpanMut<'a, T> {
        // SAFETY: as above, and nobody else has it.
        unsafe { SpanMut::new(memory.address, memory.len / size_of::<T>()) }
    }
}
