//! What cargo knows about our packages and those that they need.
//!
//! Asked of cargo itself, so that features, renamed dependencies and workspace inheritance are as cargo
//! reads them.

use serde::Deserialize;
use std::process::Command;

/// One package of the workspace.
#[derive(Debug, Deserialize)]
pub struct Package {
    pub name: String,
    pub dependencies: Vec<Dependency>,
}

/// One entry of a package's dependencies.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    pub name: String,
    /// `None`, "dev" or "build".
    pub kind: Option<String>,
}

impl Dependency {
    /// True where only tests need it.
    pub fn is_dev(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

/// A package that is built here, ours or others'.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Built {
    pub name: String,
    pub version: String,
    /// Empty for the registry's; a path or a URL for all others.
    pub source: String,
    /// An SPDX expression, or empty.
    pub licence: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// The packages of the workspace.
pub fn workspace() -> Vec<Package> {
    let json = cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"]);
    let metadata: Metadata = serde_json::from_str(&json).expect("cargo prints JSON");
    metadata.packages
}

/// All packages that building and testing the workspace on this machine takes, ours included. Those
/// that only other platforms or features need are left out, as the build leaves them out.
pub fn everything() -> Vec<Built> {
    let args = ["tree", "--workspace", "--locked", "--prefix", "none"];
    let text = cargo(&[&args[..], &["--no-dedupe", "--format", "{p}|{l}"]].concat());
    let mut all: Vec<Built> = text.lines().filter_map(built).collect();
    all.sort();
    all.dedup();
    all
}

/// One line: `name v1.2.3 (source)|licence`, the source only where it is no registry, and perhaps
/// `(proc-macro)` or `(*)` before or after it.
fn built(line: &str) -> Option<Built> {
    let (package, licence) = line.rsplit_once('|')?;
    let mut words = package.split_whitespace();
    let (name, version) = (words.next()?, words.next()?);
    let source = words.find(|word| *word != "(proc-macro)" && *word != "(*)");
    Some(Built {
        name: name.into(),
        version: version.trim_start_matches('v').into(),
        source: source.unwrap_or("").trim_matches(['(', ')']).into(),
        licence: licence.trim_end_matches(" (*)").into(),
    })
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .current_dir(crate::source::root())
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {args:?}: {said}");
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}
