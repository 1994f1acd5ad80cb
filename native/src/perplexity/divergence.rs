//! How far a model's predictions are from those of another one, token by token, as llama-perplexity measures it.

use anyhow::{Result, bail};
use rayon::prelude::*;
use sterna_core::Model;
use sterna_core::kernels::Executor;

use super::logits_file::{Base, Reader, likeliest, scored};
use super::score;
use crate::ui::divergence::{Comparison, Divergence};
use crate::ui::interrupt::Busy;

/// Compares the model with the one whose predictions are in `base`, on the tokens that are there too, at most `chunks` chunks of them;
/// calls `done` after each chunk with its number, from 1 on. What was found by then if Ctrl-C was pressed.
///
/// # Errors
/// A file of another vocabulary, or of more context than the model has; what `done` returns.
pub fn measure(
    model: &Model,
    exec: &dyn Executor,
    base: &mut Reader,
    chunks: usize,
    busy: &Busy,
    done: &mut dyn FnMut(usize, &Divergence) -> Result<()>,
) -> Result<Divergence> {
    let transformer = model.transformer();
    let (vocabulary, limit) = (transformer.vocabulary(), transformer.config().n_ctx);
    if base.vocabulary != vocabulary {
        bail!(
            "the file of logits is of a vocabulary of {} tokens, the model has {vocabulary}; compare models of one tokenizer",
            base.vocabulary
        );
    }
    if base.context > limit {
        bail!(
            "the file of logits has chunks of {} tokens, the model's context is {limit}; make it with -c {limit}",
            base.context
        );
    }
    let tokenizer = model.tokenizer()?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let context = base.context;
    let first = context - scored(context);
    let tokens = std::mem::take(&mut base.tokens);
    let mut divergence = Divergence::default();
    for (index, chunk) in tokens.chunks_exact(context).take(chunks).enumerate() {
        if busy.requested() {
            break;
        }
        let mut chunk = chunk.to_vec();
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        let records = base.chunk()?;
        let compared: Vec<Comparison> = score(model, exec, &chunk, first, |rows| {
            Ok(rows
                .par_iter()
                .zip(&records)
                .map(|((row, target), base)| compare(row, base, *target as usize))
                .collect())
        })?;
        compared.into_iter().for_each(|one| divergence.push(one));
        done(index + 1, &divergence)?;
    }
    Ok(divergence)
}

/// One token: what the model and the other one thought of it and of all others.
fn compare(row: &[f32], base: &Base<'_>, target: usize) -> Comparison {
    let (max, lse) = likeliest(row);
    let best = row.iter().position(|logit| *logit == max);
    let mut best_base = (f32::NEG_INFINITY, None);
    let mut divergence = 0.0;
    for (token, logit) in row.iter().enumerate() {
        let log = base.log_probability(token);
        if log > best_base.0 {
            best_base = (log, Some(token));
        }
        // What the other one thinks next to impossible weighs nothing.
        if log > -16.0 {
            divergence += f64::from(log.exp() * (log - logit + (max + lse)));
        }
    }
    Comparison {
        loss: max + lse - row[target],
        loss_base: -base.log_probability(target),
        divergence,
        same_best: best == best_base.1,
    }
}
