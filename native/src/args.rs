//! What was typed. Plain structs, one per concern, shared by the commands; each command's own arguments are in its file
//! under `commands/`. Nothing is opened, read or decided here except by the `resolve` steps at the end of each struct.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::hub::{Hub, ModelName, check_revision};
use crate::ui::progress::HubProgress;

/// Run, inspect and measure ternary (1.58-bit) GGUF models on a bare CPU.
///
/// Without a command: generates text from the model inside this program.
#[derive(Debug, Parser)]
#[command(
    name = "sterna",
    version = crate::VERSION,
    args_conflicts_with_subcommands = true,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Say more on stderr about what is done.
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// For the model inside.
    #[command(flatten)]
    pub generate: GenerateArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one value a process")]
pub enum Command {
    /// Generate text from a GGUF model.
    Run(commands::run::RunArgs),
    /// Talk with a model.
    Chat(commands::chat::ChatArgs),
    /// Show what is in a GGUF: metadata, tensors, bits per weight, and what would be refused and why.
    Inspect(commands::inspect::InspectArgs),
    /// Measure prompt processing and text generation, with llama-bench's columns.
    Bench(commands::bench::BenchArgs),
    /// Measure how well a model predicts a text.
    Perplexity(commands::perplexity::PerplexityArgs),
    /// Measure how often an image classifier is right.
    Eval(commands::eval::EvalArgs),
    /// Show the tokens of a text.
    Tokenize(commands::tokenize::TokenizeArgs),
    /// Train a ternary model and export it as GGUF.
    Train(commands::train::TrainArgs),
    /// Fine-tune a Hugging Face checkpoint so that it becomes ternary.
    Qat(commands::qat::QatArgs),
    /// Convert a Hugging Face checkpoint to a ternary GGUF.
    Convert(commands::convert::ConvertArgs),
    /// Export a GGUF from a checkpoint, or from a directory that convert made.
    Gguf(commands::convert::GgufArgs),
    /// Bring a GGUF into another format, without loss between ternary ones where their groups allow.
    Quantize(commands::quantize::QuantizeArgs),
    /// Bring a GGUF's ternary weights back into a float format.
    Dequantize(commands::quantize::DequantizeArgs),
    /// Fetch a model from the Hugging Face hub into the cache.
    Pull(commands::pull::PullArgs),
    /// List the models in the cache.
    #[command(visible_alias = "ls")]
    List(commands::list::ListArgs),
    /// Delete a model from the cache.
    #[command(visible_alias = "rm")]
    Remove(commands::remove::RemoveArgs),
    /// List and fetch data sets for training and measuring.
    Data(commands::data::DataArgs),
    /// Print a completion script for a shell.
    Completions(commands::completions::CompletionsArgs),
    /// Write manual pages.
    Man(commands::man::ManArgs),
}

/// Which model.
#[derive(Debug, Clone, Default, Args)]
pub struct ModelArgs {
    /// The GGUF file; for a sharded model any of its parts.
    #[arg(value_name = "FILE", conflicts_with_all = ["model", "hf_repo"])]
    pub file: Option<PathBuf>,
    /// The GGUF file, as a flag.
    #[arg(short, long, value_name = "FILE", conflicts_with = "hf_repo")]
    pub model: Option<PathBuf>,
    /// A model on the Hugging Face hub, fetched once and kept; also -hf.
    #[arg(long, visible_alias = "hf", value_name = "USER/REPO[:QUANT]")]
    pub hf_repo: Option<ModelName>,
    /// Which of a hub model's files is meant.
    #[command(flatten)]
    pub hub: HubArgs,
}

/// How a name on the hub is meant.
#[derive(Debug, Clone, Default, Args)]
pub struct HubArgs {
    /// Take this file of the repository instead of choosing by quant; also -hff.
    #[arg(long, value_name = "NAME")]
    pub hf_file: Option<String>,
    /// A branch, tag or commit, as after '@' in USER/REPO@REVISION.
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Use what is in the cache, never the network.
    #[arg(long)]
    pub offline: bool,
}

/// How the engine runs.
#[derive(Debug, Clone, Default, Args)]
pub struct EngineArgs {
    /// Threads; all cores if not given.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Tokens of context; 0 is what the model was trained for.
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub ctx_size: u32,
    /// The kernel to use instead of the fastest this CPU has: avx512-vnni, avx2, neon-dotprod, neon or
    /// scalar.
    #[arg(long, value_name = "NAME", env = "STERNA_KERNEL")]
    pub kernel: Option<String>,
}

/// How the next token is chosen.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Temperature; 0 always takes the likeliest token.
    #[arg(long, visible_alias = "temperature", value_name = "T", default_value_t = 0.8)]
    pub temp: f32,
    /// Choose among the K likeliest tokens; 0 is all.
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: u32,
    /// Choose among the likeliest tokens that together have this probability; 1 is all.
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,
    /// Leave out tokens less likely than this share of the likeliest; 0 is none.
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub min_p: f32,
    /// Divide the score of recent tokens by this; 1 is off.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repeat_penalty: f32,
    /// How many tokens are recent; -1 is the whole context.
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub repeat_last_n: i64,
    /// The same seed gives the same text, on every machine; -1 draws one.
    #[arg(short, long, value_name = "SEED", default_value_t = -1, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub seed: i64,
}

