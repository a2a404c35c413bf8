//! The real driver and core, for tests: the launcher and the workers are the test itself, at the other end of their
//! sockets, and nothing waits for time.

use super::{Driver, GpuWorkers, GpusWord};
use crate::server::{
    audit_log::AuditLog,
    catalog::Catalog,
    clock::Clock,
    driver::{Ended, Heard, Job, NewRequest, Setup, TenantFacts, Update},
    faults::Faults,
    limits,
    metrics::TenantLabels,
};
use bulkhead_core::{AgentId, RequestId, Submission, TenantId, TenantSettings, WorkerId};
use bulkhead_kernels::device::{Source as _, fake::FakeNvml};
use bulkhead_proto::{
    frame,
    internal::{
        self, Finished, FromLauncher, FromWorker, GenerateJob, Models, OfferedModel, Piece, Ready,
        Spawned, Step, ToLauncher, ToWorker, from_launcher, from_worker, to_launcher, to_worker,
    },
};
use std::{os::unix::net::UnixStream, sync::Arc};
use tokio::sync::mpsc::{self, UnboundedReceiver};

const TENANT: TenantId = TenantId(1);
pub const PROMPT: &str = "a prompt";

/// A driver with two GPUs, one tenant, and a model.
pub struct Case {
    pub driver: Driver,
    launcher: UnboundedReceiver<ToLauncher>,
    machine: FakeNvml,
    _inbox: mpsc::Receiver<super::Message>,
}

impl Case {
    pub fn new() -> Case {
        let config = crate::config::Config::default();
        let (to_launcher, launcher) = mpsc::unbounded_channel();
        let audit = AuditLog::new([0; 16], 100);
        let model = OfferedModel {
            name: "m".into(),
            task: "generate".into(),
            ..OfferedModel::default()
        };
        let setup = Setup {
            limits: limits(&config),
            lanes: 1,
            workers_max: 1,
            gpu_workers: Some(GpuWorkers {
                lanes: 1,
                workers_max: 4,
                worker_bytes: 1 << 30,
            }),
            region: String::new(),
            step_limit_ns: 1,
            prefix_cache: Vec::new(),
            prefix_cache_idle_ns: 0,
            clock: Clock::start(),
            labels: TenantLabels::default(),
            launcher: to_launcher,
            known: Arc::new(Catalog::new(Models {
                models: vec![model],
            })),
            faults: Arc::new(Faults::new(audit.clone())),
            audit,
        };
        let (sender, inbox) = mpsc::channel(64);
        let mut case = Case {
            driver: Driver::new(setup, sender),
            launcher,
            machine: FakeNvml::new(2),
            _inbox: inbox,
        };
        case.driver.tenant(TenantFacts {
            number: TENANT,
            name: "acme".into(),
            generation: 1,
            quota_bytes: 1,
            gpu_quota_bytes: 2,
            residency: Vec::new(),
            settings: TenantSettings {
                regions: bulkhead_core::Regions::ANY,
                weight: 1,
                queue_requests_max: 9,
                open_requests_max: 9,
                rate: bulkhead_core::Rate::default(),
                agent_rate: bulkhead_core::Rate::default(),
            },
        });
        case.driver.gpus_said(GpusWord::Up { has_worker: true });
        case.happens("look");
        case
    }

    pub fn happens(&mut self, what: &str) {
        self.machine.happen(what).unwrap();
        let seen = self.machine.look().unwrap();
        self.driver.gpus_said(GpusWord::Seen(seen));
        self.driver.end_turn();
    }

    pub fn submit(&mut self, request: u64) -> UnboundedReceiver<Update> {
        self.submit_prompt(request, PROMPT)
    }

    pub fn submit_prompt(&mut self, request: u64, prompt: &str) -> UnboundedReceiver<Update> {
        let (updates, told) = mpsc::unbounded_channel();
        let model = self.driver.setup.known.get("m").unwrap().id;
        self.driver.submit(NewRequest {
            submission: Submission {
                request: RequestId(request),
                tenant: TENANT,
                agent: AgentId(1),
                model,
                tokens_in: 1,
                tokens_read_min: 1,
                tokens_out_max: 10,
                bytes: 100,
                deadline: None,
                priority: bulkhead_core::Priority::default(),
            },
            job: Job::Generate(GenerateJob {
                prompt: prompt.into(),
                max_tokens: 10,
                ..GenerateJob::default()
            }),
            updates,
        });
        self.driver.end_turn();
        told
    }

