//! Which files of a repository make a model: safetensors with what belongs to them, or one GGUF file.
//!
//! A pure function of names. Weights in Python's pickle format are never chosen: reading them can run
//! code that their author wrote.

use super::{
    Address, HubError,
    listing::{Entry, Listing},
};
use crate::models::parts::{INDEX, NEEDED, USED, WEIGHTS};

/// Most files that a refusal names.
const NAMED_MAX: usize = 12;
/// How names of files end whose weights do not work here.
const OTHER_WEIGHTS: [&str; 9] = [
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx", ".npz",
];

/// What to fetch.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// One file.
    Gguf(Entry),
    /// A folder: everything but the weights, and the file of weights where there is one. Where there is
    /// none, the index, which is among the first, names several.
    Folder {
        small: Vec<Entry>,
        weights: Option<Entry>,
    },
}

/// What to fetch of `listing`; or why nothing of it is a model, or which of several has to be named.
pub fn choose(listing: &Listing, address: &Address) -> Result<Choice, HubError> {
    if let Some(file) = &address.file {
        return named(listing, address, file);
    }
    if listing.has(WEIGHTS) || listing.has(INDEX) {
        return folder(listing, address);
    }
    match ggufs(listing)[..] {
        [] => Err(HubError::Choice(nothing(listing, address))),
        [one] => gguf(listing, one),
        ref several => Err(HubError::Choice(format!(
            "{} has several GGUF files; name one, as hf:{}:{}, or its quantisation: {}",
            address.repository(),
            address.repository(),
            several[0],
            some(several)
        ))),
    }
}

fn folder(listing: &Listing, address: &Address) -> Result<Choice, HubError> {
    if let Some(missing) = NEEDED.iter().find(|name| !listing.has(name)) {
        let repository = address.repository();
        let what = format!("{repository} has no {missing}, without which its weights are no model");
        return Err(HubError::Choice(what));
    }
    let single = listing.has(WEIGHTS);
    let small = (NEEDED.iter())
        .chain(USED.iter().filter(|name| listing.has(name)))
        .chain((!single).then_some(&INDEX))
        .map(|name| listing.entry(name));
    Ok(Choice::Folder {
        small: small.collect::<Result<_, _>>()?,
        weights: single.then(|| listing.entry(WEIGHTS)).transpose()?,
    })
}

/// The GGUF file of this name or of this quantisation.
fn named(listing: &Listing, address: &Address, file: &str) -> Result<Choice, HubError> {
    let repository = address.repository();
    if let Some(ending) = OTHER_WEIGHTS.iter().find(|e| file.ends_with(*e)) {
        return Err(HubError::Choice(format!(
            "{file:?} cannot be used: weights in {ending} files are never taken, since reading Python's \
             pickles can run code; safetensors and GGUF work"
        )));
    }
    if file.ends_with(".safetensors") {
        return Err(HubError::Choice(format!(
            "name no file for safetensors: hf:{repository} takes all that belong to the model"
        )));
    }
    let all = ggufs(listing);
    let meant: Vec<_> = (all.iter().copied())
        .filter(|name| *name == file || quantised(name, file))
        .collect();
    match meant[..] {
        [one] => gguf(listing, one),
        [] => Err(HubError::Choice(format!(
            "{repository} has no GGUF file {file:?}; it has {}",
            some(&all)
        ))),
        ref several => Err(HubError::Choice(format!(
            "{file:?} fits several files of {repository}; name one: {}",
            some(several)
        ))),
    }
}

fn gguf(listing: &Listing, name: &str) -> Result<Choice, HubError> {
    if is_part_of_several(name) {
        return Err(HubError::Choice(format!(
            "{name:?} is one part of several; fetch them all, join them with `llama-gguf-split --merge`, \
             and add the file"
        )));
    }
    listing.entry(name).map(Choice::Gguf)
}

fn ggufs(listing: &Listing) -> Vec<&str> {
    listing.names().filter(|n| n.ends_with(".gguf")).collect()
}

/// True where a file's name ends in this quantisation, or its folder is called so: as `X-Q4_K_M.gguf`,
/// whatever the case of the letters.
fn quantised(name: &str, quantisation: &str) -> bool {
    let (name, wanted) = (name.to_ascii_lowercase(), quantisation.to_ascii_lowercase());
    let stem = name.trim_end_matches(".gguf");
    let stem = match is_part_of_several(&name) {
        true => stem.get(..stem.len() - PART.len()).unwrap_or(stem),
        false => stem,
    };
    let before = stem.strip_suffix(&wanted);
    let ends =
        before.is_some_and(|before| before.is_empty() || before.ends_with(['-', '.', '_', '/']));
    ends || name
        .split_once('/')
        .is_some_and(|(folder, _)| folder == wanted)
}

/// What is at the end of the name of a part.
const PART: &str = "-00001-of-00002";

