//! Which bytes of a rendered conversation the assistant says.
//!
//! A template with generation blocks says it itself. For any other, marks from Unicode's noncharacters are put around what every message
//! says, so that one render shows where it lies; the render without its marks must equal the plain one, or the marks count for nothing.
//! Around the content of an assistant message,
//! - the span begins where the generation prompt of the conversation before it ends, so it holds what a template puts before the content
//!   (an empty thinking block); where the template has no generation prompt, at the content and the spaces right before it;
//! - the span ends with what the message itself adds behind its content (end-of-turn token, tool calls), trailing white space left out.
//!
//! Both come from renders of the conversation cut off at that message, and count only as far as the whole rendering agrees. A message that
//! cannot be marked (it says nothing, or the template edits it) is placed by those cut-off renders alone. If that fails too, it is an error:
//! a wrong mask trains the wrong thing.

use serde_json::Value as Json;

use crate::error::{Error, Result};
use crate::template::{ChatTemplate, Request};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub begin: usize,
    pub end: usize,
    /// Index of the message, None where a generation block holds none.
    pub message: Option<usize>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rendered {
    pub text: String,
    pub spans: Vec<Span>,
}

/// Where a message's content lies in the plain text; templates that cut thinking off lose its beginning.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    begin: Option<usize>,
    end: usize,
}

pub fn render_with_spans(template: &ChatTemplate, request: &Request, special_tokens: &[String]) -> Result<Rendered> {
    let text = template.render(request, None)?;
    let marks = Marks::absent_from(template.source(), request);
    let render = Cut { template, request, marks: &marks, special_tokens };
    let count = request.messages.len();
    let marked = [Depth::All, Depth::Content].into_iter().find_map(|depth| {
        let read = marks.read(&template.render(&marks.apply(request, depth), Some(marks.block())).ok()?, count);
        (read.text == text).then_some((read, depth))
    });

    if template.has_generation_blocks() {
        let read = match marked {
            Some((read, _)) => read,
            None => marks.read(&template.render(request, Some(marks.block()))?, count),
        };
        if read.text != text {
            return Err(Error::template(
                "chat template: its generation blocks are edited after they are rendered, so they cannot be placed",
            ));
        }
        return Ok(Rendered { spans: block_spans(&read, request), text });
    }

    let anchors = marked.as_ref().map_or_else(|| vec![None; count], |(read, _)| read.anchors(count));
    let mut spans: Vec<Span> = Vec::new();
    for i in assistants(request) {
        let placed = match (anchors[i], &marked) {
            (Some(anchor), Some((_, depth))) => render.around_anchor(i, &text, anchor, *depth),
            _ => render.between_prefixes(i, &text),
        };
        let span = placed.filter(|span| span.begin <= span.end && spans.last().is_none_or(|last| last.end <= span.begin));
        spans.push(span.ok_or_else(|| {
            Error::template(format!(
                "chat template: cannot tell which text comes from the assistant's messages[{i}]; put \
                 {{% generation %}} ... {{% endgeneration %}} around what the assistant says in the template"
            ))
        })?);
    }
    Ok(Rendered { text, spans })
}

fn assistants(request: &Request) -> Vec<usize> {
    (0..request.messages.len()).filter(|i| request.messages[*i].get("role").and_then(Json::as_str) == Some("assistant")).collect()
}

/// Renders of the conversation cut off at a message, against the whole rendering `text`.
struct Cut<'a> {
    template: &'a ChatTemplate,
    request: &'a Request,
    marks: &'a Marks,
    special_tokens: &'a [String],
}

