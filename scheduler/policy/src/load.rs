//! From files to a policy set that is known to be well typed.
//!
//! Everything is read, parsed and validated before anything takes effect. All files are taken as one
//! set in the order of their names; each policy's id says which file it is from.

use cedar_policy::{PolicyId, PolicySet, PolicySetError, Schema, ValidationMode, Validator};
use miette::Diagnostic;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most `*.cedar` files in the folder.
pub const FILES_MAX: usize = 256;
/// Longest file, bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most policies altogether.
pub const POLICIES_MAX: usize = 4096;

const SCHEMA: &str = include_str!("schema.cedarschema");
const DEFAULT: &str = include_str!("default.cedar");
/// What the ids of the default policies begin with. Those of a file begin with its name, which ends in
/// `.cedar`, so none of them can.
pub(crate) const DEFAULT_PREFIX: &str = "default#";

/// Why policies were not loaded. Always for the operator to repair; the set in force stays.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("the policies' folder or file {path} cannot be read: {source}")]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    #[error("there are more than {FILES_MAX} .cedar files in {0}")]
    TooManyFiles(PathBuf),
    #[error("{0} is longer than {FILE_BYTES_MAX} bytes")]
    TooLong(PathBuf),
    #[error("there are more than {POLICIES_MAX} policies")]
    TooManyPolicies,
    #[error("{file} is not Cedar: {problem}")]
    Parse {
        /// The file's name.
        file: String,
        /// What the parser says.
        problem: String,
    },
    #[error("{0} has a template; write it as a policy instead, since nothing would link it")]
    Template(String),
    #[error("two policies have the id {0:?}; give each @id once in a file")]
    Duplicate(String),
    #[error("policies do not fit the schema: {0}")]
    Invalid(String),
}

/// The schema. It is part of this program, so a mistake in it is one of ours.
pub(crate) fn schema() -> Result<Schema, PolicyError> {
    let parsed = Schema::from_cedarschema_str(SCHEMA);
    let (schema, _warnings) = parsed.map_err(|e| PolicyError::Invalid(e.to_string()))?;
    Ok(schema)
}

/// The default policies with those of the folder, validated.
pub(crate) fn policies(schema: &Schema, folder: Option<&Path>) -> Result<PolicySet, PolicyError> {
    let mut set = PolicySet::new();
    add(&mut set, DEFAULT_PREFIX, DEFAULT)?;
    let mut texts = Vec::new();
    for path in folder.map(files).transpose()?.unwrap_or_default() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (prefix, text) = (format!("{name}#"), read(&path)?);
        add(&mut set, &prefix, &text)?;
        texts.push((prefix, text));
    }
    let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
    if !result.validation_passed() {
        let problem = |error: &cedar_policy::ValidationError| {
            let id = error.policy_id().to_string();
            let file = texts.iter().find(|(prefix, _)| id.starts_with(prefix));
            file.map_or_else(|| error.to_string(), |(_, text)| located(error, text))
        };
        let problems: Vec<String> = result.validation_errors().map(problem).collect();
        return Err(PolicyError::Invalid(problems.join("; ")));
    }
    Ok(set)
}

fn add(set: &mut PolicySet, prefix: &str, text: &str) -> Result<(), PolicyError> {
    let file = || prefix.trim_end_matches('#').to_owned();
    let parsed: PolicySet = text.parse().map_err(|errors: cedar_policy::ParseErrors| {
        let problems: Vec<String> = errors.iter().map(|e| located(e, text)).collect();
        PolicyError::Parse {
            file: file(),
            problem: problems.join("; "),
        }
    })?;
    if parsed.templates().next().is_some() {
        return Err(PolicyError::Template(file()));
    }
    for policy in parsed.policies() {
        let name = policy
            .annotation("id")
            .map_or_else(|| policy.id().to_string(), str::to_owned);
        let id = PolicyId::new(format!("{prefix}{name}"));
        set.add(policy.new_id(id.clone()))
            .map_err(|error| match error {
                PolicySetError::AlreadyDefined(_) => PolicyError::Duplicate(id.to_string()),
                other => PolicyError::Parse {
                    file: file(),
                    problem: other.to_string(),
                },
            })?;
        if set.num_of_policies() > POLICIES_MAX {
            return Err(PolicyError::TooManyPolicies);
        }
    }
    Ok(())
}

/// The error, after the line of its file where it is known.
fn located(error: &impl Diagnostic, text: &str) -> String {
    let start = error.labels().and_then(|mut labels| labels.next());
    let before = start.and_then(|label| text.as_bytes().get(..label.offset()));
    match before {
        Some(before) => {
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            format!("line {line}: {error}")
        }
        None => error.to_string(),
    }
}

/// The folder's `*.cedar` files by name. Hidden ones are left out: editors keep drafts there.
fn files(folder: &Path) -> Result<Vec<PathBuf>, PolicyError> {
    let failed = |source| PolicyError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path
            .file_name()
            .is_none_or(|n| n.to_string_lossy().starts_with('.'));
        if hidden
            || path
                .extension()
                .is_none_or(|extension| extension != "cedar")
        {
            continue;
        }
        if files.len() == FILES_MAX {
            return Err(PolicyError::TooManyFiles(folder.to_owned()));
        }
        files.push(path);
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String, PolicyError> {
    let failed = |source| PolicyError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(PolicyError::TooLong(path.to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_file_and_the_line() {
        let schema = schema().unwrap();
        for bad in [
            "permit (principal, action, resource) when { foo };",
            "permit (principal, action, resource) when { principal.nothing };",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let text = format!("// One.\n\n{bad}\n");
            fs::write(dir.path().join("mine.cedar"), text).unwrap();
            let error = policies(&schema, Some(dir.path())).unwrap_err().to_string();
            assert!(
                error.contains("mine.cedar") && error.contains("line 3: "),
                "{error}"
            );
        }
    }
}
