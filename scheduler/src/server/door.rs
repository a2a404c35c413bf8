//! The agents' port: TLS 1.3 and nothing older, gRPC and HTTP on one listener, every size and number
//! bounded before anything is parsed.
//!
//! tonic's own server is not used: it cannot pin the TLS version, answers an expired deadline as
//! CANCELLED, and lets its errors past the handlers. Its services are called by hyper through one
//! function of ours, which gives every error a reason. Inference is called straight: layers of a
//! router cost as much as all that is decided about a request.

use super::{
    arriving::{self, Arriving},
    auth,
    buffers::{Booked, Held},
    connection::{Activity, ON_THE_WAY_MAX, Streams, Watched},
    errors::{self, Refused},
    inference::InferenceService,
    metrics, oauth,
    state::App,
};
use axum::{Router, response::IntoResponse};
use bulkhead_proto::v1::inference_server::InferenceServer;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{Code, body::Body};
use tower::Service as _;

/// The longest message to the health service, which answers anybody.
const HEALTH_BYTES_MAX: usize = 1 << 10;
/// How long a client may take for its TLS handshake, and for a request's headers over HTTP/1.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a silent peer is asked whether it is still there, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_PATIENCE: Duration = Duration::from_secs(10);

/// What the paths of the inference API begin with.
const INFERENCE: &str = "/bulkhead.v1.Inference/";

/// Everything that is served on the agents' port.
#[derive(Clone)]
struct Served {
    app: App,
    inference: InferenceServer<InferenceService>,
    /// What is not asked for with every request.
    others: Router,
}

impl Served {
    fn new(app: App) -> Served {
        let limit = app.config.limits.message_bytes_max;
        let inference = InferenceServer::new(InferenceService { app: app.clone() })
            .max_decoding_message_size(limit)
            .max_encoding_message_size(usize::MAX);
        let (_, health) = tonic_health::server::health_reporter();
        let health = health.max_decoding_message_size(HEALTH_BYTES_MAX);
        let others = Router::new()
            .route_service("/grpc.health.v1.Health/Check", health)
            .merge(oauth::routes(app.clone()))
            .fallback(unknown);
        Served {
            app,
            inference,
            others,
        }
    }

    async fn answer(mut self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        if request.method() == Method::CONNECT {
            let mut refused = Response::new(Body::empty());
            *refused.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            return Ok(refused);
        }
        let response = match request.uri().path().starts_with(INFERENCE) {
            true => match self.arrived(request).await {
                Ok((request, held)) => {
                    let mut response = self.inference.call(request).await?;
                    let extensions = response.extensions_mut();
                    extensions.get_or_insert_with(|| Booked::new(held));
                    response
                }
                Err(refused) => refused.into_status().into_http(),
            },
            false => self
                .others
                .call(request.map(Arriving::new))
                .await?
                .map(Body::new),
        };
        Ok(explain(&self.app, response))
    }

    /// Who asks is known, and all of its message is there. Returns an entry for its answer, too, with nothing in it.
    async fn arrived(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<(Request<Full<Bytes>>, Held), Refused> {
        let who = auth::require_principal(&self.app, &mut request)?;
        let (head, body) = request.into_parts();
        let hold = || (self.app.submitter.buffers).hold(who.tenant_number(), who.agent_number());
        let mut held = hold();
        let bytes_max = self.app.config.limits.message_bytes_max;
        let message = arriving::message(body, &mut held, bytes_max).await;
        let message = message.inspect_err(|refused| {
            // Who gave up was refused nothing.
            if refused.code != Code::Cancelled {
                let agent = self.app.identity.agent(who.agent_id());
                self.app.record_refusal(agent.as_deref(), refused.reason);
            }
        })?;
        Ok((Request::from_parts(head, Full::new(message)), hold()))
    }
}

/// No such path: in the caller's own protocol.
async fn unknown(headers: HeaderMap) -> axum::response::Response {
    let content = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    if content.starts_with("application/grpc") {
        let refused = errors::explain(Code::Unimplemented, "").into_status();
        return refused.into_http::<Body>().map(axum::body::Body::new);
    }
    (StatusCode::NOT_FOUND, "there is nothing here\n").into_response()
}

/// Gives errors that no handler of ours made a reason of our own.
fn explain(app: &App, response: Response<Body>) -> Response<Body> {
    let Some(code) = response
        .headers()
        .get("grpc-status")
        .and_then(|v| v.to_str().ok()?.parse::<i32>().ok())
    else {
        return response;
    };
    if code == 0 || response.headers().contains_key("grpc-status-details-bin") {
        return response;
    }
    let message = response
        .headers()
        .get("grpc-message")
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    let refused = errors::explain(Code::from_i32(code), message);
    app.record_refusal(None, refused.reason);
    refused.into_status().into_http()
}

/// Accepts connections until told to stop, then lets the open ones finish.
pub async fn serve(
    app: App,
    listener: TcpListener,
    tls: TlsAcceptor,
    mut stop: watch::Receiver<bool>,
) {
    let served = Served::new(app.clone());
    let places = Arc::new(Semaphore::new(app.config.limits.connections_max));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: wait a little instead of spinning.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            metrics::refused("CONNECTIONS_FULL");
            continue;
        };
        let place = Place::take(place);
        let (served, tls, graceful) = (served.clone(), tls.clone(), graceful.watcher());
        tokio::spawn(async move {
            if let Some(stream) = handshake(&tls, stream).await {
                converse(served, stream, graceful).await;
            }
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// A connection's place among those that may be open; given back when dropped.
struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(permit: OwnedSemaphorePermit) -> Self {
        metrics::connection_opened();
        Place { _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::connection_closed();
    }
}

async fn handshake(tls: &TlsAcceptor, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    stream.set_nodelay(true).ok()?;
    match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(_)) | Err(_) => {
            metrics::refused("TLS_HANDSHAKE");
            None
        }
    }
}

async fn converse(served: Served, stream: TlsStream<TcpStream>, graceful: Watcher) {
    let limits = served.app.config.limits.clone();
    let activity = Activity::new(Duration::from_millis(limits.unread_ms));
    let mut server = auto::Builder::new(Streams(activity.clone()));
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(limits.header_bytes_max.max(8 << 10) as usize);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection_max)
        .max_header_list_size(limits.header_bytes_max)
        .max_send_buf_size(ON_THE_WAY_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_PATIENCE);
    let app = served.app.clone();
    let unread = activity.unread(move || {
        metrics::refused("ANSWER_UNREAD");
        app.record_refusal(None, "ANSWER_UNREAD");
    });
    let answer = service_fn(move |request| served.clone().answer(request));
    let service = Watched::new(answer, activity.clone());
    let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let connection = graceful.watch(connection.into_owned());
    tokio::select! {
        // Errors here are the peer's: resets, broken frames. It has closed or will be closed.
        _ = connection => {}
        () = activity.idle_for(Duration::from_millis(limits.idle_ms)) => metrics::refused("CONNECTION_IDLE"),
        () = unread => {}
    }
}
