//! A sequence that nobody wants any more stops on the device: its worker computes nothing more for it and
//! frees its memory, by the worker's own counters, while others go on as if nothing had happened.
//!
//! Three ends (the client hangs up, the deadline passes, the agent is revoked), each beside a colleague of
//! the same tenant, who shares the worker, and a neighbour of another, who shares the device.

use bulkhead_proto::v1::{GenerateRequest, GenerateResponse};
use bulkhead_tests::{
    agent::{Agent, CALL_MAX, Client, Generation, chat, collect, prompt, reason},
    models::{self, turn},
    options::Options,
    raw,
    server::Server,
    wait::{eventually, within},
};
use prost::Message as _;
use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;
use tonic::{Status, Streaming};

const MODEL: &str = "smollm2";
/// Keys and values of 16 tokens.
const BLOCK_BYTES: f64 = 737_280.0;
/// More tokens than any of these tests has time for, and few enough that the worker is given others beside it.
const ENDLESS: u32 = 2400;
/// What the others ask for, again and again until the first has ended.
const OTHERS_TOKENS: u32 = 32;
/// A prompt of more blocks than the others have.
const LONG_TEXTS: usize = 40;
/// Blocks of one of the others at most.
const OTHERS_BLOCKS: f64 = 6.0;
/// Long enough for some blocks to be computed, on however busy a machine.
const DEADLINE: &str = "6S";
/// When a worker that was told has to have stopped, on however busy a machine.
const STOPPED_WITHIN: Duration = Duration::from_secs(40);

/// How a sequence ends before its time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    Deadline,
    Revoked,
}

impl End {
    /// The word that metrics and records have for it.
    fn word(self) -> &'static str {
        match self {
            End::Deadline => "deadline",
            End::Client | End::Revoked => "cancelled",
        }
    }
}

/// A server on which each tenant's worker is warm, with what those workers counted so far.
struct House {
    server: Server,
    victim: Arc<Agent>,
    colleague: Client,
    neighbour: Client,
    _turn: File,
}

impl House {
    async fn open() -> House {
        let turn = turn("models");
        let server = Server::start(Options::models(models::dir())).await;
        let victim = server.agent("acme", "victim").await;
        let colleague = server.agent("acme", "colleague").await.client().await;
        let neighbour = server.agent("globex", "neighbour").await.client().await;
        for client in [&colleague, &neighbour] {
            answer(client, chat(MODEL, "Say hello.", 2)).await;
        }
        House {
            server,
            victim: Arc::new(victim),
            colleague,
            neighbour,
            _turn: turn,
        }
    }

    /// What a tenant's worker counted.
    async fn count(&self, what: &str, tenant: &str) -> f64 {
        let name = format!("bulkhead_engine_{what}");
        let label = format!("tenant=\"{tenant}\"");
        self.server.metric(&name, &label).await
    }

    /// Waits until a tenant's worker says so.
    async fn says(&self, what: &str, tenant: &str, holds: impl Fn(f64) -> bool) {
        eventually(STOPPED_WITHIN, what, async || {
            holds(self.count(what, tenant).await).then_some(())
        })
        .await;
    }

    /// Begins the sequence that is to end; the task ends with the status of its failure.
    async fn begin(&self, end: End) -> JoinHandle<Status> {
        let text = "The ship carries grain and oil to the islands. ".repeat(LONG_TEXTS);
        let request = endless(prompt(MODEL, &text, ENDLESS));
        let (agent, client) = (self.victim.clone(), self.victim.client().await);
        tokio::spawn(async move {
            match end {
                // Sent by hand: other clients give up by themselves when it passes.
                End::Deadline => {
                    let headers = [("grpc-timeout", DEADLINE)];
                    raw::call(&agent, "Generate", &headers, &request.encode_to_vec()).await
                }
                End::Client | End::Revoked => match client.generate(request).await {
                    Ok(stream) => failure(stream).await,
                    Err(status) => status,
                },
            }
        })
    }