fn is_part_of_several(name: &str) -> bool {
    let stem = name.trim_end_matches(".gguf").as_bytes();
    let fits = |(have, like): (&u8, u8)| match like.is_ascii_digit() {
        true => have.is_ascii_digit(),
        false => *have == like,
    };
    let end = stem.len().checked_sub(PART.len()).map(|at| &stem[at..]);
    end.is_some_and(|end| end.iter().zip(PART.bytes()).all(fits))
}

fn nothing(listing: &Listing, address: &Address) -> String {
    let repository = address.repository();
    let other = |name: &&str| OTHER_WEIGHTS.iter().any(|ending| name.ends_with(ending));
    let others: Vec<_> = listing.names().filter(other).collect();
    match others.is_empty() {
        true => format!("{repository} has no weights: neither {WEIGHTS} nor a GGUF file"),
        false => format!(
            "{repository} has its weights in other formats only ({}), which are never taken, since reading \
             Python's pickles can run code; look for a repository with safetensors or GGUF, or convert it",
            some(&others)
        ),
    }
}

/// Some names of a hub's, for a message.
fn some(names: &[&str]) -> String {
    if names.is_empty() {
        return "none".into();
    }
    let shown = names.iter().take(NAMED_MAX);
    let mut shown: Vec<_> = shown.map(|name| name.escape_debug().to_string()).collect();
    if names.len() > NAMED_MAX {
        shown.push(format!("and {} more", names.len() - NAMED_MAX));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chosen(names: &[&str], typed: &str) -> Result<Choice, String> {
        let files = names
            .iter()
            .map(|name| json!({"rfilename": name, "size": 1, "blobId": "b".repeat(40)}));
        let info = json!({"sha": "0".repeat(40), "siblings": files.collect::<Vec<_>>()});
        let listing = Listing::parse(info.to_string().as_bytes()).unwrap();
        let address = Address::parse(typed).unwrap().unwrap();
        choose(&listing, &address).map_err(|e| e.to_string())
    }

    fn gguf(names: &[&str], typed: &str) -> Result<String, String> {
        match chosen(names, typed)? {
            Choice::Gguf(entry) => Ok(entry.name),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_folder_is_what_a_worker_uses_and_nothing_else() {
        let names = [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "1_Pooling/config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "modeling_x.py",
            "onnx/model.onnx",
            "x.gguf",
        ];
        let Ok(Choice::Folder { small, weights }) = chosen(&names, "hf:a/b") else {
            panic!("a folder");
        };
        let small: Vec<_> = small.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(small, [names[0], names[1], names[2], names[3]]);
        assert_eq!(weights.unwrap().name, "model.safetensors");
        assert_eq!(gguf(&names, "hf:a/b:x.gguf").unwrap(), "x.gguf");

        let sharded = [
            "config.json",
            "tokenizer.json",
            INDEX,
            "model-1.safetensors",
        ];
        let Ok(Choice::Folder { small, weights }) = chosen(&sharded, "hf:a/b") else {
            panic!("a folder");
        };
        assert_eq!((small[2].name.as_str(), weights), (INDEX, None));
    }

    #[test]
    fn a_gguf_file_is_found_by_name_and_by_quantisation() {
        let names = [
            "M-Q4_K_M.gguf",
            "M-Q4_K_S.gguf",
            "M.Q8_0.gguf",
            "M-IQ4_K_M.gguf",
            "BF16/M.gguf",
            "M-Q2_K-00001-of-00002.gguf",
            "M-Q2_K-00002-of-00002.gguf",
        ];
        for (file, expected) in [
            ("Q4_K_M", "M-Q4_K_M.gguf"),
            ("q8_0", "M.Q8_0.gguf"),
            ("M-Q4_K_S.gguf", "M-Q4_K_S.gguf"),
            ("bf16", "BF16/M.gguf"),
        ] {
            assert_eq!(gguf(&names, &format!("hf:a/b:{file}")).unwrap(), expected);
        }
        for (typed, part) in [
            ("hf:a/b", "several GGUF files"),
            ("hf:a/b:Q5_0", "M-Q4_K_M.gguf"),
            ("hf:a/b:Q2_K", "fits several"),
            ("hf:a/b:M-Q2_K-00001-of-00002.gguf", "one part of several"),
            ("hf:a/b:x.bin", "run code"),
            ("hf:a/b:model.safetensors", "name no file"),
        ] {
            let error = gguf(&names, typed).unwrap_err();
            assert!(error.contains(part), "{error} should say {part}");
        }
        assert_eq!(
            gguf(&["only.gguf", "README.md"], "hf:a/b").unwrap(),
            "only.gguf"
        );
    }

    #[test]
    fn what_is_no_model_says_why() {
        let refused = |names: &[&str]| chosen(names, "hf:a/b").unwrap_err();
        let pickles = refused(&["config.json", "tokenizer.json", "pytorch_model.bin"]);
        assert!(
            pickles.contains("pytorch_model.bin") && pickles.contains("run code"),
            "{pickles}"
        );
        assert!(refused(&["README.md"]).contains("no weights"));
        let bare = refused(&["config.json", "model.safetensors"]);
        assert!(bare.contains("no tokenizer.json"), "{bare}");
    }
}
