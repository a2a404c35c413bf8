//! Authentication at the door: before a body is read, a request to the inference API has a principal or
//! is refused.
//!
//! The tenant comes from the verified token. No header, path or body can name one.

use super::{clock, errors::Refused, state::App};
use bulkhead_identity::{AuthError, Principal};
use http::Request;
use tonic::Code;

/// Refuses what carries no good token; puts a `Principal` among the extensions of the rest, and says whose it is.
pub fn require_principal<B>(app: &App, request: &mut Request<B>) -> Result<Principal, Refused> {
    let header = request
        .headers()
        .get(http::header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok());
    let now = clock::unix_s();
    let token = bulkhead_identity::bearer_token(header);
    match token.and_then(|token| app.identity.authenticate(token, now)) {
        Ok(principal) => {
            request.extensions_mut().insert(principal.clone());
            Ok(principal)
        }
        Err(error) => {
            let agent = token
                .ok()
                .and_then(|token| app.identity.agent_refused(token, now));
            app.record_refusal(agent.as_deref(), error.reason());
            Err(refused(error))
        }
    }
}

/// What an authentication error is to its caller.
pub fn refused(error: AuthError) -> Refused {
    let code = match error {
        AuthError::AgentSuspended | AuthError::AgentRevoked | AuthError::AgentDeleted => {
            Code::PermissionDenied
        }
        _ => Code::Unauthenticated,
    };
    Refused::new(code, error.reason(), error.to_string())
}
