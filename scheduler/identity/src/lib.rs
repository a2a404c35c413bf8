//! Who is calling: tenants, agents and their keys, the token endpoint's logic, the built-in issuer,
//! and the one place where an access token is verified.
//!
//! The way in is [`Identity`]. An agent proves itself with a signed assertion
//! ([`Identity::exchange`], RFC 7523) and gets an access token of 15 minutes (RFC 9068). Every request
//! then turns that token into a [`Principal`] ([`Identity::authenticate`]), which no other code can
//! make: holding one *is* the proof that the caller was authenticated, and its tenant is the only
//! tenant that a request ever has.
//!
//! A token alone opens nothing. Status and generation of its agent are looked up in memory on every
//! request, whether the token was verified a moment ago or is new, so that a suspended, revoked or
//! deleted agent is refused at once.
//!
//! What never happens here: no HTTP, no clock (`now` is an argument everywhere), no permission
//! decisions (those are `bulkhead-policy`'s), no logging. I/O happens in `store` and `keyfile` alone.

mod assertion;
mod cache;
pub mod client;
mod directory;
mod domain;
mod error;
mod exchange;
mod identity;
mod issuer;
mod jwt;
mod key;
mod keyfile;
mod limits;
mod oauth;
mod principal;
mod residency;
mod scope;
mod store;
mod verifier;

pub use assertion::{ASSERTION_LIFE_MAX_S, JTI_CHARS_MAX};
pub use cache::{CACHED_PER_TENANT_MAX, CACHED_TOTAL_MAX};
pub use domain::{
    AGENTS_PER_TENANT_MAX, Agent, AgentChange, AgentStatus, MODELS_PER_TENANT_MAX, NewAgent,
    NewTenant, TENANTS_MAX, Tenant, TenantChange, TenantUpdate, UnknownStatus, WEIGHT_MAX,
};
pub use error::{AuthError, IdentityError};
pub use identity::Identity;
pub use issuer::{Endpoints, TOKEN_LIFE_S};
pub use jwt::TOKEN_BYTES_MAX;
pub use limits::{Limit, Limits};
pub use oauth::{ASSERTION_TYPE, GRANT_TYPE, OAuthCode, OAuthError, TokenRequest, TokenResponse};
pub use principal::Principal;
pub use residency::{Residency, is_region};
pub use scope::{Scope, Scopes, UnknownScope};
pub use store::LIVE_JTIS_PER_AGENT_MAX;
pub use verifier::{LEEWAY_S, bearer_token};
