//! What the program was started as: a worker, a template, a keeper, or by hand to say what this machine grants.
//!
//! Only the launcher starts the first three, with a socket at descriptor 3. Nothing of a tenant's is ever an argument.

use crate::models::{LoadError, On, StartWith};
use crate::{keeper, life, seal, template};
use bulkhead_proto::internal::Load;
use std::process::ExitCode;

/// What is to be done, and with which block of the users that are kept for workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Worker(Option<u32>),
    Template(Option<u32>),
    Keeper(Option<u32>),
    Probe,
}

/// Opens the GPU that a load names, and everything that its driver needs files for. No byte of a model is read yet.
pub type OpenGpu = fn(&Load) -> Result<On, LoadError>;

/// The whole program of a processor's workers, by its name and with this as its engine.
pub fn run(name: &str, start: StartWith) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match role(&arguments) {
        Some(Role::Worker(block)) => life::live(start, None, block),
        Some(Role::Template(block)) => template::live(start, block),
        Some(Role::Probe) => {
            println!("{}", seal::to_json(&seal::probe()));
            ExitCode::SUCCESS
        }
        Some(Role::Keeper(_)) | None => misused(name, &arguments),
    }
}

/// That of a GPU's workers and keepers: never a template, since a process that holds a GPU cannot fork workers.
pub fn run_on_gpu(name: &str, open: OpenGpu, start: StartWith) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match role(&arguments) {
        Some(Role::Worker(block)) => life::live(start, Some(open), block),
        Some(Role::Keeper(block)) => keeper::live(open, block),
        _ => misused(name, &arguments),
    }
}

fn misused(name: &str, arguments: &[String]) -> ExitCode {
    let said = arguments.join(" ");
    eprintln!(
        "{name}: {said:?} is not what it takes: `--probe` (of a processor's), or what `bulkhead serve` starts it with."
    );
    ExitCode::FAILURE
}

fn role(arguments: &[String]) -> Option<Role> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--probe"] => Some(Role::Probe),
        ["--template", rest @ ..] => users(rest).map(Role::Template),
        ["--keeper", rest @ ..] => users(rest).map(Role::Keeper),
        rest => users(rest).map(Role::Worker),
    }
}

/// No block where none is named; nothing where what is said is no block.
fn users(arguments: &[&str]) -> Option<Option<u32>> {
    match arguments {
        [] => Some(None),
        ["--users", number] => number.parse().ok().map(Some),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_launchers_words_are_understood_and_others_are_not() {
        let role = |words: &str| {
            role(
                &words
                    .split_whitespace()
                    .map(String::from)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(role(""), Some(Role::Worker(None)));
        assert_eq!(role("--users 7"), Some(Role::Worker(Some(7))));
        assert_eq!(role("--template"), Some(Role::Template(None)));
        assert_eq!(role("--template --users 8"), Some(Role::Template(Some(8))));
        assert_eq!(role("--keeper"), Some(Role::Keeper(None)));
        assert_eq!(role("--keeper --users 8"), Some(Role::Keeper(Some(8))));
        assert_eq!(role("--probe"), Some(Role::Probe));
        for other in [
            "--help",
            "--users",
            "--users root",
            "--users -1",
            "--probe --users 1",
            "7",
        ] {
            assert_eq!(role(other), None, "{other}");
        }
    }
}
