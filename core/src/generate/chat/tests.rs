//! What a template may do, and what is refused.

use super::*;

/// A stack that every template must do with.
const STACK: usize = 1 << 20;

fn render(source: &str) -> Result<String, TemplateError> {
    render_with(source, &Extras::new(), None)
}

fn render_with(source: &str, extras: &Extras, now: Option<i64>) -> Result<String, TemplateError> {
    let messages = [Message::new("user", "Hi"), Message::new("assistant", "<think>\nhm\n</think>\n\nHello")];
    ChatTemplate::new(source, Some("<s>"), Some("</s>"))?.render(&messages, true, extras, now)
}

fn value(pairs: &[(&str, Value)]) -> Value {
    Value::from_pairs(pairs.iter().map(|(name, value)| (*name, value.clone())))
}

#[test]
fn messages_tokens_and_the_prompt() {
    let source = "{{ bos_token }}{% for m in messages %}[{{ m.role }}:{{ m['content'][:2] }}]{% endfor %}\
                  {% if add_generation_prompt %}>{% endif %}{{ eos_token }}";
    assert_eq!(render(source).unwrap(), "<s>[user:Hi][assistant:<t]></s>");
    let without = ChatTemplate::new("{{ bos_token }}|{{ nothing }}|{{ add_generation_prompt }}", None, None).unwrap();
    assert_eq!(without.render(&[], false, &Extras::new(), None).unwrap(), "||False");
}

#[test]
fn python_methods_and_slices() {
    let think = "{% set m = messages[-1].content %}{{ m.split('</think>')[-1].lstrip('\\n') }}|\
                 {{ m.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}";
    assert_eq!(render(think).unwrap(), "Hello|hm");
    let reversed = "{% for m in messages[::-1] %}{{ m.role.upper() }}{{ loop.index0 }} {% endfor %}";
    assert_eq!(render(reversed).unwrap(), "ASSISTANT0 USER1 ");
    assert_eq!(render("{{ messages[0].get('x', 'none') }}{{ 'a,b'.replace(',', ';') }}").unwrap(), "nonea;b");
    assert_eq!(render("{{ messages[0].items() | list | length }}{{ 'Hi'.startswith('H') }}").unwrap(), "2True");
}

#[test]
fn namespaces_and_loop_controls() {
    let source = "{% set ns = namespace(n=0) %}{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}\
                  {% if i == 5 %}{% break %}{% endif %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}";
    assert_eq!(render(source).unwrap(), "8");
}

#[test]
fn blocks_are_trimmed_as_transformers_does() {
    let source = "{% for m in messages %}\n  {% if true %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}\nend\n";
    assert_eq!(render(source).unwrap(), "user\nassistant\nend");
}

#[test]
fn generation_blocks_render_their_content() {
    for (open, close) in [("{% generation %}", "{% endgeneration %}"), ("{%- generation -%}", "{%-endgeneration-%}")] {
        let source = format!("a {open} {{{{ messages[0].role }}}} {close} b");
        let expected = if open.contains('-') { "auserb" } else { "a  user  b" };
        assert_eq!(render(&source).unwrap(), expected);
    }
}

