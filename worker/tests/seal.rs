//! Promise 3: what a sealed process tries, fails; and the same attempts succeed without the seal.
//!
//! Each attack runs in a process of its own, which is this very program started again with one thread:
//! once as it is (the attack must succeed, or the test would prove nothing), once after the early layers
//! alone, where those are what stops it, and once fully sealed; and both once more as a worker on a GPU is sealed.
//! What such a worker may while it opens its GPU, and after that, is tried stage by stage. A sealed attacker is either
//! told no or killed. So this file has a main of its own and no test harness.

#[path = "seal/attacks.rs"]
mod attacks;
#[path = "seal/on_gpu.rs"]
mod on_gpu;

use attacks::{ATTACKS, Attack};
use bulkhead_worker::seal::{self, Reach, Restricted};
use on_gpu::{CASES, Case, STAGES};
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
    /// As a worker that has opened a GPU is.
    RestrictedOnGpu,
    SealedOnGpu,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("--attack") => attack(&arguments[2], &arguments[3]),
        Some("--stage") => try_at(&arguments[2], &arguments[3]),
        Some("--list") => {
            let names = ATTACKS.iter().map(|attack| attack.name);
            names
                .chain(CASES.iter().map(|case| case.name))
                .for_each(|name| println!("{name}: test"));
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
    let mut restricted = match depth {
        "Open" => None,
        // Whatever it may reach while it opens its GPU, it may not any more.
        "RestrictedOnGpu" | "SealedOnGpu" => {
            Some(seal::restrict_for_gpu(None, &everything()).give_up_files())
        }
        _ => Some(seal::restrict(None)),
    };
    if depth.starts_with("Restricted")
        && !restricted
            .as_ref()
            .is_some_and(|so_far| grants(so_far, attack))
    {
        return ExitCode::from(NOT_GRANTED);
    }
    if depth.starts_with("Sealed") {
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

fn everything() -> Reach {
    let all = vec!["/".into()];
    Reach {
        nodes: all.clone(),
        readable: all,
    }
}

/// Somebody who opens a GPU, at a stage of that, who tries something.
fn try_at(stage: &str, name: &str) -> ExitCode {
    let case = CASES.iter().find(|case| case.name == name);
    let case = case.expect("a known case");
    let stage = STAGES.into_iter().find(|one| format!("{one:?}") == stage);
    match on_gpu::attempt(case, stage.expect("a known stage")) {
        None => ExitCode::from(NOT_GRANTED),
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(_)) => ExitCode::from(DENIED),
    }
}

/// True when one of the layers is in force that stop this attack early.
fn grants(restricted: &Restricted, attack: &Attack) -> bool {
    let mut layers = restricted.layers().iter();
    layers.any(|layer| layer.available && attack.stopped_by.contains(&layer.name))
}

/// Starts an attacker. One that is killed for its attempt was denied it.
fn outcome(attack: &Attack, depth: Depth) -> Result<Came, String> {
    came_of(["--attack", &format!("{depth:?}"), attack.name])
}

fn came_of(arguments: [&str; 3]) -> Result<Came, String> {
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(arguments)
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
    for sealed in [Depth::Sealed, Depth::SealedOnGpu] {
        if outcome(attack, sealed)? != Came::Denied {
            return Err(format!("it succeeds in a process that is {sealed:?}"));
        }
    }
    if attack.stopped_by.is_empty() {
        return Ok("ok");
    }
    let mut how = "ok, and stopped before the lock";
    for early in [Depth::Restricted, Depth::RestrictedOnGpu] {
        match outcome(attack, early)? {
            Came::Done => return Err(format!("it succeeds in a process that is {early:?}")),
            Came::Denied => {}
            Came::NotGranted => how = "ok (this machine grants no early layer against it)",
        }
    }
    Ok(how)
}

/// What comes of a case at each stage is what is to come of it.
fn judge_stages(case: &Case) -> Result<&'static str, String> {
    let mut how = "ok";
    for stage in STAGES {
        let wanted = match stage <= case.until {
            true => Came::Done,
            false => Came::Denied,
        };
        match came_of(["--stage", &format!("{stage:?}"), case.name])? {
            Came::NotGranted => how = "ok (this machine does not grant what it needs)",
            came if came == wanted => {}
            came => return Err(format!("{came:?} at {stage:?}")),
        }
    }
    Ok(how)
}

fn run_all(filter: Option<&str>) -> ExitCode {
    let chosen = |name: &str| filter.is_none_or(|part| name.contains(part));
    let attacks = ATTACKS.iter().filter(|attack| chosen(attack.name));
    let cases = CASES.iter().filter(|case| chosen(case.name));
    let verdicts = attacks
        .map(|attack| (attack.name, judge(attack)))
        .chain(cases.map(|case| (case.name, judge_stages(case))));
    let mut failed = 0;
    for (name, verdict) in verdicts {
        failed += usize::from(verdict.is_err());
        match verdict {
            Ok(how) => println!("test {name} ... {how}"),
            Err(why) => println!("test {name} ... FAILED: {why}"),
        }
    }
    for name in [on_gpu::socket, attacks::name] {
        let _ = std::fs::remove_file(name(std::process::id()));
    }
    if failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
