//! Which of the known pre-tokenizers cuts texts into words as a tokenizer.json does: a GGUF has only a name for it.
//!
//! What the file says is looked at first: its expressions, in the order of its steps. Whichever name is taken, its words must be
//! those of the file's own pipeline on all samples; words are compared and not ids, as a small vocabulary hides differences.

use anyhow::{Context, Result};
use serde_json::Value;
use sterna_core::tokenizer::{PreTokenizer, Splitter, Tokenizer};

/// Texts on which ways of cutting words differ: contractions, cases, digits, spaces, line ends, symbols, marks, scripts.
const SAMPLES: &[&str] = &[
    "Hello world, I'm sure we've told him: they'll say it's OK, won't they'd? I'LL DON'T WE'VE 'Tis",
    "\n'That 'Tis' S'T'M x'S y'T z'M'D'Re'Ve'Ll 'sT 'tall 'RE-do rock'n'roll o'Clock ’s ’T ''' 's's",
    "3 33 333 3333 33333 333333 3333333 12345678901 3.14 1,000.50 v2.0 x1y22z333 ²³ Ⅷ 12²34 1_234_567 a12345b",
    "  two   three    four \t tab\t\ttabs \n line\n\nlines \n \n mixed\r\n\r\nend  ",
    "\n\n\n  x \r y\r\rz\u{85}w\u{2028}v\u{b}u\u{c}t \n",
    "camelCase HTMLParser snake_case __init__(self): return [x**2 for x in range(10)]; // a!=b && c<=d \u{c9}tat\u{c9}TAT",
    "naïve café Ünïcödé Straße ΑΒΓ абв ПриветМир मानक हिन्दी ภาษาไทย 你好,世界。こんにちは 한국어 العربية",
    "e\u{301}a\u{308}n\u{303}o \u{301}x A\u{30a}.\u{301} \u{1100}\u{1161}\u{11a8} र्\u{200d}क म\u{93e}न\u{94d} ก\u{e34}\u{e48} ש\u{5c1}\u{5b8} ب\u{64e} i\u{307}",
    "🚀 ✅ 🦙🦙 👩\u{200d}💻 \u{a0}\u{3000} ... ------ ======= ''''' \"\"\" `` $5.00 #tag @user 50% a/b\\c ^~|<=>+ ///\n//\r\n",
    "中文ABC中文abc123 漢字かな交じりカタカナ・ー ㄅㄆ ㄱㄴ 가나 𠀀 「引用」、…！？：； “a” ‘b’—c… ﹏︰ ！",
    "one two three\nfour  five.Six seven:\n\n\teight\n nine !?\n??!x (a)(b) [c]{d} <e> -f _g *h",
];

/// A text with digits of all scripts, letters of all scripts and marks, in runs and alone.
fn scripts() -> String {
    // Assigned long ago, so that versions of Unicode do not differ.
    let old = |&c: &char| !('\u{e000}'..='\u{f8ff}').contains(&c) && u32::from(c) < 0x2_0000;
    let chars = || ('\u{80}'..='\u{1ffff}').filter(old);
    let mut text = String::new();
    let digits: Vec<char> = chars().filter(|c| c.is_numeric() && u32::from(*c) < 0x1_0000).collect();
    for run in digits.chunks(5) {
        text.extend(run);
        text.extend(['x', run[0], ' ', run[0], '\u{2e}']);
    }
    let letters: Vec<char> = chars().filter(|c| c.is_alphabetic() && u32::from(*c) < 0xfb00).collect();
    for run in letters.chunks(64) {
        text.extend(run.iter().take(3));
        text.extend(['A', run[0], 'a', ' ', run[run.len() / 2], '1', '\u{27}', run[run.len() - 1], '\n']);
    }
    text
}

/// What was found.
pub struct Found {
    /// What goes into `tokenizer.ggml.pre`.
    pub pre: PreTokenizer,
    /// What a person should know, if the words are not always the file's.
    pub note: Option<String>,
}

