//! What would this machine grant? Asked by sealing a child, so that the caller stays as it is.

use super::{
    Apart, LAYERS, LayerStatus, Restricted, apart, close_all_but, restrict_again, restrict_template,
};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, geteuid, pipe};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

/// Applies every layer in a child process and returns what the kernel said.
///
/// To be called while the process has one thread: the child is a fork, and allocates.
pub fn probe() -> Vec<LayerStatus> {
    match ask_child() {
        Ok(answer) => parse(&answer),
        Err(why) => {
            let missing = |name| LayerStatus {
                name,
                available: false,
                detail: why.clone(),
            };
            LAYERS.into_iter().map(missing).collect()
        }
    }
}

/// The statuses as a JSON object: `{"layers": [{"name", "available", "detail"}, …]}`.
pub fn to_json(layers: &[LayerStatus]) -> String {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            serde_json::json!({
                "name": layer.name, "available": layer.available, "detail": layer.detail,
            })
        })
        .collect();
    serde_json::json!({ "layers": layers }).to_string()
}

fn ask_child() -> Result<String, String> {
    let (answer, question) = pipe().map_err(|error| format!("no pipe: {error}"))?;
    // SAFETY: the caller has one thread (see `probe`), so the child's heap is in a sound state.
    match unsafe { fork() }.map_err(|error| format!("no child process: {error}"))? {
        ForkResult::Child => {
            drop(answer);
            restrict_and_fork(question);
            std::process::exit(0)
        }
        ForkResult::Parent { child } => {
            drop(question);
            let mut text = String::new();
            let read = File::from(answer).read_to_string(&mut text);
            waitpid(child, None).map_err(|error| error.to_string())?;
            read.map_err(|error| error.to_string())?;
            Ok(text)
        }
    }
}

/// The child: restricts itself as a template does, and has a worker forked that does it again.
fn restrict_and_fork(to: OwnedFd) {
    // As the launcher numbers them, where it may.
    let may = |number: u32| geteuid().is_root().then_some(number);
    let (block, user) = (may(0), may(2));
    let template = restrict_template(block);
    let apart = apart(&template, user);
    // SAFETY: as in `ask_child`; this is a fork of that process, and has one thread too.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => seal_and_tell(&template, apart, to),
        Ok(ForkResult::Parent { child }) => {
            // What it could not tell is missing in what it told.
            let _ = waitpid(child, None);
        }
        // Nothing is told, and so nothing granted.
        Err(_) => {}
    }
}

/// The worker: each status is written when it is known, so that one that dies still tells why.
fn seal_and_tell(template: &Restricted, apart: Apart, to: OwnedFd) {
    let mut restricted = restrict_again(template, apart);
    restricted.closed_descriptors(close_all_but(&[to.as_raw_fd()]));
    let mut to = File::from(to);
    let told = restricted.layers().len();
    tell(&mut to, restricted.layers());
    let sealed = restricted.lock();
    tell(&mut to, &sealed.layers()[told..]);
}

fn tell(to: &mut File, layers: &[LayerStatus]) {
    for layer in layers {
        let line = format!("{}\t{}\t{}\n", layer.name, layer.available, layer.detail);
        // A pipe whose reader is gone has nobody left to tell.
        let _ = to.write_all(line.as_bytes());
    }
}

/// One line for each layer; one that is not there killed the child.
fn parse(answer: &str) -> Vec<LayerStatus> {
    let told = |name: &str| {
        answer.lines().find_map(|line| {
            let mut fields = line.splitn(3, '\t');
            (fields.next()? == name).then_some((fields.next()? == "true", fields.next()?))
        })
    };
    LAYERS
        .into_iter()
        .map(|name| match told(name) {
            Some((available, detail)) => LayerStatus {
                name,
                available,
                detail: detail.to_owned(),
            },
            None => {
                let detail = "the process that tried it did not survive".to_owned();
                LayerStatus {
                    name,
                    available: false,
                    detail,
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_died_leaves_the_rest_unavailable() {
        let layers = parse("no_new_privs\ttrue\tset\nlandlock\tfalse\tkernel\ttoo old\n");
        assert_eq!(layers.len(), LAYERS.len());
        let first = layers.iter().find(|layer| layer.name == "no_new_privs");
        assert!(first.expect("listed").available);
        let landlock = layers
            .iter()
            .find(|layer| layer.name == "landlock")
            .expect("listed");
        assert_eq!(
            (landlock.available, landlock.detail.as_str()),
            (false, "kernel\ttoo old")
        );
        assert!(layers.iter().filter(|layer| layer.available).count() == 1);
        assert!(to_json(&layers).starts_with("{\"layers\":["));
    }
}
