//! The real driver and core with GPUs that something could run on: what becomes of work on one that goes bad.
//! The launcher and the workers are this test, at the other end of their sockets.

use super::*;
use crate::server::{
    audit_log::AuditLog,
    catalog::Catalog,
    clock::Clock,
    driver::{Ended, Heard, Job, NewRequest, Setup, TenantFacts, Update},
    faults::Faults,
    limits,
    metrics::TenantLabels,
};
use bulkhead_core::{AgentId, End, Outcome, RequestId, Submission, TenantId, TenantSettings};
use bulkhead_kernels::device::{Source as _, fake::FakeNvml};
use bulkhead_proto::{
    frame,
    internal::{
        self, Finished, FromLauncher, FromWorker, GenerateJob, Models, OfferedModel, Piece, Ready,
        Spawned, Step, ToLauncher, ToWorker, from_launcher, from_worker, to_launcher, to_worker,
    },
};
use std::os::unix::net::UnixStream;
use tokio::sync::mpsc::{self, UnboundedReceiver};

const TENANT: TenantId = TenantId(1);
const PROMPT: &str = "a prompt";

struct Case {
    driver: Driver,
    launcher: UnboundedReceiver<ToLauncher>,
    machine: FakeNvml,
    _inbox: mpsc::Receiver<super::super::Message>,
}

impl Case {
    fn new() -> Case {
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
        case.driver.take(super::super::Message::Tenant(TenantFacts {
            number: TENANT,
            name: "acme".into(),
            quota_bytes: 1,
            gpu_quota_bytes: 2,
            settings: TenantSettings {
                weight: 1,
                queue_requests_max: 9,
                open_requests_max: 9,
                rate: bulkhead_core::Rate::default(),
                agent_rate: bulkhead_core::Rate::default(),
            },
        }));
        case.driver.gpus_said(GpusWord::Up { has_worker: true });
        case.happens("look");
        case
    }

    fn happens(&mut self, what: &str) {
        self.machine.happen(what).unwrap();
        let seen = self.machine.look().unwrap();
        self.driver.gpus_said(GpusWord::Seen(seen));
        self.driver.end_turn();
    }

    fn submit(&mut self, request: u64) -> UnboundedReceiver<Update> {
        let (updates, told) = mpsc::unbounded_channel();
        let model = self.driver.setup.known.get("m").unwrap().id;
        self.driver.submit(NewRequest {
            submission: Submission {
                request: RequestId(request),
                tenant: TENANT,
                agent: AgentId(1),
                model,
                tokens_in: 1,
                tokens_out_max: 10,
                bytes: 100,
                deadline: None,
                priority: bulkhead_core::Priority::default(),
            },
            job: Job::Generate(GenerateJob {
                prompt: PROMPT.into(),
                max_tokens: 10,
                ..GenerateJob::default()
            }),
            updates,
        });
        self.driver.end_turn();
        told
    }

    /// What the launcher was told since the last time.
    fn asked(&mut self) -> Vec<to_launcher::Message> {
        std::iter::from_fn(|| self.launcher.try_recv().ok()?.message).collect()
    }

    /// Starts the one worker that was asked for: its number, its device, and its end of its socket. One on a GPU is asked
    /// for by that GPU's unique id, and its node.
    fn start(&mut self) -> (WorkerId, String, UnixStream) {
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

    fn says(&mut self, worker: WorkerId, message: from_worker::Message) {
        let message = Some(message);
        let frame = Box::new(FromWorker { message });
        self.driver.worker_said(worker, Heard::Frame(frame));
        self.driver.end_turn();
    }

    fn steps(&mut self, worker: WorkerId, lease: u64, piece: Option<u64>, finished: Option<u64>) {
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
fn given(socket: &mut UnixStream) -> (Vec<String>, u64) {
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

fn end_of(told: &mut UnboundedReceiver<Update>) -> Option<Ended> {
    std::iter::from_fn(|| told.try_recv().ok()).find_map(|update| match update {
        Update::Ended(ended) => Some(*ended),
        _ => None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_bad_gpu_held_runs_on_another_and_what_it_says_of_it_is_not_heard() {
    let mut case = Case::new();
    let mut told = case.submit(1);
    let (first, device, mut socket) = case.start();
    assert_eq!(device, "cuda:0", "it has the most places");
    let (prompts, lease) = given(&mut socket);
    assert_eq!(prompts, [PROMPT]);
    // Our own process's memory is no stranger's.
    case.happens("process cuda:0 4711 85899345920");
    case.happens("xid cuda:0 31");
    assert!(
        case.asked().is_empty(),
        "an application's error takes no device"
    );

    case.happens("xid cuda:0 79");
    let (second, device, mut socket) = case.start();
    assert_eq!(device, "cuda:1");
    let (prompts, next) = given(&mut socket);
    assert_eq!(prompts, [PROMPT], "all of it again");
    case.steps(first, lease, Some(1), Some(1));
    assert!(end_of(&mut told).is_none());
    case.steps(second, next, Some(1), Some(1));
    let ended = end_of(&mut told).expect("it is done");
    assert_eq!(
        (ended.end, ended.worker),
        (End::Worker(Outcome::Ok), Some(second))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_answer_that_had_begun_on_a_gpu_that_goes_bad_ends() {
    let mut case = Case::new();
    let mut told = case.submit(1);
    let (worker, _, mut socket) = case.start();
    let (_, lease) = given(&mut socket);
    case.steps(worker, lease, Some(1), None);
    case.happens("unplug cuda:0");
    let killed = |one: &to_launcher::Message| matches!(one, to_launcher::Message::Kill(kill) if kill.worker == worker.0);
    assert!(case.asked().iter().any(killed));
    assert_eq!(end_of(&mut told).expect("it ends").end, End::DeviceLost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn where_strangers_have_the_memory_nothing_is_started() {
    let mut case = Case::new();
    case.happens("process cuda:0 1 85899345920");
    case.happens("process cuda:1 1 84825604096");
    let _told = case.submit(1);
    assert_eq!(case.start().1, "cuda:1", "there is room for one");

    let mut case = Case::new();
    for gpu in ["cuda:0", "cuda:1"] {
        case.happens(&format!("process {gpu} 1 85899345920"));
    }
    let _told = case.submit(1);
    assert_eq!(case.start().1, "cpu", "there is no room");
}
