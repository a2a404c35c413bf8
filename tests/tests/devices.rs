//! Promise: a GPU that goes bad is shown and on record within seconds, and takes nothing with it that does
//! not run on it; whoever watches GPUs may die or hang, and requests go on. On GPUs of pretend, told of by a
//! program in the place of the one that asks NVML; all else is the real server.

use bulkhead_audit::Kind;
use bulkhead_tests::{
    agent::Client, gpus::Gpus, options::Options, programs, records, server::Server,
    wait::eventually,
};
use std::time::Duration;

/// From a happening until it is shown.
const SHOWN_MAX: Duration = Duration::from_secs(15);
const FAKE: &str = env!("CARGO_BIN_EXE_bulkhead-fake-gpus");

struct Case {
    gpus: Gpus,
    server: Server,
    client: Client,
    _dir: tempfile::TempDir,
}

impl Case {
    /// Without a program for workers on GPUs.
    async fn new() -> Case {
        Case::with(Options::null(1_000)).await
    }

    /// With one of pretend.
    async fn with_workers() -> Case {
        let program = programs::path("bulkhead-hostile-gpu");
        Case::with(Options::null(1_000).with_worker_cuda(program)).await
    }

    async fn with(options: Options) -> Case {
        let dir = tempfile::tempdir().expect("a folder");
        let gpus = Gpus::new(dir.path(), FAKE);
        let server = Server::start(options.with_gpus(gpus.program())).await;
        let client = server.agent("acme", "a").await.client().await;
        let case = Case {
            gpus,
            server,
            client,
            _dir: dir,
        };
        case.shown("bulkhead_devices_watched", "", 1.0).await;
        for device in ["cuda:0", "cuda:1"] {
            case.health(device, "healthy").await;
        }
        case
    }

    /// Waits until a metric says so.
    async fn shown(&self, name: &str, label: &str, value: f64) {
        let what = format!("{name} {label} is {value}");
        eventually(SHOWN_MAX, &what, async || {
            (self.server.metric(name, label).await == value).then_some(())
        })
        .await;
    }

    async fn health(&self, device: &str, state: &str) {
        let label = format!("device=\"{device}\",state=\"{state}\"");
        self.shown("bulkhead_device_health", &label, 1.0).await;
    }

    /// Where the one worker is that serves, and which layers of the seal it has.
    async fn serves_on(&self) -> (String, Vec<String>) {
        let answer = self.client.embed("null", &["a text"]).await;
        answer.expect("some device is there");
        // One whose device went bad has still to die.
        let one = eventually(SHOWN_MAX, "one worker", async || {
            let mut workers = self.server.admin().await.status().await.workers;
            workers.pop().filter(|_| workers.is_empty())
        });
        let worker = one.await;
        (worker.device, worker.seal)
    }

    /// How often the log says so.
    fn lines(&self, words: &str) -> usize {
        self.server.log().matches(words).count()
    }

    /// Requests are answered on the CPU, whatever the GPUs do.
    async fn serves(&self) {
        let answer = self.client.embed("null", &["a text"]).await;
        answer.expect("the CPU is there");
    }

    /// What is on record of devices: name, health and why.
    fn recorded(&self) -> Vec<[String; 3]> {
        let all = records::all(&self.server);
        let system = all.iter().filter(|record| record.kind == Kind::System);
        let bodies = system.map(records::body);
        let of_devices = bodies.filter(|body| body["act"] == "device.health");
        let told = of_devices.map(|body| {
            let details = &body["details"];
            ["device", "health", "why"]
                .map(|field| details[field].as_str().unwrap_or("").to_owned())
        });
        told.collect()
    }

