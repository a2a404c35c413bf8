//! What a kernel is launched on, and with.
//!
//! Memory of a device is a [`Span`]: an address and a length that somebody vouched for. A launch hands addresses
//! on and reads nothing.

use std::ffi::c_void;
use std::marker::PhantomData;

/// Why a kernel was not launched, or did not end well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The caller's fault: the lengths do not fit together. Nothing was launched.
    #[error("{kernel} was not launched: {what}")]
    Shape {
        /// Which kernel.
        kernel: &'static str,
        /// What does not fit.
        what: &'static str,
    },
    /// The device failed. What it holds is unknown: the process that uses it has to end.
    #[error("the device failed at {at}: {detail}")]
    Device {
        /// A kernel's name, or what else was tried.
        at: &'static str,
        /// What the driver said.
        detail: String,
    },
}

impl LaunchError {
    /// An error unless `fits`.
    pub(super) fn unless(
        fits: bool,
        kernel: &'static str,
        what: &'static str,
    ) -> Result<(), LaunchError> {
        match fits {
            true => Ok(()),
            false => Err(LaunchError::Shape { kernel, what }),
        }
    }
}

/// The number as kernels count; wider ones never come from a model.
pub(super) fn count(number: usize, kernel: &'static str) -> Result<u32, LaunchError> {
    u32::try_from(number).map_err(|_| LaunchError::Shape {
        kernel,
        what: "there are more than 2³² of something",
    })
}

/// How many blocks, of how many threads, with how much shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks in three directions; at most 2³¹ - 1, 65,535 and 65,535.
    pub grid: [u32; 3],
    /// Threads of a block: whole warps of 32, at most 1,024.
    pub block: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared_bytes: u32,
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// An address on the device.
    Address(u64),
    /// An `unsigned long long`.
    Size(u64),
    /// An `unsigned int`.
    Count(u32),
    /// A `float`.
    Number(f32),
}

impl Argument {
    /// Where it is, for a driver that copies it from there.
    pub fn pointer(&mut self) -> *mut c_void {
        match self {
            Argument::Address(value) | Argument::Size(value) => (&raw mut *value).cast(),
            Argument::Count(value) => (&raw mut *value).cast(),
            Argument::Number(value) => (&raw mut *value).cast(),
        }
    }

    /// Its size, bytes.
    pub fn bytes(&self) -> u32 {
        match self {
            Argument::Address(_) | Argument::Size(_) => 8,
            Argument::Count(_) | Argument::Number(_) => 4,
        }
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Argument::Count(value)
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Argument::Size(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Argument::Number(value)
    }
}

impl<T> From<Span<'_, T>> for Argument {
    fn from(span: Span<'_, T>) -> Self {
        Argument::Address(span.address)
    }
}

/// What launches kernels, one after the other.
pub trait Launch {
    /// Launches a kernel of [`super::KERNELS`]. It may still run when this returns.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and it touches no memory but that of spans which the caller holds.
    unsafe fn launch(
        &self,
        kernel: &'static str,
        shape: Shape,
        arguments: &mut [Argument],
    ) -> Result<(), LaunchError>;

    /// Multiprocessors of the device.
    fn multiprocessors(&self) -> u32;

    /// The most shared memory that a block can ask for, bytes.
    fn shared_bytes_max(&self) -> u32;
}

/// What launches kernels and has memory for them.
pub trait Device: Launch {
    /// Memory of the device, freed when it is dropped.
    type Memory;
    /// New memory with these bytes in it.
    fn upload(&self, bytes: &[u8]) -> Result<Self::Memory, LaunchError>;
    /// Waits for what was launched, and copies all of it back.
    fn download(&self, memory: &Self::Memory, bytes: &mut [u8]) -> Result<(), LaunchError>;
    /// All of it, to read.
    fn span<'a, T: Plain>(&self, memory: &'a Self::Memory) -> Span<'a, T>;
    /// All of it, to write.
    fn span_mut<'a, T: Plain>(&self, memory: &'a mut Self::Memory) -> SpanMut<'a, T>;
}

/// What can lie in a device's memory: any bits are one.
///
/// # Safety
/// Every pattern of bits is a value, and there is no padding.
pub unsafe trait Plain: Copy {}
// SAFETY: integers and floats are.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

/// Values as bytes, to upload.
pub fn as_bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: there is no padding, and the bytes are those of the slice.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Values as bytes, to download into.
pub fn as_bytes_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and whatever is written is a value.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// Memory of a device, to read.
#[derive(Debug)]
pub struct Span<'a, T> {
    address: u64,
    len: usize,
    of: PhantomData<&'a [T]>,
}

impl<T> Clone for Span<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Span<'_, T> {}

impl<T> Span<'_, T> {
    /// Vouches for `len` values at an address.
    ///
    /// # Safety
    /// They lie there, in memory of the device that the span is used on, aligned and written by nobody else, from
    /// the first launch that uses them to its end.
    pub unsafe fn new(address: u64, len: usize) -> Self {
        Span {
            address,
            len,
            of: PhantomData,
        }
    }

    /// How many values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Some of it; `None` beyond its end.
    pub fn part(&self, range: std::ops::Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        Some(Span {
            address: self.address + (range.start * size_of::<T>()) as u64,
            len: range.len(),
            of: PhantomData,
        })
    }
}

/// Memory of a device, to write.
#[derive(Debug)]
pub struct SpanMut<'a, T>(Span<'a, T>);

impl<T> SpanMut<'_, T> {
    /// Vouches for `len` values at an address.
    ///
    /// # Safety
    /// As for [`Span::new`], and nobody else reads them either.
    pub unsafe fn new(address: u64, len: usize) -> Self {
        // SAFETY: the caller's word.
        SpanMut(unsafe { Span::new(address, len) })
    }

    /// How many values.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Where it is.
    #[cfg(feature = "cuda")]
    pub(crate) fn address(&self) -> u64 {
        self.0.address
    }

    /// Its address, for a kernel that writes it.
    pub fn as_argument(&mut self) -> Argument {
        Argument::Address(self.0.address)
    }

    /// From a value on; `None` beyond its end.
    pub fn skip(&mut self, values: usize) -> Option<SpanMut<'_, T>> {
        self.0.part(values..self.0.len).map(SpanMut)
    }
}