    pub fn hang_up(&mut self, request: u64) {
        self.driver.take(super::Message::Cancel {
            request: RequestId(request),
            why: bulkhead_core::CancelReason::Client,
        });
        self.driver.end_turn();
    }

    /// What the launcher was told since the last time.
    pub fn asked(&mut self) -> Vec<to_launcher::Message> {
        std::iter::from_fn(|| self.launcher.try_recv().ok()?.message).collect()
    }

    /// Starts the one worker that was asked for: its number, its device, and its end of its socket. One on a GPU is asked
    /// for by that GPU's unique id, and its node.
    pub fn start(&mut self) -> (WorkerId, String, UnixStream) {
        let asked = self.asked().into_iter().find_map(|one| match one {
            to_launcher::Message::Spawn(spawn) => Some(spawn),
            _ => None,
        });
        let spawn = asked.expect("a worker is asked for");
        let seen = self.machine.look().unwrap().devices;
        let of_it = seen.iter().find(|one| one.id == spawn.device);
        let gpu = of_it.map(|one| (one.uuid.clone(), one.minor.unwrap()));
        assert_eq!(spawn.gpu.map(|gpu| (gpu.uuid, gpu.minor)), gpu);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let spawned = Spawned {
            worker: spawn.worker,
            pid: 4711,
            model_sha256: String::new(),
            ..Spawned::default()
        };
        let message = Some(from_launcher::Message::Spawned(spawned));
        let message = FromLauncher { message };
        self.driver.launcher_said(message, Some(theirs.into()));
        let worker = WorkerId(spawn.worker);
        self.says(worker, from_worker::Message::Ready(Ready::default()));
        (worker, spawn.device, ours)
    }

    pub fn says(&mut self, worker: WorkerId, message: from_worker::Message) {
        let message = Some(message);
        let frame = Box::new(FromWorker { message });
        self.driver.worker_said(worker, Heard::Frame(frame));
        self.driver.end_turn();
    }

    /// A step in which the first request of a worker came to so many tokens, of which nothing is to be seen.
    pub fn tokens(&mut self, worker: WorkerId, lease: u64, output_tokens: u32) {
        let piece = Piece {
            request: 1,
            output_tokens,
            ..Piece::default()
        };
        let step = Step {
            lease,
            tokens: output_tokens,
            pieces: vec![piece],
            ..Step::default()
        };
        self.says(worker, from_worker::Message::Step(step));
    }

    pub fn steps(
        &mut self,
        worker: WorkerId,
        lease: u64,
        piece: Option<u64>,
        finished: Option<u64>,
    ) {
        let piece = piece.map(|request| Piece {
            request,
            text: "so far".into(),
            output_tokens: 1,
            ..Piece::default()
        });
        let finished = finished.map(|request| Finished {
            request,
            outcome: internal::Outcome::Ok.into(),
            ..Finished::default()
        });
        let step = Step {
            lease,
            tokens: 1,
            pieces: piece.into_iter().collect(),
            finished: finished.into_iter().collect(),
            ..Step::default()
        };
        self.says(worker, from_worker::Message::Step(step));
    }
}

/// Reads what a worker is told up to its lease: the prompts that it was given, and the lease.
pub fn given(socket: &mut UnixStream) -> (Vec<String>, u64) {
    let mut prompts = Vec::new();
    loop {
        let frame = frame::read::<ToWorker>(socket).unwrap().unwrap();
        match frame.message.unwrap() {
            to_worker::Message::Work(work) => {
                prompts.extend(work.items.into_iter().map(|item| match item.job.unwrap() {
                    internal::work_item::Job::Generate(job) => job.prompt,
                    other => panic!("{other:?}"),
                }))
            }
            to_worker::Message::Grant(grant) => return (prompts, grant.lease),
            _ => {}
        }
    }
}

pub fn end_of(told: &mut UnboundedReceiver<Update>) -> Option<Ended> {
    std::iter::from_fn(|| told.try_recv().ok()).find_map(|update| match update {
        Update::Ended(ended) => Some(*ended),
        _ => None,
    })
}
