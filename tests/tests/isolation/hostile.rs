//! Promises 1, 3 and 4 against a worker that was taken over: whatever it tries, it fails, its end is counted with its
//! reason and on its tenant's record, and no other tenant loses a request by it.
//!
//! The worker is the real program, sealed the real way, with an engine that does what its prompts say
//! (`tests/hostile`). Everybody's workers here are such; only those are asked to try something whose tenant is named
//! after the attempt.

use bulkhead_audit::Kind;
use bulkhead_tests::{
    agent::Client,
    gpus::Gpus,
    options::Options,
    process::alive,
    programs, records,
    server::{RECOVERY_MAX, Server},
    wait::eventually,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

/// An attempt, and how and why its worker ends.
type Attempt = (&'static str, &'static str, &'static str);

/// On the machine and on its neighbours: the kernel ends it.
const ON_THE_MACHINE: [Attempt; 10] = [
    ("file", "crashed", "forbidden_call"),
    ("own-maps", "crashed", "forbidden_call"),
    ("others-memory", "crashed", "forbidden_call"),
    ("connection", "crashed", "forbidden_call"),
    ("thread", "crashed", "forbidden_call"),
    ("program", "crashed", "forbidden_call"),
    ("descriptors", "crashed", "forbidden_call"),
    ("signal", "crashed", "forbidden_call"),
    ("trace", "crashed", "forbidden_call"),
    // Its allocator gives up.
    ("memory", "crashed", "signal"),
];

/// On the scheduler at the other end of its socket: that ends it.
const ON_THE_SCHEDULER: [Attempt; 20] = [
    ("lane", "killed", "held_lane"),
    ("flood", "killed", "protocol"),
    ("dropped", "killed", "protocol"),
    ("half-a-frame", "killed", "held_lane"),
    ("idle", "killed", "protocol"),
    ("no-lease", "killed", "no_lease"),
    ("junk", "killed", "frame"),
    ("huge-frame", "killed", "frame"),
    ("log", "killed", "frame"),
    ("no-message", "killed", "frame"),
    ("many-answers", "killed", "frame"),
    ("second-ready", "killed", "protocol"),
    ("late-refusal", "killed", "protocol"),
    ("others-answer", "killed", "protocol"),
    ("others-text", "killed", "protocol"),
    ("others-lease", "killed", "protocol"),
    ("others-release", "killed", "protocol"),
    ("endless-text", "killed", "output"),
    ("vectors", "killed", "output"),
    // Its own word for memory that is not clean.
    ("residue", "killed", "residue"),
];

async fn hostile_server(shared: bool) -> Server {
    let options = Options::null(1_000)
        .with("scheduling.release_grace_ms", 300)
        .with("worker.share_weights", shared)
        .with_worker(programs::path("bulkhead-hostile"));
    Server::start(options).await
}

/// The same on GPUs of pretend: sealed as a worker on a GPU is.
async fn hostile_server_on_gpus(gpus: &Gpus) -> Server {
    let options = Options::null(1_000)
        .with("scheduling.release_grace_ms", 300)
        .with_gpus(gpus.program())
        .with_worker_cuda(programs::path("bulkhead-hostile-gpu"));
    let server = Server::start(options).await;
    eventually(RECOVERY_MAX, "GPUs serve", async || {
        let serves = server.metric("bulkhead_device_serves", "cuda:1").await;
        (serves == 1.0).then_some(())
    })
    .await;
    server
}

/// A tenant that sends one request after the other, until told to stop; how many were answered.
struct Neighbour {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Neighbour {
    fn start(client: Client) -> Neighbour {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stopped, count): (_, Arc<AtomicUsize>) = (stop.clone(), Arc::clone(&answered));
        let task = tokio::spawn(async move {
            while !stopped.load(SeqCst) {
                let answer = client.embed("null", &["a text of the neighbour's"]).await;
                answer.expect("the neighbour loses no request");
                count.fetch_add(1, SeqCst);
            }
        });
        Neighbour {
            stop,
            answered,
            task,
        }
    }

    async fn end(self) -> usize {
        self.stop.store(true, SeqCst);
        self.task.await.expect("every request was answered");
        self.answered.load(SeqCst)
    }
}

/// Has a tenant of its own make the attempt, and waits until its worker's end is counted.
async fn make(server: &Server, (name, how, why): Attempt, victim: i32) {
    let client = server.agent(name, "a").await.client().await;
    let text = format!("attempt {name} {victim}");
    let answer = client.embed("null", &[&text]).await;
    let status = answer.expect_err("there is no answer");
    assert!(!status.message().contains("Done"), "{name}: {status}");
    let tenant = format!("tenant=\"{name}\"");
    let counted = eventually(RECOVERY_MAX, name, async || {
        let (_, text) = server.get("/metrics").await?;
        let lines = text.lines();
        let mut deaths = lines.filter(|line| line.starts_with("bulkhead_worker_deaths_total"));
        deaths
            .find(|line| line.contains(&tenant))
            .map(str::to_owned)
    });
    let counted = counted.await;
    let expected = [format!("how=\"{how}\""), format!("why=\"{why}\"")];
    for label in expected {
        assert!(counted.contains(&label), "{name}: {label} in {counted}");
    }
}

async fn every_attempt_fails_and_costs_nobody_else_a_request(attempts: &[Attempt], shared: bool) {
    let server = hostile_server(shared).await;
    try_all(attempts, server, "cpu").await;
}

async fn try_all(attempts: &[Attempt], mut server: Server, kind: &str) {
    let globex = server.agent("globex", "g").await.client().await;
    globex.embed("null", &["a text"]).await.expect("it serves");
    let (victim, scheduler) = (server.worker("globex").await, server.scheduler());
    let neighbour = Neighbour::start(globex);
    for attempt in attempts {
        make(&server, *attempt, victim).await;
    }
    let answered = neighbour.end().await;
    let tried = attempts.len();
    println!("{kind}: {tried} attempts, {answered} answers beside them");
    let workers = server.admin().await.status().await.workers;
    assert!(workers.iter().all(|one| one.device.starts_with(kind)));
    assert!(answered > attempts.len(), "{answered} answers");
    assert!(alive(victim), "the neighbour's worker lives");
    assert_eq!(server.scheduler(), scheduler, "and so does the scheduler");
    assert_eq!(server.stop().await, Some(0));
    assert_log_is_the_servers(&server.log());
    let ends: Vec<_> = records::all(&server)
        .into_iter()
        .filter(|record| record.kind == Kind::System && !record.tenant.is_empty())
        .map(|record| (record.tenant.clone(), records::body(&record)))
        .collect();
    for (name, how, why) in attempts {
        let of_it = ends.iter().find(|(tenant, _)| tenant == name);
        let (_, body) = of_it.unwrap_or_else(|| panic!("{name} is on record: {ends:?}"));
        assert_eq!(body["act"], "worker.ended", "{name}");
        assert_eq!(body["details"]["how"], *how, "{name}");
        assert_eq!(body["details"]["why"], *why, "{name}");
        let found = &body["details"]["residue"];
        match *name {
            "residue" => assert_eq!(
                (&found["bytes"], &found["first_offset"]),
                (&1.into(), &7.into())
            ),
            _ => assert!(found.is_null(), "{name}"),
        }
    }
    assert!(ends.iter().all(|(tenant, _)| tenant != "globex"));
}

/// What workers say is in the log under their model's name, a few lines of it, and moves nobody's cursor.
fn assert_log_is_the_servers(log: &str) {
    let forged: Vec<_> = log.lines().filter(|line| line.contains("FORGED")).collect();
    assert!(forged.len() < 100, "{} lines", forged.len());
    let theirs = |line: &&str| line.contains("a process of this model says: \\u{1b}[2K\\rFORGED");
    assert!(forged.iter().all(theirs), "{forged:?}");
    assert!(!log.contains("\x1b[2K"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_tries_on_the_machine_ends_it_alone() {
    every_attempt_fails_and_costs_nobody_else_a_request(&ON_THE_MACHINE, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_that_shares_no_weights_tries_ends_it_alone() {
    every_attempt_fails_and_costs_nobody_else_a_request(&ON_THE_MACHINE, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_that_opened_a_gpu_tries_ends_it_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let gpus = Gpus::new(dir.path(), env!("CARGO_BIN_EXE_bulkhead-fake-gpus"));
    let server = hostile_server_on_gpus(&gpus).await;
    try_all(&ON_THE_MACHINE, server, "cuda:").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_tries_on_the_scheduler_ends_it_alone() {
    every_attempt_fails_and_costs_nobody_else_a_request(&ON_THE_SCHEDULER, true).await;
}
