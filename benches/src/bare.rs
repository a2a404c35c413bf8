//! The worker's engine in this process: what it does without a server around it.
//!
//! The same code on the same zeroing allocator as in a worker, unsealed, with nobody to answer to.

use crate::Failure;
use bulkhead_proto::internal::{
    EmbedJob, Finished, GenerateJob, Load, Outcome, WorkItem, work_item::Job,
};
use bulkhead_worker::{engine::Engine, load::FileBytes, models};
use std::{path::Path, time::Instant};

/// The longest step that a worker plans for, where the configuration does not say otherwise.
pub const STEP_LIMIT_NS: u64 = 25_000_000;
/// Memory for keys and values: eight sequences with room to spare.
const QUOTA_BYTES: u64 = 1 << 30;

/// An engine and its clock.
pub struct Bare {
    engine: Box<dyn Engine>,
    began: Instant,
    next: u64,
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
    /// Each step's length, seconds.
    pub steps: Vec<f64>,
    pub shown: Vec<Shown>,
    pub finished: Vec<Finished>,
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
            zeroing: true,
            ..Load::default()
        };
        let files = files.iter().map(read).collect::<Result<_, _>>()?;
        let mut engine = models::open(&load, files)?;
        engine.assign(QUOTA_BYTES, STEP_LIMIT_NS);
        Ok(Bare {
            engine,
            began: Instant::now(),
            next: 0,
        })
    }

    /// Adds a request of `texts`.
    pub fn embed(&mut self, texts: &[String]) -> u64 {
        self.add(Job::Embed(EmbedJob {
            texts: texts.to_vec(),
        }))
    }

    /// Adds a greedy answer of exactly `max_tokens` to a raw prompt.
    pub fn generate(&mut self, prompt: &str, max_tokens: u32) -> u64 {
        self.add(Job::Generate(GenerateJob {
            prompt: prompt.to_owned(),
            max_tokens,
            ignore_eos: true,
            ..GenerateJob::default()
        }))
    }

    fn add(&mut self, job: Job) -> u64 {
        self.next += 1;
        self.engine.add(WorkItem {
            request: self.next,
            job: Some(job),
            ..WorkItem::default()
        });
        self.next
    }

    /// Steps until nothing is left to do, then scrubs, as a worker does.
    pub fn drain(&mut self) -> Result<Run, Failure> {
        let mut run = Run::default();
        let began = self.began;
        let now = move || u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let started = Instant::now();
        while self.engine.has_work() {
            let step = Instant::now();
            let outcome = self.engine.step(&now);
            run.steps.push(step.elapsed().as_secs_f64());
            let at = started.elapsed().as_secs_f64();
            run.shown.extend(outcome.pieces.iter().map(|piece| Shown {
                request: piece.request,
                tokens: piece.output_tokens,
                at,
            }));
            run.finished.extend(outcome.finished);
        }
        run.seconds = started.elapsed().as_secs_f64();
        self.engine.scrub();
        match run.finished.iter().find(|one| one.outcome() != Outcome::Ok) {
            None => Ok(run),
            Some(one) => Err(format!("the engine refused: {}", one.detail).into()),
        }
    }
}
