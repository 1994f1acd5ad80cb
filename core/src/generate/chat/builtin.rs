//! Formats that many models share, as templates of our own, for files that carry none.

/// Name, the special tokens that give it away, and the format as a template of our own.
pub(super) static FALLBACKS: &[(&str, &[&str], &str)] = &[
    (
        "llama3",
        &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "{{ bos_token }}{% for message in messages %}\
         {{ '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\n\n' ~ message.content | trim ~ '<|eot_id|>' }}\
         {% endfor %}\
         {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    ),
    (
        "phi3",
        &["<|user|>", "<|assistant|>", "<|end|>"],
        "{% for message in messages %}{{ '<|' ~ message.role ~ '|>\n' ~ message.content ~ '<|end|>\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    ),
    (
        "gemma",
        &["<start_of_turn>", "<end_of_turn>"],
        "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}\
         {% if message.role == 'system' %}{% set ns.system = message.content | trim ~ '\n\n' %}{% else %}\
         {{ '<start_of_turn>' ~ ('model' if message.role == 'assistant' else message.role) ~ '\n' ~ ns.system \
         ~ message.content | trim ~ '<end_of_turn>\n' }}{% set ns.system = '' %}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    ),
    (
        "chatml",
        &["<|im_start|>", "<|im_end|>"],
        "{% for message in messages %}\
         {{ '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ),
    (
        "llama2",
        &[],
        "{% set ns = namespace(system='') %}{% for message in messages %}\
         {% if message.role == 'system' %}{% set ns.system = '<<SYS>>\n' ~ message.content ~ '\n<</SYS>>\n\n' %}\
         {% elif message.role == 'user' %}\
         {{ bos_token ~ '[INST] ' ~ ns.system ~ message.content | trim ~ ' [/INST]' }}{% set ns.system = '' %}\
         {% else %}{{ ' ' ~ message.content | trim ~ ' ' ~ eos_token }}{% endif %}{% endfor %}",
    ),
    (
        "mistral",
        &["[INST]", "[/INST]"],
        "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}\
         {% if message.role == 'system' %}{% set ns.system = message.content ~ '\n\n' %}\
         {% elif message.role == 'user' %}{{ '[INST] ' ~ ns.system ~ message.content ~ ' [/INST]' }}\
         {% set ns.system = '' %}{% else %}{{ ' ' ~ message.content | trim ~ eos_token }}{% endif %}{% endfor %}",
    ),
    (
        "zephyr",
        &[],
        "{% for message in messages %}{{ '<|' ~ message.role ~ '|>\n' ~ message.content ~ eos_token ~ '\n' }}\
         {% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    ),
    (
        "vicuna",
        &[],
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}{{ message.content ~ '\n\n' }}\
         {% elif message.role == 'user' %}{{ 'USER: ' ~ message.content ~ '\n' }}\
         {% else %}{{ 'ASSISTANT: ' ~ message.content ~ eos_token ~ '\n' }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    ),
];
