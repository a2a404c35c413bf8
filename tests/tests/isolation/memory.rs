//! Clean memory: after a job, however it ended, and once its client has gone, none of our processes holds a piece of
//! its prompt, its answer, their token ids or its vector. Read from outside, through `/proc/PID/mem`.
//!
//! The same search with zeroing switched off finds them (`without_zeroing_the_search_finds_traces`): without that, a
//! search that looks in the wrong place would pass.

use bulkhead_proto::v1::{CreateTenantRequest, GenerateRequest};
use bulkhead_search::{Found, Secrets, Traces};
use bulkhead_tests::{
    agent::{Client, chat, collect, random_hex, reason},
    models::{self, turn},
    options::Options,
    process::{as_root, kill, private_mappings},
    server::Server,
    wait::eventually,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::unix::fs::FileExt as _,
    time::Duration,
};
use tonic::Status;

/// Buffers of the connection are freed when the server has noticed that the client hung up.
const CLEAN_WITHIN: Duration = Duration::from_secs(60);

/// Looks after which what is still found is compared with what lies in such processes anyway.
const LOOKS: usize = 2;

/// What the kernel calls the processes that a prompt passes through.
const WORKER: &str = "bulkhead-worker";
const SCHEDULER: &str = "bulkhead";

/// A sentence whose token ids are known from the reference, to be searched for beside the canary.
const BERT_TEXT: &str = "The quick brown fox jumps over the lazy dog.";
const BERT_IDS: [u32; 10] = [1996, 4248, 2829, 4419, 14523, 2058, 1996, 13971, 3899, 1012];
const LLAMA_TEXT: &str = "Explain what a scheduler does, briefly.";
const LLAMA_IDS: [u32; 8] = [36971, 732, 253, 43574, 1072, 28, 13099, 30];

/// How a job ends.
#[derive(Clone, Copy, Debug)]
enum Job {
    Embedded,
    /// Streamed to its end.
    Generated,
    /// The client hangs up after the first piece.
    Cancelled,
    /// Its tenant's quota does not hold it.
    Failed,
    /// Longer than the model's context: refused by the worker, or cut.
    OverLong,
    /// The scheduler refuses it.
    Refused,
    /// Its worker is killed after the first piece.
    Crashed,
}

/// Those that do not come to their own end.
const CUT_SHORT: [Job; 5] = [
    Job::Cancelled,
    Job::Failed,
    Job::OverLong,
    Job::Refused,
    Job::Crashed,
];

fn canary() -> String {
    bulkhead_search::canary().expect("random letters")
}

/// More words than any of the models takes.
fn too_long(canary: &str) -> String {
    format!("{canary} ").repeat(1500)
}

fn request(canary: &str, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        logprobs: Some(0),
        ..chat("smollm2", &format!("{canary}\n{LLAMA_TEXT}"), max_tokens)
    }
}

impl Job {
    /// Runs as a tenant's agent, and says what must not stay behind.
    async fn run(self, server: &Server, tenant: &str, client: Client) -> Secrets {
        let canary = canary();
        let prompt = Secrets::default().bytes("prompt", canary.clone());
        match self {
            Job::Embedded => {
                let text = format!("{canary} {BERT_TEXT}");
                let answer = client
                    .embed("minilm", &[&text])
                    .await
                    .expect("an embedding");
                let vector: Vec<u8> = (answer.embeddings.iter())
                    .flat_map(|one| one.values.iter())
                    .flat_map(|value| value.to_le_bytes())
                    .collect();
                assert_eq!(vector.len(), 4 * 384);
                prompt
                    .ids("prompt's tokens", &BERT_IDS)
                    .bytes("vector", vector)
            }
            Job::Generated => {
                let stream = client
                    .generate(request(&canary, 24))
                    .await
                    .expect("a stream");
                let answer = collect(stream).await.expect("an answer");
                let ids: Vec<u32> = answer.logprobs.iter().map(|one| one.token).collect();
                prompt
                    .ids("prompt's tokens", &LLAMA_IDS)
                    .bytes("answer", answer.text())
                    .ids("answer's tokens", &ids)
            }
            Job::Cancelled | Job::Crashed => {
                let stream = client.generate(request(&canary, 200)).await;
                let mut stream = stream.expect("a stream");
                let piece = stream.message().await.expect("it runs").expect("a piece");
                if let Job::Crashed = self {
                    kill(server.worker(tenant).await);
                    let end = async {
                        while stream.message().await?.is_some() {}
                        Ok::<_, Status>(())
                    };
                    end.await.expect_err("its worker is gone");
                }
                let ids: Vec<u32> = piece.logprobs.iter().map(|one| one.token).collect();
                prompt
                    .ids("prompt's tokens", &LLAMA_IDS)
                    .bytes("answer", piece.text)
                    .ids("answer's tokens", &ids)
            }
            Job::Failed => {
                let status = fails(&client, request(&canary, 200)).await;
                assert_eq!(reason(&status), "MEMORY_QUOTA", "{status}");
                prompt.ids("prompt's tokens", &LLAMA_IDS)
            }
            Job::OverLong => {
                let long = too_long(&canary);
                client.embed("minilm", &[&long]).await.expect("it is cut");
                let status = fails(&client, request(&long, 4)).await;
                assert_eq!(reason(&status), "REQUEST_INVALID", "{status}");
                prompt
            }
            Job::Refused => {
                let mut unknown = request(&canary, 4);
                unknown.model = "nonesuch".into();
                assert_eq!(reason(&fails(&client, unknown).await), "MODEL_NOT_FOUND");
                let huge = canary.repeat(200_000);
                let status = fails(&client, request(&huge, 4)).await;
                assert_eq!(reason(&status), "MESSAGE_TOO_LARGE", "{status}");
                prompt
            }
        }
    }
}

