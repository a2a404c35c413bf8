//! A template's source, less what only its authors' own engine knows.
//!
//! - `{% generation %}` marks what a model learns from, which means nothing here: it becomes a plain block.
//! - `'</think>' in content` becomes `'</think>' is in(content)`: an operator cannot be told how to see a
//!   message's text, a test can.
//!
//! Only code is changed, never the text between blocks, and nothing inside quotes or comments.

use std::ops::Range;

/// Tokens of an operand at most: a longer one stays as it is.
const OPERAND_TOKENS_MAX: usize = 256;

/// A piece of code in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Space(&'a str),
    Text(&'a str),
    Word(&'a str),
    Sign(&'a str),
}

impl<'a> Token<'a> {
    fn written(self) -> &'a str {
        match self {
            Token::Space(text) | Token::Text(text) | Token::Word(text) | Token::Sign(text) => text,
        }
    }
}

/// The source as it can be read here.
pub(super) fn readable(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 64);
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (text, block) = rest.split_at(at);
        out.push_str(text);
        let end = match block.as_bytes().get(1) {
            Some(b'#') => block.find("#}").map(|end| end + 2),
            Some(b'%' | b'{') => {
                let (tokens, end) = tokens(block);
                out.push_str(&changed(&tokens));
                let raw = statement(&tokens) == Some("raw");
                let verbatim = raw.then(|| block[end..].find("endraw")).flatten();
                out.push_str(&block[end..][..verbatim.unwrap_or(0)]);
                rest = &block[end + verbatim.unwrap_or(0)..];
                continue;
            }
            _ => Some(1),
        };
        let end = end.unwrap_or(block.len());
        out.push_str(&block[..end]);
        rest = &block[end..];
    }
    out.push_str(rest);
    out
}

/// The name of a statement's block.
fn statement<'t>(tokens: &[Token<'t>]) -> Option<&'t str> {
    let (open, code) = tokens.split_first()?;
    code.iter()
        .filter(|_| *open == Token::Sign("{%"))
        .find_map(|token| match token {
            Token::Word(word) => Some(*word),
            _ => None,
        })
}

/// A block's code, its delimiters included, and where it ends.
fn tokens(block: &str) -> (Vec<Token<'_>>, usize) {
    let close = if block.starts_with("{%") { "%}" } else { "}}" };
    let mut tokens = vec![Token::Sign(&block[..2])];
    let mut at = 2;
    while let Some(first) = block[at..].chars().next() {
        let rest = &block[at..];
        if rest.starts_with(close) {
            tokens.push(Token::Sign(close));
            return (tokens, at + 2);
        }
        let run = |of: fn(char) -> bool| rest.find(|one| !of(one)).unwrap_or(rest.len());
        let word = |one: char| one.is_alphanumeric() || one == '_';
        let token = match first {
            '"' | '\'' => Token::Text(&rest[..quoted(rest, first)]),
            _ if first.is_whitespace() => Token::Space(&rest[..run(char::is_whitespace)]),
            _ if word(first) => Token::Word(&rest[..run(word)]),
            _ => Token::Sign(&rest[..first.len_utf8()]),
        };
        tokens.push(token);
        at += token.written().len();
    }
    (tokens, at)
}

