//! The token endpoint: each rule for assertions, and that each is good for one token.

use crate::forge::{ed25519, key_of_pem, open, unsigned, with};
use crate::house::{AUDIENCE, House, ISSUER, NOW, assertion, request};
use bulkhead_identity::{
    ASSERTION_LIFE_MAX_S, AgentStatus, JTI_CHARS_MAX, LEEWAY_S, NewAgent, OAuthCode, OAuthError,
    Scope, Scopes, TOKEN_LIFE_S,
};
use serde_json::{Value, json};

/// Sends an assertion that is good but for what `change` does to its header and claims.
async fn send(
    house: &House,
    agent: &NewAgent,
    change: impl FnOnce(Value, Value) -> (Value, Value),
) -> Result<(), &'static str> {
    let (header, claims) = open(&assertion(agent, NOW));
    let (header, claims) = change(header, claims);
    let forged = ed25519(&key_of_pem(&agent.private_key_pem), &header, &claims);
    house
        .exchange(&forged, NOW)
        .await
        .map(drop)
        .map_err(|error| {
            assert_eq!((error.code, error.status), (OAuthCode::InvalidClient, 401));
            error.reason
        })
}

async fn claim(
    house: &House,
    agent: &NewAgent,
    name: &str,
    value: Value,
) -> Result<(), &'static str> {
    send(house, agent, |header, claims| {
        (header, with(&claims, name, value))
    })
    .await
}

#[tokio::test]
async fn a_token_says_what_rfc_9068_wants() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    let answer = house.exchange(&assertion(&agent, NOW), NOW).await.unwrap();
    let (header, claims) = open(&answer.access_token);
    let kid = house.identity.jwks(NOW)["keys"][0]["kid"].clone();
    assert_eq!(header, json!({"typ": "at+jwt", "alg": "EdDSA", "kid": kid}));
    assert_eq!(claims["iss"], ISSUER);
    assert_eq!(claims["aud"], AUDIENCE);
    assert_eq!(claims["sub"], *agent.agent.id);
    assert_eq!(claims["client_id"], *agent.agent.id);
    assert_eq!(claims["tenant"], "acme");
    assert_eq!(claims["scope"], "embed generate models:read");
    assert_eq!(
        claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(),
        TOKEN_LIFE_S
    );
    let body = answer.body();
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 900);
    assert_eq!(
        body.as_object().unwrap().len(),
        4,
        "nothing internal goes out"
    );
}

#[tokio::test]
async fn an_assertion_is_good_once_also_after_a_restart() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    let assertion = assertion(&agent, NOW);
    assert!(house.exchange(&assertion, NOW).await.is_ok());
    let again = house.exchange(&assertion, NOW).await.unwrap_err();
    assert_eq!(
        (again.code, again.reason),
        (OAuthCode::InvalidClient, "ASSERTION_REPLAYED")
    );
    let house = house.reopened().await;
    let again = house.exchange(&assertion, NOW + 1).await.unwrap_err();
    assert_eq!(again.reason, "ASSERTION_REPLAYED");
    assert_eq!(
        again.agent.unwrap().id,
        agent.agent.id,
        "it is known who replayed it"
    );
}

#[tokio::test]
async fn another_agent_may_use_the_same_jti() {
    let house = House::new().await;
    let (one, two) = (
        house.agent("acme", "one").await,
        house.agent("acme", "two").await,
    );
    for agent in [&one, &two] {
        assert_eq!(claim(&house, agent, "jti", json!("1")).await, Ok(()));
    }
    assert_eq!(
        claim(&house, &one, "jti", json!("1")).await,
        Err("ASSERTION_REPLAYED")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_one_gets_a_token() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    let assertion = assertion(&agent, NOW);
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (identity, assertion) = (house.identity.clone(), assertion.clone());
            tokio::spawn(async move { identity.exchange(&request(&assertion), NOW).await })
        })
        .collect();
    let mut tokens = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => tokens += 1,
            Err(error) => assert_eq!(error.reason, "ASSERTION_REPLAYED"),
        }
    }
    assert_eq!(tokens, 1);
}

