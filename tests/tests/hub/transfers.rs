//! Downloads that break, lie or end early: they go on where they stopped, and only what the hub stated
//! becomes a model.

use super::{Operator, WEIGHTS, entries, source};
use bulkhead_tests::{
    hub::{Fault, Hub},
    tiny,
};
use std::fs;

/// Where downloads break.
const HALF: usize = 100_000;

/// The parts of the weights that were asked for.
fn parts_asked_for(hub: &Hub) -> Vec<String> {
    let seen = hub.seen().into_iter();
    let weights = seen.filter(|seen| seen.store && seen.path.contains(WEIGHTS));
    weights.map(|seen| seen.range.unwrap_or_default()).collect()
}

fn rest() -> String {
    format!("bytes={HALF}-")
}

/// A folder in which half of the weights wait.
fn interrupted(hub: &Hub) -> Operator {
    let operator = Operator::new();
    hub.fail(
        WEIGHTS,
        Fault::Cut {
            at: HALF,
            times: usize::MAX,
        },
    );
    operator.refused(hub, &source(), "run the same command again");
    let part = operator.partial().join(WEIGHTS);
    assert_eq!(part.metadata().expect("it waits").len(), HALF as u64);
    hub.mend();
    hub.seen();
    operator
}

#[test]
fn a_connection_that_breaks_is_made_again_and_goes_on() {
    let (hub, operator) = (Hub::start(tiny::files()), Operator::new());
    hub.fail(WEIGHTS, Fault::Cut { at: HALF, times: 1 });
    let (_, said) = operator
        .add_with(hub.url(), &source(), &[])
        .expect("it is added");
    assert!(said.contains("trying again"), "{said}");
    assert_eq!(parts_asked_for(&hub), [String::new(), rest()]);
    assert_eq!(entries(&operator.models()), ["random-llama"]);
}

#[test]
fn the_next_run_goes_on_where_one_stopped() {
    let hub = Hub::start(tiny::files());
    let operator = interrupted(&hub);
    operator.add(&hub, &source()).expect("it is added");
    let seen = hub.seen();
    assert!(
        seen.iter().any(|seen| seen.range == Some(rest())),
        "{seen:?}"
    );
    assert!(
        !seen.iter().any(|seen| seen.path.contains("config.json")),
        "what is here is kept"
    );
    assert_eq!(entries(&operator.models()), ["random-llama"]);
}

#[test]
fn a_hub_that_sends_all_where_a_part_was_asked_for_is_taken_at_its_word() {
    let hub = Hub::start(tiny::files());
    let operator = interrupted(&hub);
    hub.fail(WEIGHTS, Fault::NoParts);
    operator.add(&hub, &source()).expect("it is added");
    assert_eq!(parts_asked_for(&hub), [rest()]);
}

#[test]
fn what_was_kept_and_is_wrong_is_fetched_anew() {
    let hub = Hub::start(tiny::files());
    let operator = interrupted(&hub);
    let part = operator.partial().join(WEIGHTS);
    fs::write(&part, vec![7; HALF]).expect("it can be written");
    operator.add(&hub, &source()).expect("it is added");
    assert_eq!(parts_asked_for(&hub), [rest(), String::new()]);

    let operator = interrupted(&hub);
    fs::write(operator.partial().join(WEIGHTS), vec![7; 10 << 20]).expect("it can be written");
    operator.add(&hub, &source()).expect("it is added");
    assert_eq!(
        parts_asked_for(&hub),
        [String::new()],
        "longer than the file can be"
    );
}

#[test]
fn content_that_is_not_what_was_stated_is_deleted() {
    for file in [WEIGHTS, "tokenizer.json"] {
        let (hub, operator) = (Hub::start(tiny::files()), Operator::new());
        hub.fail(file, Fault::Flip { times: 1 });
        operator.refused(&hub, &source(), "its content has another hash");
        assert!(
            !operator.partial().join(file).exists(),
            "nothing of it is kept"
        );
        operator
            .add(&hub, &source())
            .expect("the next one is right");
    }
}

#[test]
fn a_hub_that_contradicts_itself_is_refused() {
    for (fault, words) in [
        (Fault::Longer, "it is longer"),
        (Fault::OtherHash, "states two hashes"),
    ] {
        let (hub, operator) = (Hub::start(tiny::files()), Operator::new());
        hub.fail(WEIGHTS, fault);
        operator.refused(&hub, &source(), words);
    }
    let hub = Hub::start(tiny::files());
    let operator = interrupted(&hub);
    hub.fail(WEIGHTS, Fault::OtherPart);
    operator.refused(&hub, &source(), "another part of the file");
}

#[test]
fn one_model_waits_beside_another() {
    let hub = Hub::start(tiny::files());
    let operator = interrupted(&hub);
    let other = Hub::start(tiny::ggufs());
    operator
        .add(&other, &format!("{}:Q8_0", source()))
        .expect("it is added");
    assert_eq!(entries(&operator.models()), ["tiny-q8_0"]);
}