    /// Ends it.
    async fn end(&self, end: End, running: JoinHandle<Status>) {
        match end {
            // Drops the stream and its connection.
            End::Client => running.abort(),
            End::Deadline => {
                let status = running.await.expect("it ends by itself");
                assert_eq!(reason(&status), "DEADLINE_EXCEEDED", "{status}");
            }
            End::Revoked => {
                let mut admin = self.server.admin().await;
                let revoked = admin.set_status(&self.victim.id, "revoked").await;
                revoked.expect("the operator may");
                let status = running.await.expect("it ends by itself");
                assert_eq!(reason(&status), "AGENT_REVOKED", "{status}");
            }
        }
    }
}

fn endless(request: GenerateRequest) -> GenerateRequest {
    GenerateRequest {
        ignore_eos: true,
        ..request
    }
}

/// What the others ask.
fn others() -> GenerateRequest {
    endless(chat(MODEL, "Count to one hundred.", OTHERS_TOKENS))
}

async fn answer(client: &Client, request: GenerateRequest) -> Generation {
    let stream = client.generate(request).await.expect("a stream");
    collect(stream).await.expect("an answer")
}

/// Somebody who asks the same again and again, until told to stop, and demands the same answer.
struct Asker {
    enough: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl Asker {
    fn start(client: Client, expected: String) -> Asker {
        let enough = Arc::new(AtomicBool::new(false));
        let stop = enough.clone();
        let task = tokio::spawn(async move {
            let mut answers = 0;
            while !stop.load(Ordering::Relaxed) {
                let answer = answer(&client, others()).await;
                assert_eq!(answer.text(), expected);
                answers += 1;
            }
            answers
        });
        Asker { enough, task }
    }

    /// How often it was answered.
    async fn stop(self) -> usize {
        self.enough.store(true, Ordering::Relaxed);
        self.task.await.expect("each answer was the same")
    }
}

/// Reads a stream until it fails.
async fn failure(mut stream: Streaming<GenerateResponse>) -> Status {
    loop {
        match within(CALL_MAX, "the stream's end", stream.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended as if it were complete"),
            Err(status) => return status,
        }
    }
}

async fn stops_on_the_device(end: End) {
    let house = House::open().await;
    let alone = answer(&house.colleague, others()).await.text();
    let most = OTHERS_BLOCKS * BLOCK_BYTES;
    let running = house.begin(end).await;
    house.says("kv_bytes", "acme", |bytes| bytes > most).await;
    let askers = [&house.colleague, &house.neighbour];
    let askers = askers.map(|client| Asker::start(client.clone(), alone.clone()));

    house.end(end, running).await;
    let dropped = "sequences_cancelled_total";
    house.says(dropped, "acme", |count| count == 1.0).await;
    house.says("kv_bytes", "acme", |bytes| bytes <= most).await;
    for asker in askers {
        assert!(asker.stop().await > 0, "others are served beside it");
    }
    house.says("kv_bytes", "acme", |bytes| bytes == 0.0).await;
    house.says("kv_bytes", "globex", |bytes| bytes == 0.0).await;
    assert_eq!(house.count(dropped, "globex").await, 0.0);

    // From here on whatever that worker computes is the colleague's: its prompt, and its answer but for
    // the last token.
    let stopped = house.count("tokens_computed_total", "acme").await;
    let usage = answer(&house.colleague, others()).await.done.usage;
    let usage = usage.expect("usage");
    let own = usage.input_tokens + usage.output_tokens - 1;
    let more = house.count("tokens_computed_total", "acme").await - stopped;
    assert_eq!(more, f64::from(own), "nothing for the one that ended");

    let ended = format!("outcome=\"{}\"", end.word());
    let ended = house.server.metric("bulkhead_requests_total", &ended).await;
    assert_eq!(ended, 1.0, "and it is recorded as {}", end.word());
}

#[tokio::test]
async fn when_its_client_hangs_up() {
    stops_on_the_device(End::Client).await;
}

#[tokio::test]
async fn when_its_deadline_passes() {
    stops_on_the_device(End::Deadline).await;
}

#[tokio::test]
async fn when_its_agent_is_revoked() {
    stops_on_the_device(End::Revoked).await;
}
