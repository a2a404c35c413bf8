//! Workers ahead of need, driven as a launcher drives them: who gets one, and when they end.

use super::templates::{LOADED, TAKE, born, forks, sharing, spawn, templates, until};
use super::*;

/// A worker that is there already is given out without a word to the template; one that ends is not replaced.
#[test]
fn a_spare_worker_is_given_at_once_and_another_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let each = format!("{TAKE}{}", forks(dir.path()));
    let mut setup = sharing(
        dir.path(),
        &format!("{TAKE}{LOADED}{each}{each}{each}{TAKE}"),
    );
    setup.config.worker.spares = 1;
    let mut pair = Pair::new(&setup);
    pair.ask(spawn(1));
    let (first, _) = born(&mut pair, 1);
    let template = templates(&pair)[0];
    let spare = |pair: &Pair<'_>| templates(pair).into_iter().find(|pid| *pid != template);
    until(&mut pair, |pair| spare(pair).is_some());
    let ahead = spare(&pair).unwrap();
    assert!(ahead != first && sys::is_child(ahead));

    pair.ask(spawn(2));
    let (second, _) = born(&mut pair, 2);
    assert_eq!(second, ahead);
    let next = |pair: &Pair<'_>| spare(pair).filter(|pid| *pid != ahead);
    until(&mut pair, |pair| next(pair).is_some());
    let last = next(&pair).unwrap();

    // The template would fork no other.
    sys::kill_now(last);
    until_ended(last);
    until(&mut pair, |pair| templates(pair) == [template]);
    assert!(!sys::is_child(last), "buried");
    pair.life.end();
    assert!(!sys::is_child(first) && !sys::is_child(second));
}

/// A template takes what it forked ahead along.
#[test]
fn a_spare_worker_ends_with_its_template() {
    let dir = tempfile::tempdir().unwrap();
    let each = format!("{TAKE}{}", forks(dir.path()));
    let mut setup = sharing(dir.path(), &format!("{TAKE}{LOADED}{each}{each}{TAKE}"));
    setup.config.worker.spares = 1;
    let mut pair = Pair::new(&setup);
    pair.ask(spawn(1));
    let (worker, _) = born(&mut pair, 1);
    until(&mut pair, |pair| templates(pair).len() == 2);
    let all = templates(&pair);
    sys::kill_now(all[0]);
    until(&mut pair, |pair| templates(pair).is_empty());
    assert!(
        !sys::is_child(all[1]) && sys::is_child(worker),
        "the worker lives on"
    );
    pair.life.end();
}
