//! How the engine runs.

use clap::Args;

use crate::engine::Loading;

/// How the engine runs.
#[derive(Debug, Clone, Default, Args)]
pub struct EngineArgs {
    /// Threads; all cores if not given, or 0 or less.
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(..=1024))]
    pub threads: Option<i64>,
    /// Tokens of context; 0 is what the model was trained for.
    #[arg(short, long, value_name = "N", default_value_t = 0)]
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
        match self.threads.map(usize::try_from) {
            Some(Ok(threads)) if threads > 0 => threads,
            _ => crate::machine::cores(),
        }
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
