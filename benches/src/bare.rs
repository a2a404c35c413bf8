//! The worker's engine in this process: what it does without a server around it.
//!
//! The same code on the same zeroing allocator as in a worker, unsealed, with nobody to answer to.

use crate::{
    Failure,
    args::ServerArgs,
    waiting::Waiting,
    workload::{EMBED_MODEL, GENERATE_MODEL},
};
use bulkhead_kernels::alloc::Mappings;
use bulkhead_proto::internal::{
    EmbedJob, Finished, GenerateJob, Load, Outcome, WorkItem, work_item::Job,
};
use bulkhead_worker::engine::{Engine, StepOutcome};
use bulkhead_worker::evidence::Evidence;
use bulkhead_worker::{
    load::FileBytes,
    models::{self, On},
};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

/// The longest step that a worker plans for, where the configuration does not say otherwise.
pub const STEP_LIMIT_NS: u64 = 25_000_000;
/// Memory for keys and values: eight sequences with room to spare.
const QUOTA_BYTES: u64 = 1 << 30;

/// An engine and its clock.
pub struct Bare {
    engine: Box<dyn Engine>,
    evidence: Evidence,
    began: Instant,
    next: u64,
    waiting: Option<Waiting>,
}

/// Both starter models.
pub struct Starters {
    pub minilm: Bare,
    pub smollm2: Bare,
}

impl Starters {
    /// Loads them, each with so many compute threads.
    pub fn open(server: &ServerArgs, threads: usize) -> Result<Starters, Failure> {
        const BERT: [&str; 4] = [
            "config.json",
            "model.safetensors",
            "sentence_bert_config.json",
            "tokenizer.json",
        ];
        let models = models_dir(server)?;
        let (minilm, smollm2) = (models.join(EMBED_MODEL), models.join(GENERATE_MODEL));
        Ok(Starters {
            minilm: Bare::open(&minilm, "bert", &BERT, threads)?,
            smollm2: Bare::open(&smollm2, "gguf", &["model.gguf"], threads)?,
        })
    }
}

/// Where the models are.
pub fn models_dir(server: &ServerArgs) -> Result<PathBuf, Failure> {
    let cache = || {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.filter(|base| base.is_absolute());
        let base = base.or_else(|| std::env::home_dir().map(|home| home.join(".cache")))?;
        Some(base.join("bulkhead/models"))
    };
    let named = std::env::var_os("BULKHEAD_MODELS").filter(|dir| !dir.is_empty());
    (server.models.clone())
        .or_else(|| named.map(PathBuf::from))
        .or_else(cache)
        .ok_or_else(|| "no home folder is known; say --models DIR".into())
}

/// A piece of text that came out.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// Whose it is.
    pub request: u64,
    /// Tokens of that answer so far.
    pub tokens: u32,
    /// When, seconds from the start of the run.
    pub at: f64,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Run {
    pub seconds: f64,
    pub shown: Vec<Shown>,
    pub finished: Vec<Finished>,
}

/// One step, and what it took.
#[derive(Debug)]
pub struct Stepped {
    pub outcome: StepOutcome,
    /// As a worker counts it: the scrub that an ended request is answered with belongs to it.
    pub seconds: f64,
    /// Of these, at most so much was waiting for a processor that other programs had. 0 where nobody
    /// asked, or the kernel does not say.
    pub waited_seconds: f64,
    /// When it ended, seconds on the engine's clock.
    pub at: f64,
}