impl Cut<'_> {
    fn request(&self, end: usize, add_generation_prompt: bool) -> Request {
        Request { messages: self.request.messages[..end].to_vec(), variables: self.request.variables.clone(), add_generation_prompt }
    }

    fn text(&self, end: usize, add_generation_prompt: bool) -> Option<String> {
        self.template.render(&self.request(end, add_generation_prompt), None).ok()
    }

    /// Where the header of turn `i` ends: with the prompt that makes a model say it. None where the template has no such prompt.
    fn header_end(&self, i: usize, text: &str) -> Option<usize> {
        if i == 0 {
            return None;
        }
        let (prompt, before) = (self.text(i, true)?, self.text(i, false)?);
        if prompt == before {
            return None;
        }
        if text.starts_with(&prompt) {
            return Some(prompt.len());
        }
        // The prompt may say more than the header, for example open a thinking block.
        let agreed = text.starts_with(&before).then(|| self.agreement(text, &prompt))?;
        (agreed > before.len()).then_some(agreed)
    }

    fn around_anchor(&self, i: usize, text: &str, anchor: Anchor, depth: Depth) -> Option<Span> {
        let content = anchor.begin.unwrap_or(anchor.end);
        let begin = match (self.header_end(i, text).filter(|header| *header <= content), anchor.begin) {
            (Some(header), _) => header,
            (None, Some(begin)) => text[..begin].trim_end_matches(' ').len(),
            (None, None) => return None,
        };
        let behind = &text[anchor.end..];
        let mut length = 0;
        if let Some(suffix) = self.own_suffix(i, depth) {
            let own = suffix.trim_end();
            length = if behind.starts_with(own) { own.len() } else { behind[..self.agreement(behind, &suffix)].trim_end().len() };
        }
        if length == 0 {
            // Not known from a render: a special token that follows at once.
            let gap = behind.len() - behind.trim_start().len();
            let token = self.special_tokens.iter().filter(|token| behind[gap..].starts_with(token.as_str())).map(String::len).max();
            length = token.map_or(0, |token| gap + token);
        }
        Some(Span { begin, end: anchor.end + length, message: Some(i) })
    }

    /// What message `i` itself adds behind its content.
    fn own_suffix(&self, i: usize, depth: Depth) -> Option<String> {
        let request = self.request(i + 1, false);
        let text = self.template.render(&request, None).ok()?;
        let read = self.marks.read(&self.template.render(&self.marks.apply(&request, depth), None).ok()?, i + 1);
        let anchor = if read.text == text { read.anchors(i + 1)[i]? } else { return None };
        Some(text[anchor.end..].to_owned())
    }

    fn between_prefixes(&self, i: usize, text: &str) -> Option<Span> {
        let begin = match self.header_end(i, text) {
            Some(header) => header,
            None if i == 0 => return None,
            None => Some(self.text(i, false)?).filter(|before| text.starts_with(before.as_str()))?.len(),
        };
        let with = self.text(i + 1, false)?;
        let own = with.trim_end();
        if text.starts_with(own) {
            return Some(Span { begin, end: own.len(), message: Some(i) });
        }
        // What comes last may end in its own way; then only a special token is a sure end of the turn.
        let agreed = text[..self.agreement(text, &with)].trim_end();
        let sure = agreed.len() > begin && self.special_tokens.iter().any(|token| agreed.ends_with(token.as_str()));
        sure.then_some(Span { begin, end: agreed.len(), message: Some(i) })
    }

    /// How far `a` and `b` begin alike: to the end of one of them, else to the last white space or special token.
    fn agreement(&self, a: &str, b: &str) -> usize {
        let same: usize = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum();
        if same == a.len() || same == b.len() {
            return same;
        }
        let common = &a[..same];
        let space = common.rfind(char::is_whitespace).map_or(0, |at| at + common[at..].chars().next().map_or(0, char::len_utf8));
        let tail = &common[space..];
        let token = self
            .special_tokens
            .iter()
            .filter(|token| !token.is_empty())
            .filter_map(|token| tail.rfind(token.as_str()).map(|at| at + token.len()))
            .max();
        space + token.unwrap_or(0)
    }
}

/// The generation blocks, each with the message whose content it holds; where no content was marked, in the order of the assistant's messages.
fn block_spans(read: &Unmarked, request: &Request) -> Vec<Span> {
    let anchors = read.anchors(request.messages.len());
    let blocks = read.blocks.iter().filter(|(begin, end)| begin < end);
    let mut spans: Vec<Span> = blocks.map(|(begin, end)| Span { begin: *begin, end: *end, message: None }).collect();
    for span in &mut spans {
        span.message = anchors.iter().position(|anchor| anchor.is_some_and(|a| span.begin < a.end && a.end <= span.end));
    }
    let assistants = assistants(request);
    if assistants.len() == spans.len() {
        for (span, message) in spans.iter_mut().zip(assistants) {
            span.message = span.message.or(Some(message));
        }
    }
    spans
}

/// Characters for marks: 16 digits, the begin and end of a content, the begin and end of a generation block. None occurs in the inputs.
struct Marks {
    first: u32,
}

/// What is marked: contents, or tool calls too.
#[derive(Clone, Copy)]
enum Depth {
    Content,
    All,
}

const MARKS_COUNT: u32 = 20;
const DIGITS: u32 = 16;

impl Marks {
    fn absent_from(source: &str, request: &Request) -> Self {
        let mut used = Vec::new();
        let mut note = |text: &str| used.extend(text.chars().map(u32::from).filter(|c| *c >= 0xE000));
        note(source);
        let mut values: Vec<&Json> = request.messages.iter().chain(request.variables.values()).collect();
        while let Some(value) = values.pop() {
            match value {
                Json::String(text) => note(text),
                Json::Array(items) => values.extend(items),
                Json::Object(fields) => {
                    fields.keys().for_each(|key| note(key));
                    values.extend(fields.values());
                }
                _ => {}
            }
        }
        // Noncharacters first; then private use, of which no text can hold every block.
        let blocks = std::iter::once(0xFDD0).chain((0xF0000..0x10FF00).step_by(MARKS_COUNT as usize));
        let free = |first: &u32| !used.iter().any(|c| (*first..*first + MARKS_COUNT).contains(c));
        let blocks = blocks.take(used.len() / MARKS_COUNT as usize + used.len() + 2);
        Marks { first: blocks.into_iter().find(free).unwrap_or(0xFDD0) }
    }

