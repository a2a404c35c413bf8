//! Clean memory: after a job, and once its client has gone, neither the scheduler nor the worker holds
//! the prompt's text or its token ids. Read from outside, through `/proc/PID/mem`.
//!
//! The same search with zeroing switched off finds them (`without_zeroing_the_search_finds_traces`):
//! without that, a search that looks in the wrong place would pass.

use bulkhead_proto::v1::GenerateRequest;
use bulkhead_tests::{
    agent::{Client, chat, collect, random_hex},
    memory::{Traces, canary},
    models::{self, turn},
    options::Options,
    process::as_root,
    server::Server,
    wait::eventually,
};
use std::{collections::BTreeMap, time::Duration};

/// Buffers of the connection are freed when the server has noticed that the client hung up.
const CLEAN_WITHIN: Duration = Duration::from_secs(10);

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
    Embed,
    Generate,
    /// The client hangs up after the first piece.
    Cancelled,
}

impl Job {
    fn traces(self, canary: &str) -> Traces {
        match self {
            Job::Embed => Traces::of(canary, &BERT_IDS),
            Job::Generate | Job::Cancelled => Traces::of(canary, &LLAMA_IDS),
        }
    }

    async fn run(self, client: Client, canary: &str) {
        match self {
            Job::Embed => {
                let text = format!("{canary} {BERT_TEXT}");
                client
                    .embed("minilm", &[&text])
                    .await
                    .expect("an embedding");
            }
            Job::Generate => {
                let stream = client.generate(request(canary, 8)).await.expect("a stream");
                collect(stream).await.expect("an answer");
            }
            Job::Cancelled => {
                let mut stream = client
                    .generate(request(canary, 200))
                    .await
                    .expect("a stream");
                stream.message().await.expect("it runs").expect("a piece");
            }
        }
    }
}

fn request(canary: &str, max_tokens: u32) -> GenerateRequest {
    chat("smollm2", &format!("{canary}\n{LLAMA_TEXT}"), max_tokens)
}

/// Runs a job from a connection that is closed afterwards, and gives what to look for.
async fn ran(server: &Server, job: Job) -> Traces {
    let canary = canary();
    let client = server
        .agent("acme", &format!("a-{}", random_hex(8)))
        .await
        .client()
        .await;
    job.run(client, &canary).await;
    job.traces(&canary)
}

/// Traces in all the processes that a prompt passes through, and in those that it does not.
fn found(server: &Server, traces: &Traces) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for process in server.all_processes() {
        *found.entry(process.name).or_default() += traces.count_in(process.pid);
    }
    for name in [WORKER, SCHEDULER] {
        assert!(found.contains_key(name), "{name} is among {found:?}");
    }
    found
}

async fn becomes_clean(job: Job) {
    becomes_clean_with(job, Options::models(models::dir())).await;
}

async fn becomes_clean_with(job: Job, options: Options) {
    let _turn = turn("models");
    let server = Server::start(options).await;
    // Twice: what a first job leaves behind, a second one may overwrite or keep.
    for _ in 0..2 {
        let traces = ran(&server, job).await;
        let mut last = BTreeMap::new();
        let clean = eventually(CLEAN_WITHIN, "no trace is left", async || {
            last = found(&server, &traces);
            let clean = last.values().all(|traces| *traces == 0);
            if !clean {
                eprintln!("{job:?}: {last:?}");
            }
            clean.then_some(())
        });
        clean.await;
    }
}

#[tokio::test]
async fn nothing_is_left_of_an_embedded_text() {
    if as_root("memory::nothing_is_left_of_an_embedded_text") {
        becomes_clean(Job::Embed).await;
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_prompt() {
    if as_root("memory::nothing_is_left_of_a_prompt") {
        becomes_clean(Job::Generate).await;
    }
}

/// A prefix cache keeps keys and values, and names of them that only its worker could make: neither text
/// nor token ids.
#[tokio::test]
async fn no_text_is_left_of_a_prompt_whose_blocks_are_kept() {
    if as_root("memory::no_text_is_left_of_a_prompt_whose_blocks_are_kept") {
        let options = Options::models(models::dir()).with("models.prefix_cache", vec!["smollm2"]);
        becomes_clean_with(Job::Generate, options).await;
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_prompt_whose_client_hung_up() {
    if as_root("memory::nothing_is_left_of_a_prompt_whose_client_hung_up") {
        becomes_clean(Job::Cancelled).await;
    }
}

#[tokio::test]
async fn without_zeroing_the_search_finds_traces() {
    if !as_root("memory::without_zeroing_the_search_finds_traces") {
        return;
    }
    let _turn = turn("models");
    let options = Options::models(models::dir()).without("zeroing");
    let server = Server::start(options).await;
    for job in [Job::Embed, Job::Generate] {
        let traces = ran(&server, job).await;
        let found = found(&server, &traces);
        for name in [WORKER, SCHEDULER] {
            assert!(
                found[name] > 0,
                "{job:?} leaves traces in {name}: {found:?}"
            );
        }
    }
}
