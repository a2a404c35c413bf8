//! An agent that speaks the wire by itself: its own assertions, its own tokens, its own TLS.

use crate::{http, jwt, wait::within};
use aws_lc_rs::{rand, signature::Ed25519KeyPair};
use bulkhead_proto::v1::{
    ChatMessage, CreateAgentResponse, Done, EmbedRequest, EmbedResponse, GenerateRequest,
    GenerateResponse, TokenLogprob, inference_client::InferenceClient,
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

/// No call in a test takes longer, on however busy a machine.
pub const CALL_MAX: Duration = Duration::from_secs(60);

/// An agent's credentials.
pub struct Agent {
    pub id: String,
    pub tenant: String,
    pub key_id: String,
    pub issuer: String,
    pub ca_pem: String,
    key: Ed25519KeyPair,
}

impl Agent {
    /// From the operator's answer.
    pub fn new(created: CreateAgentResponse) -> Agent {
        let agent = created.agent.expect("the answer names the agent");
        let der = PrivatePkcs8KeyDer::from_pem_slice(created.private_key_pem.as_bytes());
        let der = der.expect("a key in PEM");
        let der = der.secret_pkcs8_der();
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).expect("an Ed25519 key");
        Agent {
            id: agent.id,
            tenant: agent.tenant,
            key_id: created.key_id,
            issuer: created.issuer,
            ca_pem: created.ca_pem,
            key,
        }
    }

    /// The claims of a good assertion.
    pub fn assertion_claims(&self) -> Value {
        let now = now_unix_s();
        json!({
            "iss": self.id, "sub": self.id, "aud": self.issuer,
            "iat": now, "exp": now + 60, "jti": random_hex(16),
        })
    }

    /// A good assertion (RFC 7523).
    pub fn assertion(&self) -> String {
        self.sign(&self.assertion_claims())
    }

    /// An assertion of these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.key_id });
        jwt::sign(&header, claims, &self.key)
    }

    /// Sends an assertion to the token endpoint: the status and the answer.
    pub async fn exchange(&self, assertion: &str) -> (u16, Value) {
        let form = format!(
            "grant_type=client_credentials\
             &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
             &client_assertion={assertion}"
        );
        let post = http::post_form(&self.issuer, &self.ca_pem, "/oauth/token", form);
        let (status, body) = within(CALL_MAX, "a token", post).await.expect("an answer");
        (status, serde_json::from_str(&body).expect("JSON"))
    }

    /// A fresh access token.
    pub async fn token(&self) -> String {
        let (status, answer) = self.exchange(&self.assertion()).await;
        let token = answer["access_token"].as_str();
        token
            .unwrap_or_else(|| panic!("no token: {status} {answer}"))
            .into()
    }

    /// A connection of its own, with a fresh token.
    pub async fn client(&self) -> Client {
        let token = self.token().await;
        self.client_with(&token)
    }

    /// A connection of its own that sends this token; it is made with the first call, and again when
    /// it breaks.
    pub fn client_with(&self, token: &str) -> Client {
        let channel = channel(&self.issuer, &self.ca_pem);
        Client {
            inference: InferenceClient::new(channel.clone()).max_decoding_message_size(64 << 20),
            channel,
            headers: vec![("authorization", format!("Bearer {token}"))],
        }
    }
}

/// An HTTP/2 connection over TLS 1.3.
pub fn channel(url: &str, ca_pem: &str) -> Channel {
    let (address, ca) = (url.to_owned(), ca_pem.to_owned());
    let dial = tower::service_fn(move |_: ::http::Uri| {
        let (address, ca) = (address.clone(), ca.clone());
        async move {
            http::connect_tls(&address, &ca, "h2")
                .await
                .map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_shared(format!("https://{}", http::authority(url)));
    endpoint.expect("a URL").connect_with_connector_lazy(dial)
}

/// An agent's connection.
#[derive(Clone)]
pub struct Client {
    pub inference: InferenceClient<Channel>,
    pub channel: Channel,
    /// Sent with each call.
    pub headers: Vec<(&'static str, String)>,
}

impl Client {
    /// A request with this client's headers.
    pub fn request<T>(&self, body: T) -> Request<T> {
        let mut request = Request::new(body);
        for (name, value) in &self.headers {
            let value = value.parse().expect("a header's value");
            request.metadata_mut().insert(*name, value);
        }
        request
    }

    /// Adds a header to each call.
    pub fn with_header(mut self, name: &'static str, value: &str) -> Client {
        self.headers.retain(|(old, _)| *old != name);
        self.headers.push((name, value.into()));
        self
    }

    /// Embeds texts.
    pub async fn embed(&self, model: &str, texts: &[&str]) -> Result<EmbedResponse, Status> {
        let body = EmbedRequest {
            model: model.into(),
            texts: texts.iter().map(|t| t.to_string()).collect(),
            ..EmbedRequest::default()
        };
        let request = self.request(body);
        let mut inference = self.inference.clone();
        let call = within(CALL_MAX, "an embedding", inference.embed(request));
        Ok(call.await?.into_inner())
    }

    /// Begins a generation.
    pub async fn generate(
        &self,
        body: GenerateRequest,
    ) -> Result<Streaming<GenerateResponse>, Status> {
        let request = self.request(body);
        let mut inference = self.inference.clone();
        let call = within(CALL_MAX, "a stream", inference.generate(request));
        Ok(call.await?.into_inner())
    }
}

/// A generation of a raw prompt.
pub fn prompt(model: &str, prompt: &str, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        model: model.into(),
        prompt: prompt.into(),
        max_tokens,
        ..Default::default()
    }
}

/// A generation of one user's message.
pub fn chat(model: &str, message: &str, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        model: model.into(),
        messages: vec![ChatMessage {
            role: "user".into(),
            content: message.into(),
        }],
        max_tokens,
        ..Default::default()
    }
}

/// A stream, read to its end.
pub struct Generation {
    /// One for each message that held text.
    pub pieces: Vec<String>,
    /// Of all messages.
    pub logprobs: Vec<TokenLogprob>,
    pub done: Done,
}

impl Generation {
    pub fn text(&self) -> String {
        self.pieces.concat()
    }
}

/// Reads a stream to its end.
pub async fn collect(mut stream: Streaming<GenerateResponse>) -> Result<Generation, Status> {
    let (mut pieces, mut logprobs) = (Vec::new(), Vec::new());
    let mut done = None;
    while let Some(message) = within(CALL_MAX, "the next piece", stream.message()).await? {
        assert!(done.is_none(), "nothing comes after `done`");
        logprobs.extend(message.logprobs);
        if !message.text.is_empty() {
            pieces.push(message.text);
        }
        done = message.done;
    }
    let done = done.expect("a stream that ends well ends with `done`");
    Ok(Generation {
        pieces,
        logprobs,
        done,
    })
}

/// The reason of a refusal: `google.rpc.ErrorInfo` of our domain, or "".
pub fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details
        .error_info()
        .filter(|info| info.domain == "bulkhead");
    info.map(|info| info.reason.clone()).unwrap_or_default()
}

/// Seconds since 1970.
pub fn now_unix_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is past 1970").as_secs()
}

/// Random bytes.
pub fn random(bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    rand::fill(&mut out).expect("the system gives random bytes");
    out
}

/// Random bytes in hexadecimal.
pub fn random_hex(bytes: usize) -> String {
    random(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
