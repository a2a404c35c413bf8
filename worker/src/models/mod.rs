//! The models: from a folder's bytes to an [`Engine`].
//!
//! Everything is parsed from memory: at this point the process may open no file any more. First
//! [`load`], which starts no thread, so that a process can fork between the two; then
//! [`Loaded::start`], which makes all threads that an engine will ever use, as many as it is told.
//! Whatever the files hold, the answer is an engine or a [`LoadError`], never a panic.
//!
//! All arithmetic on activations is in f32 and in buffers that are freed (and so zeroed by the
//! worker's allocator) or owned by a pool that is scrubbed; nothing here caches text or token ids.

mod compute;
pub mod decoder;
mod device;
pub mod encoder;
pub mod generate;
pub mod null;
mod scratch;
pub mod source;
pub mod text;

use crate::engine::Engine;
use crate::load::FileBytes;
use bulkhead_proto::internal::{Load, SharedWeights};
use decoder::{Lender, Table};
use serde::Deserialize;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use compute::Compute;
pub use device::On;

/// The files of a model that is being loaded.
#[derive(Debug)]
pub(crate) struct ModelFiles(Vec<FileBytes>);

impl ModelFiles {
    /// True if there is a file of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|file| file.name == name)
    }

    /// A file's bytes, left where they are.
    pub(crate) fn look(&self, name: &str) -> Result<&[u8], LoadError> {
        let found = self.0.iter().find(|file| file.name == name);
        let found = found.ok_or_else(|| LoadError::Missing { file: name.into() })?;
        Ok(&found.bytes)
    }

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
    #[error("unknown model format {format:?}; known are \"safetensors\", \"gguf\" and \"null\"")]
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
    /// Not a device that this program computes on: the launcher's fault, or the installation's.
    #[error("this program cannot compute on {device:?}: {why}")]
    NoDevice {
        /// What was asked for.
        device: String,
        /// What would help.
        why: &'static str,
    },
    /// The device could not be opened, or has no room; trying again may help.
    #[error("the device could not be used: {cause}")]
    Device {
        /// What the driver said.
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
    /// False where the machine was short of something, so that trying again may help.
    pub fn permanent(&self) -> bool {
        !matches!(self, LoadError::Threads { .. } | LoadError::Device { .. })
    }

    /// A file that cannot be used, and why.
    pub(crate) fn bad(file: &str, cause: impl ToString) -> Self {
        LoadError::Bad {
            file: file.into(),
            cause: cause.to_string(),
        }
    }
}

/// [`load`] and [`Loaded::start`] in one, for a process that shares its weights with nobody.
pub fn open(load: &Load, files: Vec<FileBytes>) -> Result<Box<dyn Engine>, LoadError> {
    let on = On::processor(&load.device)?;
    self::load(load, on, files)?.start(load.threads as usize, true)
}

/// A model whose files were read and packed, and that has no thread yet: a process that holds one can
/// fork, and share its weights with what it forks.
pub struct Loaded {
    named: String,
    start: Start,
}

/// Given the number of threads, and whether to warm up.
type Start = Box<dyn FnOnce(usize, bool) -> Result<Box<dyn Engine>, LoadError> + Send>;

/// Makes an engine on threads of its own.
fn on_threads<E: Engine + 'static>(
    start: impl FnOnce(Compute, bool) -> E + Send + 'static,
) -> Start {
    Box::new(|threads, warm_up| Ok(Box::new(start(Compute::new(threads)?, warm_up))))
}

/// Reads a model from the files that were read for `load`, for this device. Starts no thread: whatever `files` hold,
/// the process has as many threads afterwards as before.
pub fn load(load: &Load, on: On, files: Vec<FileBytes>) -> Result<Loaded, LoadError> {
    let named = files
        .first()
        .map_or("the model", |file| &file.name)
        .to_owned();
    let files = ModelFiles(files);
    let null_ns_per_token = load.null_ns_per_token;
    let make = move || -> Result<Start, LoadError> {
        if let Some(shared) = &load.shared_weights {
            return borrowing(files, on, shared);
        }
        match load.format.as_str() {
            // "bert" is what older manifests say.
            "safetensors" | "bert" => match generates(&files)? {
                true => Ok(on_threads(generate::Generator::load(files, on)?)),
                false if matches!(on, On::Processor) => {
                    Ok(on_threads(encoder::Embedder::load(files)?))
                }
                false => Err(LoadError::NoDevice {
                    device: load.device.clone(),
                    why: "models that make embeddings run on the processor",
                }),
            },
            "gguf" => Ok(on_threads(generate::Generator::load(files, on)?)),
            "null" => Ok(Box::new(move |_, _| {
                Ok(Box::new(null::NullEngine::new(null_ns_per_token)))
            })),
            other => Err(LoadError::Format {
                format: other.into(),
            }),
        }
    };
    let start = survive(&named, make)?;
    Ok(Loaded { named, start })
}

