//! Chat templates.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};

use crate::error::Result;
use crate::record::Message;
use crate::tokenizer::Tokenizer;

const NAME: &str = "chat";
/// Steps that a template may take for one conversation; ends an endless loop.
const FUEL: u64 = 50_000_000;

/// A chat template in Jinja, with the conventions of the Hugging Face libraries: `messages`,
/// `add_generation_prompt`, `bos_token`, `eos_token`, `raise_exception`, and blocks trimmed.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles `jinja`.
    ///
    /// # Errors
    /// If it is not valid Jinja.
    pub fn new(jinja: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
        Self::with_tokens(jinja, token(tokenizer.bos()), token(tokenizer.eos()))
    }

    fn with_tokens(jinja: &str, bos: String, eos: String) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", tojson);
        environment.set_fuel(Some(FUEL));
        environment.add_template_owned(NAME, jinja.to_owned())?;
        Ok(Self {
            environment,
            bos,
            eos,
        })
    }

    /// Renders a conversation; with `add_generation_prompt` up to where the assistant's next answer begins.
    ///
    /// # Errors
    /// If the template fails or refuses the conversation.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.environment.get_template(NAME)?;
        Ok(template.render(context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
        })?)
    }
}

/// The built-in filter escapes for HTML; chat templates expect plain JSON.
fn tojson(
    value: &Value,
    indent: Option<Value>,
    options: minijinja::value::Kwargs,
) -> Result<Value, minijinja::Error> {
    let escaped = minijinja::filters::tojson(value, indent, options)?;
    let escaped = escaped.as_str().unwrap_or_default();
    let mut text = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.find('\\') {
        let (before, tail) = rest.split_at(at);
        text.push_str(before);
        let plain = [
            ("\\u003c", '<'),
            ("\\u003e", '>'),
            ("\\u0026", '&'),
            ("\\u0027", '\''),
        ]
        .into_iter()
        .find(|(code, _)| tail.starts_with(code));
        let taken = if let Some((code, character)) = plain {
            text.push(character);
            code.len()
        } else {
            // A backslash and the ASCII character that it escapes.
            text.push_str(&tail[..2]);
            2
        };
        rest = &tail[taken..];
    }
    text.push_str(rest);
    Ok(Value::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{{ bos_token }}{% for message in messages %}
    {% if message.role == 'system' and not loop.first %}{{ raise_exception('late system') }}{% endif %}
{{ '<|' + message.role + '|>' + message.content.strip() + eos_token }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|assistant|>' }}
{%- endif %}";

    fn template(jinja: &str) -> ChatTemplate {
        ChatTemplate::with_tokens(jinja, "<s>".into(), "</s>".into()).unwrap()
    }

    #[test]
    fn blocks_leave_no_white_space_and_python_methods_work() {
        let messages = [
            Message::new("user", " Hi "),
            Message::new("assistant", "Ho"),
        ];
        let text = template(CHATML).render(&messages, true).unwrap();
        assert_eq!(
            text,
            "<s><|user|>Hi</s>\n<|assistant|>Ho</s>\n<|assistant|>"
        );
    }

    #[test]
    fn the_idioms_of_published_templates_work() {
        let jinja = "{%- if messages[0]['role'] == 'system' %}
    {%- set rest = messages[1:] %}{%- set system = '<<SYS>>' ~ messages[0]['content'] | trim %}
{%- else %}{%- set rest = messages %}{%- set system = '' %}{%- endif %}
{%- set ns = namespace(turns=0) %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('order') }}{%- endif %}
    {%- if loop.index0 == 0 and system %}{%- set content = system + message.content %}
    {%- else %}{%- set content = message.content %}{%- endif %}
    {%- if message.role == 'user' %}{{ bos_token + '[INST] ' + content.split('##')[-1] + ' [/INST]' }}
    {%- elif message.tool_calls is defined and message.tool_calls %}{%- continue %}
    {%- else %}{{ ' ' + content|trim + ' ' + eos_token }}{%- endif %}
    {%- set ns.turns = ns.turns + 1 %}
{%- endfor %}
{%- if strftime_now is defined %}{{ strftime_now('%d') }}{%- endif %}
{%- if not enable_thinking %}{{ ns.turns }}{{ messages[::-1][0].role[:2] }}{%- endif %}";
        let roles = ["system", "user", "assistant", "user"];
        let messages: Vec<Message> = roles
            .iter()
            .map(|role| Message::new(*role, format!(" {role} ")))
            .collect();
        assert_eq!(
            template(jinja).render(&messages, true).unwrap(),
            "<s>[INST] <<SYS>>system user  [/INST] assistant </s><s>[INST]  user  [/INST]3us"
        );
    }

    #[test]
    fn a_template_can_refuse_a_conversation() {
        let messages = [Message::new("user", "a"), Message::new("system", "b")];
        let error = template(CHATML).render(&messages, false).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("late system"), "{source}");
    }

    #[test]
    fn json_in_a_template_is_not_escaped_for_html() {
        let text = template("{{ messages[0].content | tojson }}")
            .render(&[Message::new("user", "a<b> & 'c' \\u003c \"d\"")], false)
            .unwrap();
        assert_eq!(text, r#""a<b> & 'c' \\u003c \"d\"""#);
    }

    #[test]
    fn an_endless_template_is_stopped() {
        let jinja =
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
        assert!(template(jinja).render(&[], false).is_err());
    }

    #[test]
    fn a_broken_template_is_an_error() {
        assert!(ChatTemplate::with_tokens("{% if %}", String::new(), String::new()).is_err());
    }
}
