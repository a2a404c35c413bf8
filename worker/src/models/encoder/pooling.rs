//! From the rows of a text's tokens to its one vector, as modules.json and the pooling's own config.json
//! say (the files of sentence-transformers).
//!
//! Without modules.json: the mean, brought to unit length. With it, unit length only where it lists
//! Normalize. A module that is not known is refused by name, never left out: its vectors would be of
//! another space than the model's.

use crate::models::{LoadError, ModelFiles};
use serde::Deserialize;
use std::collections::HashMap;

/// The list of modules.
const MODULES: &str = "modules.json";
/// Where the pooling lies if no list says so.
const POOLING_FOLDER: &str = "1_Pooling";
/// What keeps a vector of zeros from being divided by zero, as PyTorch has it.
const LENGTH_MIN: f32 = 1e-12;
/// Their names in a pooling's file, of today and of before (`"pooling_mode_cls_token": true`).
const MODES: [(&str, &str, Mode); 4] = [
    ("mean", "pooling_mode_mean_tokens", Mode::Mean),
    ("cls", "pooling_mode_cls_token", Mode::First),
    ("max", "pooling_mode_max_tokens", Mode::Max),
    ("lasttoken", "pooling_mode_lasttoken", Mode::Last),
];

/// Which rows make the vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The mean of all.
    Mean,
    /// The first: CLS.
    First,
    /// The greatest value of each column.
    Max,
    /// The last.
    Last,
}

/// How a text's rows become its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooling {
    /// Which rows.
    pub mode: Mode,
    /// Whether the vector is brought to unit length.
    pub normalise: bool,
}

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
struct File {
    #[serde(alias = "word_embedding_dimension")]
    embedding_dimension: Option<usize>,
    pooling_mode: Option<Names>,
    #[serde(flatten)]
    others: HashMap<String, serde_json::Value>,
}

impl Pooling {
    /// Reads what the model's files say about vectors of `hidden` values.
    pub(crate) fn read(files: &mut ModelFiles, hidden: usize) -> Result<Self, LoadError> {
        let Ok(list) = files.take(MODULES) else {
            let file = format!("{POOLING_FOLDER}/config.json");
            let mode = match files.take(&file) {
                Ok(bytes) => mode(&file, &bytes, hidden)?,
                Err(_) => Mode::Mean,
            };
            return Ok(Pooling {
                mode,
                normalise: true,
            });
        };
        let (folder, normalise) = modules(&list)?;
        let file = format!("{folder}/config.json");
        let bytes = files.take(&file)?;
        Ok(Pooling {
            mode: mode(&file, &bytes, hidden)?,
            normalise,
        })
    }

    /// Makes `out` the vector of the text with these `rows`, which are at least one.
    pub fn pool(self, rows: &[f32], out: &mut [f32]) {
        let width = out.len();
        match self.mode {
            Mode::First => out.copy_from_slice(&rows[..width]),
            Mode::Last => out.copy_from_slice(&rows[rows.len() - width..]),
            Mode::Max => {
                out.fill(f32::NEG_INFINITY);
                // Unlike `f32::max`, keeps what is no number.
                let greater = |top: f32, x: f32| if top.is_nan() || x <= top { top } else { x };
                fold(rows, out, greater);
            }
            Mode::Mean => {
                out.fill(0.0);
                fold(rows, out, |sum, x| sum + x);
                let share = width as f32 / rows.len() as f32;
                out.iter_mut().for_each(|x| *x *= share);
            }
        }
        if self.normalise {
            let length = out.iter().map(|x| x * x).sum::<f32>().sqrt();
            // A length beyond f32 gives no number, where its inverse would give zeros.
            let inverse = match length.is_finite() {
                true => 1.0 / length.max(LENGTH_MIN),
                false => f32::NAN,
            };
            out.iter_mut().for_each(|x| *x *= inverse);
        }
    }
}

fn fold(rows: &[f32], out: &mut [f32], with: impl Fn(f32, f32) -> f32) {
    for row in rows.chunks_exact(out.len()) {
        for (out, x) in out.iter_mut().zip(row) {
            *out = with(*out, *x);
        }
    }
}

/// The pooling's folder, and whether a Normalize follows.
fn modules(list: &[u8]) -> Result<(String, bool), LoadError> {
    let bad = |cause: String| LoadError::bad(MODULES, cause);
    let list: Vec<Module> = serde_json::from_slice(list).map_err(|error| bad(error.to_string()))?;
    let kinds: Vec<&str> = list
        .iter()
        .map(|module| module.kind.rsplit('.').next().unwrap_or_default())
        .collect();
    let known = ["Transformer", "Pooling", "Normalize"];
    if let Some(other) = kinds.iter().find(|kind| !known.contains(kind)) {
        return Err(bad(format!(
            "the module {other} is not supported; these are: {}",
            known.join(", ")
        )));
    }
    match kinds[..] {
        ["Transformer", "Pooling"] => Ok((list[1].path.clone(), false)),
        ["Transformer", "Pooling", "Normalize"] => Ok((list[1].path.clone(), true)),
        _ => Err(bad(
            "a Transformer, a Pooling and perhaps a Normalize are needed, in this order".into(),
        )),
    }
}