/// The pre-tokenizer of a byte-level tokenizer.json, `original`. `first` are names to try before the others.
///
/// # Errors
/// If the file's own pipeline cannot be run.
pub fn recognize(original: &Tokenizer, json: &Value, first: &[&'static str]) -> Result<Found> {
    let scripts = scripts();
    let samples: Vec<&str> = SAMPLES.iter().copied().chain([scripts.as_str()]).collect();
    let expected = samples.iter().map(|text| original.words(text)).collect::<std::result::Result<Vec<_>, _>>();
    let expected = expected.context("its pre-tokenizer cannot be run")?;
    let ignore_merges = json["model"]["ignore_merges"] == true;

    let said = expressions(&json["pre_tokenizer"]);
    let mut candidates: Vec<PreTokenizer> = PreTokenizer::all().filter(|pre| pre.is_byte_level()).collect();
    candidates.sort_by_key(|pre| {
        let said = said.as_ref().is_some_and(|said| pre.cuts_by(said.iter().map(String::as_str)));
        (
            !said,
            pre.ignore_merges() != ignore_merges,
            first.iter().position(|name| *name == pre.name()).unwrap_or(first.len()),
        )
    });
    let mut best: Option<(usize, PreTokenizer, String)> = None;
    for pre in candidates {
        let splitter = pre.compile()?;
        let mut difference = None;
        let mut agreed = 0;
        for words in &expected {
            match differ(&splitter, words) {
                None => agreed += 1,
                Some(found) => difference = difference.or(Some(found)),
            }
        }
        let Some(difference) = difference else { return Ok(Found { pre, note: None }) };
        if best.as_ref().is_none_or(|(most, ..)| agreed > *most) {
            best = Some((agreed, pre, difference));
        }
    }
    let (agreed, pre, difference) = best.context("no pre-tokenizer is known")?;
    let note = format!(
        "no known pre-tokenizer cuts texts into words as tokenizer.json does; {} is written, which cuts {agreed} of {} samples \
         alike: {difference}",
        pre.name(),
        samples.len()
    );
    Ok(Found { pre, note: Some(note) })
}

/// Where the words of a splitter differ from others, which put together are the text: the words around the first difference.
fn differ(splitter: &Splitter, expected: &[String]) -> Option<String> {
    let text = expected.concat();
    let found = splitter.words(&text);
    if found.iter().eq(expected) {
        return None;
    }
    let alike = found.iter().zip(expected).take_while(|(a, b)| *a == *b).count();
    let begin: usize = found[..alike].iter().map(|word| word.len()).sum();
    let show = |words: &mut dyn Iterator<Item = &str>| {
        let mut rest = text[begin..].chars().take(12).map(char::len_utf8).sum::<usize>();
        let mut shown = Vec::new();
        for word in words {
            if rest == 0 {
                break;
            }
            rest = rest.saturating_sub(word.len());
            shown.push(format!("{word:?}"));
        }
        shown.join(" ")
    };
    let ours = show(&mut found[alike..].iter().copied());
    let theirs = show(&mut expected[alike..].iter().map(String::as_str));
    Some(format!("its words are {ours} where tokenizer.json has {theirs}"))
}

/// The expressions by which a pre-tokenizer cuts, in order, if it does nothing else.
fn expressions(pre_tokenizer: &Value) -> Option<Vec<String>> {
    const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    let mut expressions = Vec::new();
    for step in super::steps(pre_tokenizer, "pretokenizers") {
        match step["type"].as_str()? {
            "Split" if step["behavior"] == "Isolated" || (step["behavior"] == "Removed" && step["invert"] == true) => {
                expressions.push(step["pattern"]["Regex"].as_str()?.to_owned());
            }
            "ByteLevel" if step["use_regex"] != false => expressions.push(GPT2.to_owned()),
            "ByteLevel" => {}
            "Digits" if step["individual_digits"] == true => expressions.push(r"\p{N}".to_owned()),
            "Digits" => expressions.push(r"\p{N}+".to_owned()),
            _ => return None,
        }
    }
    Some(expressions)
}