/// On weights that a keeper laid out.
#[cfg(feature = "cuda")]
fn borrowing(files: ModelFiles, on: On, shared: &SharedWeights) -> Result<Start, LoadError> {
    let borrowed = decoder::Borrowed::take(shared)?;
    match on {
        On::Gpu(gpu) => {
            let start = generate::Generator::borrowing(files, *gpu, borrowed)?;
            Ok(on_threads(start))
        }
        On::Processor => Err(not_lent()),
    }
}

/// No device of this program lends its memory.
#[cfg(not(feature = "cuda"))]
fn borrowing(_files: ModelFiles, _on: On, _shared: &SharedWeights) -> Result<Start, LoadError> {
    Err(not_lent())
}

fn not_lent() -> LoadError {
    LoadError::NoDevice {
        device: "cpu".into(),
        why: "keepers lend memory of GPUs; on a processor weights are shared by templates",
    }
}

/// A device that lends its memory to other processes.
pub(crate) fn lender(on: On) -> Result<Box<dyn Lender>, LoadError> {
    match on {
        On::Processor => Err(not_lent()),
        #[cfg(feature = "cuda")]
        On::Gpu(gpu) => Ok(Box::new(decoder::GpuLender::of(*gpu))),
    }
}

/// Lays the weights of a model that generates text out in memory of a device, and says where each is.
pub(crate) fn lay_out(
    load: &Load,
    files: Vec<FileBytes>,
    lender: &mut dyn Lender,
) -> Result<Table, LoadError> {
    const FORMAT: &str = "safetensors";
    let mut files = ModelFiles(files);
    survive("the model", || {
        if load.format != FORMAT || !generates(&files)? {
            return Err(LoadError::bad(
                "the model",
                "what can be shared on a GPU are safetensors of models that generate text",
            ));
        }
        let config = files.take("config.json")?;
        decoder::lay_out(&config, source::Safetensors::open(&mut files)?, lender)
    })
}

/// True if a folder's config.json is that of a model that generates text, and false if it makes
/// embeddings.
fn generates(files: &ModelFiles) -> Result<bool, LoadError> {
    #[derive(Deserialize)]
    struct Kind {
        model_type: Option<String>,
    }
    const FILE: &str = "config.json";
    let kind: Kind =
        serde_json::from_slice(files.look(FILE)?).map_err(|error| LoadError::bad(FILE, error))?;
    let name = kind.model_type.unwrap_or_default();
    let generates = decoder::Family::named(&name).is_some();
    if !generates && !encoder::FAMILIES.contains(&name.as_str()) {
        let cause = format!(
            "model type {name:?} is not supported; for text {} are, and for embeddings {}",
            decoder::FAMILIES,
            encoder::FAMILIES.join(", ")
        );
        return Err(LoadError::bad(FILE, cause));
    }
    Ok(generates)
}

/// How a loaded model becomes an engine. That of every worker that serves is [`Loaded::start`]; tests of the
/// seal put a hostile one in its place.
pub type StartWith = fn(Loaded, usize, bool) -> Result<Box<dyn Engine>, LoadError>;

impl Loaded {
    /// Starts `threads` compute threads. With `warm_up`, runs one small job, so that everything that is
    /// made on first use exists before the process is sealed, and a model that cannot run is found out.
    pub fn start(self, threads: usize, warm_up: bool) -> Result<Box<dyn Engine>, LoadError> {
        survive(&self.named, || (self.start)(threads, warm_up))
    }
}

/// The parsers return errors; should one of the libraries below panic on strange bytes, the worker
/// still gets a reason instead of dying.
fn survive<T>(named: &str, work: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(LoadError::bad(
            named,
            "reading the model's files failed inside",
        ))
    })
}
