//! An agent's client against a token endpoint over real TLS: whom it trusts, how often it asks, and
//! what it makes of refusals.

use bulkhead_client::{ClientError, Credentials, TokenSource};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

/// A token endpoint that gives the same answer to everybody, and counts.
struct Endpoint {
    issuer: String,
    ca_pem: String,
    asked: Arc<AtomicUsize>,
}

impl Endpoint {
    async fn serve(status: u16, answer: &'static str) -> Endpoint {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".into()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("https://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                // A client that trusts somebody else ends the handshake here.
                let Ok(tls) = acceptor.accept(tcp).await else {
                    continue;
                };
                let count = Arc::clone(&count);
                let service = service_fn(move |request: Request<Incoming>| {
                    count.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(request.uri().path(), "/oauth/token");
                    let response = Response::builder().status(status);
                    async move { response.body(Full::new(bytes::Bytes::from(answer))) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tls), service);
                tokio::spawn(connection);
            }
        });
        Endpoint {
            issuer,
            ca_pem: made.cert.pem(),
            asked,
        }
    }

    fn client(&self) -> TokenSource {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let credentials = Credentials {
            agent: "agt_1".into(),
            tenant: "acme".into(),
            key_id: "k1".into(),
            private_key_pem: Zeroizing::new(key.serialize_pem()),
            issuer: self.issuer.clone(),
            ca_pem: self.ca_pem.clone(),
            audience: None,
        };
        TokenSource::new(credentials, None).unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn many_requests_share_one_token() {
    let server = Endpoint::serve(200, r#"{"access_token": "t", "expires_in": 900}"#).await;
    let client = server.client();
    let (a, b, c) = tokio::join!(client.get(), client.get(), client.get());
    for token in [a, b, c] {
        assert_eq!(*token.unwrap().secret, "t");
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_token_without_life_left_is_fetched_anew() {
    let server = Endpoint::serve(200, r#"{"access_token": "t", "expires_in": 0}"#).await;
    let client = server.client();
    client.get().await.unwrap();
    client.get().await.unwrap();
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn a_server_of_another_authority_is_never_spoken_to() {
    let server = Endpoint::serve(200, r#"{"access_token": "t", "expires_in": 900}"#).await;
    let other = Endpoint::serve(200, "").await;
    let deceived = Endpoint {
        issuer: server.issuer.clone(),
        ca_pem: other.ca_pem.clone(),
        asked: Arc::clone(&server.asked),
    };
    let error = deceived.client().get().await.err().unwrap();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert_eq!(server.asked(), 0, "no request was sent");
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_words() {
    let answer = r#"{"error": "invalid_client", "error_description": "the agent is suspended"}"#;
    let error = Endpoint::serve(401, answer)
        .await
        .client()
        .get()
        .await
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "no token: invalid_client: the agent is suspended"
    );
    assert_eq!(error.reason(), "invalid_client");
}

#[tokio::test]
async fn an_answer_that_is_no_token_is_an_error() {
    for (status, answer) in [(200, "hello"), (500, "<html>"), (200, "{}")] {
        let error = Endpoint::serve(status, answer)
            .await
            .client()
            .get()
            .await
            .err()
            .unwrap();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    }
}
