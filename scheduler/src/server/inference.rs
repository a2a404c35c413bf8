//! `bulkhead.v1.Inference`: checks what was asked, asks policy, and hands the permit to `submit`.
//!
//! Only conversions live here. The principal was put among the request's extensions by `auth`.

use super::{
    buffers::Booked,
    catalog::{ANY, Entry},
    checks,
    driver::Job,
    errors::Refused,
    state::App,
    submit::{Answer, Done, Work},
};
use bulkhead_core::Priority;
use bulkhead_identity::{Principal, Tenant};
use bulkhead_policy::{Action, Denied, DenyReason, ModelFacts, Permit};
use bulkhead_proto::{
    internal::{self, EmbedJob, GenerateJob, Vector},
    v1::{
        self as wire, Alternative, Context, Done as WireDone, EmbedRequest, EmbedResponse,
        Embedding, GenerateRequest, GenerateResponse, ListModelsRequest, ListModelsResponse, Model,
        TokenLogprob, Usage, inference_server::Inference,
    },
};
use std::{pin::Pin, sync::Arc};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Extensions, Request, Response, Status, metadata::MetadataMap};

/// Output tokens where the caller names none.
pub const OUTPUT_TOKENS_DEFAULT: u32 = 256;

/// Numbers of a vector whose model no worker has loaded yet.
const DIMENSIONS_UNKNOWN: usize = 1024;

/// The service.
#[derive(Clone)]
pub struct InferenceService {
    pub app: App,
}

#[tonic::async_trait]
impl Inference for InferenceService {
    async fn embed(
        &self,
        request: Request<EmbedRequest>,
    ) -> Result<Response<EmbedResponse>, Status> {
        let (headers, extensions, body) = request.into_parts();
        let (permit, model) = self
            .permit(&extensions, Action::Embed, &body.model)
            .map_err(|r| self.refuse(&extensions, r))?;
        checks::embed(&self.app.config.limits, &body).map_err(|r| self.refuse(&extensions, r))?;
        // Room for all that it will be answered, and of which it may read nothing, as far as the model is known.
        let dimensions = match model.dimensions {
            0 => DIMENSIONS_UNKNOWN,
            known => known as usize,
        };
        let bytes = body.texts.len() * dimensions * size_of::<f32>();
        let who = permit.principal();
        let mut held = (self.app.submitter.buffers).hold(who.tenant_number(), who.agent_number());
        let fits = held.grow(bytes as u64);
        fits.map_err(|full| self.refuse(&extensions, full.into()))?;
        let priority = body.priority();
        let job = Job::Embed(EmbedJob { texts: body.texts });
        let work = self
            .work(job, &model, (body.context, priority), &headers)
            .map_err(|r| self.refuse(&extensions, r))?;
        let mut answers = self.app.submitter.submit(permit, work);
        while let Some(answer) = answers.recv().await {
            match answer {
                Answer::Admitted | Answer::Piece(_) => {}
                Answer::Done(done) => {
                    let values = done.vectors.iter().map(|vector| vector.values.len());
                    held.is(values.sum::<usize>() as u64);
                    let mut response = embed_response(*done);
                    // Its body takes it, and lets it go once it has left.
                    response.extensions_mut().insert(Booked::new(held));
                    return Ok(response);
                }
                Answer::Refused(refused) => return Err(refused.into_status()),
            }
        }
        Err(Refused::stopping().into_status())
    }

