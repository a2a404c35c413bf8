//! Load from one tenant: several connections, each asking again as soon as it was answered, until told
//! to end. What was answered and what was refused is kept.

use bulkhead_tests::{
    agent::{Agent, reason},
    wait::{eventually, within},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

/// Promised nowhere, but longer is a hang.
const PROGRESS_MAX: Duration = Duration::from_secs(45);

/// What happened to the requests of one tenant.
#[derive(Debug, Default)]
pub struct Report {
    pub sent: usize,
    /// Ids of requests that were answered well.
    pub ok: Vec<String>,
    /// How often each reason came; transport failures have none, and count under their gRPC code.
    pub failed: BTreeMap<String, usize>,
}

/// Running load.
pub struct Load {
    state: Arc<State>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    answered: AtomicUsize,
    report: Mutex<Report>,
}

impl Load {
    /// Starts it over this many connections.
    pub async fn start(agent: &Agent, connections: usize) -> Load {
        let state = Arc::<State>::default();
        let mut tasks = Vec::new();
        for _ in 0..connections {
            let (client, state) = (agent.client().await, Arc::clone(&state));
            tasks.push(tokio::spawn(async move {
                while !state.stop.load(Ordering::Relaxed) {
                    state.report.lock().expect("no panic holds it").sent += 1;
                    let answer = client.embed("null", &["some text", "some more"]).await;
                    let pause = answer.is_err();
                    state.note(answer.map(|a| a.receipt.expect("a receipt").request_id));
                    if pause {
                        // A refused client that asks again at once would only heat the machine.
                        tokio::task::yield_now().await;
                    }
                }
            }));
        }
        Load { state, tasks }
    }

    /// Waits until this many more requests were answered well.
    pub async fn progress(&self, more: usize) {
        let answered = || self.state.answered.load(Ordering::Relaxed);
        let wanted = answered() + more;
        eventually(PROGRESS_MAX, "more requests are answered", async || {
            (answered() >= wanted).then_some(())
        })
        .await;
    }

    /// How many failed so far.
    pub fn failures(&self) -> usize {
        self.state
            .report
            .lock()
            .expect("no panic holds it")
            .failed
            .values()
            .sum()
    }

    /// Ends it, once every request that is under way has its answer.
    pub async fn finish(self) -> Report {
        self.state.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let ended = within(PROGRESS_MAX, "no request hangs", task).await;
            ended.expect("no panic");
        }
        std::mem::take(&mut *self.state.report.lock().expect("no panic holds it"))
    }
}

impl State {
    fn note(&self, answer: Result<String, tonic::Status>) {
        let mut report = self.report.lock().expect("no panic holds it");
        match answer {
            Ok(id) => {
                report.ok.push(id);
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => {
                let reason = match reason(&status) {
                    none if none.is_empty() => format!("{:?}", status.code()),
                    reason => reason,
                };
                *report.failed.entry(reason).or_default() += 1;
            }
        }
    }
}
