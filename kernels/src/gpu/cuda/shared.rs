//! Memory of a GPU that several processes map: one lays it out, the others are given handles of it. Built, not yet
//! run: no machine with a GPU has tried it.
//!
//! The driver's virtual memory management does it: an allocation that can be exported as a descriptor, mapped at an
//! address of each process's own with the access that it asks for. The driver takes a process's word for that access:
//! whoever holds a handle can map it for writing. So who shares memory looks at it again and again
//! ([`Shareable::digests`]). Nothing here knows what the memory holds.

use super::{Gpu, failed};
use crate::digest::Key;
use crate::gpu::{LaunchError, Span, digests};
use cudarc::driver::sys::{
    self, CUmemAccess_flags as Access, CUmemAllocationGranularity_flags as Granularity,
    CUmemAllocationHandleType, CUmemAllocationType, CUmemLocationType, CUresult,
};
use cudarc::driver::{CudaSlice, DeviceRepr, DriverError, result};
use std::ffi::c_void;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const DESCRIPTOR: CUmemAllocationHandleType =
    CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

fn done(result: CUresult, at: &'static str) -> Result<(), LaunchError> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        error => Err(failed(at)(DriverError(error))),
    }
}

/// What is asked of an allocation that can be exported.
fn properties(gpu: &Gpu) -> sys::CUmemAllocationProp {
    // SAFETY: a plain C structure of integers, enums with a zero variant, and pointers.
    let mut properties: sys::CUmemAllocationProp = unsafe { zeroed() };
    properties.type_ = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.requestedHandleTypes = DESCRIPTOR;
    properties.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = gpu.stream.context().ordinal() as i32;
    properties
}

/// An allocation that this process has mapped. It is never unmapped: tensors lie on it until the process ends, and the
/// driver takes it back then.
#[derive(Debug)]
struct Mapping {
    gpu: Gpu,
    handle: sys::CUmemGenericAllocationHandle,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl Mapping {
    fn new(
        gpu: &Gpu,
        handle: sys::CUmemGenericAllocationHandle,
        bytes: usize,
    ) -> Result<Self, LaunchError> {
        const AT: &str = "mapping shared memory";
        let mut address = 0;
        done(
            // SAFETY: the address is written by the call.
            unsafe { sys::cuMemAddressReserve(&mut address, bytes, 0, 0, 0) },
            AT,
        )?;
        // SAFETY: the addresses were reserved for this, and the handle is this process's own. One that stands for
        // less memory than `bytes` is refused.
        done(unsafe { sys::cuMemMap(address, bytes, 0, handle, 0) }, AT)?;
        Ok(Mapping {
            gpu: gpu.clone(),
            handle,
            address,
            bytes,
        })
    }

    fn allow(&self, access: Access) -> Result<(), LaunchError> {
        // SAFETY: a plain C structure of integers and enums with a zero variant.
        let mut how: sys::CUmemAccessDesc = unsafe { zeroed() };
        how.location = properties(&self.gpu).location;
        how.flags = access;
        // SAFETY: these addresses are mapped; the structure is alive during the call.
        let set = unsafe { sys::cuMemSetAccess(self.address, self.bytes, &how, 1) };
        done(set, "setting the access to shared memory")
    }
}

/// Memory that this process laid out, and hands to others.
#[derive(Debug)]
pub struct Shareable(Mapping);

impl Shareable {
    /// Takes at least so many bytes.
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Self, LaunchError> {
        const AT: &str = "allocating shared memory";
        gpu.stream.context().bind_to_thread().map_err(failed(AT))?;
        let properties = properties(gpu);
        let mut unit = 0;
        done(
            // SAFETY: the structure is complete and alive during the call, which writes the number.
            unsafe {
                sys::cuMemGetAllocationGranularity(
                    &mut unit,
                    &properties,
                    Granularity::CU_MEM_ALLOC_GRANULARITY_RECOMMENDED,
                )
            },
            AT,
        )?;
        let bytes = bytes.max(1).checked_next_multiple_of(unit.max(1));
        let bytes =
            bytes.ok_or_else(|| failed(AT)(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)))?;
        let mut handle = 0;
        done(
            // SAFETY: as above; it writes the handle.
            unsafe { sys::cuMemCreate(&mut handle, bytes, &properties, 0) },
            AT,
        )?;
        let mapping = Mapping::new(gpu, handle, bytes)?;
        mapping.allow(Access::CU_MEM_ACCESS_FLAGS_PROT_READWRITE)?;
        let whole = Shareable(mapping);
        // What the driver hands out may have been somebody's.
        // SAFETY: the mapping is this value's own, and writable.
        unsafe { result::memset_d8_async(whole.0.address, 0, bytes, gpu.stream.cu_stream()) }
            .map_err(failed(AT))?;
        gpu.synchronise()?;
        Ok(whole)
    }

