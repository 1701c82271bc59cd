//! Chat templates: equality with the reference's renderings, spans, hostile templates.

mod support;

use serde_json::{json, Value};
use support::*;
use text_hf::codec::RenderOptions;
use text_hf::spans::Rendered;

const SPANS: RenderOptions = RenderOptions { add_generation_prompt: false, continue_final_message: false, want_spans: true };

fn render(template: &str, messages: Value, variables: Value, options: RenderOptions) -> text_hf::error::Result<Rendered> {
    let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
    codec(&sentence_tokenizer(), &config, template)?.render(&messages.to_string(), &variables.to_string(), options)
}

fn plain(template: &str) -> text_hf::error::Result<String> {
    render(template, json!([{"role": "user", "content": "Hi"}]), json!({}), RenderOptions::default()).map(|rendered| rendered.text)
}

/// The text of each span with its message.
fn said(rendered: &Rendered) -> Vec<(&str, Option<usize>)> {
    rendered.spans.iter().map(|span| (&rendered.text[span.begin..span.end], span.message)).collect()
}

#[test]
fn all_reference_renderings_are_equal() {
    let Some(folder) = shared("chat_templates") else { return };
    let file: Value = serde_json::from_str(&read(folder.join("rendered.json"))).unwrap();
    let cases = file["rendered"].as_array().unwrap();
    assert_eq!(cases.len(), 120);
    for case in cases {
        let template = read(folder.join(case["template"].as_str().unwrap()));
        let messages = file["conversations"][case["conversation"].as_str().unwrap()].clone();
        let prompt = case["add_generation_prompt"] == true;
        for want_spans in [false, true] {
            let options = RenderOptions { add_generation_prompt: prompt, want_spans, ..Default::default() };
            let result = render(&template, messages.clone(), file["special_tokens"].clone(), options);
            match case.get("text") {
                Some(text) => assert_eq!(result.unwrap().text, text.as_str().unwrap(), "{} {}", case["template"], case["conversation"]),
                None => assert!(result.is_err(), "{} {}", case["template"], case["conversation"]),
            }
        }
    }
}

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

fn conversation() -> Value {
    json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Hello. "},
        {"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi"}])
}

#[test]
fn generation_blocks_give_spans() {
    let template = "{%- for m in messages -%}\n{{ m.role }}: \n{%- if m.role == 'assistant' %}\n  {%- generation -%} {{ m.content }}</s> {%- endgeneration +%}\n\
        {% else %}{{ m.content }}{% endif %}\n{%- endfor -%}";
    let rendered = render(template, conversation(), json!({}), SPANS).unwrap();
    assert_eq!(said(&rendered), [(" Hello. </s>", Some(2)), ("Hi</s>", Some(4))]);
    let without = template.replace("generation", "with").replace("{%- endwith", "{%- endwith");
    assert_eq!(rendered.text, render(&without, conversation(), json!({}), Default::default()).unwrap().text);
}

#[test]
fn generation_blocks_see_their_surroundings_and_keep_their_variables() {
    let template =
        "{% set ns = namespace(n=0) %}{% set x = 1 %}{% for m in messages %}{% generation %}{% set x = 7 %}{% set ns.n = ns.n + 1 %}\
        {{ loop.index }}{{ x }}{% endgeneration %}{{ x }}{% endfor %}{{ ns.n }}";
    let rendered = render(template, conversation(), json!({}), SPANS).unwrap();
    assert_eq!(rendered.text, "1712713714715715");
    assert_eq!(rendered.spans.len(), 5);
}

#[test]
fn captured_generation_blocks_are_placed_exactly() {
    let template = "{% for m in messages %}{% set t %}{% generation %}{{ m.content }}{% endgeneration %}{% endset %}<{{ t }}>{% endfor %}";
    let rendered = render(template, conversation(), json!({}), SPANS).unwrap();
    assert_eq!(rendered.text, "<Be brief.><Hi>< Hello. ><Hello.><Hi>");
    assert_eq!(said(&rendered)[2], (" Hello. ", Some(2)));
    let edited = template.replace("{{ t }}", "{{ t[1:] }}");
    assert!(render(&edited, conversation(), json!({}), SPANS).unwrap_err().text.contains("edited"));
}

