//! What `bulkhead generate` takes: one flag for each field of a request to generate.
//!
//! Bounds are the server's to check; here is only what a shell can get wrong.

use super::Caller;
use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bulkhead generate --credentials reader.json --max-tokens 64 'What is a bulkhead?'
  bulkhead generate --credentials reader.json --temperature 0.8 --top-p 0.95 --seed 7 'A tale'
  bulkhead generate --credentials reader.json --json --logprobs 5 'Yes or no?' | jq '.logprobs // empty'")]
pub struct Generate {
    #[command(flatten)]
    pub caller: Caller,
    /// The same agent's other requests go first
    #[arg(long)]
    pub batch: bool,
    /// The model
    #[arg(long, default_value = "smollm2")]
    pub model: String,
    /// Most tokens; 0 takes the server's default
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub max_tokens: u32,
    /// Give the prompt to the model as it is, without its chat template
    #[arg(long)]
    pub raw: bool,
    /// The prompt
    pub prompt: String,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// How tokens are chosen and when they end.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling", allow_negative_numbers = true)]
pub struct SamplingArgs {
    /// 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    pub temperature: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub top_k: u32,
    /// Keep the likeliest tokens that reach this probability together
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    pub top_p: f32,
    /// Keep tokens with at least this share of the likeliest one's probability
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub min_p: f32,
    /// Divide logits of tokens in prompt and answer
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    pub repetition_penalty: f32,
    /// Lower logits of tokens in the answer
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    pub presence_penalty: f32,
    /// Lower logits of tokens in the answer, each time they occur
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    pub frequency_penalty: f32,
    /// Add to a token's logit; may be given again
    #[arg(long, value_name = "ID=X", value_parser = bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// The seed of the sampling [default: one that the server draws]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// End the answer before this text; may be given again
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// End the answer at this token; may be given again
    #[arg(long, value_name = "ID")]
    pub stop_token: Vec<u32>,
    /// Do not end at a token before the answer has so many
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub min_tokens: u32,
    /// Go on past the model's own end, to --max-tokens
    #[arg(long)]
    pub ignore_eos: bool,
    /// With --json, tell each token's log-probability and those of so many alternatives
    #[arg(long, value_name = "N", requires = "json")]
    pub logprobs: Option<u32>,
}

/// "token id = bias".
fn bias(text: &str) -> Result<(u32, f32), String> {
    let parts = text.split_once('=');
    let parsed = parts.and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "it is a token id, '=' and a number, like 42=-1.5".into())
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn parse(flags: &[&str]) -> Result<super::Generate, String> {
        let fixed = ["bulkhead", "generate", "--credentials", "c.json"];
        let all = fixed.iter().chain(flags).chain(&["hello"]);
        match Cli::try_parse_from(all).map(|cli| cli.command) {
            Ok(Command::Generate(args)) => Ok(args),
            Ok(_) => Err("another command".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn penalties_and_biases_may_be_negative() {
        let flags = [
            "--presence-penalty",
            "-0.5",
            "--logit-bias",
            "42=-1.5",
            "--logit-bias",
            "7=2",
        ];
        let sampling = parse(&flags).expect("it is understood").sampling;
        assert_eq!(sampling.presence_penalty, -0.5);
        assert_eq!(sampling.logit_bias, [(42, -1.5), (7, 2.0)]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let words = |flags: &[&str]| parse(flags).map(|_| ()).expect_err("refused");
        assert!(words(&["--logit-bias", "x"]).contains("42=-1.5"));
        assert!(words(&["--logprobs", "3"]).contains("--json"));
    }
}