    fn mark(&self, n: u32) -> char {
        char::from_u32(self.first + n).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    fn block(&self) -> (char, char) {
        (self.mark(DIGITS + 2), self.mark(DIGITS + 3))
    }

    fn content(&self, end: bool, message: usize) -> String {
        let mut text = String::from(self.mark(DIGITS + u32::from(end)));
        for shift in [12, 8, 4, 0] {
            text.push(self.mark((message as u32 >> shift) % DIGITS));
        }
        text
    }

    /// Marks stand inside leading and trailing white space, which templates like to strip.
    fn wrap(&self, text: &str, message: usize) -> String {
        let core = text.trim();
        let lead = text.len() - text.trim_start().len();
        format!("{}{}{core}{}{}", &text[..lead], self.content(false, message), self.content(true, message), &text[lead + core.len()..])
    }

    fn apply(&self, request: &Request, depth: Depth) -> Request {
        let mut request = request.clone();
        for (i, message) in request.messages.iter_mut().enumerate() {
            match message.get_mut("content") {
                Some(Json::Array(parts)) => {
                    for text in parts.iter_mut().filter_map(|part| part.get_mut("text")) {
                        self.mark_text(text, i);
                    }
                }
                Some(content) => {
                    self.mark_text(content, i);
                }
                None => {}
            }
            if let (Depth::All, Some(Json::Array(calls))) = (depth, message.get_mut("tool_calls")) {
                for call in calls {
                    // Either the function itself or a table that holds it.
                    let function = if call.get("function").is_some() { &mut call["function"] } else { call };
                    let marked = function.get_mut("arguments").is_some_and(|arguments| self.mark_all(arguments, i));
                    // The name is the second choice: templates repeat it in the answer to the call.
                    if let (false, Some(name)) = (marked, function.get_mut("name")) {
                        self.mark_text(name, i);
                    }
                }
            }
        }
        request
    }

    fn mark_text(&self, value: &mut Json, message: usize) -> bool {
        match value {
            // Empty text stays unmarked: templates ask whether there is any.
            Json::String(text) if !text.trim().is_empty() => {
                *text = self.wrap(text, message);
                true
            }
            _ => false,
        }
    }

    fn mark_all(&self, value: &mut Json, message: usize) -> bool {
        match value {
            Json::Array(items) => items.iter_mut().fold(false, |any, item| self.mark_all(item, message) | any),
            Json::Object(fields) => fields.values_mut().fold(false, |any, field| self.mark_all(field, message) | any),
            _ => self.mark_text(value, message),
        }
    }

    /// Takes the marks out and notes where they stood. A torn mark leaves its characters in the text, so that it differs from the plain one.
    fn read(&self, marked: &str, messages: usize) -> Unmarked {
        let mut result = Unmarked { text: String::with_capacity(marked.len()), ..Unmarked::default() };
        let mut open_blocks = Vec::new();
        let mut chars = marked.chars();
        while let Some(c) = chars.next() {
            let kind = (c as u32).wrapping_sub(self.first);
            let at = result.text.len();
            if kind == DIGITS + 2 {
                open_blocks.push(at);
            } else if kind == DIGITS + 3 {
                if let Some(begin) = open_blocks.pop() {
                    result.blocks.push((begin, at));
                }
            } else if kind == DIGITS || kind == DIGITS + 1 {
                let mut digits = chars.clone();
                let number = (0..4).try_fold(0, |number, _| {
                    let digit = (digits.next()? as u32).wrapping_sub(self.first);
                    (digit < DIGITS).then_some(number * DIGITS + digit)
                });
                match number {
                    Some(number) if (number as usize) < messages => {
                        result.contents.push((number as usize, kind == DIGITS + 1, at));
                        chars = digits;
                    }
                    _ => result.text.push(c),
                }
            } else {
                result.text.push(c);
            }
        }
        result.blocks.sort_unstable();
        result
    }
}

#[derive(Default)]
struct Unmarked {
    text: String,
    blocks: Vec<(usize, usize)>,
    /// (message, is it the end, position), in order.
    contents: Vec<(usize, bool, usize)>,
}

impl Unmarked {
    /// From the first begin to the last end of each message; none where another message's content lies between.
    fn anchors(&self, messages: usize) -> Vec<Option<Anchor>> {
        (0..messages)
            .map(|message| {
                let last = self.contents.iter().rposition(|(m, end, _)| *m == message && *end)?;
                let first = self.contents.iter().position(|(m, _, _)| *m == message)?;
                let alone = self.contents[first..last].iter().all(|(m, _, _)| *m == message);
                let (_, is_end, at) = self.contents[first];
                alone.then(|| Anchor { begin: (!is_end).then_some(at), end: self.contents[last].2 })
            })
            .collect()
    }
}