#[test]
fn spans_without_blocks_hold_the_turn_and_its_end() {
    let rendered = render(CHATML, conversation(), json!({}), SPANS).unwrap();
    // The user says the assistant's words too: no search could tell them apart.
    assert_eq!(said(&rendered), [(" Hello. <|im_end|>", Some(2)), ("Hi<|im_end|>", Some(4))]);
    assert_eq!(rendered.text, render(CHATML, conversation(), json!({}), Default::default()).unwrap().text);
    let prompted = RenderOptions { add_generation_prompt: true, ..SPANS };
    assert_eq!(said(&render(CHATML, conversation(), json!({}), prompted).unwrap()), said(&rendered));
}

#[test]
fn spans_follow_the_template() {
    let one = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "  Yes "}, {"role": "user", "content": "?"},
        {"role": "assistant", "content": "No"}]);
    let cases = [
        // Stripped content.
        (CHATML.replace("m['content']", "m['content'] | trim"), vec![("Yes<|im_end|>", Some(1)), ("No<|im_end|>", Some(3))]),
        // No generation prompt: the space before the answer is the model's.
        ("{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content | trim + eos_token }}{% endif %}{% endfor %}".into(),
            vec![(" Yes</s>", Some(1)), (" No</s>", Some(3))]),
        // The last turn ends in its own way.
        (CHATML.to_string() + "{% if not add_generation_prompt %}</s>{% endif %}",
            vec![("  Yes <|im_end|>", Some(1)), ("No<|im_end|>\n</s>", Some(3))]),
        // A thinking block that earlier turns do not get.
        ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}\
          <|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}".into(),
            vec![("  Yes <|im_end|>", Some(1)), ("<think>\n\n</think>\n\nNo<|im_end|>", Some(3))]),
        // No end of turn at all.
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}".into(),
            vec![("  Yes", Some(1)), ("No", Some(3))]),
    ];
    for (template, expected) in cases {
        let rendered = render(&template, one.clone(), json!({}), SPANS).unwrap();
        assert_eq!(said(&rendered), expected, "{template}");
    }
}

