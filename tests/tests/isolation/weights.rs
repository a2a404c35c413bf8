//! One copy of a model's weights for all tenants, which none of them can change for another.

use bulkhead_tests::{
    agent::{chat, collect},
    models::{self, turn},
    options::Options,
    process::{Memory, as_root, memory},
    server::Server,
};

/// What the kernel calls the process that holds a model.
const TEMPLATE: &str = "bulkhead-model";

/// Tenants on one model.
const TENANTS: usize = 10;

const MIB: f64 = (1 << 20) as f64;

async fn generate(server: &Server, tenant: &str, requests: u32) {
    let client = server.agent(tenant, "writer").await.client().await;
    for _ in 0..requests {
        let stream = client.generate(chat("smollm2", "Say hello.", 4)).await;
        collect(stream.expect("a stream")).await.expect("an answer");
    }
}

fn show(what: &str, memory: Memory) {
    println!(
        "{what:24} PSS {:7.1} MiB, private dirty {:7.1} MiB, shared dirty {:7.1} MiB",
        memory.proportional as f64 / MIB,
        memory.private_dirty as f64 / MIB,
        memory.shared_dirty as f64 / MIB
    );
}

#[tokio::test]
async fn ten_tenants_cost_one_copy_of_the_weights() {
    if !as_root("weights::ten_tenants_cost_one_copy_of_the_weights") {
        return;
    }
    let _turn = turn("models");
    let options = Options::models(models::dir()).with("cpu.workers_max", TENANTS as i64);
    let server = Server::start(options).await;
    let mut workers = Vec::new();
    for tenant in 0..TENANTS {
        let name = format!("t{tenant}");
        let client = server.agent(&name, "writer").await.client().await;
        let stream = client.generate(chat("smollm2", "Say hello.", 4)).await;
        collect(stream.expect("a stream")).await.expect("an answer");
        workers.push(server.worker(&name).await);
        show(&format!("first of {name}"), memory(workers[tenant]));
    }
    generate(&server, "t0", 20).await;
    for worker in &workers {
        show(&format!("worker {worker}"), memory(*worker));
    }
    let template = server.processes(TEMPLATE);
    show("template", memory(template[0].pid));
    println!(
        "{}",
        std::fs::read_to_string(format!("/proc/{}/smaps", workers[0])).unwrap()
    );
    println!(
        "TEMPLATE\n{}",
        std::fs::read_to_string(format!("/proc/{}/smaps", template[0].pid)).unwrap()
    );
    println!("{}", server.log());
}
