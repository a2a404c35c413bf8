//! What a request to generate may hold. The bounds are those that the .proto names; the worker checks
//! again what its sampling relies on, and what only it can know: which token ids there are.

use super::{claims, invalid};
use crate::config::Limits;
use crate::server::{errors::Refused, inference::OUTPUT_TOKENS_DEFAULT};
use bulkhead_proto::v1::GenerateRequest;

const ROLES: [&str; 3] = ["system", "user", "assistant"];
const TURNS_MAX: usize = 512;
const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 256;
const STOP_TOKENS_MAX: usize = 64;
const BIASES_MAX: usize = 1024;
const LOGPROBS_MAX: u32 = 20;

/// Checks a request to generate.
pub fn generate(limits: &Limits, body: &GenerateRequest) -> Result<(), Refused> {
    prompt(body)?;
    lengths(limits, body)?;
    numbers(body)?;
    stops(body)?;
    if body.logprobs.is_some_and(|most| most > LOGPROBS_MAX) {
        return Err(invalid(format!(
            "logprobs is 0 to {LOGPROBS_MAX} alternatives for each token"
        )));
    }
    claims(body.context.as_ref())
}

fn prompt(body: &GenerateRequest) -> Result<(), Refused> {
    if body.messages.is_empty() == body.prompt.is_empty() {
        return Err(invalid("give either messages or a prompt"));
    }
    if body.messages.len() > TURNS_MAX {
        return Err(invalid(format!("more than {TURNS_MAX} messages")));
    }
    let mut roles = body.messages.iter().map(|turn| turn.role.as_str());
    if let Some(strange) = roles.find(|role| !ROLES.contains(role)) {
        return Err(invalid(format!(
            "a role is \"system\", \"user\" or \"assistant\", not one of {} characters",
            strange.len()
        )));
    }
    Ok(())
}

fn lengths(limits: &Limits, body: &GenerateRequest) -> Result<(), Refused> {
    let max = limits.output_tokens_max;
    if body.max_tokens > max {
        return Err(invalid(format!("max_tokens is over the limit of {max}")));
    }
    let least = match body.max_tokens {
        0 => OUTPUT_TOKENS_DEFAULT,
        tokens => tokens,
    };
    if body.min_tokens > least {
        return Err(invalid(format!(
            "min_tokens is over max_tokens, which is {least}"
        )));
    }
    Ok(())
}

/// Numbers of the sampling. NaN is within no bounds.
fn numbers(body: &GenerateRequest) -> Result<(), Refused> {
    let bounds = [
        ("temperature", body.temperature, 0.0, 10.0),
        ("top_p", body.top_p, 0.0, 1.0),
        ("min_p", body.min_p, 0.0, 1.0),
        ("repetition_penalty", body.repetition_penalty, 0.0, 10.0),
        ("presence_penalty", body.presence_penalty, -2.0, 2.0),
        ("frequency_penalty", body.frequency_penalty, -2.0, 2.0),
    ];
    let biases = body.logit_bias.values();
    let biases = biases.map(|bias| ("a logit_bias", *bias, -100.0, 100.0));
    for (name, value, min, max) in bounds.into_iter().chain(biases) {
        if !(min..=max).contains(&value) {
            return Err(invalid(format!("{name} is {min} to {max}")));
        }
    }
    if body.logit_bias.len() > BIASES_MAX {
        return Err(invalid(format!(
            "logit_bias names more than {BIASES_MAX} tokens"
        )));
    }
    Ok(())
}

fn stops(body: &GenerateRequest) -> Result<(), Refused> {
    let fits = |stop: &String| (1..=STOP_BYTES_MAX).contains(&stop.len());
    if body.stop.len() > STOPS_MAX || !body.stop.iter().all(fits) {
        return Err(invalid(format!(
            "at most {STOPS_MAX} stop strings of 1 to {STOP_BYTES_MAX} bytes"
        )));
    }
    if body.stop_token_ids.len() > STOP_TOKENS_MAX {
        return Err(invalid(format!("at most {STOP_TOKENS_MAX} stop_token_ids")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt() -> GenerateRequest {
        GenerateRequest {
            prompt: "hello".into(),
            ..GenerateRequest::default()
        }
    }

    fn check(change: impl FnOnce(&mut GenerateRequest)) -> Result<(), String> {
        let mut body = prompt();
        change(&mut body);
        generate(&Limits::default(), &body).map_err(|refused| refused.message)
    }

    #[test]
    fn numbers_at_their_bounds_are_taken() {
        let most = |body: &mut GenerateRequest| {
            body.temperature = 10.0;
            (body.top_p, body.min_p) = (1.0, 1.0);
            body.repetition_penalty = 10.0;
            (body.presence_penalty, body.frequency_penalty) = (2.0, -2.0);
            body.logit_bias = [(1, -100.0), (u32::MAX, 100.0)].into();
            body.top_k = u32::MAX;
            body.stop = vec!["x".repeat(STOP_BYTES_MAX); STOPS_MAX];
            body.stop_token_ids = vec![0; STOP_TOKENS_MAX];
            (body.max_tokens, body.min_tokens) = (10, 10);
            body.logprobs = Some(LOGPROBS_MAX);
        };
        assert_eq!(check(most), Ok(()));
        assert_eq!(check(|_| ()), Ok(()));
    }

    #[test]
    fn what_is_over_a_bound_is_refused_with_the_bound() {
        let over = |change: fn(&mut GenerateRequest), words: &str| {
            let message = check(change).expect_err("refused");
            assert!(message.contains(words), "{message:?} names {words:?}");
        };
        over(|b| b.temperature = 10.1, "temperature is 0 to 10");
        over(|b| b.temperature = f32::NAN, "temperature is 0 to 10");
        over(|b| b.top_p = 1.1, "top_p is 0 to 1");
        over(|b| b.min_p = -0.1, "min_p is 0 to 1");
        over(
            |b| b.repetition_penalty = -1.0,
            "repetition_penalty is 0 to 10",
        );
        over(|b| b.presence_penalty = 2.5, "presence_penalty is -2 to 2");
        over(
            |b| b.frequency_penalty = f32::INFINITY,
            "frequency_penalty is -2 to 2",
        );
        over(
            |b| b.logit_bias = [(1, 101.0)].into(),
            "logit_bias is -100 to 100",
        );
        let many = |b: &mut GenerateRequest| b.logit_bias = (0..1025).map(|id| (id, 1.0)).collect();
        over(many, "1024 tokens");
        over(|b| b.stop = vec![String::new()], "1 to 256 bytes");
        over(|b| b.stop = vec!["x".into(); 17], "16 stop strings");
        over(|b| b.stop_token_ids = vec![1; 65], "64 stop_token_ids");
        over(|b| b.min_tokens = 257, "max_tokens, which is 256");
        over(|b| b.logprobs = Some(21), "0 to 20");
        over(|b| b.prompt.clear(), "messages or a prompt");
    }
}