    type GenerateStream = Pin<Box<dyn Stream<Item = Result<GenerateResponse, Status>> + Send>>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let (headers, extensions, body) = request.into_parts();
        let (permit, model) = self
            .permit(&extensions, Action::Generate, &body.model)
            .map_err(|r| self.refuse(&extensions, r))?;
        checks::generate(&self.app.config.limits, &body)
            .map_err(|r| self.refuse(&extensions, r))?;
        let (context, priority) = (body.context.clone(), body.priority());
        let seed = body.seed.unwrap_or_else(draw_seed);
        let job = Job::Generate(generate_job(body, seed));
        let work = self
            .work(job, &model, (context, priority), &headers)
            .map_err(|r| self.refuse(&extensions, r))?;
        let mut answers = self.app.submitter.submit(permit, work);
        // Headers are bytes of a response too: they leave once the record is durable.
        match answers.recv().await {
            Some(Answer::Refused(refused)) => Err(refused.into_status()),
            None => Err(Refused::stopping().into_status()),
            Some(_) => Ok(Response::new(stream(answers, seed))),
        }
    }

    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let principal = principal(request.extensions()).map_err(Refused::into_status)?;
        let tenant = self.tenant(&principal).map_err(Refused::into_status)?;
        let all = self.app.catalog.all();
        let facts = all.iter().map(|e| ModelFacts {
            name: &e.name,
            owner: e.owner.as_deref(),
        });
        let seen = self
            .app
            .policy
            .visible(&principal, facts, &tenant)
            .map_err(|denied| self.refuse(request.extensions(), refused(denied)))?;
        let models = all
            .iter()
            .filter(|e| seen.contains(&&*e.name))
            .map(wire_model)
            .collect();
        Ok(Response::new(ListModelsResponse { models }))
    }
}

impl InferenceService {
    fn permit(
        &self,
        extensions: &Extensions,
        action: Action,
        model: &str,
    ) -> Result<(Permit, Entry), Refused> {
        let principal = principal(extensions)?;
        let tenant = self.tenant(&principal)?;
        let allowed = match self.app.catalog.get(model) {
            None => Err(Denied::model_not_found(model)),
            Some(entry) => {
                let facts = ModelFacts {
                    name: &entry.name,
                    owner: entry.owner.as_deref(),
                };
                self.app
                    .policy
                    .authorize(&principal, action, &facts, &tenant)
                    .map(|permit| (permit, entry))
            }
        };
        let (permit, entry) = allowed.map_err(refused)?;
        fits(&entry, action)?;
        Ok((permit, entry))
    }

    fn tenant(&self, principal: &Principal) -> Result<Arc<Tenant>, Refused> {
        self.app.identity.tenant(principal.tenant()).ok_or_else(|| {
            Refused::new(
                Code::PermissionDenied,
                "TENANT_UNKNOWN",
                "your tenant does not exist any more",
            )
        })
    }

    /// Every refusal after authentication is on record, by name or in an aggregate.
    fn refuse(&self, extensions: &Extensions, refused: Refused) -> Status {
        let who = extensions.get::<Principal>();
        let agent = who.and_then(|who| self.app.identity.agent(who.agent_id()));
        self.app.record_refusal(agent.as_deref(), refused.reason);
        refused.into_status()
    }

    fn work(
        &self,
        job: Job,
        model: &Entry,
        (context, priority): (Option<Context>, wire::Priority),
        headers: &MetadataMap,
    ) -> Result<Work, Refused> {
        let deadline_ns = match headers.get("grpc-timeout") {
            None => None,
            Some(value) => {
                let timeout = value
                    .to_str()
                    .ok()
                    .and_then(checks::timeout)
                    .ok_or_else(|| checks::invalid("the grpc-timeout header is malformed"))?;
                let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
                Some(self.app.submitter.clock.now_ns().saturating_add(timeout))
            }
        };
        let keeps = &self.app.config.models.prefix_cache;
        let keeps = keeps.iter().any(|name| **name == *model.name);
        Ok(Work {
            job,
            model: model.id,
            read_tokens_max: if keeps { 0 } else { model.context_tokens },
            context,
            deadline_ns,
            priority: match priority {
                wire::Priority::Unspecified | wire::Priority::Interactive => Priority::Interactive,
                wire::Priority::Batch => Priority::Batch,
            },
        })
    }
}

fn principal(extensions: &Extensions) -> Result<Principal, Refused> {
    extensions.get::<Principal>().cloned().ok_or_else(|| {
        Refused::new(
            Code::Unauthenticated,
            "TOKEN_MISSING",
            "the call carries no access token; fetch one at /oauth/token",
        )
    })
}

fn fits(entry: &Entry, action: Action) -> Result<(), Refused> {
    let task = if action == Action::Embed {
        "embed"
    } else {
        "generate"
    };
    if entry.task == task || entry.task == ANY {
        return Ok(());
    }
    Err(checks::invalid(format!(
        "this model is for {0:?}, not for {task:?}; ask it to {0}, or name another model",
        entry.task
    )))
}

