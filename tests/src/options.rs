//! How a server under test differs from the default: a `bulkhead.toml`, built up setting by setting.

use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The configuration of one server. Its ports are chosen when it starts.
#[derive(Clone, Debug)]
pub struct Options {
    table: Table,
    worker: Option<PathBuf>,
    gpus: Option<PathBuf>,
    worker_cuda: Option<PathBuf>,
}

impl Default for Options {
    /// Without workers ahead: tests count the processes that their requests start.
    fn default() -> Options {
        let empty = Options {
            table: Table::new(),
            worker: None,
            gpus: None,
            worker_cuda: None,
        };
        empty.with("worker.spares", 0)
    }
}

impl Options {
    /// A server that offers the null model alone, which does `ns_per_token` of work per token, and
    /// has no other models.
    pub fn null(ns_per_token: u64) -> Options {
        let ns = i64::try_from(ns_per_token).expect("less than 292 years");
        Options::default()
            .with("models.dir", "/nonexistent")
            .with("models.null", true)
            .with("models.null_ns_per_token", ns)
    }

    /// A server that offers the models in `dir`.
    pub fn models(dir: &Path) -> Options {
        let dir = dir.to_str().expect("the folder's name is UTF-8");
        Options::default().with("models.dir", dir)
    }

    /// Sets `section.key`.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Options {
        let (section, key) = key.split_once('.').expect("section.key");
        let section = self
            .table
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        let section = section.as_table_mut().expect("sections are tables");
        section.insert(key.into(), value.into());
        self
    }

    /// Has this program in the place of the worker's.
    pub fn with_worker(mut self, program: &Path) -> Options {
        self.worker = Some(program.into());
        self
    }

    /// Has this program in the place of the one that watches GPUs.
    pub fn with_gpus(mut self, program: &Path) -> Options {
        self.gpus = Some(program.into());
        self
    }

    /// Has this program for workers on GPUs.
    pub fn with_worker_cuda(mut self, program: &Path) -> Options {
        self.worker_cuda = Some(program.into());
        self
    }

    /// The programs in the place of ours, by the variable that names them.
    pub fn programs(&self) -> Vec<(&'static str, PathBuf)> {
        let named = [
            ("BULKHEAD_WORKER", &self.worker),
            ("BULKHEAD_GPUS", &self.gpus),
            ("BULKHEAD_WORKER_CUDA", &self.worker_cuda),
        ];
        let named = named.into_iter();
        named
            .filter_map(|(name, path)| Some((name, path.clone()?)))
            .collect()
    }

    /// Switches a protection off, to show that its test would notice.
    pub fn without(self, protection: &str) -> Options {
        self.with("unsafe.disable", vec![Value::from(protection)])
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.table).expect("settings can be written")
    }
}