#[test]
fn values_print_as_in_python() {
    let extras = Extras::from([
        ("list".to_owned(), Value::from(vec![Value::from(1), Value::from("it's"), Value::from(())])),
        ("map".to_owned(), value(&[("a", Value::from(true)), ("b", Value::from(0.5))])),
    ]);
    let print = |source| render_with(source, &extras, None).unwrap();
    assert_eq!(print("{{ list }} {{ map }}"), r#"[1, "it's", None] {'a': True, 'b': 0.5}"#);
    assert_eq!(print("{{ none }} {{ true }} {{ 1.0 }} {{ list | string | length }}"), "None True 1.0 17");
    assert_eq!(print("{{ 'q\"\\'\\n\\\\' | list }}"), r#"['q', '"', "'", '\n', '\\']"#);
}

#[test]
fn json_as_in_python() {
    let tool = value(&[
        ("name", Value::from("f<&>'é\n\u{1}")),
        ("n", Value::from(vec![Value::from(1), Value::from(2.0), Value::from(1e16), Value::from(1.5e-7)])),
        ("empty", Value::from(Vec::<Value>::new())),
        ("none", Value::from(())),
    ]);
    let extras = Extras::from([("tool".to_owned(), tool)]);
    let print = |source| render_with(source, &extras, None).unwrap();
    assert_eq!(
        print("{{ tool | tojson }}"),
        r#"{"name": "f<&>'é\n\u0001", "n": [1, 2.0, 1e+16, 1.5e-07], "empty": [], "none": null}"#
    );
    assert_eq!(
        print("{{ {'b': [1, {}], 'a': 'é🙂'} | tojson(indent=2, sort_keys=true, ensure_ascii=true) }}"),
        "{\n  \"a\": \"\\u00e9\\ud83d\\ude42\",\n  \"b\": [\n    1,\n    {}\n  ]\n}"
    );
    assert_eq!(print("{{ [1, 2] | tojson(separators=(',', ':')) }}"), "[1,2]");
}

#[test]
fn messages_carry_more_than_text() {
    let call = value(&[("function", value(&[("name", Value::from("f"))]))]);
    let messages = [Message::new("assistant", "").with("tool_calls", vec![call]).with("content", Value::from(()))];
    let source = "{% for m in messages %}{{ m.tool_calls[0].function.name }} {{ m.content is none }} \
                  {{ 'tool_calls' in m }} {{ 'x' in m }}{% endfor %}";
    let template = ChatTemplate::new(source, None, None).unwrap();
    assert_eq!(template.render(&messages, false, &Extras::new(), None).unwrap(), "f True True False");
}

#[test]
fn templates_refuse_in_their_own_words() {
    let error = render("{% if messages|length < 3 %}{{ raise_exception('three, please') }}{% endif %}").unwrap_err();
    assert_eq!(error, TemplateError::Raised { message: "three, please".to_owned() });
}

#[test]
fn failures_name_the_line() {
    assert!(matches!(render("{{ 1 }}\n{% if %}"), Err(TemplateError::Syntax { line: 2, .. })));
    assert!(matches!(render("a\n\n{{ x.y.z }}"), Err(TemplateError::Render { line: 3, .. })));
    assert!(matches!(render("{{ [] | tojson(what=1) }}"), Err(TemplateError::Render { .. })));
    assert!(matches!(render("{% include 'x' %}"), Err(TemplateError::Render { .. })));
}

#[test]
fn the_date_is_the_callers() {
    let source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y, %H:%M %%|%A %j %-d %y %I%p %q %-') }}\
                  {% else %}undated{% endif %}";
    let at = |now| render_with(source, &Extras::new(), Some(now)).unwrap();
    assert_eq!(at(1_709_210_096), "29 Feb 2024, 12:34 %|Thursday 060 29 24 12PM %q %-");
    assert_eq!(at(0), "01 Jan 1970, 00:00 %|Thursday 001 1 70 12AM %q %-");
    assert_eq!(at(-1), "31 Dec 1969, 23:59 %|Wednesday 365 31 69 11PM %q %-");
    at(i64::MAX);
    at(i64::MIN);
    assert_eq!(render(source).unwrap(), "undated");
}

#[test]
fn hostile_templates_end() {
    let forever = "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = j %}{% endfor %}{% endfor %}";
    assert_eq!(render(forever), Err(TemplateError::TooManySteps { steps: MAX_STEPS }));
    let flood = "{% set x = 'x' * 1000000 %}{% for i in range(99) %}{{ x }}{% endfor %}";
    assert_eq!(render(flood), Err(TemplateError::TooLong { bytes: MAX_OUTPUT }));
    assert!(matches!(render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), Err(TemplateError::Render { .. })));
    assert!(render(&format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000))).is_err());
    assert!(render(&"{% if x %}".repeat(100_000)).is_err());
    let nested = "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    assert!(matches!(render(nested), Err(TemplateError::Render { .. })));
}

#[test]
fn values_that_grow_without_end_are_refused() {
    let large = |source: &str| {
        let result = render(source);
        let refused = matches!(
            result,
            Err(TemplateError::TooLarge { .. } | TemplateError::TooManySteps { .. } | TemplateError::Render { .. })
        );
        assert!(refused, "{source}: {result:?}");
    };
    let doubled = |start: &str, twice: &str| {
        let set = format!("{{% set ns.x = {twice} %}}");
        format!("{{% set ns = namespace(x={start}) %}}{{% for i in range(99) %}}{set}{{% endfor %}}")
    };
    for (start, twice) in [
        ("'a'", "ns.x + ns.x"),
        ("'a'", "ns.x ~ ns.x"),
        ("'a'", "ns.x * 2"),
        ("'a'", "ns.x.replace('a', 'aa')"),
        ("'a'", "[ns.x, ns.x] | join"),
        ("'a'", "'%s%s' % (ns.x, ns.x)"),
        ("'a'", "'{0}{0}'.format(ns.x)"),
        ("'aa'", "ns.x.join(ns.x)"),
        ("[1]", "ns.x + ns.x"),
        ("[1]", "ns.x * 2"),
        ("(1,)", "ns.x + ns.x"),
        ("[1]", "[ns.x, ns.x] | tojson"),
        ("[1]", "[ns.x, ns.x] | string"),
        ("{'a': 1}", "{'a': ns.x, 'b': ns.x} | pprint"),
    ] {
        large(&doubled(start, twice));
    }
    // Small to hold, but endless to read.
    let lists = "{% set ns = namespace(x=[0], y=[0]) %}{% for i in range(99) %}\
                 {% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}";
    for end in
        ["{{ ns.x == ns.y }}", "{{ ns.x }}", "{{ ns.x | tojson }}", "{{ [ns.x, ns.y] | sort }}", "{{ ns.x in [ns.y] }}"]
    {
        large(&[lists, end].concat());
    }
    for source in [
        "{{ 'a' * 99999999999999999999 }}",
        "{{ [1] * 99999999999 }}",
        "{{ 'a'.center(99999999999) }}",
        "{{ 'a'.zfill(9999999999) }}",
        "{{ 'a\\t'.expandtabs(9999999999) }}",
        "{{ '%99999999999d' % 1 }}",
        "{{ '%.99999999d' % 1 }}",
        "{{ '{:99999999999}'.format(1) }}",
        "{{ '{:.999999999f}'.format(1.0) }}",
        "{{ 'a' | indent(99999999999, true) }}",
        "{{ 'a' | center(99999999999) }}",
        "{{ [1] | tojson(indent=99999999999) }}",
        "{{ [1] | batch(99999999999, 0) | list }}",
        "{{ [1] | slice(99999999999) | list }}",
        "{{ range(999999999999) }}",
        "{{ range(-170141183460469231731687303715884105727, 170141183460469231731687303715884105727) }}",
        "{{ 2 ** 99999 }}",
        "{{ 170141183460469231731687303715884105727 + 1 }}",
        "{{ (-170141183460469231731687303715884105727 - 1) // -1 }}",
    ] {
        large(source);
    }
    let held =
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = ns.x + ['a' * 9999] %}{% endfor %}";
    large(held);
}

