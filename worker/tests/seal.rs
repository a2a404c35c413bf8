//! Promise 3: what a sealed process tries, fails; and the same attempts succeed without the seal.
//!
//! Each attack runs in a process of its own, which is this very program started again with one thread:
//! once as it is (the attack must succeed, or the test would prove nothing), once after the early layers
//! alone, where those are what stops it, and once fully sealed. A sealed attacker is either told no or
//! killed. So this file has a main of its own and no test harness.

#[path = "seal/attacks.rs"]
mod attacks;

use attacks::{ATTACKS, Attack};
use bulkhead_worker::seal::{self, Restricted};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};

/// Exit code of an attack that was told no.
const DENIED: u8 = 10;

/// Exit code of an attacker that the machine grants no layer against that comes early.
const NOT_GRANTED: u8 = 11;

/// What came of an attack.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Came {
    Done,
    Denied,
    NotGranted,
}

/// How far the attacker is sealed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Depth {
    Open,
    Restricted,
    Sealed,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("--attack") => attack(&arguments[2], &arguments[3]),
        Some("--list") => {
            ATTACKS
                .iter()
                .for_each(|attack| println!("{}: test", attack.name));
            ExitCode::SUCCESS
        }
        filter => run_all(filter.filter(|filter| !filter.starts_with('-'))),
    }
}

/// The attacker: seals itself as deep as it was told, and tries.
fn attack(depth: &str, name: &str) -> ExitCode {
    let attack = ATTACKS
        .iter()
        .find(|attack| attack.name == name)
        .expect("a known attack");
    let prepared = (attack.prepare)();
    let mut restricted = None;
    if depth != "Open" {
        restricted = Some(seal::restrict(None));
    }
    if depth == "Restricted"
        && !restricted
            .as_ref()
            .is_some_and(|so_far| grants(so_far, attack))
    {
        return ExitCode::from(NOT_GRANTED);
    }
    if depth == "Sealed" {
        let sealed = restricted.take().expect("restricted just now").lock();
        assert!(
            sealed.missing(&[seal::SECCOMP.to_owned()]).is_empty(),
            "{:?}",
            sealed.layers()
        );
    }
    match (attack.attempt)(prepared) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(DENIED),
    }
}

/// True when one of the layers is in force that stop this attack early.
fn grants(restricted: &Restricted, attack: &Attack) -> bool {
    let mut layers = restricted.layers().iter();
    layers.any(|layer| layer.available && attack.stopped_by.contains(&layer.name))
}

/// Starts an attacker. One that is killed for its attempt was denied it.
fn outcome(attack: &Attack, depth: Depth) -> Result<Came, String> {
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(["--attack", &format!("{depth:?}"), attack.name])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| error.to_string())?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(Came::Done),
        (Some(code), _) if code == i32::from(DENIED) => Ok(Came::Denied),
        (Some(code), _) if code == i32::from(NOT_GRANTED) => Ok(Came::NotGranted),
        (_, Some(libc::SIGSYS)) => Ok(Came::Denied),
        _ => Err(format!("neither done nor denied: {status}")),
    }
}

fn judge(attack: &Attack) -> Result<&'static str, String> {
    if outcome(attack, Depth::Open)? != Came::Done {
        return Err("it fails even without the seal, so it shows nothing".to_owned());
    }
    if outcome(attack, Depth::Sealed)? != Came::Denied {
        return Err("it succeeds in a sealed process".to_owned());
    }
    if attack.stopped_by.is_empty() {
        return Ok("ok");
    }
    match outcome(attack, Depth::Restricted)? {
        Came::Done => Err("it succeeds after the early layers".to_owned()),
        Came::Denied => Ok("ok, and stopped before the lock"),
        Came::NotGranted => Ok("ok (this machine grants no early layer against it)"),
    }
}

fn run_all(filter: Option<&str>) -> ExitCode {
    let chosen = ATTACKS
        .iter()
        .filter(|attack| filter.is_none_or(|part| attack.name.contains(part)));
    let mut failed = 0;
    for attack in chosen {
        let verdict = judge(attack);
        failed += usize::from(verdict.is_err());
        match verdict {
            Ok(how) => println!("test {} ... {how}", attack.name),
            Err(why) => println!("test {} ... FAILED: {why}", attack.name),
        }
    }
    if failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
