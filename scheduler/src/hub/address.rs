//! What an operator types for a model of the hub: `hf:OWNER/NAME[@REVISION][:FILE]`.
//!
//! Parsed once; what is held is safe in a URL's path and in a folder's name.

use super::HubError;

/// What such addresses begin with.
const SCHEME: &str = "hf:";
/// Longest owner or name, bytes: the hub's own limit.
const PART_BYTES_MAX: usize = 96;
/// Longest revision and longest file, bytes.
const REST_BYTES_MAX: usize = 128;

/// A model of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    owner: String,
    /// What the repository is called, without its owner.
    pub name: String,
    /// A branch, tag or commit.
    pub revision: Option<String>,
    /// A GGUF file, or the quantisation that names one of several.
    pub file: Option<String>,
}

impl Address {
    /// What was typed, where it is meant for the hub; none where it is a path.
    pub fn parse(typed: &str) -> Option<Result<Address, HubError>> {
        let rest = typed.strip_prefix(SCHEME)?;
        Some(address(rest).ok_or_else(|| HubError::Address(typed.into())))
    }

    /// `OWNER/NAME`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// A folder's name for one commit of it. The hub allows no `--` in names, so that two never share one.
    pub fn folder(&self, commit: &str) -> String {
        format!("{}--{}@{commit}", self.owner, self.name)
    }
}

fn address(text: &str) -> Option<Address> {
    let (text, file) = cut(text, ':');
    let (text, revision) = cut(text, '@');
    let (owner, name) = text.split_once('/')?;
    let good = [owner, name].into_iter().all(is_part)
        && revision.is_none_or(is_rest)
        && file.is_none_or(is_rest);
    good.then(|| Address {
        owner: owner.into(),
        name: name.into(),
        revision: revision.map(String::from),
        file: file.map(String::from),
    })
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

/// The hub's rule for owners and names.
fn is_part(part: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric() || c == '_';
    part.len() <= PART_BYTES_MAX
        && part.starts_with(edge)
        && part.ends_with(edge)
        && part.chars().all(|c| edge(c) || "-.".contains(c))
        && !part.contains("--")
        && !part.contains("..")
}

/// A revision or a file: parts of a path that leads nowhere but down.
fn is_rest(rest: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.+/".contains(c);
    rest.len() <= REST_BYTES_MAX
        && rest.chars().all(good)
        && rest
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(typed: &str) -> Address {
        Address::parse(typed).unwrap().unwrap()
    }

    #[test]
    fn all_four_forms_are_read() {
        let plain = parsed("hf:Qwen/Qwen3-0.6B");
        assert_eq!(plain.repository(), "Qwen/Qwen3-0.6B");
        assert_eq!((plain.revision, plain.file), (None, None));
        let all = parsed("hf:Qwen/Qwen3-0.6B-GGUF@refs/pr/1:sub/x-Q4_K_M.gguf");
        assert_eq!(all.revision.as_deref(), Some("refs/pr/1"));
        assert_eq!(all.file.as_deref(), Some("sub/x-Q4_K_M.gguf"));
        assert_eq!(parsed("hf:a/b:Q8_0").file.as_deref(), Some("Q8_0"));
        assert_eq!(parsed("hf:a/b@v1").folder("0c"), "a--b@0c");
    }

    #[test]
    fn paths_are_not_the_hubs_and_what_leads_elsewhere_is_refused() {
        assert!(Address::parse("./hf:a/b").is_none());
        assert!(Address::parse("models/a").is_none());
        let long = format!("hf:a/{}", "b".repeat(97));
        for bad in [
            "hf:",
            "hf:a",
            "hf:/b",
            "hf:a/",
            "hf:a/b/c",
            "hf:../b",
            "hf:a/..",
            "hf:a/.b",
            "hf:a/b--c",
            "hf:a/b@",
            "hf:a/b:",
            "hf:a/b@../x",
            "hf:a/b:../x",
            "hf:a/b:/x",
            "hf:a/b@x?y",
            "hf:a/b c",
            "hf:a/b:x%2e",
            "hf:ä/b",
            long.as_str(),
        ] {
            let refused = Address::parse(bad).unwrap();
            assert!(matches!(refused, Err(HubError::Address(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_typed_its_parts_lead_nowhere(rest in "[a./@:~ -]{0,12}") {
            if let Some(Ok(got)) = Address::parse(&format!("hf:{rest}")) {
                prop_assert!(!got.folder("c").contains('/'));
                prop_assert!(!got.folder("c").starts_with('.'));
                for part in [got.revision, got.file].into_iter().flatten() {
                    prop_assert!(part.split('/').all(|p| p != ".." && !p.is_empty()));
                }
            }
        }
    }
}