#[test]
fn the_deepest_template_fits_a_small_stack() {
    // WebAssembly gives a program a mebibyte.
    let run = || {
        let deep = ["(", "[", "-", "not ", "{'a': ", "x if ("].map(|open| open.repeat(62) + "1");
        for source in deep {
            let _ = render(&format!("{{{{ {source} }}}}"));
        }
        let brackets = format!("{{{{ {}{} }}}}", "[".repeat(60), "]".repeat(60));
        assert!(render(&brackets).is_ok());
        let calls =
            "{% macro m(n) %}{% if n > 0 %}{% for i in [1] %}{{ m(n - 1) }}{% endfor %}{% endif %}{% endmacro %}";
        assert_eq!(render(&format!("{calls}{{{{ m(30) }}}}")), Ok(String::new()));
        assert!(matches!(render(&format!("{calls}{{{{ m(4000) }}}}")), Err(TemplateError::Render { .. })));
        let loops = "{% for x in [[[]]] recursive %}{{ loop([x]) }}{% endfor %}";
        assert!(matches!(render(loops), Err(TemplateError::Render { .. })));
    };
    std::thread::Builder::new().stack_size(STACK).spawn(run).unwrap().join().unwrap();
}

#[test]
fn thoughts_are_there_under_every_name() {
    let source = "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.reasoning }};{% endfor %}";
    let template = ChatTemplate::new(source, None, None).unwrap();
    let message = |name: &str, value: Value| Message::new("assistant", "").with(name, value);
    let messages = [
        message("reasoning", "a".into()),
        message("thinking", "b".into()),
        message("reasoning_content", "c".into()),
        message("reasoning", Value::from(())),
    ];
    let text = template.render(&messages, false, &Extras::new(), None).unwrap();
    assert_eq!(text, "a|a|a;b|b|;c|c|;||None;");
}

#[test]
fn macros_see_where_they_are_defined() {
    let source = "{% set ns = namespace() %}{% for i in [1, 2] %}{% macro m() %}{{ i }}{% endmacro %}\
                  {% set ns.m = m %}{% endfor %}{% for i in [7] %}{{ ns.m() }}{% endfor %}";
    assert_eq!(render(source).unwrap(), "2");
}

#[test]
fn well_known_formats() {
    let messages = [
        Message::new("system", "Be brief."),
        Message::new("user", "Hi"),
        Message::new("assistant", "Hello"),
        Message::new("user", "Bye"),
    ];
    let text = |name| {
        let template = ChatTemplate::new(name, Some("<s>"), Some("</s>")).unwrap();
        template.render(&messages, true, &Extras::new(), None).unwrap()
    };
    assert_eq!(
        text("chatml"),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
         <|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(text("llama2"), "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s><s>[INST] Bye [/INST]");
    assert_eq!(
        text("llama3"),
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    assert_eq!(
        text("phi3"),
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello<|end|>\n\
         <|user|>\nBye<|end|>\n<|assistant|>\n"
    );
    assert_eq!(
        text("gemma"),
        "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n\
         <start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    );
    assert_eq!(text("mistral"), "<s>[INST] Be brief.\n\nHi [/INST] Hello</s>[INST] Bye [/INST]");
    for name in ChatTemplate::fallback_names() {
        assert!(text(name).contains("Hello"), "{name}");
    }
    assert!(matches!(ChatTemplate::new("no-such", None, None), Err(TemplateError::UnknownName { .. })));
    assert!(ChatTemplate::fallback("no-such", None, None).is_none());
}

#[test]
fn formats_are_told_by_special_tokens() {
    let guess = |tokens: &[&str]| ChatTemplate::guess(|token| tokens.contains(&token));
    assert_eq!(guess(&["<|im_start|>", "<|im_end|>", "<|endoftext|>"]), Some("chatml"));
    assert_eq!(guess(&["<|user|>", "<|assistant|>", "<|end|>"]), Some("phi3"));
    assert_eq!(guess(&["<s>", "</s>"]), None);
}