/// What to generate.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// What the text begins with.
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// How many tokens to generate; -1 goes on until the model ends the text or the context is full.
    #[arg(short = 'n', long, visible_alias = "n-predict", value_name = "N", default_value_t = -1, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub predict: i64,
    /// Go on when the model ends the text.
    #[arg(long)]
    pub ignore_eos: bool,
    /// When the context is full, forget its older half and go on.
    #[arg(long)]
    pub context_shift: bool,
    /// Print the generated text only.
    #[arg(long)]
    pub no_display_prompt: bool,
    /// Do not print speeds (they go to stderr).
    #[arg(long)]
    pub no_perf: bool,
    /// How the engine runs.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// How the next token is chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// A text from the command line, a file or stdin.
#[derive(Debug, Clone, Default, Args)]
pub struct PromptArgs {
    /// The text to begin with.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Read that text from a file; - is stdin.
    #[arg(id = "prompt_file", short = 'f', long = "file", value_name = "FILE", conflicts_with = "prompt")]
    pub prompt_file: Option<PathBuf>,
    /// Read \n, \t, \" and the like in the prompt as such; the default, as with llama.cpp.
    #[arg(short, long, overrides_with = "no_escape")]
    pub escape: bool,
    /// Take backslashes in the prompt as they are.
    #[arg(long)]
    pub no_escape: bool,
}

impl Cli {
    /// Reads this process' arguments; exits with the usage on a mistake.
    pub fn from_command_line() -> Self {
        Self::parse_from(verbose_last(two_letter_flags(std::env::args_os())))
    }

    /// Reads these arguments, the program's name first.
    pub fn try_from_words(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(verbose_last(two_letter_flags(words)))
    }
}

impl ModelArgs {
    /// The file on this machine, fetched from the hub if it must be.
    pub fn resolve(&self) -> Result<PathBuf> {
        let given = self.file.as_ref().or(self.model.as_ref());
        match (given, &self.hf_repo) {
            (Some(path), _) => {
                if self.hub.hf_file.is_some() || self.hub.revision.is_some() {
                    bail!("--hf-file and --revision belong to -hf USER/REPO, not to a file");
                }
                Ok(path.clone())
            }
            (None, Some(name)) => {
                let name = self.hub.complete(name)?;
                let hub = Hub::from_env(self.hub.offline)?;
                let mut progress = HubProgress::new();
                let located = hub.locate(&name, self.hub.hf_file.as_deref(), &mut progress)?;
                located.paths.into_iter().next().context("the model has no files")
            }
            (None, None) => bail!("no model given; name a GGUF file, or a model on the hub with -hf USER/REPO[:QUANT]"),
        }
    }
}

impl HubArgs {
    /// `name` with `--revision` put in.
    pub fn complete(&self, name: &ModelName) -> Result<ModelName> {
        let mut name = name.clone();
        if let Some(revision) = &self.revision {
            check_revision(revision).map_err(|why| anyhow::anyhow!("--revision {revision}: {why}"))?;
            if name.revision.as_ref().is_some_and(|other| other != revision) {
                bail!("{name} and --revision {revision} name two revisions; give one");
            }
            name.revision = Some(revision.clone());
        }
        Ok(name)
    }
}

impl EngineArgs {
    /// How many threads to use.
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(crate::machine::cores, |threads| threads as usize)
    }

    /// Tokens of context; `None` is what the model was made for.
    pub fn context(&self) -> Option<usize> {
        (self.ctx_size > 0).then_some(self.ctx_size as usize)
    }
}

impl SamplingArgs {
    /// The seed: what was typed, or one drawn from the system's randomness.
    pub fn seed(&self) -> u64 {
        use std::hash::{BuildHasher, RandomState};
        u64::try_from(self.seed).unwrap_or_else(|_| RandomState::new().hash_one(std::process::id()) >> 1)
    }
}

impl PromptArgs {
    /// The text, empty if none was given. What comes from a file is taken as it is.
    pub fn text(&self) -> Result<String> {
        match (&self.prompt, &self.prompt_file) {
            (_, Some(path)) => read_text(path),
            (Some(text), None) if self.no_escape => Ok(text.clone()),
            (Some(text), None) => unescape(text),
            (None, None) => Ok(String::new()),
        }
    }
}

/// The text of a file, or of stdin where the name is `-`.
pub fn read_text(path: &std::path::Path) -> Result<String> {
    let bytes = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes).context("cannot read stdin")?;
        bytes
    } else {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
    };
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{} is not UTF-8 text (byte {at}); convert it with iconv", path.display())
    })
}

