//! The space that vocabularies which write one before every word put in front of a text.
//!
//! The library would put it in front of whatever it is given. A prompt is given to it in pieces, and the
//! space belongs to texts, not to pieces: so it is taken from the library's steps, and put there by us.

use super::pieces::SPACE;
use serde_json::Value;

/// Which texts get a space in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpaceFirst {
    /// None.
    Never,
    /// Each that follows a control token or nothing.
    Every,
    /// The same, but for those that begin with a space.
    EveryWord,
    /// The prompt's first, if nothing stands before it and it begins with no space.
    First,
}

impl SpaceFirst {
    /// A text of a prompt, with its space. `at` is where it begins, in bytes from the prompt's begin.
    pub(super) fn put(self, text: &str, at: usize) -> String {
        let word = !text.starts_with([' ', SPACE]);
        let space = match self {
            SpaceFirst::Never => false,
            SpaceFirst::Every => true,
            SpaceFirst::EveryWord => word,
            SpaceFirst::First => word && at == 0,
        };
        match space {
            true => format!(" {text}"),
            false => text.to_owned(),
        }
    }

    /// Takes the space out of the steps of a tokenizer.json.
    pub(super) fn take(file: &mut Value) -> SpaceFirst {
        let first = first_step(&mut file["normalizer"], "normalizers");
        if first["type"] == "Prepend" && first["prepend"] == "▁" {
            // What comes after it writes spaces as it does.
            *first = serde_json::json!({"type": "Sequence", "normalizers": []});
            return SpaceFirst::Every;
        }
        let first = first_step(&mut file["pre_tokenizer"], "pretokenizers");
        if first["type"] != "Metaspace" || first["replacement"] != "▁" {
            return SpaceFirst::Never;
        }
        let old = first["add_prefix_space"] != Value::Bool(false);
        let space = match first["prepend_scheme"].as_str() {
            Some("never") => SpaceFirst::Never,
            Some("first") => SpaceFirst::First,
            _ if old => SpaceFirst::EveryWord,
            _ => SpaceFirst::Never,
        };
        first["prepend_scheme"] = "never".into();
        if let Some(fields) = first.as_object_mut() {
            fields.remove("add_prefix_space");
        }
        space
    }
}

/// The first of several steps, or the only one.
fn first_step<'v>(step: &'v mut Value, several: &str) -> &'v mut Value {
    match step[several][0].is_object() {
        true => &mut step[several][0],
        false => step,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_way_of_telling_it_is_understood() {
        let steps = |normalizer: Value, pre_tokenizer: Value| {
            let mut file = json!({"normalizer": normalizer, "pre_tokenizer": pre_tokenizer});
            let first = SpaceFirst::take(&mut file);
            assert_eq!(SpaceFirst::take(&mut file), SpaceFirst::Never, "taken");
            first
        };
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        let several = json!({"type": "Sequence", "normalizers": [prepend]});
        for normalizer in [prepend, several] {
            assert_eq!(steps(normalizer, Value::Null), SpaceFirst::Every);
        }
        for (setting, value, first) in [
            ("prepend_scheme", json!("first"), SpaceFirst::First),
            ("prepend_scheme", json!("always"), SpaceFirst::EveryWord),
            ("prepend_scheme", json!("never"), SpaceFirst::Never),
            ("add_prefix_space", json!(true), SpaceFirst::EveryWord),
            ("add_prefix_space", json!(false), SpaceFirst::Never),
        ] {
            let step = json!({"type": "Metaspace", "replacement": "▁", setting: value});
            assert_eq!(steps(Value::Null, step), first, "{setting} {value}");
        }
        assert_eq!(steps(Value::Null, Value::Null), SpaceFirst::Never);
    }

    #[test]
    fn a_text_gets_one_where_it_should() {
        let put =
            |first: SpaceFirst| [("a", 0), ("a", 3), (" a", 0)].map(|(a, at)| first.put(a, at));
        assert_eq!(put(SpaceFirst::Never), ["a", "a", " a"]);
        assert_eq!(put(SpaceFirst::Every), [" a", " a", "  a"]);
        assert_eq!(put(SpaceFirst::EveryWord), [" a", " a", " a"]);
        assert_eq!(put(SpaceFirst::First), [" a", "a", " a"]);
    }
}
