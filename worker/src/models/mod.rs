//! The models: from a folder's bytes to an [`Engine`].
//!
//! Everything is parsed from memory: at this point the process may open no file any more. All threads
//! that an engine will ever use exist when [`open`] returns, and are as many as it was told. Whatever
//! the files hold, the answer is an engine or a [`LoadError`], never a panic.
//!
//! All arithmetic on activations is in f32 and in buffers that are freed (and so zeroed by the
//! worker's allocator) or owned by a pool that is scrubbed; nothing here caches text or token ids.

mod compute;
pub mod decoder;
pub mod encoder;
pub mod generate;
pub mod null;
mod scratch;
pub mod source;
pub mod text;

use crate::engine::Engine;
use crate::load::FileBytes;
use bulkhead_proto::internal::Load;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use compute::Compute;

/// The files of a model that is being loaded.
#[derive(Debug)]
pub(crate) struct ModelFiles(Vec<FileBytes>);

impl ModelFiles {
    /// Takes a file out, so that its bytes are freed when the caller is done with them.
    pub(crate) fn take(&mut self, name: &str) -> Result<Vec<u8>, LoadError> {
        let at = self.0.iter().position(|file| file.name == name);
        let at = at.ok_or_else(|| LoadError::Missing { file: name.into() })?;
        Ok(self.0.swap_remove(at).bytes)
    }
}

/// Why a model could not be loaded. The operator's to mend; retrying alone does not help.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No engine for that format.
    #[error("unknown model format {format:?}; known are \"bert\", \"gguf\" and \"null\"")]
    Format {
        /// What was asked for.
        format: String,
    },
    /// A file that the format needs was not given.
    #[error("{file} is missing from the model's folder; `bulkhead models pull` fetches it")]
    Missing {
        /// Its name.
        file: String,
    },
    /// A file could not be understood: truncated, garbled or of an unknown kind.
    #[error("{file} cannot be used: {cause}")]
    Bad {
        /// Its name.
        file: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The threads could not be started.
    #[error("compute threads could not be started: {cause}")]
    Threads {
        /// What the system said.
        cause: String,
    },
}

impl LoadError {
    /// A file that cannot be used, and why.
    pub(crate) fn bad(file: &str, cause: impl ToString) -> Self {
        LoadError::Bad {
            file: file.into(),
            cause: cause.to_string(),
        }
    }
}

/// Makes an engine of the files that were read for `load`, for `load.threads` compute threads, and
/// runs one small step, so that everything that is made on first use exists before the process is
/// sealed.
pub fn open(load: &Load, files: Vec<FileBytes>) -> Result<Box<dyn Engine>, LoadError> {
    let compute = || Compute::new(load.threads as usize);
    let named = files
        .first()
        .map_or("the model", |file| &file.name)
        .to_owned();
    let files = ModelFiles(files);
    let make = || -> Result<Box<dyn Engine>, LoadError> {
        match load.format.as_str() {
            "bert" => Ok(Box::new(encoder::Embedder::load(files, compute()?)?)),
            "gguf" => Ok(Box::new(generate::Generator::load(files, compute()?)?)),
            "null" => Ok(Box::new(null::NullEngine::new(load.null_ns_per_token))),
            other => Err(LoadError::Format {
                format: other.into(),
            }),
        }
    };
    // The parsers return errors; should one of the libraries below panic on strange bytes, the
    // worker still gets a reason instead of dying.
    catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|_| {
        Err(LoadError::bad(
            &named,
            "reading the model's files failed inside",
        ))
    })
}
