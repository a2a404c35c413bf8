//! `bulkhead.v1.Inference`: checks what was asked, asks policy, and hands the permit to `submit`.
//!
//! Only conversions live here. The principal was put among the request's extensions by `auth`.

use super::{
    catalog::{ANY, Entry},
    driver::Job,
    errors::Refused,
    state::App,
    submit::{Answer, Done, Work},
};
use bulkhead_identity::{Principal, Tenant};
use bulkhead_policy::{Action, Denied, DenyReason, ModelFacts, Permit};
use bulkhead_proto::{
    internal::{self, EmbedJob, GenerateJob, Vector},
    v1::{
        Context, Done as WireDone, EmbedRequest, EmbedResponse, Embedding, GenerateRequest,
        GenerateResponse, ListModelsRequest, ListModelsResponse, Model, Usage,
        inference_server::Inference,
    },
};
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Extensions, Request, Response, Status, metadata::MetadataMap};

/// Output tokens where the caller names none.
const OUTPUT_TOKENS_DEFAULT: u32 = 256;
const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 256;
const TURNS_MAX: usize = 512;
const CLAIMS_BYTES_MAX: usize = 8 << 10;
const SENSITIVITIES: [&str; 5] = ["", "public", "internal", "confidential", "restricted"];

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
            .map_err(Refused::into_status)?;
        self.check_embed(&body).map_err(Refused::into_status)?;
        let job = Job::Embed(EmbedJob { texts: body.texts });
        let work = self
            .work(job, &model, body.context, &headers)
            .map_err(Refused::into_status)?;
        let mut answers = self.app.submitter.submit(permit, work);
        while let Some(answer) = answers.recv().await {
            match answer {
                Answer::Admitted | Answer::Piece { .. } => {}
                Answer::Done(done) => return Ok(embed_response(*done)),
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
            .map_err(Refused::into_status)?;
        self.check_generate(&body).map_err(Refused::into_status)?;
        let context = body.context.clone();
        let job = Job::Generate(generate_job(body));
        let work = self
            .work(job, &model, context, &headers)
            .map_err(Refused::into_status)?;
        let mut answers = self.app.submitter.submit(permit, work);
        // Headers are bytes of a response too: they leave once the record is durable.
        match answers.recv().await {
            Some(Answer::Refused(refused)) => Err(refused.into_status()),
            None => Err(Refused::stopping().into_status()),
            Some(_) => Ok(Response::new(stream(answers))),
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
            .map_err(|denied| {
                self.record(&principal, denied.reason.name());
                refused(denied).into_status()
            })?;
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
        let (permit, entry) = allowed.map_err(|denied| {
            self.record(&principal, denied.reason.name());
            refused(denied)
        })?;
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

    fn record(&self, principal: &Principal, reason: &'static str) {
        let agent = self.app.identity.agent(principal.agent_id());
        self.app.record_refusal(agent.as_deref(), reason);
    }

    fn check_embed(&self, body: &EmbedRequest) -> Result<(), Refused> {
        let max = self.app.config.limits.texts_per_request_max;
        if body.texts.is_empty() {
            return Err(invalid("there are no texts to embed"));
        }
        if body.texts.len() > max {
            return Err(invalid(format!(
                "{} texts are over the limit of {max} a request; send them in parts",
                body.texts.len()
            )));
        }
        check_claims(body.context.as_ref())
    }

    fn check_generate(&self, body: &GenerateRequest) -> Result<(), Refused> {
        let max = self.app.config.limits.output_tokens_max;
        if body.messages.is_empty() == body.prompt.is_empty() {
            return Err(invalid("give either messages or a prompt"));
        }
        if body.messages.len() > TURNS_MAX {
            return Err(invalid(format!("more than {TURNS_MAX} messages")));
        }
        if let Some(turn) = body
            .messages
            .iter()
            .find(|m| !["system", "user", "assistant"].contains(&m.role.as_str()))
        {
            return Err(invalid(format!(
                "a role is \"system\", \"user\" or \"assistant\", not one of {} characters",
                turn.role.len()
            )));
        }
        if body.max_tokens > max {
            return Err(invalid(format!("max_tokens is over the limit of {max}")));
        }
        if !(0.0..=100.0).contains(&body.temperature) || !(0.0..=1.0).contains(&body.top_p) {
            return Err(invalid("temperature is 0 to 100 and top_p is 0 to 1"));
        }
        if body.stop.len() > STOPS_MAX
            || body
                .stop
                .iter()
                .any(|s| s.is_empty() || s.len() > STOP_BYTES_MAX)
        {
            return Err(invalid(format!(
                "at most {STOPS_MAX} stop strings of 1 to {STOP_BYTES_MAX} bytes"
            )));
        }
        check_claims(body.context.as_ref())
    }

    fn work(
        &self,
        job: Job,
        model: &Entry,
        context: Option<Context>,
        headers: &MetadataMap,
    ) -> Result<Work, Refused> {
        let deadline_ns = match headers.get("grpc-timeout") {
            None => None,
            Some(value) => {
                let timeout = value
                    .to_str()
                    .ok()
                    .and_then(timeout)
                    .ok_or_else(|| invalid("the grpc-timeout header is malformed"))?;
                let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
                Some(self.app.submitter.clock.now_ns().saturating_add(timeout))
            }
        };
        Ok(Work {
            job,
            model: model.id,
            context,
            deadline_ns,
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
    Err(invalid(format!(
        "this model is for {:?}, not for {task:?}",
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

fn invalid(message: impl Into<String>) -> Refused {
    Refused::new(Code::InvalidArgument, "REQUEST_INVALID", message)
}

fn check_claims(context: Option<&Context>) -> Result<(), Refused> {
    let Some(claims) = context else { return Ok(()) };
    let bytes = claims.purpose.len()
        + claims.reason.len()
        + claims.sources.iter().map(String::len).sum::<usize>();
    if bytes > CLAIMS_BYTES_MAX || claims.sources.len() > 256 {
        return Err(invalid(format!(
            "the context is over its limit of {CLAIMS_BYTES_MAX} bytes"
        )));
    }
    if !SENSITIVITIES.contains(&claims.sensitivity.as_str()) {
        return Err(invalid(
            "sensitivity is \"public\", \"internal\", \"confidential\" or \"restricted\"",
        ));
    }
    if !(0.0..=1.0).contains(&claims.confidence) {
        return Err(invalid("confidence is 0 to 1"));
    }
    Ok(())
}

/// Parses a grpc-timeout: at most 8 digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let digits = text.get(..text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match text.as_bytes().last()? {
        b'H' => Duration::from_secs(n * 3600),
        b'M' => Duration::from_secs(n * 60),
        b'S' => Duration::from_secs(n),
        b'm' => Duration::from_millis(n),
        b'u' => Duration::from_micros(n),
        b'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

fn generate_job(body: GenerateRequest) -> GenerateJob {
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
        top_p: if body.top_p == 0.0 { 1.0 } else { body.top_p },
        seed: body.seed,
        stop: body.stop,
    }
}

fn usage(usage: super::driver::Usage) -> Usage {
    Usage {
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
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

fn stream(
    answers: mpsc::Receiver<Answer>,
) -> Pin<Box<dyn Stream<Item = Result<GenerateResponse, Status>> + Send>> {
    Box::pin(
        ReceiverStream::new(answers).filter_map(|answer| match answer {
            Answer::Admitted => None,
            Answer::Piece { text } => Some(Ok(GenerateResponse { text, done: None })),
            Answer::Refused(refused) => Some(Err(refused.into_status())),
            Answer::Done(done) => {
                let done = WireDone {
                    finish_reason: done.finish_reason,
                    usage: Some(usage(done.usage)),
                    receipt: Some(done.receipt),
                };
                Some(Ok(GenerateResponse {
                    text: String::new(),
                    done: Some(done),
                }))
            }
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(timeout("0n"), Some(Duration::ZERO));
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(
            timeout("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        for bad in ["", "m", "1", "-1m", "123456789m", "1.5S", "1x", "é"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }
}
