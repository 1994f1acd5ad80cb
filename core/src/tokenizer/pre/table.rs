//! What each name of `tokenizer.ggml.pre` means: a row for each way of cutting texts that is known.
//!
//! The expressions are those that models publish. Where llama.cpp writes another one that cuts other words (it knows no upper
//! and lower case outside of ASCII, and counts digits otherwise), the model's own stands here. `kimi-k2` is the exception: its
//! model publishes no tokenizer.json, and files of it are made for llama.cpp, so it cuts as llama.cpp does.

use super::Spelling;
use super::Then;

pub(super) type Cut = (&'static str, Then);

/// One row: names in files, the cuts in order, and what else goes with the name.
pub(super) struct Row {
    pub names: &'static [&'static str],
    pub cuts: &'static [Cut],
    /// How the vocabulary writes the pieces.
    pub spelling: Spelling,
    /// A word that is itself a token is that token, whatever its merges would give.
    pub ignore_merges: bool,
    /// A text starts with the bos token unless the file says otherwise.
    pub add_bos: bool,
    /// Texts are brought into NFC before they are cut, unless the file says otherwise.
    pub nfc: bool,
}

const GPT2: Cut = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", Then::Release);

/// The shape that began with GPT-4: contractions in any case, a word with one other character before it, digits by
/// `$digits`, symbols with the newlines after them, newlines, other whitespace.
macro_rules! cl100k {
    ($digits:literal) => {
        (
            concat!(
                r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]",
                r"|[^\r\n\p{L}\p{N}]?\p{L}+|",
                $digits,
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
            ),
            Then::ReleaseUnlessNewline,
        )
    };
}

/// The shape of GPT-4o: words are cut where lower case turns to upper, `$suffix` may follow.
macro_rules! o200k {
    ($suffix:literal, $digits:literal) => {
        (
            concat!(
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
                $suffix,
                r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
                $suffix,
                "|",
                $digits,
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
            ),
            Then::ReleaseUnlessNewline,
        )
    };
}

const LLAMA3: Cut = cl100k!(r"\p{N}{1,3}");
const QWEN2: Cut = cl100k!(r"\p{N}");
const BLOOM: Cut = (r" ?[^(\s|.,!?…。，、।۔،)]+", Then::Keep);
const GPT4O: Cut = o200k!(r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?", r"\p{N}{1,3}");
const DEEPSEEK_WORDS: Cut = (
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"
    ),
    Then::ReleaseUnlessNewline,
);
const LINES: Cut = (r"[^\n]+|[\n]+", Then::Keep);
const HAN_AND_HANGUL: Cut = (r"[一-龥ࠀ-一가-\x{D7FF}]+", Then::Keep);
const HAN_AND_KANA: Cut = (r"[一-龥\x{3040}-ゟ゠-ヿ]+", Then::Keep);
const UP_TO_THREE: Cut = (r"\p{N}{1,3}", Then::Keep);
const DIGIT: Cut = (r"\p{N}", Then::Keep);
const THREE_DIGITS: Cut = (r"[0-9][0-9][0-9]", Then::Keep);

const PLAIN: Row =
    Row { names: &[], cuts: &[], spelling: Spelling::ByteLevel, ignore_merges: false, add_bos: false, nfc: false };

pub(super) static DEFAULT: Row = Row {
    names: &["default"],
    cuts: &[(r"[\p{P}\$\+<=>\^~\|]+", Then::Keep), GPT2, (r"\p{N}+", Then::Keep), THREE_DIGITS],
    ..PLAIN
};

