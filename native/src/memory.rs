//! Whether a model fits into this machine's memory: said before it is loaded, and refused where it cannot.

use anyhow::{Result, bail};
use sterna_core::model::Memory;

use crate::ui::message;
use crate::ui::text::bytes;

/// Tokens of a conversation that must fit; the cache grows from there on.
const LEAST_CONTEXT: usize = 256;

/// A need below this is not worth a line, where it fits.
const WORTH_A_LINE: u64 = 1 << 28;

/// What the shortest useful conversation of at most `context` tokens needs, in bytes.
fn least(memory: &Memory, context: usize) -> u64 {
    memory.total(context.min(LEAST_CONTEXT))
}

/// Whether a model can be loaded into `available` bytes.
pub fn fits(memory: &Memory, available: u64) -> bool {
    least(memory, memory.context()) <= available
}

/// Says what a model needs for a conversation of `context` tokens and what is available, both in bytes.
///
/// # Errors
/// If the model does not fit, unless `force` is set.
pub fn check(memory: &Memory, context: usize, available: Option<u64>, force: bool) -> Result<()> {
    let Some(available) = available else { return Ok(()) };
    let least = least(memory, context);
    let full = memory.total(context);
    if least > available {
        let what = format!("the model needs {} of memory, and {} are available", bytes(least), bytes(available));
        if !force {
            bail!("{what}; close other programs, or use a smaller model or format (--force loads it all the same)");
        }
        message::warning(&format!("{what}; it is loaded all the same"));
    } else if full > available {
        message::warning(&format!(
            "the model and a context of {context} tokens need {} of memory, and {} are available; -c {} fits",
            bytes(full),
            bytes(available),
            longest(context, |tokens| memory.total(tokens) <= available)
        ));
    } else if full >= WORTH_A_LINE {
        message::line(&said(memory, context, available));
    } else {
        message::detail(|| said(memory, context, available));
    }
    Ok(())
}

/// What of a context that is filled has its logits in memory at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scored {
    /// The last token.
    Last,
    /// The second half of the tokens.
    Half,
    /// All tokens.
    All,
}

/// As [`check`], where the whole context is going to be filled, with logits over `vocabulary` tokens.
///
/// # Errors
/// If the model with the whole context does not fit, unless `force` is set.
pub fn check_filled(
    memory: &Memory,
    context: usize,
    (scored, vocabulary): (Scored, u64),
    available: Option<u64>,
    force: bool,
) -> Result<()> {
    let needed = |tokens: usize| {
        let rows = match scored {
            Scored::Last => 0,
            Scored::Half => tokens / 2,
            Scored::All => tokens,
        };
        memory.total(tokens).saturating_add((rows as u64).saturating_mul(vocabulary).saturating_mul(4))
    };
    let Some(free) = available.filter(|&free| least(memory, context) <= free && needed(context) > free) else {
        return check(memory, context, available, force);
    };
    let what = format!(
        "the model and {context} tokens at once need {} of memory, and {} are available",
        bytes(needed(context)),
        bytes(free)
    );
    if !force {
        let fits = longest(context, |tokens| needed(tokens) <= free);
        bail!("{what}; {fits} tokens fit (--force goes on all the same)");
    }
    message::warning(&format!("{what}; it goes on all the same"));
    Ok(())
}

/// `memory: 1.2 GiB for the model, 448.0 MiB for a context of 4096 tokens; 20.1 GiB available`
fn said(memory: &Memory, context: usize, available: u64) -> String {
    let cache = match context {
        0 => String::new(),
        context => format!(", {} for a context of {context} tokens", bytes(memory.cache(context))),
    };
    format!("memory: {} for the model{cache}; {} available", bytes(memory.total(0)), bytes(available))
}