/// How long a text in quotes is.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, one) in text.char_indices().skip(1) {
        match one {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if one == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The code as it can be read here.
fn changed(tokens: &[Token<'_>]) -> String {
    let mut out = String::new();
    let block = statement(tokens);
    // Where operands of tests that were put in end: the innermost last.
    let mut ends = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        while ends.pop_if(|end| *end == at).is_some() {
            out.push(')');
        }
        let token = tokens[at];
        out.push_str(match token {
            Token::Word("generation") if block == Some("generation") => "if true",
            Token::Word("endgeneration") if block == Some("endgeneration") => "endif",
            _ => token.written(),
        });
        at += 1;
        if let Token::Text(_) = token
            && let Some((length, negated)) = operator(&tokens[at..])
            && let Some(operand) = operand(&tokens[at + length..])
            && begins_operand(&tokens[..at - 1])
        {
            out.push_str(if negated { " is not in(" } else { " is in(" });
            ends.push(at + length + operand.end);
            at += length + operand.start;
        }
    }
    out
}

/// Whether `in` or `not in` comes next; if so, how many tokens that is, and which.
fn operator(tokens: &[Token<'_>]) -> Option<(usize, bool)> {
    let dense = tokens.iter().enumerate();
    let mut dense = dense.filter(|(_, token)| !matches!(token, Token::Space(_)));
    match dense.next()? {
        (at, Token::Word("in")) => Some((at + 1, false)),
        (_, Token::Word("not")) => match dense.next()? {
            (at, Token::Word("in")) => Some((at + 1, true)),
            _ => None,
        },
        _ => None,
    }
}

/// True where what comes next is an operand by itself, and not the end of `'a' ~ 'b'`.
fn begins_operand(before: &[Token<'_>]) -> bool {
    let dense = before
        .iter()
        .rfind(|token| !matches!(token, Token::Space(_)));
    match dense {
        Some(Token::Word(word)) => ["if", "elif", "and", "or", "not", "else", "set"].contains(word),
        Some(Token::Sign(sign)) => ["(", "[", ",", "=", ":", "{{", "{%"].contains(sign),
        _ => false,
    }
}

/// Which tokens the right side of `in` takes: up to what binds less tightly. None if it is too long.
fn operand(tokens: &[Token<'_>]) -> Option<Range<usize>> {
    let space = |token: &Token<'_>| matches!(token, Token::Space(_));
    let start = tokens.iter().position(|token| !space(token))?;
    let mut depth = 0usize;
    let ends = |(at, token): &(usize, &Token<'_>)| match token {
        Token::Sign("(" | "[" | "{") => {
            depth += 1;
            false
        }
        Token::Sign(")" | "]" | "}") if depth > 0 => {
            depth -= 1;
            false
        }
        _ if depth > 0 => false,
        Token::Sign(")" | "]" | "}" | "}}" | "%}" | "," | ":" | "=" | "!" | "<" | ">") => true,
        // The dash of `-%}`.
        Token::Sign("-" | "+") => matches!(tokens.get(at + 1), Some(Token::Sign("%}" | "}}"))),
        Token::Word(word) => ["and", "or", "if", "else", "not", "in", "recursive"].contains(word),
        _ => false,
    };
    let mut near = tokens.iter().enumerate().take(OPERAND_TOKENS_MAX);
    let (end, _) = near.find(ends)?;
    let end = end
        - tokens[..end]
            .iter()
            .rev()
            .take_while(|token| space(token))
            .count();
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_for_a_text_becomes_a_test() {
        for (source, wanted) in [
            (
                "{% if '</t>' in content %}",
                "{% if '</t>' is in(content) %}",
            ),
            (
                "{%- if \"a\" not in m['b'].c|trim -%}",
                "{%- if \"a\" is not in(m['b'].c|trim) -%}",
            ),
            (
                "{{ 1 if not 'a' in b and ('c' in d[1] ~ 'e') else 2 }}",
                "{{ 1 if not 'a' is in(b) and ('c' is in(d[1] ~ 'e')) else 2 }}",
            ),
            (
                "{% for m in all if 'a' in m.b %}",
                "{% for m in all if 'a' is in(m.b) %}",
            ),
            ("{{ 'a' in ['b', 'c'] }}", "{{ 'a' is in(['b', 'c']) }}"),
        ] {
            let found = readable(source);
            let dense = |text: &str| text.replace(' ', "");
            assert_eq!(dense(&found), dense(wanted), "{found}");
        }
    }

    #[test]
    fn learning_blocks_are_plain_ones() {
        assert_eq!(
            readable("{%- generation -%}a{% endgeneration %}generation"),
            "{%- if true -%}a{% endif %}generation"
        );
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for source in [
            "",
            "'a' in b {",
            "{# 'a' in b #}'a' in b",
            "{% for a in b %}{{ x in y }}{% endfor %}",
            "{{ \"'a' in b\" }}{{ 'x' ~ 'a' in b }}",
            "{% raw %}{{ 'a' in b }}{% generation %}{% endraw %}",
            "{{ '}}' }}{{ 'it\\'s' }}",
            "{{ 'open",
            "{% if 'in' == a.in %}{% endif %}",
            "{{ generation }}",
            "é{{ 'é' ~ é }}é",
        ] {
            assert_eq!(readable(source), source);
        }
    }
}
