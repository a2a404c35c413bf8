//! Where our other programs are: beside this one, or where the environment says.

use super::worker::Kind;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Neither beside this program nor named by the environment. The operator's to mend.
#[derive(Debug, thiserror::Error)]
#[error(
    "the program {name} is not at {path}; build or install it beside `bulkhead`, or name it with {variable}"
)]
pub struct Missing {
    name: &'static str,
    path: PathBuf,
    variable: &'static str,
}

/// The programs that the launcher starts.
#[derive(Clone, Debug)]
pub struct Programs {
    pub worker: PathBuf,
    /// The worker for GPUs, which not every installation has.
    pub worker_cuda: Option<PathBuf>,
    pub audit: PathBuf,
    /// Watches GPUs.
    pub gpus: PathBuf,
}

impl Programs {
    /// Finds those that are needed, and what else there is.
    pub fn find() -> Result<Programs, Missing> {
        Ok(Programs {
            worker: find("bulkhead-worker", "BULKHEAD_WORKER")?,
            worker_cuda: cuda_worker(),
            audit: find("bulkhead-audit", "BULKHEAD_AUDIT")?,
            gpus: find("bulkhead-gpus", "BULKHEAD_GPUS")?,
        })
    }

    /// The worker for a kind of device; `None` where it is not installed.
    pub fn worker_for(&self, kind: Kind) -> Option<&Path> {
        match kind {
            Kind::Processor => Some(&self.worker),
            Kind::Gpu => self.worker_cuda.as_deref(),
        }
    }
}

/// The worker for GPUs, where it is installed.
pub fn cuda_worker() -> Option<PathBuf> {
    find("bulkhead-worker-cuda", "BULKHEAD_WORKER_CUDA").ok()
}

/// The program `name`: `variable`'s value, else beside this program.
pub fn find(name: &'static str, variable: &'static str) -> Result<PathBuf, Missing> {
    let named: Option<OsString> = std::env::var_os(variable).filter(|v| !v.is_empty());
    let beside = || std::env::current_exe().map(|me| me.with_file_name(name));
    let path = match named {
        Some(path) => path.into(),
        None => beside().unwrap_or_else(|_| name.into()),
    };
    if path.is_file() {
        return Ok(path);
    }
    Err(Missing {
        name,
        path,
        variable,
    })
}