    /// Its size, bytes.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Writes at an offset. Waits.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), LaunchError> {
        const AT: &str = "laying out shared memory";
        let end = offset.checked_add(bytes.len());
        LaunchError::unless(
            end.is_some_and(|end| end <= self.0.bytes),
            AT,
            "it ends before",
        )?;
        let stream = &self.0.gpu.stream;
        // SAFETY: the range lies in the mapping; `bytes` outlives the copy, which is waited for.
        unsafe {
            result::memcpy_htod_async(self.0.address + offset as u64, bytes, stream.cu_stream())
        }
        .and_then(|()| stream.synchronize())
        .map_err(failed(AT))
    }

    /// A descriptor that stands for it. From now on this process only reads it, too.
    pub fn export(&mut self) -> Result<OwnedFd, LaunchError> {
        self.0.allow(Access::CU_MEM_ACCESS_FLAGS_PROT_READ)?;
        let mut raw: i32 = -1;
        let into = (&raw mut raw).cast::<c_void>();
        done(
            // SAFETY: for this kind of handle the call writes an int.
            unsafe { sys::cuMemExportToShareableHandle(into, self.0.handle, DESCRIPTOR, 0) },
            "exporting shared memory",
        )?;
        // SAFETY: the driver has just made it for this process.
        Ok(unsafe { OwnedFd::from_raw_fd(raw) })
    }

    /// The digest of each piece as it is now. Others may write meanwhile, which is what this is for: what is found then
    /// is no digest of what was laid out, whenever in between it is read.
    pub fn digests(&self, key: &Key) -> Result<Vec<u64>, LaunchError> {
        // SAFETY: the mapping is whole words, aligned, and never goes away; the kernel's loads are volatile.
        let words = unsafe { Span::new(self.0.address, self.0.bytes / size_of::<u64>()) };
        digests(&self.0.gpu, words, key)
    }
}

/// Memory that another process laid out.
#[derive(Debug)]
pub struct Imported {
    mapping: Mapping,
    read_only: bool,
}

impl Imported {
    /// Maps what a descriptor stands for, to read; where the driver refuses that, to read and write. The descriptor is
    /// closed.
    pub fn new(gpu: &Gpu, memory: OwnedFd, bytes: usize) -> Result<Self, LaunchError> {
        const AT: &str = "importing shared memory";
        gpu.stream.context().bind_to_thread().map_err(failed(AT))?;
        let mut handle = 0;
        // For this kind of handle the pointer is the descriptor's number.
        let number = memory.as_raw_fd() as usize as *mut c_void;
        done(
            // SAFETY: the descriptor is open during the call, which writes the handle.
            unsafe { sys::cuMemImportFromShareableHandle(&mut handle, number, DESCRIPTOR) },
            AT,
        )?;
        let mapping = Mapping::new(gpu, handle, bytes)?;
        let read = mapping.allow(Access::CU_MEM_ACCESS_FLAGS_PROT_READ);
        let read_only = read.is_ok();
        if !read_only {
            mapping.allow(Access::CU_MEM_ACCESS_FLAGS_PROT_READWRITE)?;
        }
        // SAFETY: released once; the mapping keeps the memory.
        done(unsafe { sys::cuMemRelease(mapping.handle) }, AT)?;
        Ok(Imported { mapping, read_only })
    }

    /// True where the driver lets this process only read.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// `len` values at an offset, as cudarc has memory; `None` beyond its end, or where that is not aligned.
    ///
    /// To be forgotten and never dropped: dropping it would free what is not its own.
    pub fn slice<T: DeviceRepr>(&self, offset: usize, len: usize) -> Option<CudaSlice<T>> {
        let end = len.checked_mul(size_of::<T>())?.checked_add(offset)?;
        if end > self.mapping.bytes || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        let address = self.mapping.address + offset as u64;
        // SAFETY: so many values lie there, mapped as long as this process lives; any bits are such a value. Nobody
        // writes them by this: weights are read.
        Some(unsafe { self.mapping.gpu.stream.upgrade_device_ptr(address, len) })
    }
}
