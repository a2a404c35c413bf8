//! Every way in which an access token can be wrong, one at a time.
//!
//! All but the unsigned ones carry a signature of the issuer's own key, so that the rule under test
//! is the only thing between them and an answer.

use crate::forger::{Forger, same};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bulkhead_tests::{
    agent::{now_unix_s, reason},
    jwt,
};
use serde_json::json;
use tonic::Code;

/// What the server promises: five seconds between two clocks.
const LEEWAY_S: u64 = 5;

/// Without this, all refusals below could be the forger's fault.
#[tokio::test]
async fn a_forgery_that_is_wrong_in_nothing_is_accepted() {
    let forger = Forger::new().await;
    let token = forger.token(same(), json!({ "jti": "another" }));
    forger
        .call(&token)
        .await
        .expect("it cannot be told from a real one");
}

#[tokio::test]
async fn no_token() {
    let forger = Forger::new().await;
    let mut client = forger.agent.client_with("");
    client.headers.clear();
    let status = client
        .embed("null", &["a text"])
        .await
        .expect_err("refused");
    assert_eq!(reason(&status), "TOKEN_MISSING", "{status}");
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn another_scheme() {
    let forger = Forger::new().await;
    let client = forger
        .agent
        .client_with("")
        .with_header("authorization", "Basic YTpi");
    let status = client
        .embed("null", &["a text"])
        .await
        .expect_err("refused");
    assert_eq!(reason(&status), "TOKEN_NOT_BEARER", "{status}");
}

#[tokio::test]
async fn garbage() {
    let forger = Forger::new().await;
    for garbage in ["garbage", "a.b.c", "..", "e30.e30.e30"] {
        forger.refused(garbage, "TOKEN_MALFORMED").await;
    }
}

#[tokio::test]
async fn too_long() {
    let forger = Forger::new().await;
    let token = forger.token(same(), json!({ "padding": "x".repeat(8 << 10) }));
    forger.refused(&token, "TOKEN_TOO_LONG").await;
}

#[tokio::test]
async fn alg_none() {
    let forger = Forger::new().await;
    for alg in ["none", "None", "NONE"] {
        let mut header = forger.header.clone();
        header["alg"] = alg.into();
        let unsigned = jwt::with_signature(&header, &forger.claims, |_| Vec::new());
        forger.refused(&unsigned, "TOKEN_ALGORITHM").await;
    }
}

#[tokio::test]
async fn hs256_signed_with_the_public_key() {
    let forger = Forger::new().await;
    let mut header = forger.header.clone();
    header["alg"] = "HS256".into();
    let token = jwt::sign_hs256(&header, &forger.claims, forger.key.public_key().as_ref());
    forger.refused(&token, "TOKEN_ALGORITHM").await;
}

#[tokio::test]
async fn signed_by_somebody_else() {
    let forger = Forger::new().await;
    let stranger = Ed25519KeyPair::generate().expect("a key");
    let token = jwt::sign(&forger.header, &forger.claims, &stranger);
    forger.refused(&token, "TOKEN_SIGNATURE").await;
}

#[tokio::test]
async fn claims_changed_after_signing() {
    let forger = Forger::new().await;
    let good = forger.token(same(), same());
    let mut parts: Vec<&str> = good.split('.').collect();
    let mut claims = forger.claims.clone();
    claims["tenant"] = "globex".into();
    let changed = jwt::encode(claims.to_string().as_bytes());
    parts[1] = &changed;
    forger.refused(&parts.join("."), "TOKEN_SIGNATURE").await;
}

#[tokio::test]
async fn wrong_issuer() {
    let forger = Forger::new().await;
    let token = forger.token(same(), json!({ "iss": "https://127.0.0.1:1" }));
    forger.refused(&token, "TOKEN_ISSUER").await;
}

#[tokio::test]
async fn wrong_audience() {
    let forger = Forger::new().await;
    for audience in [json!("another"), json!(["bulkhead", "another"]), json!([])] {
        let token = forger.token(same(), json!({ "aud": audience }));
        forger.refused(&token, "TOKEN_AUDIENCE").await;
    }
}

#[tokio::test]
async fn wrong_type() {
    let forger = Forger::new().await;
    for typ in [json!("JWT"), json!("at+jwt2"), json!(null)] {
        let token = forger.token(json!({ "typ": typ }), same());
        forger.refused(&token, "TOKEN_TYPE").await;
    }
}

/// An agent's own assertion is signed by a key that the server knows, and is still no access token.
#[tokio::test]
async fn an_assertion_is_no_access_token() {
    let forger = Forger::new().await;
    forger
        .refused(&forger.agent.assertion(), "TOKEN_TYPE")
        .await;
}

#[tokio::test]
async fn expired_one_second_beyond_the_leeway() {
    let forger = Forger::new().await;
    let now = now_unix_s();
    let token = forger.token(same(), json!({ "exp": now - LEEWAY_S - 1 }));
    forger.refused(&token, "TOKEN_EXPIRED").await;
}

/// The other side of the border, with a second to spare for a slow machine.
#[tokio::test]
async fn expired_within_the_leeway_is_accepted() {
    let forger = Forger::new().await;
    let token = forger.token(same(), json!({ "exp": now_unix_s() - LEEWAY_S + 2 }));
    forger
        .call(&token)
        .await
        .expect("clocks may be five seconds apart");
}

#[tokio::test]
async fn not_valid_yet() {
    let forger = Forger::new().await;
    let soon = now_unix_s() + LEEWAY_S + 30;
    for claims in [json!({ "nbf": soon }), json!({ "iat": soon })] {
        let token = forger.token(same(), claims);
        forger.refused(&token, "TOKEN_NOT_YET_VALID").await;
    }
}

#[tokio::test]
async fn unknown_kid() {
    let forger = Forger::new().await;
    for kid in [json!("unknown"), json!(null), json!("")] {
        let token = forger.token(json!({ "kid": kid }), same());
        forger.refused(&token, "TOKEN_KEY_UNKNOWN").await;
    }
}

#[tokio::test]
async fn crit_header() {
    let forger = Forger::new().await;
    for crit in [json!(["exp"]), json!(["b64"]), json!([])] {
        let token = forger.token(json!({ "crit": crit }), same());
        forger.refused(&token, "TOKEN_CRITICAL_HEADER").await;
    }
}

#[tokio::test]
async fn a_claim_is_missing() {
    let forger = Forger::new().await;
    let all = [
        "iss",
        "aud",
        "sub",
        "client_id",
        "tenant",
        "scope",
        "jti",
        "iat",
        "nbf",
        "exp",
    ];
    for claim in all.into_iter().chain(["agent_generation"]) {
        let token = forger.token(same(), json!({ claim: null }));
        forger.refused(&token, "TOKEN_CLAIM_MISSING").await;
    }
}

#[tokio::test]
async fn sub_and_client_id_differ() {
    let forger = Forger::new().await;
    let token = forger.token(same(), json!({ "client_id": "agt_another" }));
    forger.refused(&token, "TOKEN_SUBJECT").await;
}
