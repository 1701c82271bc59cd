//! Turns `{% generation %} ... {% endgeneration %}`, a tag of transformers, into blocks that minijinja knows: a filter block, which gets the
//! rendered text, around a with block, since what the body sets must not leak out. (A call block, as in transformers, would not do: minijinja
//! closes over the variables that its body reads, not over namespaces that it assigns to.) Only the words inside the tags change, so
//! whitespace control marks, line numbers and the text around stay as they are.

/// The filter that gets the rendered body.
pub const FILTER: &str = "__generation__";

/// The rewritten source and the number of generation blocks.
pub fn rewrite_generation(source: &str) -> (String, usize) {
    let mut out = String::with_capacity(source.len() + 64);
    let mut blocks = 0;
    let mut rest = source;
    while let Some(at) = find_open(rest) {
        let (text, tag) = rest.split_at(at);
        out.push_str(text);
        let end = match tag.as_bytes()[1] {
            b'#' => tag.find("#}").map_or(tag.len(), |i| i + 2),
            b'{' => tag_end(tag, "}}"),
            _ => tag_end(tag, "%}"),
        };
        let (mut tag, mut after) = tag.split_at(end);
        if tag.starts_with("{%") {
            let (before, word, behind) = split_word(tag);
            match word {
                "generation" if is_blank(behind) => {
                    blocks += 1;
                    out.push_str(&format!("{before}filter {FILTER} %}}{{% with{behind}"));
                    rest = after;
                    continue;
                }
                "endgeneration" if is_blank(behind) => {
                    out.push_str(&format!("{before}endwith %}}{{% endfilter{behind}"));
                    rest = after;
                    continue;
                }
                "raw" if is_blank(behind) => {
                    // What follows is text up to the end tag, whatever it looks like.
                    let length = raw_length(after);
                    tag = &rest[at..at + end + length];
                    after = &after[length..];
                }
                _ => {}
            }
        }
        out.push_str(tag);
        rest = after;
    }
    out.push_str(rest);
    (out, blocks)
}

fn find_open(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len().saturating_sub(1)).find(|&i| bytes[i] == b'{' && matches!(bytes[i + 1], b'{' | b'%' | b'#'))
}

/// Where a tag ends, past `close`; quoted text inside does not count.
fn tag_end(tag: &str, close: &str) -> usize {
    let bytes = tag.as_bytes();
    let (mut i, mut depth) = (2, 0i32);
    while i < bytes.len() {
        match bytes[i] {
            quote @ (b'"' | b'\'') => {
                i += 1;
                while i < bytes.len() && bytes[i] != quote {
                    i += if bytes[i] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'(' | b'[' => depth += 1,
            _ if depth <= 0 && tag[i..].starts_with(close) => return i + close.len(),
            b'}' | b')' | b']' => depth -= 1,
            _ if !tag.is_char_boundary(i + 1) => {
                // Inside a character of several bytes; only ASCII matters here.
                while !tag.is_char_boundary(i + 1) {
                    i += 1;
                }
            }
            _ => {}
        }
        i += 1;
    }
    tag.len()
}

/// `{%- generation -%}` becomes (`{%- `, `generation`, ` -%}`).
fn split_word(tag: &str) -> (&str, &str, &str) {
    let start = tag[2..].find(|c: char| !c.is_whitespace() && c != '-' && c != '+').map_or(tag.len(), |i| i + 2);
    let end = tag[start..].find(|c: char| !c.is_alphanumeric() && c != '_').map_or(tag.len(), |i| i + start);
    (&tag[..start], &tag[start..end], &tag[end..])
}

fn is_blank(behind: &str) -> bool {
    behind.trim_start().trim_start_matches(['-', '+']) == "%}"
}

/// The length of a raw block's body with its end tag.
fn raw_length(text: &str) -> usize {
    let mut from = 0;
    while let Some(i) = text[from..].find("{%") {
        let tag = &text[from + i..];
        let end = tag.find("%}").map_or(tag.len(), |e| e + 2);
        if let (_, "endraw", behind) = split_word(&tag[..end]) {
            if is_blank(behind) {
                return from + i + end;
            }
        }
        from += i + 2;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_change_and_marks_stay() {
        let cases = [
            ("a{% generation %}b{% endgeneration %}", "a{% filter __generation__ %}{% with %}b{% endwith %}{% endfilter %}", 1),
            ("{%- generation -%}x{%+ endgeneration+%}", "{%- filter __generation__ %}{% with -%}x{%+ endwith %}{% endfilter+%}", 1),
            ("{%-generation-%}x{%-endgeneration-%}", "{%-filter __generation__ %}{% with-%}x{%-endwith %}{% endfilter-%}", 1),
            ("{# {% generation %} #}", "{# {% generation %} #}", 0),
            ("{{ '{% generation %}' }}", "{{ '{% generation %}' }}", 0),
            ("{{ \"a\\\"{% generation %}\" }}", "{{ \"a\\\"{% generation %}\" }}", 0),
            ("{% set x = '%}{% generation %}' %}", "{% set x = '%}{% generation %}' %}", 0),
            (
                "{% raw %}{% generation %}{% endraw %}{% generation %}",
                "{% raw %}{% generation %}{% endraw %}{% filter __generation__ %}{% with %}",
                1,
            ),
            ("{{ {'a': {'b': 1}} }}{% generation %}", "{{ {'a': {'b': 1}} }}{% filter __generation__ %}{% with %}", 1),
            ("{% set generation = 1 %}", "{% set generation = 1 %}", 0),
            ("{% generation x %}", "{% generation x %}", 0),
            ("caf\u{e9} {{ '\u{4f60}' }}{% generation %}", "caf\u{e9} {{ '\u{4f60}' }}{% filter __generation__ %}{% with %}", 1),
            ("{% broken", "{% broken", 0),
            ("{{ 'open", "{{ 'open", 0),
            ("{", "{", 0),
        ];
        for (source, expected, blocks) in cases {
            assert_eq!(rewrite_generation(source), (expected.to_string(), blocks), "{source}");
        }
    }
}
