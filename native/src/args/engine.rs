//! How the engine runs.

use clap::Args;

use super::ranges::at_least;
use crate::engine::Loading;
use crate::machine;

/// How the engine runs.
#[derive(Debug, Clone, Default, Args)]
pub struct EngineArgs {
    /// Threads; all cores if not given, or 0 or less.
    #[arg(short, long, value_name = "N", value_parser = threads)]
    pub threads: Option<u32>,
    /// Tokens of context; 0 is what the model was trained for.
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = at_least::<0, u32>)]
    pub ctx_size: u32,
    /// The kernel to use instead of the fastest this CPU has: avx512-vnni, avx2, neon-dotprod, neon or
    /// scalar.
    #[arg(long, value_name = "NAME", env = "STERNA_KERNEL")]
    pub kernel: Option<String>,
    /// What to do where memory is short.
    #[command(flatten)]
    pub memory: MemoryArgs,
}

/// What to do where memory is short.
#[derive(Debug, Clone, Copy, Default, PartialEq, Args)]
pub struct MemoryArgs {
    /// Go on although more memory is needed than is available.
    #[arg(long)]
    pub force: bool,
}

impl EngineArgs {
    /// How many threads to use.
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(machine::cores, |threads| threads as usize)
    }

    /// Tokens of context; `None` is what the model was made for.
    pub fn context(&self) -> Option<usize> {
        (self.ctx_size > 0).then_some(self.ctx_size as usize)
    }

    /// How the model is loaded.
    pub fn loading(&self) -> Loading<'_> {
        self.memory.loading(self.kernel.as_deref(), self.context())
    }
}

impl MemoryArgs {
    /// How a model is loaded with a kernel and for a context.
    pub fn loading<'a>(&self, kernel: Option<&'a str>, context: Option<usize>) -> Loading<'a> {
        Loading { kernel, context, force: self.force, ..Loading::default() }
    }
}

/// A number of threads as it is typed, in every command: 0 and less are all cores.
pub fn threads(text: &str) -> Result<u32, String> {
    match text.trim().parse::<i64>() {
        Ok(..=0) => Ok(u32::try_from(machine::cores()).unwrap_or(u32::MAX)),
        Ok(threads @ 1..=1024) => Ok(threads as u32),
        _ => Err("give a whole number, at most 1024; 0 or less is all cores".to_owned()),
    }
}
