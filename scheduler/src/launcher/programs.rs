//! Where our other programs are: beside this one, or where the environment says.

use std::{ffi::OsString, path::PathBuf};

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
    pub audit: PathBuf,
    /// Watches GPUs.
    pub gpus: PathBuf,
}

impl Programs {
    /// Finds them all.
    pub fn find() -> Result<Programs, Missing> {
        Ok(Programs {
            worker: find("bulkhead-worker", "BULKHEAD_WORKER")?,
            audit: find("bulkhead-audit", "BULKHEAD_AUDIT")?,
            gpus: find("bulkhead-gpus", "BULKHEAD_GPUS")?,
        })
    }
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
