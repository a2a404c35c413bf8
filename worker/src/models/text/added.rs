//! Tokens that a tokenizer.json adds to its model's own: control tokens, and words.
//!
//! Both are taken out of the file before the library reads it. Control tokens are where whoever encodes says
//! that they are. Words (runs of spaces in some vocabularies) are found in every text, as the library does.
//! And the model loses what could make a control token out of ordinary text: its entry, and every merge to
//! it, from it or through it.

use super::controls::{Literal, is_mark};
use crate::models::LoadError;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;

/// A token beside the model's own.
#[derive(Deserialize)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
}

impl Added {
    /// Takes the tokens out of a tokenizer.json.
    pub(super) fn take(file: &mut Value) -> Result<Vec<Added>, LoadError> {
        let added = file.get_mut("added_tokens").map(Value::take);
        file["added_tokens"] = Value::Array(Vec::new());
        match added {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(added) => serde_json::from_value(added)
                .map_err(|error| LoadError::bad("tokenizer.json", error)),
        }
    }

    /// True where no text may become it: control tokens, and those that look like marks, like `<think>`,
    /// though their file calls them words.
    pub(super) fn is_control(&self) -> bool {
        self.special || is_mark(&self.content)
    }

    pub(super) fn literal(&self) -> Literal {
        Literal {
            text: self.content.clone(),
            id: self.id,
            takes_left: self.lstrip,
            takes_right: self.rstrip,
            alone: self.single_word,
        }
    }
}

/// Which of a model's own tokens are control tokens: those that nothing in a text may become.
///
/// A token of one character stays, since text that holds this character could not be read without it; and
/// so does the one for what is unknown.
pub(super) fn reserved<'a>(
    texts: impl Iterator<Item = (&'a str, u32)>,
    controls: &HashSet<u32>,
    unknown: Option<&str>,
) -> HashSet<String> {
    texts
        .filter(|(text, id)| {
            controls.contains(id) && text.chars().nth(1).is_some() && Some(*text) != unknown
        })
        .map(|(text, _)| text.to_owned())
        .collect()
}

/// True for a merge that no reserved token is part of or comes out of.
pub(super) fn keeps(reserved: &HashSet<String>, left: &str, right: &str) -> bool {
    let made = || reserved.contains(&[left, right].concat());
    !(reserved.contains(left) || reserved.contains(right) || made())
}

/// Takes the control tokens out of the vocabulary and the merges of a tokenizer.json.
pub(super) fn remove(model: &mut Value, controls: &HashSet<u32>) {
    let unknown = model["unk_token"].as_str().map(str::to_owned);
    let Some(vocabulary) = model["vocab"].as_object_mut() else {
        return;
    };
    let entries = vocabulary
        .iter()
        .filter_map(|(text, id)| Some((text.as_str(), u32::try_from(id.as_u64()?).ok()?)));
    let gone = reserved(entries, controls, unknown.as_deref());
    vocabulary.retain(|text, _| !gone.contains(text));
    let halves = |merge: &Value| -> Option<(String, String)> {
        match merge.as_str() {
            Some(both) => both
                .split_once(' ')
                .map(|(left, right)| (left.to_owned(), right.to_owned())),
            None => Some((merge[0].as_str()?.to_owned(), merge[1].as_str()?.to_owned())),
        }
    };
    if let Some(merges) = model["merges"].as_array_mut() {
        merges.retain(|merge| {
            // What is no pair is for the library to complain about.
            halves(merge).is_none_or(|(left, right)| keeps(&gone, &left, &right))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_model_keeps_nothing_that_makes_a_control_token() {
        let mut model = json!({
            "unk_token": "<unk>",
            "vocab": {"<unk>": 0, "<": 1, "s": 2, ">": 3, "<s": 4, "<s>": 5, "!": 6, "<s>>": 7},
            "merges": ["< s", ["<s", ">"], ["<s>", ">"], "! !"],
        });
        remove(&mut model, &HashSet::from([0, 5, 6]));
        assert_eq!(
            model["vocab"],
            json!({"<unk>": 0, "<": 1, "s": 2, ">": 3, "<s": 4, "!": 6, "<s>>": 7})
        );
        assert_eq!(model["merges"], json!(["< s", "! !"]));
    }
}
