//! The operators' port: metrics and health over plain HTTP, on a loopback address only.
//!
//! Nothing here changes anything, and nothing here shows content.

use super::state::App;
use axum::{Json, Router, extract::State, response::IntoResponse, routing::get};
use http::StatusCode;
use serde_json::json;

/// The routes.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(app)
}

async fn metrics(State(app): State<App>) -> impl IntoResponse {
    (
        [(http::header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        app.metrics.render(),
    )
}

async fn healthz() -> &'static str {
    "ok\n"
}

/// Ready: requests would be served. Says what is reduced where a protection was switched off.
async fn readyz(State(app): State<App>) -> impl IntoResponse {
    let audit = app.submitter.audit.up();
    let status = if audit {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({ "ready": audit, "audit": audit, "disabled_protections": app.config.unsafe_.disable });
    (status, Json(body))
}
