//! Licences and sources of all that our programs are made of, against `deny.toml`.
//!
//! `cargo deny` checks more (advisories, yanked versions); this needs no installation and runs with
//! every test run.

use bulkhead_tests::{metadata, source};

#[derive(serde::Deserialize)]
struct Deny {
    licenses: Licences,
    bans: Bans,
}

#[derive(serde::Deserialize)]
struct Licences {
    allow: Vec<String>,
}

#[derive(serde::Deserialize)]
struct Bans {
    deny: Vec<Banned>,
}

#[derive(serde::Deserialize)]
struct Banned {
    name: String,
}

fn deny() -> Deny {
    let text = std::fs::read_to_string(source::root().join("deny.toml")).expect("deny.toml");
    toml::from_str(&text).expect("deny.toml parses")
}

#[test]
fn licences_are_on_the_list() {
    let allowed = deny().licenses.allow;
    let mut complaints = Vec::new();
    for package in metadata::everything() {
        if !acceptable(&package.licence, &allowed) {
            let (name, version) = (&package.name, &package.version);
            complaints.push(format!("{name} {version}: {:?}", package.licence));
        }
    }
    super::none_of(
        complaints,
        "do without the crate, or add its licence to deny.toml and say why",
    );
}

#[test]
fn nothing_banned_and_nothing_from_elsewhere() {
    let banned = deny().bans.deny;
    let everything = metadata::everything();
    assert!(everything.len() > 100, "the whole tree is looked at");
    let root = source::root();
    let mut complaints = Vec::new();
    for package in everything {
        if banned.iter().any(|b| b.name == package.name) {
            complaints.push(format!("{} is banned in deny.toml", package.name));
        }
        let from = &package.source;
        if !from.is_empty() && !std::path::Path::new(from).starts_with(&root) {
            complaints.push(format!("{} comes from {from}", package.name));
        }
    }
    super::none_of(complaints, "see deny.toml for the reasons");
}

/// SPDX, as far as crates use it: AND binds closer than OR; `/` is an old way to write OR.
fn acceptable(licence: &str, allowed: &[String]) -> bool {
    let spaced = licence
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    !words.is_empty() && any(&words, &mut at, allowed) && at == words.len()
}

fn any(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut good = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        good |= all(words, at, allowed);
    }
    good
}

fn all(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut good = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        good &= one(words, at, allowed);
    }
    good
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let Some(word) = words.get(*at) else {
        return false;
    };
    *at += 1;
    if *word == "(" {
        let good = any(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return good && closed;
    }
    let mut name = word.to_string();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&name)
}

#[test]
fn expressions_are_read_as_they_are_meant() {
    let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(String::from);
    for good in [
        "MIT",
        "GPL-3.0/MIT",
        "GPL-3.0 OR MIT",
        "ISC AND (GPL-3.0 OR MIT)",
        "Apache-2.0 WITH LLVM-exception",
        "GPL-3.0 AND X OR MIT",
    ] {
        assert!(acceptable(good, &allowed), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "MIT AND (GPL-3.0 OR X)",
        "(MIT",
    ] {
        assert!(!acceptable(bad, &allowed), "{bad}");
    }
}
