//! Chat templates: Jinja sources from model files, which turn a chat into the text that a model reads.

use crate::gpu::{Error, Result};
use crate::openai::{Refusal, Turn};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};

/// The most steps of one rendering, so that no template runs forever.
const FUEL: u64 = 1_000_000;
/// The name of the only template of an environment.
const TEMPLATE_NAME: &str = "chat";

/// A chat template, which turns a chat into the text of a prompt.
///
/// ```
/// # use gannet_sdk::{llm::Template, openai::Turn};
/// let template = Template::new("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}")?;
/// let chat = [Turn { role: "user".into(), content: "Hello!".into() }];
/// assert_eq!(template.render(&chat).unwrap(), "[user] Hello!\n");
/// # Ok::<(), gannet_sdk::gpu::Error>(())
/// ```
#[derive(Debug)]
pub struct Template(Environment<'static>);

impl Template {
    /// Compiles a template from its Jinja source. An invalid one is `gpu::Error::InvalidArgument`.
    ///
    /// ```
    /// # use gannet_sdk::llm::Template;
    /// assert!(Template::new("{% for %}").is_err());
    /// ```
    pub fn new(source: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        // The settings of the library that most templates are written for.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.unwrap_or_default());
        environment.add_function("raise_exception", |told: String| {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, told))
        });
        environment.set_fuel(Some(FUEL));
        let added = environment.add_template_owned(TEMPLATE_NAME, source.to_owned());
        added.map_err(|error| Error::InvalidArgument(format!("the chat template is not sound: {error}")))?;
        Ok(Self(environment))
    }

    /// Defines a variable of the template for a special token, such as `bos_token`.
    ///
    /// ```
    /// # use gannet_sdk::llm::Template;
    /// let template = Template::new("{{ bos_token }}")?.with_token("bos_token", "<s>");
    /// assert_eq!(template.render(&[]).unwrap(), "<s>");
    /// # Ok::<(), gannet_sdk::gpu::Error>(())
    /// ```
    pub fn with_token(mut self, name: &'static str, text: &str) -> Self {
        self.0.add_global(name, text.to_owned());
        self
    }

    /// Returns the text of a chat, up to the point where the answer begins. An error of the template is a refusal of
    /// `messages`.
    ///
    /// ```
    /// # use gannet_sdk::{llm::Template, openai::{Refusal, Turn}};
    /// fn prompt(template: &Template, chat: &[Turn]) -> Result<String, Refusal> {
    ///     template.render(chat)
    /// }
    /// ```
    pub fn render(&self, messages: &[Turn]) -> std::result::Result<String, Refusal> {
        let told =
            |error: minijinja::Error| Refusal::invalid("messages", format!("the chat template refuses: {error}"));
        let template = self.0.get_template(TEMPLATE_NAME).map_err(told)?;
        template
            .render(context! { messages => minijinja::value::Serde(messages), add_generation_prompt => true })
            .map_err(told)
    }
}