impl Bare {
    /// Loads the model in `folder`.
    pub fn open(
        folder: &Path,
        format: &str,
        files: &[&str],
        threads: usize,
    ) -> Result<Bare, Failure> {
        let read = |name: &&str| -> Result<FileBytes, Failure> {
            let path = folder.join(name);
            let bytes = std::fs::read(&path).map_err(|error| {
                format!(
                    "{}: {error}; `bulkhead models pull` fetches it",
                    path.display()
                )
            })?;
            Ok(FileBytes {
                name: (*name).to_owned(),
                bytes,
            })
        };
        let load = Load {
            format: format.to_owned(),
            threads: u32::try_from(threads)?,
            ..Load::default()
        };
        let files = files.iter().map(read).collect::<Result<_, _>>()?;
        let loaded = models::load(&load, On::processor(&load.device)?, files)?;
        // As a template does: what of the model is not in large pages yet, and nothing of what computing takes.
        let _ = Mappings::of_this_process()?.collapse();
        let engine = loaded.start(threads, true)?;
        let mut bare = Bare {
            engine,
            evidence: Evidence::begin(),
            began: Instant::now(),
            next: 0,
            waiting: None,
        };
        bare.limit_steps(STEP_LIMIT_NS);
        Ok(bare)
    }

    /// From now on, tells of each step how long its threads waited for a processor, where the kernel says.
    pub fn tell_waiting(&mut self) {
        self.waiting = Waiting::of_all_threads().ok();
    }

    /// From now on, with fresh memory for keys and values.
    pub fn limit_steps(&mut self, limit_ns: u64) {
        self.engine.assign(QUOTA_BYTES, limit_ns);
    }

    /// Adds a request of `texts`.
    pub fn embed(&mut self, texts: &[String]) -> u64 {
        let job = Job::Embed(EmbedJob {
            texts: texts.to_vec(),
        });
        self.add(0, job)
    }

    /// Adds a greedy answer of exactly `max_tokens` to a raw prompt.
    pub fn generate(&mut self, prompt: &str, max_tokens: u32) -> u64 {
        self.generate_for(0, prompt, max_tokens)
    }

    /// The same, for one of the tenant's agents.
    pub fn generate_for(&mut self, agent: u64, prompt: &str, max_tokens: u32) -> u64 {
        let job = Job::Generate(GenerateJob {
            prompt: prompt.to_owned(),
            max_tokens,
            ignore_eos: true,
            ..GenerateJob::default()
        });
        self.add(agent, job)
    }

    fn add(&mut self, agent: u64, job: Job) -> u64 {
        self.next += 1;
        self.engine.add(WorkItem {
            request: self.next,
            agent,
            job: Some(job),
            ..WorkItem::default()
        });
        self.next
    }

    /// Stops a request.
    pub fn cancel(&mut self, request: u64) {
        self.engine.cancel(request);
    }

    /// One step; `None` where there is nothing to do.
    pub fn step(&mut self) -> Option<Stepped> {
        if !self.engine.has_work() {
            return None;
        }
        let began = self.began;
        let now = move || u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let waited = |waiting: &mut Option<Waiting>| waiting.as_mut().map_or(0, Waiting::total_ns);
        let (waited_before, step) = (waited(&mut self.waiting), Instant::now());
        let outcome = self.engine.step(&now);
        if !outcome.finished.is_empty() {
            self.evidence.scrub(&mut *self.engine);
        }
        let seconds = step.elapsed().as_secs_f64();
        let waited_ns = waited(&mut self.waiting).saturating_sub(waited_before);
        Some(Stepped {
            outcome,
            seconds,
            waited_seconds: waited_ns as f64 / 1e9,
            at: began.elapsed().as_secs_f64(),
        })
    }

    /// Steps until nothing is left to do, then scrubs, as a worker does.
    pub fn drain(&mut self) -> Result<Run, Failure> {
        let mut run = Run::default();
        let started = Instant::now();
        while let Some(Stepped { outcome, .. }) = self.step() {
            let at = started.elapsed().as_secs_f64();
            run.shown.extend(outcome.pieces.iter().map(|piece| Shown {
                request: piece.request,
                tokens: piece.output_tokens,
                at,
            }));
            run.finished.extend(outcome.finished);
        }
        run.seconds = started.elapsed().as_secs_f64();
        self.evidence.scrub(&mut *self.engine);
        match run.finished.iter().find(|one| one.outcome() != Outcome::Ok) {
            None => Ok(run),
            Some(one) => Err(format!("the engine refused: {}", one.detail).into()),
        }
    }
}
