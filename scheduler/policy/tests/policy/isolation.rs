//! Whatever its scopes, its list of models or the operator's policies: no tenant is ever permitted
//! anything on a model of another.

use crate::callers::{Caller, House};
use bulkhead_policy::{Action, DenyReason, ModelFacts, PolicyEngine};
use proptest::prelude::*;
use std::sync::OnceLock;

const NAMES: [&str; 4] = ["minilm", "smollm2", "a/b:c", "theirs"];

struct Scene {
    callers: Vec<Caller>,
    engines: [PolicyEngine; 2],
}

/// Callers with each set of scopes and several lists of models; engines with and without a policy that
/// permits everything.
fn scene() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let house = House::new().await;
            let mut callers = Vec::new();
            let scopes = ["embed", "generate", "models:read"];
            for set in 1..8_usize {
                let asked: Vec<&str> = (0..3)
                    .filter(|i| set & (1 << i) != 0)
                    .map(|i| scopes[i])
                    .collect();
                for models in [&[][..], &NAMES[..1], &NAMES] {
                    let name = format!("t{}", callers.len());
                    callers.push(house.caller(&name, models, &asked.join(" ")).await);
                }
            }
            let folder = tempfile::tempdir().unwrap();
            let all = "permit (principal, action, resource);";
            std::fs::write(folder.path().join("all.cedar"), all).unwrap();
            let engines = [
                PolicyEngine::new(None),
                PolicyEngine::new(Some(folder.path())),
            ];
            Scene {
                callers,
                engines: engines.map(Result::unwrap),
            }
        })
    })
}

proptest! {
    #[test]
    fn no_tenant_is_permitted_anothers_model(
        who in any::<prop::sample::Index>(),
        action in prop::sample::select(&Action::ALL[..]),
        name in prop_oneof![prop::sample::select(&NAMES[..]).prop_map(str::to_owned), "\\PC{0,20}"],
        owner in prop_oneof!["t[0-9]{1,2}", "[a-z]{0,8}", "\\PC{0,8}"],
        engine in 0..2_usize,
    ) {
        let scene = scene();
        let caller = who.get(&scene.callers);
        prop_assume!(owner != *caller.tenant.name);
        let model = ModelFacts { name: &name, owner: Some(&owner) };
        let engine = &scene.engines[engine];
        let answer = engine.authorize(&caller.principal, action, &model, &caller.tenant);
        prop_assert_eq!(answer.map(drop).map_err(|d| d.reason), Err(DenyReason::ModelNotFound));
    }

    #[test]
    fn no_scope_is_ever_stretched(
        who in any::<prop::sample::Index>(),
        action in prop::sample::select(&Action::ALL[..]),
        name in prop::sample::select(&NAMES[..]),
        engine in 0..2_usize,
    ) {
        let scene = scene();
        let caller = who.get(&scene.callers);
        let model = ModelFacts { name, owner: None };
        let engine = &scene.engines[engine];
        let answer = engine.authorize(&caller.principal, action, &model, &caller.tenant);
        if !caller.principal.has_scope(action.scope()) {
            prop_assert_eq!(answer.unwrap_err().reason, DenyReason::ScopeMissing);
        }
    }
}
