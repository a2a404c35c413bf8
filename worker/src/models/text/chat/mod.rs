//! A conversation becomes a prompt: the model's own template, with roles that cannot be forged.
//!
//! A user's message may hold `<|im_end|>`. Rendered and then read like the rest, it would end the
//! message and let the user speak as the system. So every character in a message that a control token could
//! be made of has a stand-in while the template runs ([`StandIns`]); control tokens are then looked for in
//! what only the template wrote, and what is between them becomes text again. Templates that look into
//! messages see their text all the same ([`looks`]).

mod looks;
mod source;
mod stand_ins;

use super::codec::{Part, TextCodec};
use super::{date, folder};
use crate::models::LoadError;
use crate::models::source::{GGUF_FILE as FILE, Gguf};
use bulkhead_proto::internal::Turn;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, State, Value, context};
use stand_ins::{Alphabet, StandIns};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Instructions that rendering may take: plenty for thousands of messages, and an end for a loop.
const FUEL: u64 = 1_000_000;
const NAME: &str = "chat";
/// Where a template's functions find the time, in seconds of Unix time.
const NOW: &str = "_now_unix_s";
/// Roles that a message may have.
const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// Why a conversation cannot be rendered: the caller's fault, and nothing a retry would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// The model has no template.
    #[error("this model has no chat template: give `prompt` instead of `messages`")]
    NoTemplate,
    /// An unknown role.
    #[error("a message's role is none of system, user and assistant")]
    Role,
    /// The template did not accept the messages.
    #[error("the model's chat template does not accept these messages; check the order of roles")]
    Template,
    /// No private characters are left to stand in for others.
    #[error("the messages use up all of Unicode's private characters; leave some of them out")]
    StandIns,
}

/// The model's chat template.
pub struct Chat {
    environment: Option<Environment<'static>>,
    begin: String,
    end: String,
    alphabet: Arc<Alphabet>,
}

impl Chat {
    /// Reads a Hugging Face folder's template: chat_template.jinja, or else the one in
    /// tokenizer_config.json. A folder without is a model without a template, and no error.
    pub fn from_json(
        tokenizer_config: Option<&[u8]>,
        chat_template: Option<&[u8]>,
        codec: &TextCodec,
    ) -> Result<Self, LoadError> {
        let template = folder::template(tokenizer_config, chat_template)?;
        let environment = template
            .source
            .map(|source| environment(source, template.file));
        Ok(Chat {
            environment: environment.transpose()?,
            begin: template.begin,
            end: template.end,
            alphabet: alphabet(codec, template.file)?,
        })
    }

    /// Reads the template from a GGUF file's metadata, if it has one.
    pub fn from_gguf(gguf: &Gguf<'_>, codec: &TextCodec) -> Result<Self, LoadError> {
        let literal = |key: &str| -> Result<String, LoadError> {
            let token = gguf.number(key)?;
            Ok(token
                .and_then(|token| codec.control_text(token))
                .unwrap_or_default()
                .to_owned())
        };
        let source = gguf.text("tokenizer.chat_template")?;
        Ok(Chat {
            environment: source.map(|source| environment(source, FILE)).transpose()?,
            begin: literal("tokenizer.ggml.bos_token_id")?,
            end: literal("tokenizer.ggml.eos_token_id")?,
            alphabet: alphabet(codec, FILE)?,
        })
    }

    /// The prompt for `messages`, ready to be encoded. `now_unix_s` is for templates that state the
    /// date, in seconds of Unix time.
    pub fn parts(
        &self,
        messages: &[Turn],
        codec: &TextCodec,
        now_unix_s: u64,
    ) -> Result<Vec<Part>, ChatError> {
        let contents = messages.iter().map(|turn| turn.content.as_str());
        let stand_ins =
            StandIns::choose(Arc::clone(&self.alphabet), contents).ok_or(ChatError::StandIns)?;
        let hidden: Vec<Turn> = messages
            .iter()
            .map(|turn| Turn {
                role: turn.role.clone(),
                content: stand_ins.hide(&turn.content),
            })
            .collect();
        let stand_ins = Arc::new(stand_ins);
        let seen = Value::from_dyn_object(Arc::clone(&stand_ins));
        let rendered = self.rendered(&hidden, now_unix_s, seen)?;
        Ok(codec.split_rendered(&rendered, |text| stand_ins.show(text)))
    }

    /// The prompt's text, control tokens written out.
    pub fn render(&self, messages: &[Turn], now_unix_s: u64) -> Result<String, ChatError> {
        self.rendered(messages, now_unix_s, Value::UNDEFINED)
    }

