//! The workspace's own source, read as text, for the tests that hold its architecture.
//!
//! No parser: a small lexer blanks comments and the insides of literals, which is all that a search
//! for forbidden names needs. Nothing here builds or runs anything.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The workspace's root folder.
pub fn root() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir
        .parent()
        .expect("the crate lies in the workspace")
        .into()
}

/// One `.rs` file.
pub struct Source {
    /// Relative to the workspace's root, with `/`.
    pub path: String,
    pub text: String,
}

impl Source {
    /// The text without comments and without what literals hold; lines stay where they are.
    pub fn code(&self) -> String {
        blank(&self.text)
    }

    /// `code` up to the first `#[cfg(test)]` that stands at the margin: by custom, unit tests come
    /// last in a file.
    pub fn shipped_code(&self) -> String {
        let code = self.code();
        match code.find("\n#[cfg(test)]") {
            Some(end) => code[..=end].into(),
            None => code,
        }
    }
}

/// All `.rs` files below `folder` (relative to the root; "" for all), in order of their paths.
/// Build outputs and hidden folders are left out.
pub fn rust_files(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(folder), &mut found);
    found.sort();
    found.into_iter().map(read).collect()
}

fn read(path: PathBuf) -> Source {
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let relative = path.strip_prefix(root()).expect("found below the root");
    Source {
        path: relative.to_string_lossy().replace('\\', "/"),
        text,
    }
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Replaces comments and the insides of literals by spaces.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = match token(rest) {
            Token::Code => {
                out.push(bytes[at]);
                at += 1;
                continue;
            }
            Token::Blank { bytes } => at + bytes,
        };
        let hidden = bytes[at..end].iter();
        out.extend(hidden.map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
        at = end;
    }
    String::from_utf8(out).expect("whole characters were replaced")
}

enum Token {
    Code,
    Blank { bytes: usize },
}

fn token(rest: &[u8]) -> Token {
    let until = |from: usize, end: &[u8]| {
        let found = rest[from..].windows(end.len()).position(|w| w == end);
        found.map_or(rest.len(), |at| from + at + end.len())
    };
    let bytes = match rest {
        [b'/', b'/', ..] => until(2, b"\n") - usize::from(rest.contains(&b'\n')),
        [b'/', b'*', ..] => until(2, b"*/"),
        [b'r', b'#', b'"', ..] => until(3, b"\"#"),
        [b'r', b'"', ..] => until(2, b"\""),
        [b'"', ..] => quoted(rest, b'"'),
        // A character, not a lifetime: an escape, or a quote soon after.
        [b'\'', b'\\', ..] => quoted(rest, b'\''),
        [b'\'', first, ..] => match char_length(*first) {
            length if rest.get(1 + length) == Some(&b'\'') => length + 2,
            _ => return Token::Code,
        },
        _ => return Token::Code,
    };
    Token::Blank { bytes }
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn char_length(first: u8) -> usize {
    match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}

/// True where `code` holds `name` as a whole word.
pub fn names(code: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        let edge = |side: Option<char>, own: Option<char>| {
            !(own.is_some_and(word) && side.is_some_and(word))
        };
        edge(before, name.chars().next()) && edge(after, name.chars().next_back())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays() {
        let text = "let a = \"std::fs \\\" x\"; // std::net\n/* rand */ let b: &'static str = r#\"tokio\"#;\nlet c = ('\"', '\\'', 'é'); unsafe {}";
        let code = blank(text);
        for gone in ["std::fs", "std::net", "rand", "tokio"] {
            assert!(!code.contains(gone), "{gone} in {code}");
        }
        for kept in ["let a =", "let b: &'static str", "unsafe {}"] {
            assert!(code.contains(kept), "{kept} not in {code}");
        }
        assert_eq!(code.lines().count(), text.lines().count());
    }

    #[test]
    fn names_are_whole_words() {
        assert!(names("a HashMap<u8>", "HashMap") && names("x println!(", "println!"));
        assert!(!names("MyHashMap HashMapped", "HashMap") && !names("eprintln!", "println!"));
    }
}
