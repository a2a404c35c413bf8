//! The token endpoint and what belongs to it, over HTTP. The logic is `bulkhead-identity`'s; here is
//! only the form, the status and the record.

use super::{clock, metrics, records, state::App};
use axum::{
    Form, Json, Router,
    extract::{DefaultBodyLimit, State, rejection::FormRejection},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bulkhead_identity::{Endpoints, TokenRequest, TokenResponse};
use bulkhead_proto::internal::RecordKind;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::json;

/// Longest body that the token endpoint reads, bytes.
const BODY_BYTES_MAX: usize = 32 << 10;

/// The routes.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/oauth/token", post(token))
        .route("/.well-known/jwks.json", get(jwks))
        .route("/.well-known/oauth-authorization-server", get(metadata))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(app)
}

#[derive(Deserialize)]
struct TokenForm {
    grant_type: Option<String>,
    client_assertion_type: Option<String>,
    client_assertion: Option<String>,
    client_id: Option<String>,
    scope: Option<String>,
}

async fn token(State(app): State<App>, form: Result<Form<TokenForm>, FormRejection>) -> Response {
    let Ok(Form(form)) = form else {
        let body = json!({ "error": "invalid_request", "error_description": "the body must be a form of at most 32 KiB" });
        return answer(StatusCode::BAD_REQUEST, body);
    };
    if !app.submitter.audit.up() {
        let body = json!({ "error": "temporarily_unavailable", "error_description": "the audit log takes no records now; try again" });
        return answer(StatusCode::SERVICE_UNAVAILABLE, body);
    }
    let request = TokenRequest {
        grant_type: form.grant_type,
        client_assertion_type: form.client_assertion_type,
        client_assertion: form.client_assertion,
        client_id: form.client_id,
        scope: form.scope,
    };
    match app.identity.exchange(&request, clock::unix_s()).await {
        Ok(token) => issued(&app, token).await,
        Err(error) => {
            if let Some(cause) = &error.cause {
                tracing::error!(%cause, "the token endpoint failed");
            }
            metrics::refused(error.reason);
            app.record_refusal(error.agent.as_deref(), error.reason);
            answer(
                StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST),
                error.body(),
            )
        }
    }
}

/// A token leaves once its issue is on record.
async fn issued(app: &App, token: TokenResponse) -> Response {
    let details = json!({ "agent": token.agent.id, "token": token.token_id, "scope": token.scope });
    let body = records::act("token.issue", details);
    let log = &app.submitter.audit;
    let recorded = match log.append(&token.agent.tenant, RecordKind::Admin, "", body) {
        Ok(mut position) => position.durable().await.is_ok(),
        Err(_) => false,
    };
    if recorded {
        return answer(StatusCode::OK, token.body());
    }
    let body = json!({ "error": "temporarily_unavailable", "error_description": "the audit log takes no records now; try again with a new assertion" });
    answer(StatusCode::SERVICE_UNAVAILABLE, body)
}

fn answer(status: StatusCode, body: serde_json::Value) -> Response {
    let mut response = (status, Json(body)).into_response();
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn jwks(State(app): State<App>) -> Response {
    Json(app.identity.jwks(clock::unix_s())).into_response()
}

async fn metadata(State(app): State<App>) -> Response {
    let endpoints = Endpoints {
        token: format!("{}/oauth/token", app.issuer),
        jwks: format!("{}/.well-known/jwks.json", app.issuer),
    };
    Json(app.identity.metadata(&endpoints)).into_response()
}