/// The longest context that fits, of at most `context` tokens, in steps of the least one.
fn longest(context: usize, does: impl Fn(usize) -> bool) -> usize {
    let (mut fits, mut too_long) = (1, context / LEAST_CONTEXT + 1);
    while too_long - fits > 1 {
        let middle = usize::midpoint(fits, too_long);
        if does(middle * LEAST_CONTEXT) { fits = middle } else { too_long = middle }
    }
    fits * LEAST_CONTEXT
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use sterna_core::gguf::{Gguf, Metadata, TensorDecl, Writer};
    use sterna_core::kernels::Serial;

    use super::*;
    use crate::engine::{self, Loading};
    use crate::source::Source;

    const GIB: u64 = 1 << 30;

    /// A Llama of one layer whose matrices take some 130 GiB, as a file that takes none: behind the header there is a hole.
    #[cfg(unix)]
    fn huge(path: &Path) {
        let (embd, ff, vocabulary) = (4096u64, 1u64 << 22, 32_000u64);
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", "llama");
        for (key, value) in [
            ("block_count", 1),
            ("context_length", 131_072),
            ("embedding_length", embd as u32),
            ("feed_forward_length", ff as u32),
            ("attention.head_count", 32),
            ("attention.head_count_kv", 8),
        ] {
            metadata.insert(format!("llama.{key}"), value);
        }
        metadata.insert("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        // F16, but for the norms.
        let matrix = |name: &str, cols: u64, rows: u64| TensorDecl {
            name: format!("{name}.weight"),
            dims: vec![cols, rows],
            type_id: 1,
            size: 2 * cols * rows,
        };
        let norm =
            |name: &str| TensorDecl { name: format!("{name}.weight"), dims: vec![embd], type_id: 0, size: 4 * embd };
        let tensors = vec![
            matrix("token_embd", embd, vocabulary),
            norm("output_norm"),
            norm("blk.0.attn_norm"),
            norm("blk.0.ffn_norm"),
            matrix("blk.0.attn_q", embd, embd),
            matrix("blk.0.attn_k", embd, embd / 4),
            matrix("blk.0.attn_v", embd, embd / 4),
            matrix("blk.0.attn_output", embd, embd),
            matrix("blk.0.ffn_gate", embd, ff),
            matrix("blk.0.ffn_up", embd, ff),
            matrix("blk.0.ffn_down", ff, embd),
        ];
        let size: u64 = tensors.iter().map(|tensor| tensor.size).sum();
        let file = File::create(path).unwrap();
        drop(Writer::new(&file, &metadata, tensors).unwrap());
        let header = file.metadata().unwrap().len();
        file.set_len(header + size).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_model_that_cannot_fit_is_refused_before_its_tensors_are_read() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("huge.gguf");
        huge(&path);
        let how = |gib: u64| Loading { available: Some(gib * GIB), ..Loading::default() };
        let error = format!("{:#}", engine::load(&path, &how(24), &Serial).unwrap_err());
        let source = Source::open(&path).unwrap();
        let memory = Memory::of(source.header()).unwrap();
        let needed = format!("needs {} of memory", bytes(memory.total(256)));
        for part in ["huge.gguf", &needed, "24.0 GiB are available", "--force"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        // The weights are the file; two bytes for each of 1024 elements of a token's keys and values.
        let norms = 3 * 4096 * 2;
        assert_eq!(memory.weights, source.header().tensors.iter().map(|info| info.elements() * 2).sum::<u64>() + norms);
        assert_eq!((memory.context(), memory.cache(131_072)), (131_072, 131_072 * 2 * 1024 * 2));
        assert!(check(&memory, 131_072, Some(24 * GIB), true).is_ok() && check(&memory, 131_072, None, false).is_ok());
        assert!(!fits(&memory, 24 * GIB) && fits(&memory, 128 * GIB));
    }

    #[test]
    fn a_context_that_is_filled_and_does_not_fit_is_refused() {
        let file = sterna_models::SHAKESPEARE;
        let memory = Memory::of(Gguf::parse(file).unwrap().header()).unwrap();
        let room = Some(memory.total(1024));
        let refused = |context, scored, force| check_filled(&memory, context, (scored, 1000), room, force);
        let error = refused(100_000, Scored::Last, false).unwrap_err().to_string();
        for part in ["100000 tokens at once", "1024 tokens fit", "--force"] {
            assert!(error.contains(part) && !error.contains("-c"), "{error}");
        }
        assert!(refused(100_000, Scored::Last, true).is_ok() && refused(1024, Scored::Last, false).is_ok());
        // Logits take room too.
        assert!(refused(1024, Scored::Half, false).is_err() && refused(1024, Scored::All, false).is_err());
        // A model has no more context than it was made for, so no more is filled.
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, file).unwrap();
        let room = memory.total(memory.context());
        let how = Loading {
            context: Some(16_000_000),
            filled: Some(Scored::Last),
            available: Some(room),
            ..Loading::default()
        };
        engine::load(&path, &how, &Serial).unwrap();
    }

    #[test]
    fn a_context_that_does_not_fit_is_no_reason_to_refuse() {
        let bytes = sterna_models::SHAKESPEARE;
        let memory = Memory::of(Gguf::parse(bytes).unwrap().header()).unwrap();
        let room = memory.total(1000);
        assert!(check(&memory, 100_000, Some(room), false).is_ok());
        assert!(check(&memory, 100_000, Some(memory.total(256) - 1), false).is_err());
        // Room is made in steps of 256 tokens.
        let most = |context, room| longest(context, |tokens| memory.total(tokens) <= room);
        assert_eq!((most(100_000, memory.total(1024)), most(100_000, memory.total(1024) - 1)), (1024, 768));
        assert_eq!(most(512, room), 512);
        let line = said(&memory, 256, GIB);
        assert!(
            line.starts_with("memory: ") && line.ends_with("for a context of 256 tokens; 1.0 GiB available"),
            "{line}"
        );
    }
}
