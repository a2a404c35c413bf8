//! `bulkhead audit`: verifying the log offline with a public key, and reading it with the keys.
//!
//! Neither asks the server for anything, so both work on a copy, and on a log whose server is gone.

use super::{Outcome, output};
use crate::{
    cli::{Audit, AuditShow, AuditVerify, Globals},
    config::{Config, Paths},
};
use bulkhead_audit::{
    Kind,
    checkpoint::SYSTEM,
    note::VerifierKey,
    read::{self, Body, Filter, Record},
    verify::{self, Report},
};
use serde::Serialize;
use std::{
    collections::VecDeque,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Most records that `--last` keeps in memory.
const LAST_MAX: usize = 1_000_000;

/// The file in a log's folder that holds its public key.
const PUBLIC_KEY: &str = "public.key";
/// The folder in a log's folder that holds its records.
const JOURNAL: &str = "journal";

pub fn run(globals: &Globals, args: Audit) -> Outcome {
    let data = globals.data_dir()?;
    let paths = Config {
        data,
        ..Config::default()
    }
    .paths();
    match args {
        Audit::Verify(args) => verify(&paths, args),
        Audit::Show(args) => show(&paths, args),
    }
}

fn verify(paths: &Paths, args: AuditVerify) -> Outcome {
    let log = args.dir.unwrap_or_else(|| paths.audit_log());
    let report = check(&log, args.key.as_deref(), args.checkpoint.as_deref())?;
    match args.json {
        true => output::json(&report)?,
        false => output::line(report.to_string().trim_end())?,
    }
    if args.key.is_none() {
        eprintln!(
            "The key was the log's own, {}. Keep a copy of it elsewhere and give it with --key: who can rewrite the log can rewrite the key beside it.",
            log.join(PUBLIC_KEY).display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Verifies a log; the public key is the log's own where `key` names none.
pub fn check(
    log: &Path,
    key: Option<&Path>,
    checkpoint: Option<&Path>,
) -> Result<Report, Box<dyn Error + Send + Sync>> {
    begun(log)?;
    let own = log.join(PUBLIC_KEY);
    let key = VerifierKey::parse(&text_of(key.unwrap_or(&own))?)?;
    let earlier: Vec<String> = checkpoint.map(text_of).transpose()?.into_iter().collect();
    Ok(verify::verify(log, &key, &earlier)?)
}

/// Says so where there is no log yet: the files that it lacks would name the symptom alone.
fn begun(log: &Path) -> Result<(), String> {
    match log.join(JOURNAL).exists() {
        true => Ok(()),
        false => Err(format!(
            "there is no log in {} yet; it begins with `bulkhead serve`",
            log.display()
        )),
    }
}

fn text_of(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

fn show(paths: &Paths, args: AuditShow) -> Outcome {
    let log = args.dir.unwrap_or_else(|| paths.audit_log());
    let keys = args.keys.unwrap_or_else(|| paths.audit_keys());
    begun(&log)?;
    let count = args.last.min(LAST_MAX);
    let records = last(log.clone(), &keys, args.tenant.clone(), count)?;
    if let Some(tenant) = args.tenant.filter(|_| records.is_empty() && count > 0) {
        let log = log.display();
        return Err(format!("there is no record of a tenant {tenant:?} in {log}").into());
    }
    let views = records.iter().map(View::from);
    match args.json {
        true => {
            for view in views {
                output::json_line(&view)?;
            }
        }
        false => output::line(&listing(views))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn last(
    log: PathBuf,
    keys: &Path,
    tenant: Option<String>,
    count: usize,
) -> Result<VecDeque<Record>, Box<dyn Error + Send + Sync>> {
    // Its own records are nobody's; where tenants are listed they stand under this name, which no tenant can have.
    let tenant = tenant.map(|name| match name.as_str() {
        SYSTEM => String::new(),
        _ => name,
    });
    let filter = Filter {
        tenant,
        ..Filter::default()
    };
    let mut kept = VecDeque::new();
    for record in read::records(&log, keys, filter)? {
        kept.push_back(record?);
        if kept.len() > count {
            kept.pop_front();
        }
    }
    Ok(kept)
}

/// A record in JSON.
#[derive(Serialize)]
struct View<'a> {
    sequence: u64,
    tenant: &'a str,
    position: u64,
    kind: Kind,
    time: String,
    time_unix_ns: u64,
    request_id: &'a str,
    /// What it says; null where the tenant's keys were erased.
    body: serde_json::Value,
}

impl<'a> From<&'a Record> for View<'a> {
    fn from(record: &'a Record) -> Self {
        View {
            sequence: record.sequence,
            tenant: &record.tenant,
            position: record.leaf,
            kind: record.kind,
            time: output::utc(record.time_unix_ns),
            time_unix_ns: record.time_unix_ns,
            request_id: &record.request_id,
            body: match &record.body {
                Body::Erased => serde_json::Value::Null,
                // What is no JSON is shown as the text that it is.
                Body::Plain(bytes) => serde_json::from_slice(bytes)
                    .unwrap_or_else(|_| String::from_utf8_lossy(bytes).into()),
            },
        }
    }
}

fn listing<'a>(records: impl Iterator<Item = View<'a>>) -> String {
    let rows = records.map(|record| {
        vec![
            record.time,
            match record.tenant {
                "" => "(system)".into(),
                tenant => tenant.to_owned(),
            },
            record.position.to_string(),
            format!("{:?}", record.kind).to_lowercase(),
            record.request_id.to_owned(),
            match record.body {
                serde_json::Value::Null => "(erased)".into(),
                body => body.to_string(),
            },
        ]
    });
    output::table(
        &["time", "tenant", "position>", "kind", "request~", "says~"],
        rows,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_log_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = check(dir.path(), None, None).unwrap_err().to_string();
        assert!(error.contains("bulkhead serve"), "{error}");
        assert!(error.contains(&*dir.path().to_string_lossy()), "{error}");
    }
}