/// `text` with \n, \r, \t, \\, \", \' and \xHH (bytes of UTF-8) replaced; other backslashes stay, as in llama.cpp.
fn unescape(text: &str) -> Result<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|d| u8::from_str_radix(d, 16).ok());
        let (written, left): (&[u8], &[u8]) = match (byte, after) {
            (b'\\', [b'n', left @ ..]) => (b"\n", left),
            (b'\\', [b'r', left @ ..]) => (b"\r", left),
            (b'\\', [b't', left @ ..]) => (b"\t", left),
            (b'\\', [c @ (b'\\' | b'"' | b'\''), left @ ..]) => (std::slice::from_ref(c), left),
            (b'\\', [b'x', a, b, left @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
                out.extend(hex(&[*a, *b]));
                (b"", left)
            }
            _ => (std::slice::from_ref(&byte), after),
        };
        out.extend_from_slice(written);
        rest = left;
    }
    String::from_utf8(out)
        .context("the \\x bytes in the prompt are not UTF-8; write the characters, or use --no-escape")
}

/// llama.cpp has flags of one dash and several letters; clap knows one letter only. Up to a `--`, these become their
/// long forms.
fn two_letter_flags(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    const FLAGS: [(&str, &str); 7] = [
        ("-hf", "--hf-repo"),
        ("-hfr", "--hf-repo"),
        ("-hff", "--hf-file"),
        ("-sys", "--system-prompt"),
        ("-sysf", "--system-prompt-file"),
        ("-pg", "--prompt-gen"),
        ("-bf", "--binary-file"),
    ];
    let mut past_end = false;
    words
        .into_iter()
        .map(|word| {
            past_end |= word == "--";
            let long = FLAGS.iter().find(|(short, _)| word == *short).filter(|_| !past_end);
            long.map_or(word, |(_, long)| OsString::from(long))
        })
        .collect()
}

/// Moves a `--verbose` that stands before the command behind its words: what stands before a command is for the model inside.
fn verbose_last(mut words: Vec<OsString>) -> Vec<OsString> {
    if words.get(1).is_some_and(|word| word == "-v" || word == "--verbose") {
        let word = words.remove(1);
        let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
        words.insert(end, word);
    }
    words
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Cli {
        Cli::try_from_words(line.split(' ').map(OsString::from)).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_llama_cpp_are_understood() {
        let line = "sterna run m.gguf -p Once -n -1 -c 512 -t 2 --temp 0 --top-k 1 --top-p 1 --min-p 0 --repeat-penalty 1.1 \
                    --repeat-last-n -1 -s -1 --ignore-eos -e --no-display-prompt --kernel scalar";
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let Some(Command::Run(args)) = parse(&line).command else { panic!() };
        assert_eq!(args.model.file, Some(PathBuf::from("m.gguf")));
        assert_eq!((args.generate.predict, args.generate.sampling.seed), (-1, -1));
        assert_eq!(args.generate.engine.kernel.as_deref(), Some("scalar"));
        let Some(Command::Run(args)) = parse("sterna run -hf a/b:TQ2_0 -hff x.gguf -f p.txt --offline").command else {
            panic!()
        };
        assert_eq!(args.model.hf_repo.unwrap().quant.as_deref(), Some("TQ2_0"));
        assert_eq!(args.model.hub.hf_file.as_deref(), Some("x.gguf"));
        assert!(args.model.hub.offline);
        assert_eq!(parse("sterna -n 10 -p Hi").generate.predict, 10);
        for wrong in ["sterna run m.gguf -m n.gguf", "sterna run -hf nothub", "sterna run m.gguf -t 0", "sterna rnu"] {
            assert!(Cli::try_from_words(wrong.split(' ').map(OsString::from)).is_err(), "{wrong} was taken");
        }
    }

    #[test]
    fn two_revisions_are_one_too_many() {
        let Some(Command::Pull(args)) = parse("sterna pull a/b@v1 --revision v1").command else { panic!() };
        assert_eq!(args.hub.complete(&args.name).unwrap().revision.as_deref(), Some("v1"));
        let Some(Command::Pull(args)) = parse("sterna pull a/b@v1 --revision v2").command else { panic!() };
        assert!(args.hub.complete(&args.name).is_err());
    }

    #[test]
    fn escapes_in_prompts_are_read() {
        assert_eq!(unescape(r#"a\nb\t\"c\" \\n \xC3\xBC \d \"#).unwrap(), "a\nb\t\"c\" \\n ü \\d \\");
        assert!(unescape(r"\xFF").is_err());
    }

    #[test]
    fn drawn_seeds_differ_and_given_ones_stay() {
        let Some(Command::Run(args)) = parse("sterna run m.gguf -s 7").command else { panic!() };
        assert_eq!(args.generate.sampling.seed(), 7);
        let Some(Command::Run(args)) = parse("sterna run m.gguf").command else { panic!() };
        assert_ne!(args.generate.sampling.seed(), args.generate.sampling.seed());
    }
}
