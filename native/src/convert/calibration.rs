//! Which columns of a model's matrices matter: the model as it is reads a text, and the squares of what goes into each matrix are
//! averaged. An error in a column of weights changes a product by as much as the column's input is large, so `search` weighs it by
//! the mean square (the diagonal of the layer's Hessian, as in OBQ, arXiv:2208.11580, and llama.cpp's importance matrices).
//!
//! This needs the whole model in memory, as running it does; conversion alone does not.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sterna_core::model::{Input, Logits};
use sterna_core::tokenizer::EncodeOptions;

use super::interrupted;
use crate::engine::{self, Loading};
use crate::ui::interrupt;
use crate::ui::progress::Progress;

/// Tokens of a sequence, where the model's context is no shorter.
const CONTEXT: usize = 512;
/// Sequences that are read, spread over the text, where it has as many.
const SEQUENCES: usize = 32;

/// How much each column counts, by the name of the GGUF's tensor.
pub type Importance = BTreeMap<String, Vec<f32>>;

/// Reads `text` with the model in `gguf`.
///
/// # Errors
/// If the model cannot be run or has no tokenizer, the text is too short, or Ctrl-C was pressed.
pub fn importance(gguf: &Path, text: &str) -> Result<Importance> {
    // Within the pool that the conversion runs on.
    let exec = sterna_core::kernels::Rayon;
    let model = engine::load(gguf, &Loading { force: true, ..Loading::default() }, &exec)
        .context("the model cannot be run for --calibration")?;
    let tokenizer = model.tokenizer()?;
    let tokens = tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: false })?;
    let transformer = model.transformer();
    let context = CONTEXT.min(transformer.config().n_ctx);
    let sequences = (tokens.len() / context).min(SEQUENCES);
    if sequences == 0 {
        bail!("the text of --calibration has {} tokens, a sequence {context}; give a longer one", tokens.len());
    }
    let busy = interrupt::busy();
    let mut progress = Progress::steps("calibrating", (sequences * context) as u64);
    let mut state = transformer.state(Some(context));
    state.observe();
    for i in 0..sequences {
        let first = i * (tokens.len() - context) / sequences.saturating_sub(1).max(1);
        state.truncate(0);
        transformer.forward(&mut state, &exec, &tokens[first..first + context], Logits::Last)?;
        progress.set(((i + 1) * context) as u64);
        if busy.requested() {
            return Err(interrupted());
        }
    }
    let squares = state.observed().unwrap_or_default();
    let mut importance = Importance::new();
    for block in 0..transformer.config().n_layer {
        for (input, names) in [
            (Input::Attention, &["attn_q", "attn_k", "attn_v", "attn_qkv"][..]),
            (Input::AttentionOutput, &["attn_output"]),
            (Input::FeedForward, &["ffn_gate", "ffn_up"]),
            (Input::Down, &["ffn_down"]),
        ] {
            let Some(mean) = squares.mean(block, input) else { continue };
            for name in names {
                importance.insert(format!("blk.{block}.{name}.weight"), mean.clone());
            }
        }
    }
    Ok(importance)
}
