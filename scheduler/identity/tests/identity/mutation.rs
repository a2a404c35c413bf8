//! Nothing but the token itself authenticates.

use crate::house::{House, NOW};
use proptest::prelude::*;
use std::sync::OnceLock;

struct Scene {
    house: House,
    token: String,
}

/// One for all cases, with its token remembered, so that the cache is asked too.
fn scene() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let house = House::new().await;
            let agent = house.agent("acme", "robot").await;
            let token = house.token(&agent, NOW).await;
            house.identity.authenticate(&token, NOW).unwrap();
            Scene { house, token }
        })
    })
}

#[test]
fn every_bit_of_every_byte_matters() {
    let scene = scene();
    for index in 0..scene.token.len() {
        for bit in 0..7 {
            let mut bytes = scene.token.clone().into_bytes();
            bytes[index] ^= 1 << bit;
            let forged = String::from_utf8(bytes).unwrap();
            let answer = scene.house.identity.authenticate(&forged, NOW);
            assert!(answer.is_err(), "byte {index}, bit {bit}");
        }
    }
    assert!(scene.house.identity.authenticate(&scene.token, NOW).is_ok());
}

proptest! {
    #[test]
    fn no_other_byte_in_any_place(index in any::<prop::sample::Index>(), byte in 0u8..128) {
        let scene = scene();
        let mut bytes = scene.token.clone().into_bytes();
        let index = index.index(bytes.len());
        prop_assume!(bytes[index] != byte);
        bytes[index] = byte;
        let forged = String::from_utf8(bytes).unwrap();
        prop_assert!(scene.house.identity.authenticate(&forged, NOW).is_err());
    }

    #[test]
    fn no_part_of_it_and_nothing_more(
        cut in any::<prop::sample::Index>(),
        tail in "[A-Za-z0-9_.= -]{1,40}",
    ) {
        let scene = scene();
        let part = &scene.token[..cut.index(scene.token.len())];
        let longer = format!("{}{tail}", scene.token);
        for forged in [part, &longer, &format!("{part}{tail}")] {
            prop_assume!(forged != scene.token);
            prop_assert!(scene.house.identity.authenticate(forged, NOW).is_err());
        }
    }

    #[test]
    fn no_text_at_all_panics(text in "\\PC{0,200}") {
        prop_assert!(scene().house.identity.authenticate(&text, NOW).is_err());
    }
}