#[tokio::test]
async fn an_unknown_client_and_a_bad_signature_look_the_same() {
    let house = House::new().await;
    let (agent, other) = (
        house.agent("acme", "robot").await,
        house.agent("acme", "other").await,
    );
    let (header, claims) = open(&assertion(&agent, NOW));
    let wrong_key = ed25519(&key_of_pem(&other.private_key_pem), &header, &claims);
    let nobody = with(
        &with(&claims, "sub", json!("agt_none")),
        "iss",
        json!("agt_none"),
    );
    let nobody = ed25519(&key_of_pem(&agent.private_key_pem), &header, &nobody);
    let no_sub = ed25519(
        &key_of_pem(&agent.private_key_pem),
        &header,
        &with(&claims, "sub", Value::Null),
    );
    let wrong_kid = with(&header, "kid", json!("none"));
    let wrong_kid = ed25519(&key_of_pem(&agent.private_key_pem), &wrong_kid, &claims);
    let seen = |e: &OAuthError| (e.status, e.body(), e.to_string(), e.agent.is_none());
    let first = house.exchange(&wrong_key, NOW).await.unwrap_err();
    for token in [nobody, no_sub, wrong_kid] {
        assert_eq!(
            seen(&house.exchange(&token, NOW).await.unwrap_err()),
            seen(&first)
        );
    }
    assert_eq!(first.code, OAuthCode::InvalidClient);
    assert_eq!(first.reason, "ASSERTION_SIGNATURE");
}

#[tokio::test]
async fn the_audience_is_the_issuer_alone() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    assert_eq!(claim(&house, &agent, "aud", json!([ISSUER])).await, Ok(()));
    let token_endpoint = json!(format!("{ISSUER}/oauth/token"));
    for aud in [
        json!("x"),
        token_endpoint,
        json!([ISSUER, "x"]),
        json!([]),
        Value::Null,
    ] {
        assert_eq!(
            claim(&house, &agent, "aud", aud).await,
            Err("ASSERTION_AUDIENCE")
        );
    }
}

#[tokio::test]
async fn the_issuer_and_the_client_id_are_the_subject() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    for iss in [json!(ISSUER), Value::Null] {
        assert_eq!(
            claim(&house, &agent, "iss", iss).await,
            Err("ASSERTION_SUBJECT")
        );
    }
    let mut request = request(&assertion(&agent, NOW));
    request.client_id = Some("agt_other".into());
    let refused = house.identity.exchange(&request, NOW).await.unwrap_err();
    assert_eq!(refused.reason, "ASSERTION_SUBJECT");
    request.client_id = Some(agent.agent.id.to_string());
    assert!(house.identity.exchange(&request, NOW).await.is_ok());
}

#[tokio::test]
async fn the_times() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    let farthest = NOW + ASSERTION_LIFE_MAX_S + LEEWAY_S;
    for (name, value, answer) in [
        ("exp", json!(NOW - LEEWAY_S), Ok(())),
        ("exp", json!(NOW - LEEWAY_S - 1), Err("ASSERTION_EXPIRED")),
        ("exp", json!(farthest), Ok(())),
        ("exp", json!(farthest as f64 + 0.5), Ok(())),
        ("exp", json!(farthest + 1), Err("ASSERTION_EXPIRY")),
        ("exp", json!(u64::MAX), Err("ASSERTION_EXPIRY")),
        ("exp", Value::Null, Err("ASSERTION_EXPIRY")),
        ("exp", json!("soon"), Err("ASSERTION_MALFORMED")),
        ("iat", Value::Null, Ok(())),
        ("iat", json!(NOW + LEEWAY_S), Ok(())),
        (
            "iat",
            json!(NOW + LEEWAY_S + 1),
            Err("ASSERTION_NOT_YET_VALID"),
        ),
        (
            "nbf",
            json!(NOW + LEEWAY_S + 1),
            Err("ASSERTION_NOT_YET_VALID"),
        ),
    ] {
        // Each has a jti of its own, since `assertion` makes a new one.
        let got = claim(&house, &agent, name, value.clone()).await;
        // A claim that cannot be read leaves no client to be told what is wrong with it.
        assert_eq!(got, answer, "{name} = {value}");
    }
}

#[tokio::test]
async fn the_jti() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    let longest = "ü".repeat(JTI_CHARS_MAX);
    assert_eq!(claim(&house, &agent, "jti", json!(longest)).await, Ok(()));
    for jti in [json!(""), json!(format!("{longest}x")), Value::Null] {
        assert_eq!(
            claim(&house, &agent, "jti", jti).await,
            Err("ASSERTION_JTI")
        );
    }
}