async fn fails(client: &Client, request: GenerateRequest) -> Status {
    match client.generate(request).await {
        Ok(stream) => collect(stream).await.map(drop),
        Err(status) => Err(status),
    }
    .expect_err("there is no answer")
}

/// Runs a job as a tenant of its own, from a connection that is closed afterwards, and gives what to look for.
async fn ran(server: &Server, job: Job) -> Traces {
    let tenant = format!("{job:?}-{}", random_hex(4)).to_lowercase();
    let quota_bytes = match job {
        // The least: some twenty tokens.
        Job::Failed => 1 << 20,
        _ => 0,
    };
    let made = CreateTenantRequest {
        name: tenant.clone(),
        weight: 1,
        quota_bytes,
        ..Default::default()
    };
    let mut admin = server.admin().await;
    admin.create_tenant(made).await.expect("a new tenant");
    let agent = admin.create_agent(&tenant, "a", &[]).await;
    let client = agent.client().await;
    job.run(server, &tenant, client).await.traces()
}

/// Traces in all processes of a server, those that a prompt passes through and those that it does not.
fn found(server: &Server, traces: &Traces) -> BTreeMap<String, Found> {
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for process in server.all_processes() {
        let of_it = match traces.found_in(process.pid) {
            // It has ended since it was listed, and its memory with it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            read => read.expect("root may read it"),
        };
        found.entry(process.name).or_default().extend(of_it);
    }
    assert!(found.contains_key(SCHEDULER), "it is among {found:?}");
    found
}

/// What a server that never saw the job holds of it: common words and numbers.
async fn baseline(options: &Options, traces: &Traces) -> Found {
    let server = Server::start(options.clone()).await;
    let client = server.agent("initech", "i").await.client().await;
    client
        .embed("minilm", &["hello"])
        .await
        .expect("an embedding");
    let stream = client.generate(chat("smollm2", "hello", 2)).await;
    collect(stream.expect("a stream")).await.expect("an answer");
    found(&server, traces).into_values().flatten().collect()
}

async fn becomes_clean(jobs: &[Job], options: Options) {
    let _turn = turn("models");
    let server = Server::start(options.clone()).await;
    // Twice: what a first job leaves behind, a second one may overwrite or keep.
    for job in jobs.iter().chain(jobs) {
        let traces = ran(&server, *job).await;
        let (mut everywhere, mut looks) = (None, 0);
        let clean = eventually(CLEAN_WITHIN, "no trace is left", async || {
            let mut left = found(&server, &traces);
            looks += 1;
            if left.values().any(|found| !found.is_empty()) {
                if everywhere.is_none() && looks == LOOKS {
                    everywhere = Some(baseline(&options, &traces).await);
                }
                let excluded = everywhere.iter().flatten().collect::<BTreeSet<_>>();
                left.values_mut()
                    .for_each(|found| found.retain(|one| !excluded.contains(one)));
            }
            left.retain(|_, found| !found.is_empty());
            for (process, found) in &left {
                eprintln!("{job:?}: {process} holds {:?}", traces.tell(found));
            }
            left.is_empty().then_some(())
        });
        clean.await;
        let excluded = everywhere.map_or(0, |found| found.len());
        println!(
            "{job:?}: {excluded} of {} pieces lie everywhere",
            traces.pieces()
        );
    }
}

/// With few places for workers, so that there is not much memory to search.
fn starters() -> Options {
    Options::models(models::dir()).with("cpu.workers_max", 3)
}

