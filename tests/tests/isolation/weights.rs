//! One copy of a model's weights for all tenants, which none of them can change for another.
//!
//! With `worker.share_weights = false` each worker has a copy of its own, and the first test fails.

use bulkhead_search::{Secrets, canary};
use bulkhead_tests::{
    agent::{chat, collect},
    models::{self, turn},
    options::Options,
    process::{Memory, as_root, memory, open_files, own_groups, private_mappings},
    server::Server,
};
use std::{collections::BTreeSet, fs::File, os::unix::fs::FileExt as _};

/// What the kernel calls the process that holds a model.
const TEMPLATE: &str = "bulkhead-model";

/// Tenants on one model.
const TENANTS: usize = 10;

/// What a worker may have beside the weights after a short request: its pool as far as it was
/// written, its scratch, stacks and heaps.
const OWN_BYTES_MAX: u64 = 24 << 20;

const MIB: f64 = (1 << 20) as f64;

/// A server on which each tenant has had an answer; their workers, and the template.
async fn served(tenants: usize, prompt: &str) -> (Server, Vec<i32>, i32) {
    let options = Options::models(models::dir()).with("cpu.workers_max", TENANTS as i64);
    let server = Server::start(options).await;
    let mut workers = Vec::new();
    for tenant in 0..tenants {
        let name = format!("t{tenant}");
        let client = server.agent(&name, "writer").await.client().await;
        let prompt = if tenant == 0 { prompt } else { "Say hello." };
        let stream = client.generate(chat("smollm2", prompt, 4)).await;
        collect(stream.expect("a stream")).await.expect("an answer");
        workers.push(server.worker(&name).await);
    }
    let template = server.processes(TEMPLATE);
    assert_eq!(template.len(), 1, "one template for all");
    (server, workers, template[0].pid)
}

fn show(what: &str, memory: Memory) {
    println!(
        "{what:10} PSS {:6.1} MiB, own and written {:6.1} MiB, shared {:6.1} MiB",
        memory.proportional as f64 / MIB,
        memory.private_dirty as f64 / MIB,
        memory.shared_dirty as f64 / MIB
    );
}

#[tokio::test]
async fn ten_tenants_cost_one_copy_of_the_weights_and_ten_pools() {
    if !as_root("weights::ten_tenants_cost_one_copy_of_the_weights_and_ten_pools") {
        return;
    }
    let _turn = turn("models");
    let (server, workers, template) = served(TENANTS, "Say hello.").await;
    let held = memory(template);
    show("template", held);
    let mut total = held.proportional;
    for &worker in &workers {
        let own = memory(worker);
        show("worker", own);
        assert!(own.private_dirty < OWN_BYTES_MAX, "{own:?}");
        total += own.proportional;
    }
    let one_copy = held.private_dirty + held.shared_dirty;
    println!("together {:.1} MiB", total as f64 / MIB);
    assert!(one_copy > 64 << 20, "the weights are there");
    assert!(total < one_copy + (TENANTS as u64 + 1) * OWN_BYTES_MAX);

    // Each is in a control group of its own, where `doctor` says that this machine grants one.
    let granted = server
        .command(&["doctor", "--json"])
        .expect("all that is required");
    let granted: serde_json::Value = serde_json::from_str(&granted).expect("JSON");
    let checks = granted["checks"].as_array().expect("a list");
    if (checks.iter()).any(|check| check["name"] == "cgroup_memory" && check["ok"] == true) {
        let all = workers.iter().chain([&template]);
        let groups: BTreeSet<String> = all.map(|pid| own_groups(*pid, server.pid())).collect();
        assert_eq!(groups.len(), TENANTS + 1, "{groups:?}");
        assert!(!groups.contains(""), "{groups:?}");
    }
}

/// A worker that was taken over writes all over the weights; the others' are as they were. Nor does
/// anything of its tenant's prompt lie with them, and the template holds no worker's socket.
#[tokio::test]
async fn what_a_worker_writes_to_the_weights_nobody_else_sees() {
    if !as_root("weights::what_a_worker_writes_to_the_weights_nobody_else_sees") {
        return;
    }
    let _turn = turn("models");
    let secret = canary().expect("random letters");
    let (_server, workers, template) = served(2, &secret).await;
    let (hostile, victim) = (workers[0], workers[1]);
    let sockets = open_files(template);
    let sockets = sockets.iter().filter(|file| file.starts_with("socket:"));
    assert_eq!(sockets.count(), 1, "the launcher's");
    let traces = Secrets::default().bytes("prompt", secret).traces();
    for pid in [victim, template] {
        let found = traces.found_in(pid).expect("root may");
        assert_eq!(found.len(), 0, "in {pid}");
    }

    // What both have at the same place came from the template; the pool is each worker's own.
    let (mut shared, own) = (private_mappings(template), private_mappings(hostile));
    shared.retain(|mapping| own.contains(mapping));
    let largest = shared.into_iter().max_by_key(|(_, bytes)| *bytes);
    let (start, bytes) = largest.expect("weights");
    // Its middle: where it begins the C library may keep its own books, which each process writes.
    let at = (start + bytes / 2) & !0xFFF;
    let open = |pid: i32| {
        let path = format!("/proc/{pid}/mem");
        File::options()
            .read(true)
            .write(true)
            .open(path)
            .expect("root may")
    };
    let read = |pid: i32| {
        let mut bytes = vec![0; 1 << 20];
        open(pid)
            .read_exact_at(&mut bytes, at)
            .expect("the same addresses");
        bytes
    };
    let (before, alone) = (read(victim), memory(victim).private_dirty);
    assert!(read(hostile) == before, "one and the same weights");
    assert!(
        before.iter().any(|byte| *byte != 0),
        "weights, and no room for any"
    );
    let damage: Vec<u8> = before.iter().map(|byte| !byte).collect();
    // A write from outside goes the way of the process's own: the kernel copies the page first.
    open(hostile)
        .write_all_at(&damage, at)
        .expect("its own memory");
    assert!(read(hostile) == damage);
    assert!(read(victim) == before && read(template) == before);
    assert!(
        memory(victim).private_dirty < alone + (512 << 10),
        "still shared"
    );
}
