//! Compiling and rendering a chat template as transformers' apply_chat_template does.

use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, State};
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};
use crate::python;
use crate::rewrite::{rewrite_generation, FILTER};

/// Instructions of one render: templates use some hundred per message.
const FUEL: u64 = 4_000_000;
const NAME: &str = "chat template";
/// Context variables of our own: the marks around generation blocks, and a fixed date.
const MARKS: &str = "__generation_marks__";
const NOW: &str = "__now__";

pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    generation_blocks: usize,
}

/// One rendering. Messages are lists of tables; variables override the special tokens.
#[derive(Clone, Default)]
pub struct Request {
    pub messages: Vec<Json>,
    pub variables: Map<String, Json>,
    pub add_generation_prompt: bool,
}

impl ChatTemplate {
    pub fn compile(source: &str) -> Result<Self> {
        let (rewritten, generation_blocks) = rewrite_generation(source);
        let mut environment = Environment::new();
        environment.set_syntax(
            minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| describe(&e))?,
        );
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(200);
        environment.set_unknown_method_callback(python::method);
        environment.add_filter("tojson", python::tojson);
        environment.add_function("raise_exception", |text: String| -> std::result::Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        environment.add_function("strftime_now", |state: &mut State, format: &str| {
            let fixed = state.lookup(NOW);
            python::strftime(format, fixed.as_ref().and_then(|value| value.as_str()))
        });
        environment.add_filter(FILTER, |state: &mut State, text: &str| -> Value {
            match state.lookup(MARKS).as_ref().and_then(|marks| marks.as_str()) {
                Some(marks) => {
                    let split = marks.chars().next().map_or(0, char::len_utf8);
                    Value::from(format!("{}{text}{}", &marks[..split], &marks[split..]))
                }
                None => Value::from(text),
            }
        });
        environment.add_test("iterable", python::is_iterable);
        environment.add_test("sequence", python::is_sequence);
        environment.add_template_owned(NAME, rewritten).map_err(|e| describe(&e))?;
        Ok(ChatTemplate { environment, source: source.to_owned(), generation_blocks })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn has_generation_blocks(&self) -> bool {
        self.generation_blocks > 0
    }

    /// `marks` are the two characters put around generation blocks.
    pub fn render(&self, request: &Request, marks: Option<(char, char)>) -> Result<String> {
        let mut context = Map::new();
        context.insert("tools".into(), Json::Null);
        context.insert("documents".into(), Json::Null);
        context.extend(request.variables.clone());
        if let Some(Json::String(date)) = request.variables.get("strftime_now") {
            context.remove("strftime_now");
            context.insert(NOW.into(), Json::String(date.clone()));
        }
        context.insert("messages".into(), Json::Array(request.messages.clone()));
        context.insert("add_generation_prompt".into(), Json::Bool(request.add_generation_prompt));
        if let Some((open, close)) = marks {
            context.insert(MARKS.into(), Json::String([open, close].iter().collect()));
        }
        let template = self.environment.get_template(NAME).map_err(|e| describe(&e))?;
        template.render(python::from_json(&Json::Object(context))).map_err(|e| describe(&e))
    }
}

fn describe(error: &minijinja::Error) -> Error {
    let mut text = String::from(NAME);
    if let Some(line) = error.line() {
        text += &format!(":{line}");
    }
    text += ": ";
    text += &match error.kind() {
        ErrorKind::OutOfFuel => "does not end: stopped after 4 million instructions".to_string(),
        kind => match error.detail() {
            Some(detail) if kind == ErrorKind::InvalidOperation => detail.to_string(),
            Some(detail) => format!("{kind}: {detail}"),
            None => kind.to_string(),
        },
    };
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text += &format!(": {inner}");
        source = inner.source();
    }
    Error::template(text)
}

/// What apply_chat_template does to messages first: keys that are null are dropped, and reasoning gets all names that templates read it under.
pub fn prepare_messages(messages: Json) -> Result<Vec<Json>> {
    let Json::Array(messages) = messages else {
        return Err(Error::data("messages: expected a list"));
    };
    if messages.is_empty() {
        return Err(Error::data("messages: the list is empty"));
    }
    messages
        .into_iter()
        .enumerate()
        .map(|(i, message)| {
            let Json::Object(message) = message else {
                return Err(Error::data(format!("messages[{i}]: expected a table with role and content")));
            };
            let mut message: Map<String, Json> = message.into_iter().filter(|(_, value)| !value.is_null()).collect();
            let reasoning = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|key| message.get(*key)).cloned();
            if let Some(reasoning) = reasoning {
                if !message.contains_key("thinking") {
                    message.insert("thinking".into(), reasoning.clone());
                }
                message.insert("reasoning_content".into(), reasoning);
            }
            Ok(Json::Object(message))
        })
        .collect()
}

/// Renders a conversation whose last message is to be continued: the text stops where its content stops.
pub fn render_continued(template: &ChatTemplate, request: &mut Request) -> Result<String> {
    const TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
    let missing = || Error::data("continue_final_message: the last message has no text to continue");
    let last = request.messages.last_mut().ok_or_else(missing)?;
    let text = match last.get_mut("content") {
        Some(Json::String(text)) => text,
        Some(Json::Array(parts)) => match parts.iter_mut().rev().find_map(|part| part.get_mut("text")) {
            Some(Json::String(text)) => text,
            _ => return Err(missing()),
        },
        _ => return Err(missing()),
    };
    let content = text.trim().to_owned();
    text.push_str(TAG);
    let rendered = template.render(request, None)?;
    let at = rendered.rfind(TAG.trim_end()).filter(|_| rendered.contains(&content));
    let at = at.ok_or_else(|| Error::template("chat template: the last message does not appear in the text, so it cannot be continued"))?;
    // Without its space behind it, the tag was stripped together with the spaces before it.
    Ok(if rendered[at..].starts_with(TAG) { rendered[..at].to_owned() } else { rendered[..at].trim_end().to_owned() })
}
