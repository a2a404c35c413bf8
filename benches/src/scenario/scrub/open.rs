//! The server that everything is compared with: the same engine behind the same messages, with none of the protections.
//!
//! One process with a thread for each model, as one would write it first: tonic over plain TCP, one batch for whoever
//! comes. No TLS, token, policy, queue, audit, seal, zeroing or other process. It is this program again.

use crate::{
    Failure,
    again::{self, Again},
    args::ServerArgs,
    bare::{Bare, Starters},
    workload::{self, TEXT},
};
use bulkhead_kernels::Measure;
use bulkhead_proto::{
    internal::{Finished, Outcome},
    v1::{
        Done, EmbedRequest, EmbedResponse, Embedding, GenerateRequest, GenerateResponse,
        ListModelsRequest, ListModelsResponse, Usage,
        inference_client::InferenceClient,
        inference_server::{Inference, InferenceServer},
    },
};
use std::{collections::HashMap, pin::Pin, sync::mpsc as blocking, thread};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{TcpListenerStream, UnboundedReceiverStream},
};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Server},
};

/// A running one, and its client.
pub struct Open {
    client: InferenceClient<Channel>,
    _server: Again,
}

impl Open {
    /// Starts one; it has loaded the starter models when this returns.
    pub async fn start(settings: &ServerArgs) -> Result<Open, Failure> {
        let mut args = vec!["open".into()];
        if let Some(models) = &settings.models {
            args.extend(["--models".into(), models.clone().into_os_string()]);
        }
        let server = Again::start(args).await?;
        let channel = Channel::from_shared(format!("http://{}", server.address()))?;
        Ok(Open {
            client: InferenceClient::new(channel.connect().await?),
            _server: server,
        })
    }

    /// Clones share its connection.
    pub fn client(&self) -> &InferenceClient<Channel> {
        &self.client
    }
}

/// Embeds so many copies of the text.
pub async fn embed(mut client: InferenceClient<Channel>, texts: usize) -> Result<(), Failure> {
    let request = workload::embedding(vec![TEXT.into(); texts]);
    client.embed(request).await?;
    Ok(())
}

/// Reads an answer of exactly so many tokens to its end.
pub async fn answer(mut client: InferenceClient<Channel>, tokens: u32) -> Result<(), Failure> {
    let request = workload::generation(TEXT, tokens);
    let mut stream = client.generate(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        if message.done.is_some() {
            return Ok(());
        }
    }
    Err("a stream ended without its last message".into())
}

/// Lives such a server's life: until it is killed, or whoever started it is gone.
pub async fn live(settings: &ServerArgs) -> Result<(), Failure> {
    Measure::ALL.into_iter().for_each(Measure::switch_off);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let Starters { minilm, smollm2 } = Starters::open(settings, threads)?;
    let front = Front {
        embeds: computing(minilm),
        generates: computing(smollm2),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    again::announce(listener.local_addr()?);
    let connections = TcpListenerStream::new(listener).map(|accepted| {
        let stream = accepted?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(stream)
    });
    Server::builder()
        .add_service(InferenceServer::new(front))
        .serve_with_incoming(connections)
        .await?;
    Ok(())
}

/// A request on its way to an engine.
struct Call {
    wanted: Wanted,
    answers: mpsc::UnboundedSender<Said>,
}

enum Wanted {
    Texts(Vec<String>),
    Answer { prompt: String, tokens: u32 },
}

/// What an engine says to one.
enum Said {
    Text(String),
    Over(Finished),
}

/// A thread with an engine, reached by this.
fn computing(engine: Bare) -> blocking::Sender<Call> {
    let (calls, called) = blocking::channel();
    thread::spawn(move || compute(engine, &called));
    calls
}

/// Steps while there is something to do, with all that came until then in one batch.
fn compute(mut engine: Bare, calls: &blocking::Receiver<Call>) {
    let mut asking = HashMap::new();
    loop {
        let first = match asking.is_empty() {
            true => match calls.recv() {
                Ok(call) => Some(call),
                Err(_) => return,
            },
            false => None,
        };
        for call in first.into_iter().chain(calls.try_iter()) {
            let request = match call.wanted {
                Wanted::Texts(texts) => engine.embed(&texts),
                Wanted::Answer { prompt, tokens } => engine.generate(&prompt, tokens),
            };
            asking.insert(request, call.answers);
        }
        let Some(stepped) = engine.step() else {
            continue;
        };
        for piece in stepped.outcome.pieces {
            if let Some(answers) = asking.get(&piece.request) {
                // Whoever hung up hears no more.
                let _ = answers.send(Said::Text(piece.text));
            }
        }
        for finished in stepped.outcome.finished {
            if let Some(answers) = asking.remove(&finished.request) {
                let _ = answers.send(Said::Over(finished));
            }
        }
    }
}

struct Front {
    embeds: blocking::Sender<Call>,
    generates: blocking::Sender<Call>,
}

/// Hands a request to an engine.
fn call(
    engine: &blocking::Sender<Call>,
    wanted: Wanted,
) -> Result<mpsc::UnboundedReceiver<Said>, Status> {
    let (answers, said) = mpsc::unbounded_channel();
    let sent = engine.send(Call { wanted, answers });
    sent.map_err(|_| Status::internal("the engine is gone"))?;
    Ok(said)
}

/// As engines give them: four bytes each, the least first.
fn floats(bytes: &[u8]) -> Vec<f32> {
    let (floats, _) = bytes.as_chunks();
    floats
        .iter()
        .map(|float| f32::from_le_bytes(*float))
        .collect()
}

fn usage(finished: &Finished) -> Result<Usage, Status> {
    match finished.outcome() {
        Outcome::Ok => Ok(Usage {
            input_tokens: finished.input_tokens,
            output_tokens: finished.output_tokens,
            ..Usage::default()
        }),
        _ => Err(Status::internal(finished.detail.clone())),
    }
}

#[tonic::async_trait]
impl Inference for Front {
    async fn embed(
        &self,
        request: Request<EmbedRequest>,
    ) -> Result<Response<EmbedResponse>, Status> {
        let texts = request.into_inner().texts;
        let mut said = call(&self.embeds, Wanted::Texts(texts))?;
        let Some(Said::Over(finished)) = said.recv().await else {
            return Err(Status::internal("the engine is gone"));
        };
        let usage = usage(&finished)?;
        let embeddings = finished.vectors.into_iter().map(|vector| Embedding {
            values: floats(&vector.values),
            tokens: vector.tokens,
            truncated: vector.truncated,
        });
        Ok(Response::new(EmbedResponse {
            embeddings: embeddings.collect(),
            usage: Some(usage),
            ..EmbedResponse::default()
        }))
    }

    type GenerateStream = Pin<Box<dyn Stream<Item = Result<GenerateResponse, Status>> + Send>>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let GenerateRequest {
            prompt, max_tokens, ..
        } = request.into_inner();
        let wanted = Wanted::Answer {
            prompt,
            tokens: max_tokens,
        };
        let said = UnboundedReceiverStream::new(call(&self.generates, wanted)?);
        let messages = said.map(|said| match said {
            Said::Text(text) => Ok(GenerateResponse {
                text,
                ..GenerateResponse::default()
            }),
            Said::Over(finished) => Ok(GenerateResponse {
                done: Some(Done {
                    usage: Some(usage(&finished)?),
                    ..Done::default()
                }),
                ..GenerateResponse::default()
            }),
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn list_models(
        &self,
        _: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        Ok(Response::new(ListModelsResponse::default()))
    }
}
