//! Aggressors that waste: connections that are given up, requests that nobody waits for, deadlines that nobody can keep.
//!
//! Each sender begins something new every few milliseconds at most, so that what is measured is the server's patience and
//! not how fast a bench can spin. What is refused is what such a sender is after: it is counted, and no reason to wait.

use super::{Did, Work, wire::Wire};
use crate::{
    Failure,
    scenario::noisy::identities::{Order, Stand},
    workload::{self, REQUEST_MAX, TEXT},
};
use bulkhead_client::{AgentClient, ClientError, Credentials, TokenSource, load::Flood};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

/// Each sender begins no more than one thing in so long.
const EVERY: Duration = Duration::from_millis(20);
/// Senders of each kind: hundreds of requests a second, and as many connections as are served.
const CHURNERS: usize = 6;
const CANCELLERS: usize = 6;
const DEADLINERS: usize = 6;
/// Of a churner's connections, one in so many is left in the middle of its handshake.
const ABANDONED_OF: usize = 4;
/// How long a request that is hung up on may travel: long enough that it was sent.
const TRAVELS: Duration = Duration::from_millis(2);
/// Deadlines that are asked for in turn: past already, and too near for the work.
const DEADLINES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
];
/// Work of a request that will not be waited for: texts, or tokens of an answer.
const WASTED_TEXTS: usize = 32;
const WASTED_TOKENS: u32 = 256;

/// The first bytes of a ClientHello: a TLS record that says how long it is, and does not come to its end.
const HALF_A_HELLO: [u8; 11] = [
    0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03,
];

/// A new connection for each request, and handshakes that do not end.
pub(super) fn churn(
    client: &AgentClient,
    credentials: &Credentials,
    work: Work,
    did: &Arc<Did>,
) -> Result<Flood, Failure> {
    let tokens = TokenSource::new(credentials.clone(), None)?;
    let address: Arc<str> = tokens.server().authority().into();
    let nth = Arc::new(AtomicUsize::new(0));
    let sender = || {
        let (client, address) = (client.clone(), Arc::clone(&address));
        let (nth, did) = (Arc::clone(&nth), Arc::clone(did));
        move || {
            let (client, address) = (client.clone(), Arc::clone(&address));
            let (nth, did) = (nth.fetch_add(1, Ordering::Relaxed), Arc::clone(&did));
            paced(async move {
                if nth % ABANDONED_OF == 0 {
                    return abandon(&address, &did).await;
                }
                let client = client.another_connection().await?;
                Did::one(&did.connections);
                did.counted(work.small(&client)).await
            })
        }
    };
    Ok(Flood::begin((0..CHURNERS).map(|_| sender())))
}

/// Begins a handshake, and goes away without a word a moment later.
async fn abandon(address: &str, did: &Did) -> Result<u64, ClientError> {
    let begun = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&HALF_A_HELLO).await?;
        Did::one(&did.abandoned);
        sleep_until(Instant::now() + EVERY).await;
        std::io::Result::Ok(0)
    };
    begun.await.map_err(|error| ClientError::Unreachable {
        address: address.to_owned(),
        message: error.to_string(),
    })
}

/// Requests that are on their way when their sender hangs up.
pub(super) async fn cancel(
    client: &AgentClient,
    work: Work,
    did: &Arc<Did>,
) -> Result<Flood, Failure> {
    let mut senders = Vec::new();
    for _ in 0..CANCELLERS {
        let client = client.another_connection().await?;
        Did::one(&did.connections);
        let did = Arc::clone(did);
        senders.push(move || {
            let (client, did) = (client.clone(), Arc::clone(&did));
            paced(async move {
                let ask = did.counted(work.some(&client, WASTED_TEXTS, WASTED_TOKENS));
                match timeout(TRAVELS, ask).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        Did::one(&did.hung_up);
                        Ok(0)
                    }
                }
            })
        });
    }
    Ok(Flood::begin(senders))
}

/// Requests whose deadlines cannot be kept. Where everybody is one agent a near deadline would overtake what came before,
/// and the order would no longer be that of arrival: there the sender keeps the deadline to itself and hangs up then.
pub(super) async fn deadlines(stand: &Stand, work: Work, did: &Arc<Did>) -> Result<Flood, Failure> {
    let credentials = stand
        .aggressors
        .first()
        .ok_or("an aggressor without agents")?;
    let tokens = Arc::new(TokenSource::new(credentials.clone(), None)?);
    let tells = stand.order == Order::Ours;
    let nth = Arc::new(AtomicUsize::new(0));
    let mut senders = Vec::new();
    for _ in 0..DEADLINERS {
        let wire = Wire::connect(Arc::clone(&tokens)).await?;
        Did::one(&did.connections);
        let (nth, did) = (Arc::clone(&nth), Arc::clone(did));
        senders.push(move || {
            let (wire, did) = (wire.clone(), Arc::clone(&did));
            let deadline = DEADLINES[nth.fetch_add(1, Ordering::Relaxed) % DEADLINES.len()];
            paced(async move {
                // One that is past is refused before any queue, in both orders.
                let told = match tells || deadline.is_zero() {
                    true => deadline,
                    false => REQUEST_MAX,
                };
                let kept = if told == REQUEST_MAX {
                    deadline
                } else {
                    REQUEST_MAX
                };
                let answer = timeout(kept, did.counted(late(&wire, work, told))).await;
                match answer {
                    Ok(Ok(tokens)) => Ok(tokens),
                    Ok(Err(error)) => {
                        did.refused(&error);
                        Ok(0)
                    }
                    Err(_) => {
                        Did::one(&did.hung_up);
                        Ok(0)
                    }
                }
            })
        });
    }
    Ok(Flood::begin(senders))
}

async fn late(wire: &Wire, work: Work, told: Duration) -> Result<u64, ClientError> {
    match work {
        Work::Embed => {
            let request = workload::embedding(vec![TEXT.into(); WASTED_TEXTS]);
            wire.embed(request, told).await
        }
        Work::Generate => {
            let request = workload::generation(TEXT, WASTED_TOKENS);
            wire.generate(request, told).await
        }
    }
}

/// Does it, and waits until the sender's next is due.
async fn paced<T>(act: impl Future<Output = T>) -> T {
    let next = Instant::now() + EVERY;
    let done = act.await;
    sleep_until(next).await;
    done
}