    async fn on_record(&self, device: &str, health: &str, why: &str) {
        let wanted = [device, health, why].map(str::to_owned);
        eventually(SHOWN_MAX, &format!("on record: {wanted:?}"), async || {
            self.recorded().contains(&wanted).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_that_falls_off_the_bus_is_bad_until_it_is_back() {
    let mut case = Case::new().await;
    case.serves().await;
    case.gpus.happen("xid cuda:0 79");
    case.health("cuda:0", "bad").await;
    case.health("cuda:1", "healthy").await;
    let xids = "device=\"cuda:0\",code=\"79\"";
    case.shown("bulkhead_device_xids_total", xids, 1.0).await;
    case.on_record("cuda:0", "bad", "xid_79").await;
    case.serves().await;
    assert_eq!(case.lines("GPUs are not used"), 1);
    assert_eq!(case.lines("there is no bulkhead-worker-cuda"), 1);

    case.gpus.happen("unplug cuda:0");
    case.gpus.happen("plug cuda:0");
    case.health("cuda:0", "healthy").await;
    case.on_record("cuda:0", "healthy", "").await;
    // No worker's program runs on it: it is shown, and nothing is placed there.
    let of_gpus = "device=\"cuda:";
    assert_eq!(
        case.server.metric("bulkhead_device_serves", of_gpus).await,
        0.0
    );
    let mut admin = case.server.admin().await;
    let workers = admin.status().await.workers;
    assert!(!workers.is_empty() && workers.iter().all(|worker| worker.device == "cpu"));
    case.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_is_placed_on_gpus_moves_when_one_goes_bad_and_ends_up_on_the_cpu() {
    let mut case = Case::with_workers().await;
    let (device, seal) = case.serves_on().await;
    assert_eq!(device, "cuda:0", "though the CPU has more places");
    for layer in ["landlock", "reach", "seccomp", "closed_fds"] {
        assert!(seal.iter().any(|one| one == layer), "{layer}: {seal:?}");
    }
    let serves = "bulkhead_device_serves";
    case.shown(serves, "device=\"cuda:0\"", 1.0).await;
    let top = case.server.command(&["top", "--once", "--json"]);
    let top: serde_json::Value = serde_json::from_str(&top.expect("it serves")).expect("JSON");
    let shown: Vec<_> = (top["devices"].as_array().expect("a list").iter())
        .map(|one| {
            (
                &one["name"],
                &one["health"],
                &one["serves"],
                &one["workers"],
            )
        })
        .map(|(name, health, serves, workers)| format!("{name} {health} {serves} {workers}"))
        .collect();
    assert_eq!(
        shown,
        [
            r#""cpu" "healthy" true 0"#,
            r#""cuda:0" "healthy" true 1"#,
            r#""cuda:1" "healthy" true 0"#
        ]
    );

    case.gpus.happen("xid cuda:0 79");
    case.health("cuda:0", "bad").await;
    assert_eq!(case.serves_on().await.0, "cuda:1");
    case.gpus.happen("unplug cuda:1");
    case.health("cuda:1", "bad").await;
    assert_eq!(case.serves_on().await.0, "cpu");
    assert_eq!(case.lines("GPUs are not used"), 0);
    // One that came back is used again, by whoever has no worker yet.
    case.gpus.happen("plug cuda:1");
    case.health("cuda:1", "healthy").await;
    let other = case.server.agent("globex", "g").await.client().await;
    other.embed("null", &["a text"]).await.expect("it serves");
    let workers = case.server.admin().await.status().await.workers;
    let devices: Vec<_> = workers
        .iter()
        .map(|one| (&*one.tenant, &*one.device))
        .collect();
    assert!(devices.contains(&("globex", "cuda:1")), "{devices:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gpus_that_are_switched_off_are_watched_and_not_used() {
    let program = programs::path("bulkhead-hostile-gpu");
    let options = Options::null(1_000).with_worker_cuda(program);
    let case = Case::with(options.with("gpu.use", "off")).await;
    assert_eq!(case.serves_on().await.0, "cpu");
    let serves = "bulkhead_device_serves";
    case.shown(serves, "device=\"cuda:0\"", 0.0).await;
    assert_eq!(case.lines("GPUs are not used (gpu.use is \"off\")"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_else_happens_to_gpus_is_shown_for_what_it_is() {
    let mut case = Case::new().await;
    case.gpus.happen("xid cuda:0 31");
    let xids = "device=\"cuda:0\",code=\"31\"";
    case.shown("bulkhead_device_xids_total", xids, 1.0).await;
    case.health("cuda:0", "healthy").await;

    case.gpus.happen("process cuda:0 1 1073741824");
    case.health("cuda:0", "degraded").await;
    let memory = |kind: &str| format!("device=\"cuda:0\",kind=\"{kind}\"");
    let shown = "bulkhead_device_memory_bytes";
    case.shown(shown, &memory("strangers"), f64::from(1 << 30))
        .await;
    case.shown(shown, &memory("usable"), (79u64 << 30) as f64)
        .await;

    case.gpus.happen("ecc cuda:1 1");
    case.health("cuda:1", "bad").await;
    case.on_record("cuda:1", "bad", "ecc_uncorrected").await;
    case.gpus.happen("split cuda:0 2");
    case.on_record("cuda:0", "bad", "mig_reconfigured").await;
    case.health("cuda:0/mig:1", "healthy").await;
    case.gpus.happen("split cuda:0 1");
    case.on_record("cuda:0/mig:1", "bad", "mig_reconfigured")
        .await;
    case.health("cuda:0/mig:0", "healthy").await;
    assert!(
        case.recorded()
            .iter()
            .all(|[_, health, _]| health != "degraded")
    );
    case.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_watches_may_die_or_hang_and_devices_stay_what_they_were() {
    let mut case = Case::new().await;
    case.gpus.happen("xid cuda:0 79");
    case.health("cuda:0", "bad").await;
    case.gpus.happen("die");
    eventually(SHOWN_MAX, "its death is in the log", async || {
        let log = case.server.log();
        log.contains("the process that watches GPUs is down")
            .then_some(())
    })
    .await;
    case.serves().await;
    // A fresh one sees two GPUs, and a fault stays until the GPU has been gone. Then it is silent.
    case.shown("bulkhead_devices_watched", "", 1.0).await;
    case.health("cuda:0", "bad").await;
    case.shown("bulkhead_devices_watched", "", 0.0).await;
    assert!(case.server.log().contains("nothing is heard of GPUs"));
    case.health("cuda:0", "bad").await;
    case.serves().await;
    case.gpus.happen("look");
    case.shown("bulkhead_devices_watched", "", 1.0).await;
}

/// Where there is no NVML. On a machine that has GPUs there is nothing to see here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_nvml_one_line_says_so_and_nobody_watches() {
    let mut server = Server::start(Options::null(1_000)).await;
    let has_gpus = std::path::Path::new("/proc/driver/nvidia").exists();
    eventually(SHOWN_MAX, "nobody watches", async || {
        (has_gpus || server.processes("bulkhead-gpus").is_empty()).then_some(())
    })
    .await;
    let client = server.agent("acme", "a").await.client().await;
    client
        .embed("null", &["a text"])
        .await
        .expect("the CPU is there");
    assert_eq!(server.stop().await, Some(0));
    let log = server.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("GPU")).collect();
    if !has_gpus {
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("no GPUs: ") && lines[0].ends_with("; running on the CPU"));
    }
}