#[tokio::test]
async fn the_header() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    for (name, value, answer) in [
        ("typ", json!("client-authentication+jwt"), Ok(())),
        ("typ", Value::Null, Ok(())),
        ("kid", json!(agent.key_id), Ok(())),
        ("typ", json!("at+jwt"), Err("ASSERTION_TYPE")),
        ("crit", json!(["exp"]), Err("ASSERTION_CRITICAL")),
        ("alg", json!("HS256"), Err("ASSERTION_ALGORITHM")),
        ("alg", json!("none"), Err("ASSERTION_ALGORITHM")),
    ] {
        let got = send(&house, &agent, |header, claims| {
            (with(&header, name, value), claims)
        })
        .await;
        assert_eq!(got, answer, "{name}");
    }
    let (header, claims) = open(&assertion(&agent, NOW));
    let none = unsigned(&with(&header, "alg", json!("none")), &claims);
    assert_eq!(
        house.exchange(&none, NOW).await.unwrap_err().reason,
        "ASSERTION_ALGORITHM"
    );
    let long = house.exchange(&"a".repeat(9000), NOW).await.unwrap_err();
    assert_eq!(long.reason, "ASSERTION_TOO_LONG");
}

#[tokio::test]
async fn an_access_token_is_no_assertion() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    let token = house.token(&agent, NOW).await;
    assert_eq!(
        house.exchange(&token, NOW).await.unwrap_err().reason,
        "ASSERTION_TYPE"
    );
    let assertion = assertion(&agent, NOW);
    let refused = house.identity.authenticate(&assertion, NOW).unwrap_err();
    assert_eq!(refused.reason(), "TOKEN_TYPE");
}

#[tokio::test]
async fn scopes_can_be_narrowed_and_not_widened() {
    let house = House::new().await;
    let scopes: Scopes = [Scope::Embed, Scope::ModelsRead].into_iter().collect();
    let agent = house
        .identity
        .create_agent("acme", "robot", scopes, NOW)
        .await
        .unwrap();
    let ask = async |scope: Option<&str>| {
        let mut request = request(&assertion(&agent, NOW));
        request.scope = scope.map(str::to_owned);
        house
            .identity
            .exchange(&request, NOW)
            .await
            .map(|answer| answer.scope)
    };
    assert_eq!(ask(None).await.unwrap(), "embed models:read");
    assert_eq!(ask(Some("embed")).await.unwrap(), "embed");
    for scope in ["generate", "embed generate", "", " ", "admin"] {
        assert_eq!(
            ask(Some(scope)).await.unwrap_err().code,
            OAuthCode::InvalidScope,
            "{scope:?}"
        );
    }
}

#[tokio::test]
async fn an_agent_that_may_not_act_gets_no_token() {
    let house = House::new().await;
    for (status, reason) in [
        (AgentStatus::Suspended, "AGENT_SUSPENDED"),
        (AgentStatus::Revoked, "AGENT_REVOKED"),
        (AgentStatus::Deleted, "AGENT_DELETED"),
    ] {
        let agent = house.agent("acme", status.name()).await;
        house
            .identity
            .set_status(&agent.agent.id, status)
            .await
            .unwrap();
        let refused = house
            .exchange(&assertion(&agent, NOW), NOW)
            .await
            .unwrap_err();
        assert_eq!(
            (refused.code, refused.reason),
            (OAuthCode::InvalidClient, reason)
        );
    }
}

#[tokio::test]
async fn the_form_is_checked_first() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    let good = request(&assertion(&agent, NOW));
    type Change = fn(&mut bulkhead_identity::TokenRequest);
    let cases: [(Change, OAuthCode); 5] = [
        (|r| r.grant_type = None, OAuthCode::InvalidRequest),
        (
            |r| r.grant_type = Some("password".into()),
            OAuthCode::UnsupportedGrantType,
        ),
        (
            |r| r.client_assertion_type = None,
            OAuthCode::InvalidRequest,
        ),
        (
            |r| r.client_assertion_type = Some("x".into()),
            OAuthCode::InvalidRequest,
        ),
        (|r| r.client_assertion = None, OAuthCode::InvalidRequest),
    ];
    for (change, code) in cases {
        let mut bad = good.clone();
        change(&mut bad);
        let refused = house.identity.exchange(&bad, NOW).await.unwrap_err();
        assert_eq!((refused.code, refused.status), (code, 400));
    }
    assert!(
        house.identity.exchange(&good, NOW).await.is_ok(),
        "no refusal used it up"
    );
}
