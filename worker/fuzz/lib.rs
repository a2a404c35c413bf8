//! The fuzz targets on everything that the worker reads from files, and on frames.
//!
//! libFuzzer's runtime ends the process on any panic. Here only a panic of our own code does: the
//! libraries below are known to panic on strange files, and loading survives that by design. What nothing
//! survives (an overflowing stack, memory beyond the limit, work without end) is a find wherever it is.

pub mod seeds;
pub mod targets;

/// Replaces libFuzzer's hook, once it has set its own.
pub fn set_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or("", |location| location.file());
        if !place.contains("/registry/src/") {
            eprintln!("{panic}\n{}", std::backtrace::Backtrace::force_capture());
            std::process::abort();
        }
    }));
}

/// A libFuzzer entry for one of the [`targets`].
#[macro_export]
macro_rules! target {
    ($target:ident) => {
        libfuzzer_sys::fuzz_target!(init: $crate::set_panic_hook(), |data: &[u8]| {
            $crate::targets::$target(data);
        });
    };
}