    fn rendered(
        &self,
        messages: &[Turn],
        now_unix_s: u64,
        stand_ins: Value,
    ) -> Result<String, ChatError> {
        let environment = self.environment.as_ref().ok_or(ChatError::NoTemplate)?;
        if !messages
            .iter()
            .all(|turn| ROLES.contains(&turn.role.as_str()))
        {
            return Err(ChatError::Role);
        }
        let turns: Vec<_> = messages
            .iter()
            .map(|turn| context! { role => &turn.role, content => &turn.content })
            .collect();
        let values = context! {
            messages => turns,
            add_generation_prompt => true,
            bos_token => &self.begin,
            eos_token => &self.end,
            // Templates ask whether these are none, which something undefined is not.
            tools => (),
            documents => (),
            _now_unix_s => now_unix_s,
            _stand_ins => stand_ins,
        };
        // The error's text may quote a message, so it goes no further.
        let template = environment
            .get_template(NAME)
            .map_err(|_| ChatError::Template)?;
        // What a template does to its engine is its own prompt's failure, and nobody else's.
        let rendered = catch_unwind(AssertUnwindSafe(|| template.render(values)));
        rendered.map_or(Err(ChatError::Template), |rendered| {
            rendered.map_err(|_| ChatError::Template)
        })
    }
}

fn environment(source: String, file: &str) -> Result<Environment<'static>, LoadError> {
    // As the authors of such templates have it.
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(true)
        .build()
        .map_err(|error| LoadError::bad(file, error))?;
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_fuel(Some(FUEL));
    environment.add_function(
        "raise_exception",
        |why: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, why))
        },
    );
    environment.add_function(
        "strftime_now",
        |state: &State<'_, '_>, format: &str| -> Result<String, minijinja::Error> {
            let now = state.lookup(NOW).and_then(|now| u64::try_from(now).ok());
            let shown = now.and_then(|now| date::strftime(format, now));
            shown.ok_or_else(|| ErrorKind::InvalidOperation.into())
        },
    );
    looks::add(&mut environment);
    environment
        .add_template_owned(NAME, source::readable(&source))
        .map_err(|error| LoadError::bad(file, format!("its chat template: {error}")))?;
    Ok(environment)
}

/// The characters that control tokens are made of.
fn alphabet(codec: &TextCodec, file: &str) -> Result<Arc<Alphabet>, LoadError> {
    let alphabet = Alphabet::of(codec.control_literals());
    let alphabet = alphabet
        .ok_or_else(|| LoadError::bad(file, "its control tokens are made of too many characters"));
    alphabet.map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str) -> Result<String, ChatError> {
        let environment =
            environment(template.to_owned(), "chat_template.jinja").expect("it parses");
        let chat = Chat {
            environment: Some(environment),
            begin: "<s>".into(),
            end: "</s>".into(),
            alphabet: Arc::new(Alphabet::of(std::iter::empty()).expect("none")),
        };
        let turn = |role: &str, content: &str| Turn {
            role: role.into(),
            content: content.into(),
        };
        chat.render(
            &[turn("system", "be brief"), turn("user", " hi ")],
            951_782_400,
        )
    }

    #[test]
    fn what_templates_for_python_use_is_there() {
        for (template, shown) in [
            ("{{ messages[1].content.strip().replace('h', 'j') }}", "ji"),
            (
                "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
                "role=system;content=be brief;",
            ),
            ("{{ messages[0].get('name', 'none') }}", "none"),
            (
                "{{ messages[0] | tojson }}",
                r#"{"role": "system", "content": "be brief"}"#,
            ),
            (
                "{% for m in messages %}{{ m.role }}{% break %}{% endfor %}",
                "system",
            ),
            (
                "{% if tools is not none %}tools{% endif %}{% if not documents %}!{% endif %}",
                "!",
            ),
            ("{{ strftime_now('%d %b %Y') }}", "29 Feb 2000"),
            ("{{ '{:>4}{}'.format(1, 'a') }}", "   1a"),
            (
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "2",
            ),
            (
                "{{ bos_token }}{{ messages[::-1][0].role }}{{ eos_token }}",
                "<s>user</s>",
            ),
        ] {
            assert_eq!(rendered(template).as_deref(), Ok(shown), "{template}");
        }
    }

    #[test]
    fn a_hostile_template_ends() {
        for template in [
            "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
            "{% set ns = namespace(s='x') %}{% for a in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
            "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
            "{{ strftime_now('%Q') }}",
            "{{ raise_exception('no') }}",
            "{{ '{:>30000000000}'.format('x') }}",
            "{{ '{:>18446744073709551615}'.format('x') }}",
            "{{ '{:.30000000000f}'.format(1.5) }}",
            "{{ messages | map('format', 'x') | list }}",
        ] {
            assert_eq!(rendered(template), Err(ChatError::Template), "{template}");
        }
    }
}
