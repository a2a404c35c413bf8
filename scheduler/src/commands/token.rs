//! `bulkhead token`: an access token for use by hand, with `curl` say.
//!
//! The token is printed because it was asked for; no other command ever shows one.

use super::{Outcome, output};
use crate::{
    cli::{Globals, Token},
    client::{Credentials, TokenSource},
};
use std::process::ExitCode;
use zeroize::Zeroizing;

pub fn run(_globals: &Globals, args: Token) -> Outcome {
    let credentials = Credentials::read(&args.credentials)?;
    output::block_on(async {
        let token = TokenSource::new(credentials, None)?.get().await?;
        match args.json {
            true => {
                let text = Zeroizing::new(serde_json::to_string_pretty(&serde_json::json!({
                    "access_token": *token.secret,
                    "token_type": "Bearer",
                    "expires_in_s": token.expires_in_s,
                }))?);
                output::line(&text)?;
            }
            false => output::line(&token.secret)?,
        }
        Ok(ExitCode::SUCCESS)
    })?
}
