//! The few methods of Python's strings that chat templates call.

use minijinja::value::from_args;
use minijinja::{Error, ErrorKind, Value};

/// Calls `method` on a value of a template.
pub(super) fn method(value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let unknown = || Error::from(ErrorKind::UnknownMethod);
    let text = value.as_str().ok_or_else(unknown)?;
    Ok(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<&str>,) = from_args(arguments)?;
            let cut = |c: char| characters.map_or(c.is_whitespace(), |all| all.contains(c));
            Value::from(match method {
                "strip" => text.trim_matches(cut),
                "lstrip" => text.trim_start_matches(cut),
                _ => text.trim_end_matches(cut),
            })
        }
        "startswith" | "endswith" => {
            let (part,): (&str,) = from_args(arguments)?;
            Value::from(match method {
                "startswith" => text.starts_with(part),
                _ => text.ends_with(part),
            })
        }
        "split" => match from_args::<(Option<&str>,)>(arguments)? {
            (Some(""),) => return Err(Error::from(ErrorKind::InvalidOperation)),
            (Some(by),) => text.split(by).map(Value::from).collect(),
            (None,) => text.split_whitespace().map(Value::from).collect(),
        },
        "upper" => Value::from(text.to_uppercase()),
        "lower" => Value::from(text.to_lowercase()),
        "capitalize" => {
            let mut characters = text.chars();
            let first = characters.next().map(char::to_uppercase);
            let rest = characters.as_str().to_lowercase();
            Value::from(
                first
                    .into_iter()
                    .flatten()
                    .chain(rest.chars())
                    .collect::<String>(),
            )
        }
        _ => return Err(unknown()),
    })
}