fn mode(file: &str, bytes: &[u8], hidden: usize) -> Result<Mode, LoadError> {
    let bad = |cause: String| LoadError::bad(file, cause);
    let config: File = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    if let Some(width) = config.embedding_dimension.filter(|width| *width != hidden) {
        return Err(bad(format!(
            "it is made for vectors of {width} values, and the model's have {hidden}"
        )));
    }
    let names = config.names();
    let [name] = &names[..] else {
        return Err(bad(format!(
            "it has {} pooling modes at once, and one is needed",
            names.len()
        )));
    };
    let known = MODES
        .iter()
        .find(|(new, old, _)| name == new || name == old);
    known.map(|(_, _, mode)| *mode).ok_or_else(|| {
        let names = MODES.map(|(name, _, _)| name).join(", ");
        bad(format!(
            "the pooling mode {name:?} is not supported; these are: {names}"
        ))
    })
}

impl File {
    /// The modes that are on.
    fn names(self) -> Vec<String> {
        match self.pooling_mode {
            Some(Names::One(name)) => vec![name],
            Some(Names::More(names)) => names,
            None => {
                let on = |(name, value): (String, serde_json::Value)| {
                    (name.starts_with("pooling_mode_") && value == true).then_some(name)
                };
                self.others.into_iter().filter_map(on).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_of_two_rows() {
        let rows = [1.0, -4.0, 5.0, 2.0];
        let known = [
            (Mode::Mean, [3.0, -1.0]),
            (Mode::First, [1.0, -4.0]),
            (Mode::Max, [5.0, 2.0]),
            (Mode::Last, [5.0, 2.0]),
        ];
        for (mode, want) in known {
            let mut out = [9.0; 2];
            let pooling = |normalise| Pooling { mode, normalise };
            pooling(false).pool(&rows, &mut out);
            assert_eq!(out, want);
            pooling(true).pool(&rows, &mut out);
            assert!((out[0].hypot(out[1]) - 1.0).abs() < 1e-6);
        }
        // Its squares are beyond f32: zeros would be a wrong vector.
        let normalised = Pooling {
            mode: Mode::First,
            normalise: true,
        };
        let mut out = [0.0; 2];
        normalised.pool(&[1e30, 1.0], &mut out);
        assert!(out.iter().all(|x| x.is_nan()));
        let greatest = Pooling {
            mode: Mode::Max,
            normalise: false,
        };
        for rows in [
            [f32::NAN, f32::NAN, 1.0, 2.0],
            [1.0, 2.0, f32::NAN, f32::NAN],
        ] {
            greatest.pool(&rows, &mut out);
            assert!(out.iter().all(|x| x.is_nan()));
        }
    }

    #[test]
    fn both_ways_of_writing_a_mode_are_read() {
        let old = br#"{"word_embedding_dimension": 8, "pooling_mode_cls_token": false,
            "pooling_mode_lasttoken": true}"#;
        assert_eq!(mode("f", old, 8).expect("good"), Mode::Last);
        let new = br#"{"embedding_dimension": 8, "pooling_mode": "cls", "include_prompt": true}"#;
        assert_eq!(mode("f", new, 8).expect("good"), Mode::First);
        assert_eq!(
            mode("f", br#"{"pooling_mode": ["max"]}"#, 8).expect("good"),
            Mode::Max
        );
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let said = |result: Result<Mode, LoadError>| result.expect_err("refused").to_string();
        let two = br#"{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}"#;
        assert!(said(mode("p", two, 8)).contains("2 pooling modes"));
        let weighted = br#"{"pooling_mode": "weightedmean"}"#;
        assert!(said(mode("p", weighted, 8)).contains("weightedmean"));
        let wide = br#"{"embedding_dimension": 9, "pooling_mode": "cls"}"#;
        assert!(said(mode("p", wide, 8)).contains("9"));
        let dense = br#"[{"type": "a.Transformer"}, {"type": "a.Pooling", "path": "1_Pooling"},
            {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]"#;
        let error = modules(dense).expect_err("refused").to_string();
        assert!(
            error.contains("Dense") && error.contains(MODULES),
            "{error}"
        );
        assert!(modules(br#"[{"type": "a.Pooling"}]"#).is_err());
    }
}
