//! The model's own chat template: Jinja, set up as the Hugging Face tokenizers set it up.

mod json;
mod strftime;

use std::error::Error as _;
use std::time::SystemTime;

use minijinja::{AutoEscape, Environment, ErrorKind, Value, context};
use sha2::{Digest, Sha256};

use super::{EngineError, Result};
use crate::types::Message;

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    hash: String,
    is_fallback: bool,
    bos_token: String,
    eos_token: String,
}

const NAME: &str = "chat_template";

/// For models whose file carries no template: each message as `Role: text`, a blank line between
/// them. Generation stops where the model would begin the user's next message
/// ([`ChatTemplate::stop_strings`]).
const FALLBACK: &str = "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n\n{% endfor %}\
                        {% if add_generation_prompt %}Assistant:{% endif %}";

impl ChatTemplate {
    /// Compiles `source`, or the plain fallback if the model has none. `bos_token` and `eos_token`
    /// are the texts of those tokens, which templates refer to.
    ///
    /// # Errors
    /// [`EngineError::Template`] with the line at fault.
    pub fn new(source: Option<&str>, bos_token: &str, eos_token: &str) -> Result<Self> {
        let is_fallback = source.is_none();
        let source = source.unwrap_or(FALLBACK);
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", raise_exception);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(explain)?;
        Ok(Self {
            environment,
            hash: format!("{:x}", Sha256::digest(source)),
            is_fallback,
            bos_token: bos_token.into(),
            eos_token: eos_token.into(),
        })
    }

    /// The prompt's text. `add_generation_prompt` ends it where the assistant's reply begins.
    ///
    /// # Errors
    /// [`EngineError::Template`] when the template raises an exception (such as for a role that it
    /// does not know) or fails.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_at(messages, add_generation_prompt, SystemTime::now())
    }

    /// As [`ChatTemplate::render`], for templates that print the date (`strftime_now`, in UTC).
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_at(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        now: SystemTime,
    ) -> Result<String> {
        let strftime_now =
            Value::from_function(move |format: &str| strftime::strftime(now, format));
        let variables = context! {
            messages => messages,
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
            tools => (),
            documents => (),
            strftime_now => strftime_now,
        };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(variables))
            .map_err(explain)
    }

    /// SHA-256 of the template's source, in hex: stored with replies, since it decides what was
    /// trained on.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Whether the model carries no template of its own.
    pub fn is_fallback(&self) -> bool {
        self.is_fallback
    }

    /// Strings that end a reply besides the model's end tokens: none, except for the fallback.
    pub fn stop_strings(&self) -> &'static [&'static str] {
        if self.is_fallback {
            &["\nUser:", "\nSystem:"]
        } else {
            &[]
        }
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("hash", &self.hash)
            .field("is_fallback", &self.is_fallback)
            .finish()
    }
}

/// Marks an error that the template raised itself, whose text is the template author's.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(reason: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(reason)))
}

/// minijinja's own messages may quote values, and values are what users wrote: only the kind and
/// the line go into our error.
fn explain(error: minijinja::Error) -> EngineError {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(Raised(reason)) = cause.downcast_ref() {
            return EngineError::Template {
                reason: reason.clone(),
            };
        }
        source = cause.source();
    }
    let line = error
        .line()
        .map_or_else(String::new, |line| format!(" at line {line}"));
    EngineError::Template {
        reason: format!("{}{line}", error.kind()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn render(source: &str, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        ChatTemplate::new(Some(source), "<s>", "</s>")?.render_at(
            messages,
            add_generation_prompt,
            SystemTime::UNIX_EPOCH,
        )
    }

    fn talk() -> Vec<Message> {
        vec![
            Message::system("Be kind."),
            Message::user("Hi"),
            Message::assistant(" Hello! "),
            Message::user("Bye"),
        ]
    }

    /// Mistral's template: Python slices, alternation check, `raise_exception`, whitespace control.
    const MISTRAL: &str = "{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system_message is defined %}
            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- ' [INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token}}
    {%- endif %}
{%- endfor %}
";

    #[test]
    fn python_flavoured_templates_render_as_transformers_renders_them() {
        assert_eq!(
            render(MISTRAL, &talk(), true).unwrap(),
            "<s> [INST] Be kind.\n\nHi [/INST]  Hello! </s> [INST] Bye [/INST]"
        );
        let methods = "{% for m in messages %}\n    {% if m.content.strip().startswith('H') and not loop.last %}\n\
                       [{{ m.content.strip().upper() }}]\n    {% endif %}\n{% endfor %}\nend\n";
        assert_eq!(
            render(methods, &talk(), false).unwrap(),
            "[HI]\n[HELLO!]\nend"
        );
        let controls = "{% for m in messages %}{% if loop.index0 == 2 %}{% break %}{% endif %}{{ m.role }};{% endfor %}";
        assert_eq!(render(controls, &talk(), false).unwrap(), "system;user;");
        let namespaced = "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}\
                          {{ tools is none }}{{ missing is defined }}{{ messages[::-1][0].content }}";
        assert_eq!(render(namespaced, &talk(), false).unwrap(), "4TrueFalseBye");
    }

    #[test]
    fn an_exception_of_the_template_is_an_error_in_its_words() {
        let error = render(MISTRAL, &[Message::user("a"), Message::user("b")], true).unwrap_err();
        assert!(
            error.to_string().contains("roles must alternate"),
            "{error}"
        );
    }

    #[test]
    fn a_users_words_never_reach_an_error() {
        let error = render(
            "{{ messages[0].content.nonsense() }}",
            &[Message::user("my secret")],
            true,
        )
        .unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(error.to_string().contains("line 1"), "{error}");
        let error = render(
            "{{ messages[0].content + 1 }}",
            &[Message::user("my secret")],
            true,
        )
        .unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn a_template_that_does_not_compile_is_refused_with_its_line() {
        let error = ChatTemplate::new(Some("ok\n{% if %}"), "", "").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }

    #[test]
    fn markup_in_a_message_is_not_escaped() {
        assert_eq!(
            render(
                "{{ messages[0].content }}",
                &[Message::user("<b>&'\"")],
                true
            )
            .unwrap(),
            "<b>&'\""
        );
        assert_eq!(
            render(
                "{{ messages[0] | tojson }}",
                &[Message::user("<é>\n")],
                true
            )
            .unwrap(),
            r#"{"role": "user", "content": "<é>\n"}"#
        );
    }

    #[test]
    fn the_date_is_that_of_the_clock_it_is_given() {
        assert_eq!(
            render("{{ strftime_now('%d %b %Y') }}", &[], false).unwrap(),
            "01 Jan 1970"
        );
    }

    #[test]
    fn a_model_without_a_template_gets_the_plain_one_and_says_so() {
        let template = ChatTemplate::new(None, "<s>", "</s>").unwrap();
        assert!(template.is_fallback());
        assert_eq!(template.stop_strings(), ["\nUser:", "\nSystem:"]);
        assert_eq!(
            template.render(&talk()[..2], true).unwrap(),
            "System: Be kind.\n\nUser: Hi\n\nAssistant:"
        );
    }

    #[test]
    fn the_hash_tells_templates_apart() {
        let hash = |source| {
            ChatTemplate::new(Some(source), "", "")
                .unwrap()
                .hash()
                .to_owned()
        };
        assert_eq!(
            hash("a"),
            "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
        );
        assert_ne!(hash("a"), hash("b"));
    }
}
