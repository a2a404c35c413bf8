//! Names of models and of their files: what is allowed, as pure functions.
//!
//! A model's name stands in paths, metrics and logs; a file's name is joined to the model's folder.
//! So both are of a small alphabet, and a file's name cannot lead out of its folder whatever it says.

/// Longest name of a model, bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest name of a file, bytes, its folder included.
const FILE_BYTES_MAX: usize = 128;

/// What a model's name may be, for messages.
pub const NAME_RULE: &str =
    "1 to 64 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit";

/// True for a model's name: safe in a path, a label and a log.
pub fn is_model(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= NAME_BYTES_MAX
        && name.bytes().next().is_some_and(good)
        && name.bytes().all(|b| good(b) || b"-_.".contains(&b))
}

/// The nearest model's name to what something is called elsewhere: lower case, anything else a dash.
/// None where nothing is left of it.
pub fn model_from(called: &str) -> Option<String> {
    let dashed = called.chars().map(|c| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c) => c,
        _ => '-',
    });
    let dashed: String = dashed.collect();
    let start = dashed.find(|c: char| c.is_ascii_alphanumeric())?;
    let name: String = dashed[start..].chars().take(NAME_BYTES_MAX).collect();
    Some(name.trim_end_matches(['-', '_', '.']).into())
}

/// True for a file's name in a model's folder: a plain name, or one behind one folder as in
/// `1_Pooling/config.json`.
pub fn is_file(name: &str) -> bool {
    let mut parts = name.split('/');
    let (first, second, more) = (parts.next(), parts.next(), parts.next());
    name.len() <= FILE_BYTES_MAX
        && more.is_none()
        && first.is_some_and(is_part)
        && second.is_none_or(is_part)
}

/// One component of a path: never `.`, `..`, empty or hidden.
fn is_part(part: &str) -> bool {
    !part.is_empty() && !part.starts_with('.') && !part.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn files_of_a_model_and_nothing_outside() {
        for good in ["config.json", "1_Pooling/config.json", "a b.gguf"] {
            assert!(is_file(good), "{good}");
        }
        let bad = [
            "",
            ".",
            "..",
            "../x",
            "/etc/passwd",
            "a/../b",
            "a//b",
            "a/b/c",
            "a/",
            ".hidden",
            "a/.hidden",
            "a\\b",
            "a\0b",
        ];
        for bad in bad {
            assert!(!is_file(bad), "{bad:?}");
        }
    }

    #[test]
    fn names_are_made_of_what_things_are_called() {
        for (called, name) in [
            ("all-MiniLM-L6-v2", Some("all-minilm-l6-v2")),
            ("SmolLM2-135M.Q4_K_M", Some("smollm2-135m.q4_k_m")),
            ("my model (1)", Some("my-model--1")),
            ("..", None),
            ("", None),
        ] {
            assert_eq!(model_from(called).as_deref(), name, "{called}");
        }
    }

    proptest! {
        #[test]
        fn whatever_something_is_called_the_name_is_allowed(called in "\\PC{0,100}") {
            if let Some(name) = model_from(&called) {
                prop_assert!(is_model(&name), "{name:?}");
            }
        }

        /// No allowed name leaves the folder that it is joined to.
        #[test]
        fn an_allowed_file_lies_inside(name in "[a./\\\\~\0 ]{0,12}") {
            if is_file(&name) {
                let parts: Vec<_> = Path::new(&name).components().collect();
                prop_assert!((1..=2).contains(&parts.len()));
                prop_assert!(parts.iter().all(|part| matches!(part, Component::Normal(_))));
            }
        }
    }
}
