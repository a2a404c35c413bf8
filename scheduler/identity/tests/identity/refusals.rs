//! Each way in which an access token can be wrong, with its own reason. Tokens are forged with the
//! issuer's real key, so that each is refused for the one thing that is wrong with it.

use crate::forge::{ed25519, hs256, open, unsigned, with};
use crate::house::{AUDIENCE, House, ISSUER, NOW};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bulkhead_identity::{AuthError, LEEWAY_S, TOKEN_BYTES_MAX, TOKEN_LIFE_S};
use serde_json::{Value, json};

/// A good token's parts, and the key that the issuer signs with.
struct Scene {
    house: House,
    key: Ed25519KeyPair,
    header: Value,
    claims: Value,
}

impl Scene {
    async fn new() -> Scene {
        let house = House::new().await;
        let agent = house.agent("acme", "robot").await;
        let (header, claims) = open(&house.token(&agent, NOW).await);
        let pkcs8 = std::fs::read(house.folder.path().join("issuer-1.pk8")).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(&pkcs8).unwrap();
        Scene {
            house,
            key,
            header,
            claims,
        }
    }

    fn ask(&self, token: &str, now: u64) -> Result<(), AuthError> {
        self.house.identity.authenticate(token, now).map(drop)
    }

    fn ask_header(&self, name: &str, value: Value) -> Result<(), AuthError> {
        self.ask(
            &ed25519(&self.key, &with(&self.header, name, value), &self.claims),
            NOW,
        )
    }

    fn ask_claim(&self, name: &str, value: Value) -> Result<(), AuthError> {
        self.ask(
            &ed25519(&self.key, &self.header, &with(&self.claims, name, value)),
            NOW,
        )
    }
}

#[tokio::test]
async fn a_forged_copy_of_a_good_token_is_good() {
    // What all others here stand on: nothing but the one change is wrong with them.
    let scene = Scene::new().await;
    let copy = ed25519(&scene.key, &scene.header, &scene.claims);
    assert_eq!(scene.ask(&copy, NOW), Ok(()));
    let principal = scene.house.identity.authenticate(&copy, NOW).unwrap();
    assert_eq!(&**principal.tenant(), "acme");
    assert_eq!(&**principal.agent_name(), "robot");
}

#[tokio::test]
async fn no_token_and_garbage() {
    let scene = Scene::new().await;
    assert_eq!(scene.ask("", NOW), Err(AuthError::Missing));
    for garbage in ["x", "a.b.c", "....", "\u{0}", "Bearer x", "eyJ9.e30.AA"] {
        assert_eq!(
            scene.ask(garbage, NOW),
            Err(AuthError::Malformed),
            "{garbage:?}"
        );
    }
    let long = "a".repeat(TOKEN_BYTES_MAX + 1);
    assert_eq!(scene.ask(&long, NOW), Err(AuthError::TooLong));
}

#[tokio::test]
async fn alg_none() {
    let scene = Scene::new().await;
    for alg in ["none", "None", "NONE"] {
        let header = with(&scene.header, "alg", json!(alg));
        let token = unsigned(&header, &scene.claims);
        assert_eq!(scene.ask(&token, NOW), Err(AuthError::Algorithm));
    }
}

#[tokio::test]
async fn hs256_signed_with_the_public_key() {
    let scene = Scene::new().await;
    let header = with(&scene.header, "alg", json!("HS256"));
    let x = scene.house.identity.jwks(NOW)["keys"][0]["x"]
        .as_str()
        .unwrap()
        .to_owned();
    for secret in [scene.key.public_key().as_ref(), x.as_bytes()] {
        let token = hs256(secret, &header, &scene.claims);
        assert_eq!(scene.ask(&token, NOW), Err(AuthError::Algorithm));
    }
}

#[tokio::test]
async fn another_keys_signature() {
    let scene = Scene::new().await;
    let other = Ed25519KeyPair::generate().unwrap();
    let token = ed25519(&other, &scene.header, &scene.claims);
    assert_eq!(scene.ask(&token, NOW), Err(AuthError::Signature));
    let bare = token.rsplit_once('.').unwrap().0;
    assert_eq!(
        scene.ask(&format!("{bare}."), NOW),
        Err(AuthError::Signature)
    );
}

#[tokio::test]
async fn an_unknown_kid_and_none() {
    let scene = Scene::new().await;
    assert_eq!(
        scene.ask_header("kid", json!("other")),
        Err(AuthError::UnknownKey)
    );
    assert_eq!(
        scene.ask_header("kid", Value::Null),
        Err(AuthError::UnknownKey)
    );
}

#[tokio::test]
async fn a_key_in_the_header_is_not_believed() {
    let scene = Scene::new().await;
    let other = Ed25519KeyPair::generate().unwrap();
    use base64::Engine;
    let x = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(other.public_key());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
    let header = with(&scene.header, "jwk", jwk);
    let token = ed25519(&other, &header, &scene.claims);
    assert_eq!(scene.ask(&token, NOW), Err(AuthError::Signature));
}