#[tokio::test]
async fn nothing_is_left_of_an_embedded_text() {
    if as_root("memory::nothing_is_left_of_an_embedded_text") {
        becomes_clean(&[Job::Embedded], starters()).await;
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_prompt_and_its_answer() {
    if as_root("memory::nothing_is_left_of_a_prompt_and_its_answer") {
        becomes_clean(&[Job::Generated], starters()).await;
    }
}

/// A prefix cache keeps keys and values, and names of them that only its worker could make: neither text
/// nor token ids.
#[tokio::test]
async fn no_text_is_left_of_a_prompt_whose_blocks_are_kept() {
    if as_root("memory::no_text_is_left_of_a_prompt_whose_blocks_are_kept") {
        let options = starters().with("models.prefix_cache", vec!["smollm2"]);
        becomes_clean(&[Job::Generated], options).await;
    }
}

#[tokio::test]
async fn nothing_is_left_of_what_was_cut_short() {
    if as_root("memory::nothing_is_left_of_what_was_cut_short") {
        becomes_clean(&CUT_SHORT, starters()).await;
    }
}

/// With the others all in force. What stacks hold has its test in the kernels: no 16 bytes of these jobs lie there.
const ALONE: [(&str, &str, &str); 3] = [
    ("zeroing.heap", WORKER, "prompt"),
    ("zeroing.heap", SCHEDULER, "prompt"),
    ("zeroing.scratch", WORKER, "vector"),
];

#[tokio::test]
async fn without_one_of_the_measures_the_search_finds_what_it_protects() {
    if !as_root("memory::without_one_of_the_measures_the_search_finds_what_it_protects") {
        return;
    }
    let _turn = turn("models");
    for (measure, process, what) in ALONE {
        let server = Server::start(starters().without(measure)).await;
        let traces = ran(&server, Job::Embedded).await;
        let told = traces.tell(&found(&server, &traces)[process]);
        println!(
            "without {measure}: {process} holds {told:?} of {} pieces",
            traces.pieces()
        );
        assert!(told.contains_key(what), "{measure}, {process}: {told:?}");
    }
}

/// Bytes of a worker's pool of keys and values that are not zero.
async fn dirty_bytes(options: Options) -> u64 {
    // Not what any of a model's slabs comes to.
    const QUOTA_BYTES: u64 = 40 << 20;
    let server = Server::start(options.with("worker.quota_bytes", QUOTA_BYTES as i64)).await;
    let client = server.agent("acme", "a").await.client().await;
    let stream = client.generate(request(&canary(), 24)).await;
    collect(stream.expect("a stream")).await.expect("an answer");
    let worker = server.worker("acme").await;
    let mappings = private_mappings(worker).into_iter();
    // The quota in whole blocks, each less than this.
    const BLOCK_BYTES_MAX: u64 = 2 << 20;
    let pools: Vec<(u64, u64)> = mappings
        .filter(|(_, bytes)| (QUOTA_BYTES - BLOCK_BYTES_MAX..=QUOTA_BYTES).contains(bytes))
        .collect();
    let &[(start, bytes)] = pools.as_slice() else {
        panic!("not one mapping of nearly the quota's size: {pools:?}");
    };
    let memory = File::open(format!("/proc/{worker}/mem")).expect("it may be read");
    let mut pool = vec![0; bytes as usize];
    memory.read_exact_at(&mut pool, start).expect("it is there");
    pool.iter().filter(|byte| **byte != 0).count() as u64
}

#[tokio::test]
async fn keys_and_values_are_zero_after_an_answer_and_not_without_their_measure() {
    if !as_root("memory::keys_and_values_are_zero_after_an_answer_and_not_without_their_measure") {
        return;
    }
    let _turn = turn("models");
    assert_eq!(dirty_bytes(starters()).await, 0);
    let dirty = dirty_bytes(starters().without("zeroing.blocks")).await;
    println!("without zeroing.blocks: {dirty} bytes of keys and values");
    assert!(dirty > 1 << 20);
}

#[tokio::test]
async fn without_zeroing_the_search_finds_traces() {
    if !as_root("memory::without_zeroing_the_search_finds_traces") {
        return;
    }
    let _turn = turn("models");
    let server = Server::start(starters().without("zeroing")).await;
    for job in [Job::Embedded, Job::Generated] {
        let traces = ran(&server, job).await;
        let found = found(&server, &traces);
        for name in [WORKER, SCHEDULER] {
            let told = traces.tell(&found[name]);
            println!(
                "{job:?} without zeroing: {name} holds {told:?} of {} pieces",
                traces.pieces()
            );
            assert!(
                told.contains_key("prompt"),
                "{job:?} leaves its prompt in {name}: {told:?}"
            );
        }
    }
}
