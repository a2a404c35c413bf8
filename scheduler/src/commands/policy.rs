//! `bulkhead policy`: checking policies offline, and having the server take them.
//!
//! The check is the server's own: what passes here is what the server would put in force.

use super::{Outcome, output};
use crate::{
    cli::{Globals, Policy},
    client::Admin,
};
use bulkhead_policy::PolicyEngine;
use std::{path::PathBuf, process::ExitCode};

pub fn run(globals: &Globals, args: Policy) -> Outcome {
    let data = globals.data_dir()?;
    match args {
        Policy::Check(args) => check(args.dir.unwrap_or_else(|| data.join("policy"))),
        Policy::Reload => {
            let policies =
                output::block_on(async { Admin::connect(&data).await?.reload_policy().await })??;
            output::line(&format!("The server holds {policies} policies now"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(dir: PathBuf) -> Outcome {
    let engine = PolicyEngine::new(Some(&dir))?;
    output::line(&format!(
        "{} policies are valid, those built in included ({})",
        engine.policies(),
        dir.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_outside_the_schema_is_refused_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check(dir.path().into()).is_ok());
        let text = "permit (principal, action == Action::\"fly\", resource);";
        std::fs::write(dir.path().join("mine.cedar"), text).unwrap();
        let error = check(dir.path().into()).unwrap_err().to_string();
        assert!(error.contains("mine.cedar"), "{error}");
    }
}