fn refused(denied: Denied) -> Refused {
    let code = match denied.reason {
        DenyReason::ModelNotFound => Code::NotFound,
        _ => Code::PermissionDenied,
    };
    Refused::new(code, denied.reason.name(), denied.detail)
}

fn wire_model(entry: &Entry) -> Model {
    Model {
        name: entry.name.to_string(),
        task: entry.task.clone(),
        dimensions: entry.dimensions,
        context_tokens: entry.context_tokens,
    }
}

/// A seed for a request that names none. Of 32 bits, which every language's numbers hold exactly, so that
/// it can be told and sent again.
fn draw_seed() -> u64 {
    u64::from(uuid::Uuid::new_v4().as_fields().0)
}

fn generate_job(body: GenerateRequest, seed: u64) -> GenerateJob {
    GenerateJob {
        messages: body
            .messages
            .into_iter()
            .map(|m| internal::Turn {
                role: m.role,
                content: m.content,
            })
            .collect(),
        prompt: body.prompt,
        max_tokens: if body.max_tokens == 0 {
            OUTPUT_TOKENS_DEFAULT
        } else {
            body.max_tokens
        },
        temperature: body.temperature,
        top_p: body.top_p,
        seed,
        stop: body.stop,
        top_k: body.top_k,
        min_p: body.min_p,
        repetition_penalty: body.repetition_penalty,
        presence_penalty: body.presence_penalty,
        frequency_penalty: body.frequency_penalty,
        logit_bias: body.logit_bias,
        stop_token_ids: body.stop_token_ids,
        min_tokens: body.min_tokens,
        ignore_eos: body.ignore_eos,
        logprobs: body.logprobs,
    }
}

fn usage(usage: super::driver::Usage) -> Usage {
    Usage {
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        cached_tokens: usage.cached_tokens,
    }
}

fn logprob(entry: internal::TokenLogprob) -> TokenLogprob {
    let alternative = |one: internal::Alternative| Alternative {
        token: one.token,
        bytes: one.bytes,
        logprob: one.logprob,
    };
    TokenLogprob {
        token: entry.token,
        bytes: entry.bytes,
        logprob: entry.logprob,
        top: entry.top.into_iter().map(alternative).collect(),
    }
}

fn embedding(vector: &Vector) -> Embedding {
    let values = vector
        .values
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    Embedding {
        values,
        tokens: vector.tokens,
        truncated: vector.truncated,
    }
}

fn embed_response(done: Done) -> Response<EmbedResponse> {
    let id = done.receipt.request_id.parse();
    let mut response = Response::new(EmbedResponse {
        embeddings: done.vectors.iter().map(embedding).collect(),
        usage: Some(usage(done.usage)),
        receipt: Some(done.receipt),
    });
    if let Ok(id) = id {
        response.metadata_mut().insert("bulkhead-request-id", id);
    }
    response
}

/// An answer on the wire. `seed` is that of its sampling.
fn stream(
    answers: mpsc::Receiver<Answer>,
    seed: u64,
) -> Pin<Box<dyn Stream<Item = Result<GenerateResponse, Status>> + Send>> {
    Box::pin(
        ReceiverStream::new(answers).filter_map(move |answer| match answer {
            Answer::Admitted => None,
            Answer::Piece(piece) => Some(Ok(GenerateResponse {
                text: piece.text,
                logprobs: piece.logprobs.into_iter().map(logprob).collect(),
                done: None,
            })),
            Answer::Refused(refused) => Some(Err(refused.into_status())),
            Answer::Done(done) => {
                let done = WireDone {
                    finish_reason: done.finish_reason,
                    usage: Some(usage(done.usage)),
                    receipt: Some(done.receipt),
                    stop_sequence: done.stop_sequence,
                    stop_token: done.stop_token,
                    seed,
                };
                Some(Ok(GenerateResponse {
                    done: Some(done),
                    ..GenerateResponse::default()
                }))
            }
        }),
    )
}