#[test]
fn tool_calls_belong_to_the_turn() {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool>{{ c.function.name }} \
        {{ c.function.arguments | tojson }}</tool>{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let messages = json!([{"role": "user", "content": "Hi"},
        {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": "y", "n": 1}}}]},
        {"role": "tool", "content": "7"}, {"role": "assistant", "content": "Seven"}]);
    let rendered = render(template, messages, json!({}), SPANS).unwrap();
    assert_eq!(said(&rendered), [("<tool>f {\"x\": \"y\", \"n\": 1}</tool><|im_end|>", Some(1)), ("Seven<|im_end|>", Some(3))]);
}

#[test]
fn what_cannot_be_placed_is_an_error_that_says_what_to_do() {
    // Each content appears in upper case, after all headers.
    let template = "{% for m in messages %}{{ m.role }} {% endfor %}{% for m in messages | reverse %}{{ m.content | length }}{% endfor %}";
    let error = render(template, conversation(), json!({}), SPANS).unwrap_err();
    assert!(error.text.contains("messages[2]") && error.text.contains("{% generation %}"), "{}", error.text);
}

#[test]
fn marks_avoid_characters_of_the_input() {
    let hostile: String = (0xFDD0..0xFDF0).chain(0xF0000..0xF0020).map(|c| char::from_u32(c).unwrap()).collect();
    let messages = json!([{"role": "user", "content": hostile}, {"role": "assistant", "content": format!("a{hostile}b")}]);
    let rendered = render(CHATML, messages, json!({}), SPANS).unwrap();
    assert_eq!(said(&rendered), [(format!("a{hostile}b<|im_end|>").as_str(), Some(1))]);
}

#[test]
fn templates_see_what_transformers_gives_them() {
    assert_eq!(
        plain("{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ tools is none }}{{ documents is none }}").unwrap(),
        "<s></s>TrueTrue"
    );
    assert_eq!(plain("{{ [1, 1.0, none, true, 'a\"<\u{e9}'] | tojson }}").unwrap(), "[1, 1.0, null, true, \"a\\\"<\u{e9}\"]");
    assert_eq!(plain("{{ {'b': [1, {}], 'a': []} | tojson(indent=2) }}").unwrap(), "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": []\n}");
    assert_eq!(
        plain("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}").unwrap(),
        "{\"a\":2,\"b\":1}"
    );
    assert_eq!(
        plain("{{ none is iterable }}{{ 'x' is sequence }}{{ {} is sequence }}{{ none }}{{ true }}{{ [1, 'a'] }}").unwrap(),
        "FalseTrueTrueNoneTrue[1, 'a']"
    );
    assert_eq!(
        plain("{{ 'a,b'.split(',')[1] }}{{ ' x '.strip() }}{{ 'abc'.removeprefix('a') }}{{ 'a-b-c'.rsplit('-', 1)[0] }}").unwrap(),
        "bxbca-b"
    );
    assert_eq!(
        plain("{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}")
            .unwrap(),
        "013"
    );
    assert_eq!(plain("  {% if true %}\n  a\n  {% endif %}\nb\n").unwrap(), "  a\nb");
    assert!(plain("{{ raise_exception('roles must alternate') }}").unwrap_err().text.contains("roles must alternate"));
    let date =
        render("{{ strftime_now('%d %b %Y') }}", json!([{"role": "user"}]), json!({"strftime_now": "2024-07-26"}), Default::default());
    assert_eq!(date.unwrap().text, "26 Jul 2024");
    let reasoning = json!([{"role": "assistant", "thinking": "hm", "content": null}]);
    assert_eq!(
        render("{{ messages[0].reasoning_content }}{{ messages[0].content is defined }}", reasoning, json!({}), Default::default())
            .unwrap()
            .text,
        "hmFalse"
    );
}

#[test]
fn a_final_message_is_continued() {
    let options = RenderOptions { continue_final_message: true, ..Default::default() };
    let messages = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Once upon "}]);
    let text = render(CHATML, messages.clone(), json!({}), options).unwrap().text;
    assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nOnce upon ");
    let trimmed = CHATML.replace("m['content']", "m['content'] | trim");
    assert!(render(&trimmed, messages.clone(), json!({}), options).unwrap().text.ends_with("Once upon"));
    assert!(render("x", messages, json!({}), options).is_err());
}

#[test]
fn a_text_that_begins_with_bos_is_known() {
    let codec = codec(&sentence_tokenizer(), &json!({"bos_token": "<s>"}), "").unwrap();
    assert!(codec.starts_with_bos("<s>[INST]") && !codec.starts_with_bos("[INST]<s>"));
    assert!(codec.render("[]", "", Default::default()).unwrap_err().text.contains("chat_template"));
}

#[test]
fn hostile_templates_are_errors() {
    let cases = [
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='x' * 1000) %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s | length }}",
        "{% for a in range(90000) %}{{ 'x' * 1000000 }}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns | tojson }}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{% include '/etc/passwd' %}",
        "{% include 'chat template' %}",
        "{% if %}",
        "{% generation %}never closed",
        "{{ ''.__class__.__mro__[1] }}",
    ];
    for template in cases {
        let error = plain(template).unwrap_err();
        assert_eq!(error.class, text_hf::error::Class::Template, "{template}: {}", error.text);
    }
    for many in ["(", "[", "{% if 1 %}", "{% generation %}"] {
        assert!(plain(&format!("{{{{ {}", many.repeat(50_000))).is_err());
    }
    for messages in ["", "{}", "[]", "[1]", "[", "\"x\""] {
        let codec = codec(&sentence_tokenizer(), &json!({}), "x").unwrap();
        assert!(codec.render(messages, "", Default::default()).is_err(), "{messages}");
    }
}