pub(super) static TABLE: &[&Row] = &[
    &DEFAULT,
    &Row {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
        ],
        cuts: &[GPT2],
        ..PLAIN
    },
    &Row {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        cuts: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    &Row { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], cuts: &[LLAMA3], ..PLAIN },
    &Row { names: &["glm4", "glm5"], cuts: &[LLAMA3], ignore_merges: true, ..PLAIN },
    &Row { names: &["qwen2"], cuts: &[QWEN2], nfc: true, ..PLAIN },
    &Row {
        names: &["deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        cuts: &[QWEN2],
        ..PLAIN
    },
    &Row {
        names: &["qwen35"],
        cuts: &[(
            concat!(
                r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
                r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
            ),
            Then::ReleaseUnlessNewline,
        )],
        ..PLAIN
    },
    &Row { names: &["falcon"], cuts: &[(r"[\p{P}\$\+<=>\^~\|`]+", Then::Keep), GPT2, THREE_DIGITS], ..PLAIN },
    &Row {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        cuts: &[DIGIT, GPT2],
        ..PLAIN
    },
    &Row { names: &["bloom", "poro-chat", "gpt3-finnish"], cuts: &[BLOOM], ..PLAIN },
    &Row { names: &["viking"], cuts: &[BLOOM, DIGIT], ..PLAIN },
    &Row {
        names: &["deepseek-coder"],
        cuts: &[(r"[\r\n]", Then::Keep), (r"\s?\p{L}+", Then::Keep), (r"\s?\p{P}+", Then::Keep), HAN_AND_HANGUL, DIGIT],
        ..PLAIN
    },
    &Row {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        cuts: &[UP_TO_THREE, HAN_AND_KANA, DEEPSEEK_WORDS],
        ..PLAIN
    },
    &Row { names: &["tekken"], cuts: &[o200k!("", r"\p{N}")], ignore_merges: true, add_bos: true, ..PLAIN },
    &Row { names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], cuts: &[GPT4O], ..PLAIN },
    &Row { names: &["minicpm5"], cuts: &[UP_TO_THREE, cl100k!(r"\p{N}+")], ignore_merges: true, ..PLAIN },
    &Row {
        names: &["seed-coder"],
        cuts: &[(
            concat!(
                r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
                r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+"
            ),
            Then::ReleaseUnlessNewline,
        )],
        ..PLAIN
    },
    &Row {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        cuts: &[(
            concat!(
                r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+"
            ),
            Then::ReleaseUnlessNewline,
        )],
        ..PLAIN
    },
    &Row { names: &["jais-2"], cuts: &[(LLAMA3.0, Then::Halve)], ..PLAIN },
    &Row {
        names: &["ufakzeka"],
        cuts: &[(
            r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
            Then::ReleaseUnlessNewline,
        )],
        ..PLAIN
    },
    &Row { names: &["laguna"], cuts: &[LINES, QWEN2], ..PLAIN },
    &Row {
        names: &["exaone-moe"],
        cuts: &[(
            concat!(
                r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]",
                r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+"
            ),
            Then::ReleaseUnlessNewline,
        )],
        ..PLAIN
    },
    &Row {
        names: &["deepseek-llm"],
        cuts: &[
            (r"[\r\n]", Then::Keep),
            // Letters with case, as Unicode had them when the model was made.
            (
                concat!(
                    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷ",
                    "ᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭ",
                    "ℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
                ),
                Then::Keep,
            ),
            (r"\s?[!-/:-~！-／：-～‘-‟\x{3000}-。]+", Then::Keep),
            (r"\s+$", Then::Keep),
            HAN_AND_HANGUL,
            (r"\p{N}+", Then::Keep),
        ],
        ..PLAIN
    },
    &Row {
        names: &["spark2_5"],
        cuts: &[
            UP_TO_THREE,
            HAN_AND_KANA,
            (
                concat!(
                    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
                    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+"
                ),
                Then::Release,
            ),
            DIGIT,
        ],
        ..PLAIN
    },
    &Row {
        names: &["afmoe"],
        cuts: &[
            (r"\p{N}+", Then::Threes),
            (
                concat!(
                    r"[一-\x{9FFF}㐀-䶿\x{F900}-\x{FAFF}\x{3040}-ゟ゠-ヿ･-ﾟ⼀-\x{2FDF}เ-\x{E7F}\x{E80}-\x{EFF}ក-\x{17FF}",
                    r"က-႟ꩠ-ꩿꧠ-\x{A9FF}가-\x{D7AF}ᄀ-ᇿ]+"
                ),
                Then::Keep,
            ),
            DEEPSEEK_WORDS,
        ],
        ..PLAIN
    },
    &Row {
        names: &["youtu"],
        cuts: &[
            (r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-\x{303F}︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\x{3040}-ゟ゠-ヿ]+", Then::Keep),
            o200k!(r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?", r"\p{N}"),
        ],
        ignore_merges: true,
        ..PLAIN
    },
    &Row { names: &["granite-embed-multi-97m"], cuts: &[GPT4O], ignore_merges: true, ..PLAIN },
    // Numbers in threes from the right, where a word ends with them.
    &Row { names: &["tiny_aya", "cohere2moe"], cuts: &[(r"\d+\b", Then::Threes), GPT4O], ..PLAIN },
    &Row { names: &["superbpe"], cuts: &[(r"\p{N}+", Then::Keep), (r"[0-9]+", Then::ThreesWithin)], ..PLAIN },
    &Row {
        names: &["kimi-k2"],
        cuts: &[(
            concat!(
                // The letters are not Han.
                r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2EBEF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}]+",
                r"|[^\r\n\p{L}\p{N}]?[\p{L}--[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2EBEF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}]]+",
                r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?",
                r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
            ),
            Then::ReleaseUnlessNewline,
        )],
        ..PLAIN
    },
    &Row {
        names: &["chameleon"],
        cuts: &[
            (r"<sentinel:[0-9]+>", Then::Keep),
            (r"IMGIMG[A-I]{1,4}Z", Then::Keep),
            (r"[\t\n]|    |  ", Then::Keep),
            DIGIT,
            (r"[\p{P}!-/:-@\[-`\{-~]", Then::Keep),
            GPT2,
        ],
        add_bos: true,
        ..PLAIN
    },
    // These write characters as they are, and most of them merge whole lines.
    &Row { names: &["gemma4", "granite-embed-multi-311m"], cuts: &[LINES], spelling: Spelling::SentencePiece, ..PLAIN },
    &Row { names: &["sarvam-moe"], cuts: &[LINES], spelling: Spelling::SentencePiece, ..PLAIN },
    &Row { names: &["whitespace"], cuts: &[(r"\S+", Then::Keep)], spelling: Spelling::Plain, ..PLAIN },
];
