//! Kernels for NVIDIA GPUs: their source, and how each of them is launched.
//!
//! What is launched is decided here: which kernel, over how many blocks, with which arguments, after every
//! length was checked. Who launches it is behind [`Launch`]. With the feature `cuda` that is a GPU, whose driver
//! compiles [`source`] when it is asked to (see `cuda/kernels.rs` for why not before); in tests it is also an
//! emulation, which a C++ compiler makes of the same source. So all of this but the launch itself is tested on
//! machines without a GPU. Built, not yet run: no GPU has run any of it.
//!
//! Nothing here allocates, waits, or knows whose memory it is given.

mod attention;
mod choose;
mod compute;
#[cfg(feature = "cuda")]
pub mod cuda;
mod digest;
mod kv;
mod launch;
mod memory;
mod onchip;
mod plan;

pub use attention::attend;
pub use choose::{CHOOSE_TOKENS_MAX, NOTHING, UploadedWishes, Wishes, choose};
pub use compute::{Rotation, rms_norm, rms_norm_heads, rotate};
pub use digest::digests;
pub use kv::{Bf16, Blocks, BlocksMut, F16, Stored, gather, store};
pub use launch::{
    Argument, Device, Launch, LaunchError, Plain, Shape, Span, SpanMut, as_bytes, as_bytes_mut,
};
pub use memory::{NOTHING_FOUND, canary_fill, canary_scan, verify};
pub use onchip::{OnChip, scrub_on_chip};
pub use plan::{Plan, PlanError, Uploaded};

/// Every kernel's name.
pub const KERNELS: &[&str] = &[
    "adjust",
    "attend_bf16",
    "attend_f16",
    "attend_f32",
    "attend_join",
    "canary_fill",
    "canary_scan",
    "choose",
    "digest",
    "find_shared",
    "kv_gather_bf16",
    "kv_gather_f16",
    "kv_gather_f32",
    "kv_store_bf16",
    "kv_store_f16",
    "kv_store_f32",
    "rms_norm",
    "rotate",
    "scrub_registers",
    "scrub_shared",
    "soil_shared",
    "verify_zero",
];

/// What stands ahead of the source for a device.
#[cfg(feature = "cuda")]
const DEVICE: &str = include_str!("../../cuda/device.cuh");

/// The files, in the order of compiling.
const FILES: &[(&str, &str)] = &[
    ("common.cuh", include_str!("../../cuda/common.cuh")),
    ("verify.cu", include_str!("../../cuda/verify.cu")),
    ("canary.cu", include_str!("../../cuda/canary.cu")),
    ("digest.cu", include_str!("../../cuda/digest.cu")),
    ("onchip.cu", include_str!("../../cuda/onchip.cu")),
    ("norm.cu", include_str!("../../cuda/norm.cu")),
    ("rotary.cu", include_str!("../../cuda/rotary.cu")),
    ("kv.cu", include_str!("../../cuda/kv.cu")),
    ("paged.cu", include_str!("../../cuda/paged.cu")),
    ("adjust.cu", include_str!("../../cuda/adjust.cu")),
    ("weights.cu", include_str!("../../cuda/weights.cu")),
    ("head.cu", include_str!("../../cuda/head.cu")),
    ("choose.cu", include_str!("../../cuda/choose.cu")),
];

/// All kernels as one text, behind `head`, with the names of the files for those who read a compiler's
/// complaints.
pub fn source(head: &str) -> String {
    let mut text = head.to_owned();
    for (name, file) in FILES {
        text.push_str(&format!("\n#line 1 \"{name}\"\n{file}"));
    }
    text
}