#[tokio::test]
async fn a_crit_header() {
    let scene = Scene::new().await;
    for crit in [json!(["exp"]), json!([]), json!("b64"), json!({})] {
        assert_eq!(scene.ask_header("crit", crit), Err(AuthError::Critical));
    }
}

#[tokio::test]
async fn another_type() {
    let scene = Scene::new().await;
    for typ in [
        json!("JWT"),
        json!("at+JWT "),
        json!("client-authentication+jwt"),
        Value::Null,
    ] {
        assert_eq!(scene.ask_header("typ", typ), Err(AuthError::Type));
    }
}

#[tokio::test]
async fn another_issuer() {
    let scene = Scene::new().await;
    for iss in [
        json!("https://other.test"),
        json!(format!("{ISSUER}/")),
        json!(""),
    ] {
        assert_eq!(scene.ask_claim("iss", iss), Err(AuthError::Issuer));
    }
    let list = json!([ISSUER, "https://other.test"]);
    assert_eq!(
        scene.ask_claim("iss", list),
        Err(AuthError::MissingClaim("iss"))
    );
}

#[tokio::test]
async fn another_audience() {
    let scene = Scene::new().await;
    for aud in [
        json!("other"),
        json!([]),
        json!([AUDIENCE, "other"]),
        json!(ISSUER),
    ] {
        assert_eq!(scene.ask_claim("aud", aud), Err(AuthError::Audience));
    }
}

#[tokio::test]
async fn each_claim_is_required() {
    let scene = Scene::new().await;
    let names = [
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
        "agent_generation",
    ];
    for name in names {
        let absent = scene.ask_claim(name, Value::Null);
        assert_eq!(absent, Err(AuthError::MissingClaim(name)));
        // The library gives up on some of the wrong kind before we see them.
        let odd = scene.ask_claim(name, json!({}));
        let refused = matches!(odd, Err(AuthError::MissingClaim(_) | AuthError::Malformed));
        assert!(refused, "{name} of the wrong kind: {odd:?}");
    }
    assert_eq!(
        scene.ask_claim("client_id", json!("agt_other")),
        Err(AuthError::Subject)
    );
    assert_eq!(
        scene.ask_claim("scope", json!("admin")),
        Err(AuthError::MissingClaim("scope"))
    );
}

#[tokio::test]
async fn the_leeway_is_exact_at_both_ends() {
    let scene = Scene::new().await;
    let token = ed25519(&scene.key, &scene.header, &scene.claims);
    let end = NOW + TOKEN_LIFE_S + LEEWAY_S;
    // Twice each: the second time the token is remembered.
    for _ in 0..2 {
        assert_eq!(
            scene.ask(&token, NOW - LEEWAY_S - 1),
            Err(AuthError::NotYetValid)
        );
        assert_eq!(scene.ask(&token, NOW - LEEWAY_S), Ok(()));
        assert_eq!(scene.ask(&token, end), Ok(()));
        assert_eq!(scene.ask(&token, end + 1), Err(AuthError::Expired));
    }
}

#[tokio::test]
async fn a_token_from_the_future() {
    let scene = Scene::new().await;
    for name in ["iat", "nbf"] {
        assert_eq!(scene.ask_claim(name, json!(NOW + LEEWAY_S)), Ok(()));
        let late = json!(NOW + LEEWAY_S + 1);
        assert_eq!(
            scene.ask_claim(name, late),
            Err(AuthError::NotYetValid),
            "{name}"
        );
    }
    assert_eq!(
        scene.ask_claim("nbf", json!(u64::MAX)),
        Err(AuthError::NotYetValid)
    );
    assert_eq!(
        scene.ask_claim("exp", json!(u64::MAX)),
        Ok(()),
        "no sum overflows"
    );
    assert_eq!(scene.ask_claim("exp", json!(0)), Err(AuthError::Expired));
}

#[tokio::test]
async fn another_tenant_or_agent_than_the_directory_knows() {
    let scene = Scene::new().await;
    assert_eq!(
        scene.ask_claim("tenant", json!("globex")),
        Err(AuthError::AgentUnknown)
    );
    let claims = with(&scene.claims, "sub", json!("agt_none"));
    let claims = with(&claims, "client_id", json!("agt_none"));
    let token = ed25519(&scene.key, &scene.header, &claims);
    assert_eq!(scene.ask(&token, NOW), Err(AuthError::AgentUnknown));
}

#[test]
fn each_refusal_has_a_reason_of_its_own() {
    use AuthError::*;
    let all = [
        Missing,
        NotBearer,
        TooLong,
        Malformed,
        Algorithm,
        Critical,
        Type,
        UnknownKey,
        Signature,
        MissingClaim("exp"),
        Issuer,
        Audience,
        Subject,
        Expired,
        NotYetValid,
        AgentUnknown,
        AgentSuspended,
        AgentRevoked,
        AgentDeleted,
        TokenSuperseded,
    ];
    let reasons: std::collections::HashSet<_> = all.iter().map(|e| e.reason()).collect();
    assert_eq!(reasons.len(), all.len());
    let upper_snake = |r: &&str| r.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    assert!(reasons.iter().all(upper_snake));
}
