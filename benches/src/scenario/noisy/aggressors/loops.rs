//! Aggressors that always have more: closed loops of whole requests, which they wait for.
//!
//! Nothing here hangs up, and nothing is sent that a server would not want from a customer that pays for it.

use super::{Did, Work};
use crate::{
    Failure, args,
    scenario::noisy::identities::Stand,
    workload::{self, EMBED_MODEL, GENERATE_MODEL, TEXT},
};
use bulkhead_client::{AgentClient, load::Flood};
use std::sync::Arc;

/// Tokens of each of a flood's answers, and of an agent's.
const ANSWER_TOKENS: u32 = 64;
/// Texts of each agent's requests.
const AGENT_TEXTS: usize = 8;
/// Huge requests outstanding, and long answers.
const HUGE: usize = 4;
const LONG: usize = 8;
/// Texts in a huge request, each as long as the model reads.
const HUGE_TEXTS: usize = 4;
/// Tokens of each long answer.
const LONG_TOKENS: u32 = 2048;

/// Batches of texts, or as many answers.
pub(super) async fn flood(
    client: &AgentClient,
    work: Work,
    args: &args::Noisy,
    did: &Arc<Did>,
) -> Result<Flood, Failure> {
    let texts = args.texts as usize;
    let mut senders = Vec::new();
    for _ in 0..args.connections {
        let client = client.another_connection().await?;
        Did::one(&did.connections);
        senders.extend((0..args.outstanding).map(|_| {
            let (client, did) = (client.clone(), Arc::clone(did));
            move || {
                let (client, did) = (client.clone(), Arc::clone(&did));
                async move { did.counted(work.some(&client, texts, ANSWER_TOKENS)).await }
            }
        }));
    }
    Ok(Flood::begin(senders))
}

/// The longest that the model takes: prompts of its whole context, or batches of texts that fill it.
pub(super) async fn huge(
    client: &AgentClient,
    work: Work,
    did: &Arc<Did>,
) -> Result<Flood, Failure> {
    let text = longest(client, work).await?;
    let sender = || {
        let (client, text, did) = (client.clone(), text.clone(), Arc::clone(did));
        move || {
            let (client, text, did) = (client.clone(), text.clone(), Arc::clone(&did));
            async move {
                match work {
                    Work::Embed => {
                        did.counted(work.texts(&client, vec![text; HUGE_TEXTS]))
                            .await
                    }
                    Work::Generate => {
                        let request = workload::generation(&text, 1);
                        did.counted(workload::generate(&client, request)).await
                    }
                }
            }
        }
    };
    Ok(Flood::begin((0..HUGE).map(|_| sender())))
}

/// So many copies of the text as the model's context holds, by the server's own count of one and of two.
async fn longest(client: &AgentClient, work: Work) -> Result<String, Failure> {
    let (name, two) = match work {
        Work::Embed => (EMBED_MODEL, work.texts(client, vec![copies(2)]).await?),
        Work::Generate => {
            let request = workload::generation(&copies(2), 1);
            (GENERATE_MODEL, workload::generate(client, request).await?)
        }
    };
    let one = match work {
        Work::Embed => work.small(client).await?,
        Work::Generate => workload::generate(client, workload::generation(TEXT, 1)).await?,
    };
    let models = client.list_models(workload::REQUEST_MAX).await?.models;
    let model = models.iter().find(|model| model.name == name);
    let context = model.map_or(0, |model| u64::from(model.context_tokens));
    let each = two.saturating_sub(one);
    if context < two || each == 0 {
        return Err(format!("{name} reads {context} tokens: too few for a huge request").into());
    }
    let more = (context - one) / each;
    Ok(copies(1 + usize::try_from(more)?))
}

fn copies(count: usize) -> String {
    vec![TEXT; count].join(" ")
}

/// A few answers that go on and on.
pub(super) fn long(client: &AgentClient, did: &Arc<Did>) -> Flood {
    let sender = || {
        let (client, did) = (client.clone(), Arc::clone(did));
        move || {
            let (client, did) = (client.clone(), Arc::clone(&did));
            async move {
                let request = workload::generation(TEXT, LONG_TOKENS);
                did.counted(workload::generate(&client, request)).await
            }
        }
    };
    Flood::begin((0..LONG).map(|_| sender()))
}

/// One connection and one request for each agent.
pub(super) async fn agents(stand: &Stand, work: Work, did: &Arc<Did>) -> Result<Flood, Failure> {
    let mut senders = Vec::new();
    for credentials in &stand.aggressors {
        let client = AgentClient::connect(credentials.clone(), None).await?;
        client.list_models(workload::REQUEST_MAX).await?;
        Did::one(&did.connections);
        let did = Arc::clone(did);
        senders.push(move || {
            let (client, did) = (client.clone(), Arc::clone(&did));
            async move {
                did.counted(work.some(&client, AGENT_TEXTS, ANSWER_TOKENS))
                    .await
            }
        });
    }
    Ok(Flood::begin(senders))
}
