//! What a template sees of a message: its text, though it is written in stand-ins.
//!
//! Templates look for `</think>` in old answers, cut there, trim, and change cases. The functions that they
//! use for it are replaced here by such that see through stand-ins ([`StandIns`]). What they give back keeps
//! them: nothing here ever turns a stand-in into the character behind it. Only comparing whole texts
//! (`content == '<x>'`) sees stand-ins; trimming and slicing need nothing.

use super::stand_ins::StandIns;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, tests};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Where the stand-ins of a conversation are, among a template's variables.
pub(super) const STAND_INS: &str = "_stand_ins";
/// Bytes that one instruction's worth of fuel reads.
const FUEL_BYTES: usize = 64;

type Result<T> = std::result::Result<T, Error>;
type Renderer<'a, 'b> = State<'a, 'b>;

/// Gives an environment Python's methods, and filters and tests that see through stand-ins.
pub(super) fn add(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.add_filter("upper", |state: &mut Renderer<'_, '_>, text: &Value| {
        of_text(state, text, "upper", &[])
    });
    environment.add_filter("lower", |state: &mut Renderer<'_, '_>, text: &Value| {
        of_text(state, text, "lower", &[])
    });
    environment.add_filter("title", |state: &mut Renderer<'_, '_>, text: &Value| {
        of_text(state, text, "title", &[])
    });
    environment.add_filter(
        "capitalize",
        |state: &mut Renderer<'_, '_>, text: &Value| of_text(state, text, "capitalize", &[]),
    );
    environment.add_filter(
        "trim",
        |state: &mut Renderer<'_, '_>, text: &Value, chars: Option<Value>| {
            of_text(state, text, "strip", chars.as_slice())
        },
    );
    environment.add_filter(
        "replace",
        |state: &mut Renderer<'_, '_>, text: &Value, from: Value, to: Value| {
            of_text(state, text, "replace", &[from, to])
        },
    );
    environment.add_filter(
        "split",
        |state: &mut Renderer<'_, '_>, text: &Value, at: Option<Value>, most: Option<i64>| match (
            at, most,
        ) {
            (Some(at), None) => of_text(state, text, "split", &[at]),
            (Some(at), Some(most)) => of_text(state, text, "split", &[at, most.into()]),
            (None, most) => filters::split(text, None, most),
        },
    );
    environment.add_test(
        "startingwith",
        |state: &mut Renderer<'_, '_>, text: &Value, with: Value| {
            of_text(state, text, "startswith", &[with]).map(|found| found.is_true())
        },
    );
    environment.add_test(
        "endingwith",
        |state: &mut Renderer<'_, '_>, text: &Value, with: Value| {
            of_text(state, text, "endswith", &[with]).map(|found| found.is_true())
        },
    );
    environment.add_test("in", contains);
}

/// A method of what a filter was given, as a text.
fn of_text(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    match value.as_str() {
        Some(_) => method(state, value, name, args),
        None => method(state, &Value::from(value.to_string()), name, args),
    }
}

/// Digits of a width or a precision at most: what is filled up to it is made before it could be counted.
const FORMAT_DIGITS_MAX: usize = 3;

/// True if a format asks for no more than that.
fn formats_little(format: &str) -> bool {
    let mut numbers = format.split(|c: char| !c.is_ascii_digit());
    numbers.all(|digits| digits.len() <= FORMAT_DIGITS_MAX)
}

/// A method of a Python value.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    if name == "format" && !value.as_str().is_some_and(formats_little) {
        return Err(ErrorKind::InvalidOperation.into());
    }
    let found = state.lookup(STAND_INS);
    let found = found
        .as_ref()
        .and_then(Value::downcast_object_ref::<StandIns>);
    match (found, value.as_str()) {
        (Some(stand_ins), Some(text)) if stand_ins.within(text) => {
            state.consume_fuel((text.len() / FUEL_BYTES) as u64)?;
            look(stand_ins, state, text, name, args)
        }
        _ => unknown_method_callback(state, value, name, args),
    }
}

/// A method of a text that has stand-ins.
fn look(
    stand_ins: &StandIns,
    state: &mut State<'_, '_>,
    text: &str,
    name: &str,
    args: &[Value],
) -> Result<Value> {
    let mut call =
        |text: &str, args: &[Value]| unknown_method_callback(state, &Value::from(text), name, args);
    let first = args.first().and_then(Value::as_str);
    match (name, first) {
        ("upper" | "lower" | "title" | "capitalize", _) => {
            let plain = stand_ins.show(text);
            let changed = call(&plain, args)?;
            Ok(cased(
                stand_ins,
                text,
                &plain,
                changed.as_str().unwrap_or_default(),
            )
            .into())
        }
        ("strip" | "lstrip" | "rstrip", Some(chars)) => {
            let both = [chars, &stand_ins.hide(chars)].concat();
            call(text, &[both.into()])
        }
        ("split", Some(_)) => call(text, &seen(stand_ins, text, args)),
        ("replace", Some(from)) => {
            // The template's own text is changed as well as the message's.
            let replaced = call(text, &seen(stand_ins, text, args))?;
            match replaced.as_str() {
                Some(rest)
                    if stand_ins.hide(from) != from && rest.contains(from) && args.len() == 2 =>
                {
                    call(rest, args)
                }
                _ => Ok(replaced),
            }
        }
        ("strip" | "lstrip" | "rstrip" | "split" | "splitlines" | "join" | "format", _) => {
            call(text, args)
        }
        // The rest are questions: answered with a number or yes or no.
        _ => {
            let shown = |value: &Value| match value.as_str() {
                Some(text) => stand_ins.show(text).into(),
                None => value.clone(),
            };
            let args: Vec<Value> = args.iter().map(shown).collect();
            let answer = call(&stand_ins.show(text), &args)?;
            match answer.kind() {
                ValueKind::String | ValueKind::Seq => call(text, &args),
                _ => Ok(answer),
            }
        }
    }
}

/// Arguments of which the first is what to look for, as it would stand in the text.
fn seen(stand_ins: &StandIns, text: &str, args: &[Value]) -> Vec<Value> {
    let mut args = args.to_vec();
    if let Some(first) = args.first_mut()
        && let Some(hidden) = first.as_str().map(|what| stand_ins.hide(what))
        && text.contains(&hidden)
    {
        *first = hidden.into();
    }
    args
}

/// A text of other cases: `changed` is what became of `plain`, which is `text` without stand-ins.
fn cased(stand_ins: &StandIns, text: &str, plain: &str, changed: &str) -> String {
    if changed.chars().count() != plain.chars().count() {
        // Some letter became two. Nothing is lost by calling all of it a message's.
        return stand_ins.hide(changed);
    }
    let before = text.chars().zip(plain.chars());
    let one = |((own, plain), changed): ((char, char), char)| {
        let message = own != plain || (!plain.is_ascii() && plain != changed);
        match message {
            true => stand_ins.hidden(changed),
            false => changed,
        }
    };
    before.zip(changed.chars()).map(one).collect()
}

/// Whether something is in a text or a list.
fn contains(state: &mut State<'_, '_>, what: &Value, within: &Value) -> Result<bool> {
    let found = state.lookup(STAND_INS);
    let found = found
        .as_ref()
        .and_then(Value::downcast_object_ref::<StandIns>);
    match (found, what.as_str(), within.as_str()) {
        (Some(stand_ins), Some(what), Some(text)) => {
            state.consume_fuel((text.len() / FUEL_BYTES) as u64)?;
            Ok(stand_ins.show(text).contains(&stand_ins.show(what)))
        }
        _ => tests::is_in(state, what, within),
    }
}
