//! The issuer's key changes, and nobody who holds a token notices until it would have expired.

use crate::house::{House, NOW};
use bulkhead_identity::{AuthError, Endpoints, LEEWAY_S, TOKEN_LIFE_S};

#[tokio::test]
async fn a_retired_key_is_good_until_its_last_token_has_expired() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    let token = house.token(&agent, NOW).await;
    assert!(house.identity.authenticate(&token, NOW).is_ok());
    house.identity.rotate_issuer_key(NOW).await.unwrap();
    let house = house.reopened().await;

    assert_eq!(
        house.identity.jwks(NOW)["keys"].as_array().unwrap().len(),
        2
    );
    let last = NOW + TOKEN_LIFE_S + LEEWAY_S;
    // Twice: the second time the token is remembered.
    for _ in 0..2 {
        assert!(house.identity.authenticate(&token, last).is_ok());
        let refused = house.identity.authenticate(&token, last + 1).unwrap_err();
        assert_eq!(refused, AuthError::UnknownKey);
    }
    assert_eq!(
        house.identity.jwks(last + 1)["keys"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn the_new_key_signs_at_once() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    let before = house.identity.jwks(NOW)["keys"][0]["kid"].clone();
    house.identity.rotate_issuer_key(NOW).await.unwrap();
    let token = house.token(&agent, NOW).await;
    let (header, _) = crate::forge::open(&token);
    assert_ne!(header["kid"], before);
    assert!(house.identity.authenticate(&token, NOW).is_ok());
    let after = house.identity.jwks(NOW + TOKEN_LIFE_S + LEEWAY_S + 1);
    assert_eq!(after["keys"][0]["kid"], header["kid"]);
}

#[tokio::test]
async fn the_metadata_says_how_to_get_a_token() {
    let house = House::new().await;
    let endpoints = Endpoints {
        token: "https://t".into(),
        jwks: "https://j".into(),
    };
    let metadata = house.identity.metadata(&endpoints);
    assert_eq!(metadata["issuer"], house.identity.issuer());
    assert_eq!(metadata["token_endpoint"], "https://t");
    assert_eq!(metadata["jwks_uri"], "https://j");
    assert_eq!(
        metadata["token_endpoint_auth_methods_supported"][0],
        "private_key_jwt"
    );
}
