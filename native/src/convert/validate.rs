//! Reads a written file back as any other program would, compares every matrix with its source, and runs the model.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use serde_json::{Value, json};
use sterna_core::SessionOptions;
use sterna_core::formats::identify_all;
use sterna_core::kernels::Rayon;

use super::encode::{Fidelity, Stop, Sums};
use super::report::Done;
use super::weights::Tensor;
use crate::checkpoint::plan::Account;
use crate::engine;
use crate::source::Source;
use crate::ui::progress::Progress;

/// Tokens of the forward pass.
const TOKENS: usize = 16;
/// What an f16 scale may differ from the source's, relative.
const SCALE_ERROR: f64 = 5e-4;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub struct Validated {
    /// Tensors that were compared.
    pub tensors: usize,
    /// Of these, those that are ternary.
    pub ternary: usize,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// The root of the mean square of the last token's logits.
    pub logits: f64,
}

impl Validated {
    /// Prints it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "validated: {} tensors read back ({} ternary) agree with their source; {} tokens went through the model, its logits are finite (rms {:.3})",
            self.tensors, self.ternary, self.tokens, self.logits
        )
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        json!({"tensors": self.tensors, "ternary": self.ternary, "tokens": self.tokens, "logits_rms": self.logits})
    }
}

/// Validates a file against the tensors it was made of, and against the account of the source's.
///
/// # Errors
/// A tensor of the source that is neither in the file nor in the account; the first tensor that is not what was written, or of
/// which nothing is left; a model that does not load or gives no finite numbers.
pub fn validate(
    path: &Path,
    tensors: &[Tensor<'_>],
    done: &[Done],
    account: &Account,
    stop: Stop<'_>,
) -> Result<Validated> {
    let source = Source::open(path).context("the written file cannot be read back")?;
    let formats = identify_all(source.header());
    let written = source.header().tensors.len();
    if written != tensors.len() || written != account.written() {
        bail!(
            "the written file has {written} tensors, but {} were to be written, and {} by the {} that were read",
            tensors.len(),
            account.written(),
            account.read
        );
    }
    let mut progress = Progress::bytes("comparing", Some(tensors.iter().map(Tensor::bytes).sum()));
    let mut compared = 0;
    for (((info, bytes), found), (tensor, done)) in source.tensors().zip(formats).zip(tensors.iter().zip(done)) {
        let written = Tensor::of_gguf(&source, info, found?.format, bytes);
        if written.name != tensor.name || written.dims != tensor.dims {
            bail!(
                "the written file has {} {:?} in the place of {} {:?}",
                written.name,
                written.dims,
                tensor.name,
                tensor.dims
            );
        }
        let sums = compare(tensor, &written, stop)?;
        let error = sums.relative_error();
        if matches!(done.fidelity, Fidelity::Float | Fidelity::Rule) && sums.vanished(done.elements) {
            bail!(
                "{} reads back as zeros only, but its weights are not zero: they are smaller than {} holds; leave it in another \
                 format with --keep, or check the checkpoint",
                tensor.place,
                done.format
            );
        }
        let allowed = match done.fidelity {
            Fidelity::Exact => 0.0,
            Fidelity::Codes => SCALE_ERROR,
            Fidelity::Trained | Fidelity::Float | Fidelity::Rule => done.sums.relative_error() * 1.001 + 1e-9,
        };
        if error.is_nan() || error > allowed {
            bail!(
                "{} reads back as {} with a relative error of {error:.6}; {allowed:.6} was expected",
                tensor.place,
                done.format
            );
        }
        tensor.release();
        written.release();
        compared += tensor.bytes();
        progress.set(compared);
    }
    drop(progress);
    let model = engine::load(path, None, &Rayon).context("the written file does not load")?;
    let rows = source.header().tensor("token_embd.weight").map_or(1, |info| info.rows());
    let tokens: Vec<u32> = (0..TOKENS as u64).map(|i| ((i * 7919 + 3) % rows.max(1)) as u32).collect();
    let tokens = &tokens[..TOKENS.min(model.transformer().config().n_ctx)];
    let mut session = model.session(SessionOptions::default());
    let logits = session.feed(tokens).context("the written model does not run")?;
    let square = logits.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    let rms = (square / (logits.len() as f64).max(1.0)).sqrt();
    if !rms.is_finite() || logits.is_empty() {
        bail!("the written model gives logits that are not finite");
    }
    let ternary = done.iter().filter(|done| done.ternary).count();
    Ok(Validated { tensors: tensors.len(), ternary, tokens: tokens.len(), logits: rms })
}

/// Squares of differences between two tensors of the same shape.
fn compare(tensor: &Tensor<'_>, written: &Tensor<'_>, stop: Stop<'_>) -> Result<Sums> {
    let rows = ((1 << 17) / tensor.cols.max(1)).max(1);
    let starts: Vec<usize> = (0..tensor.rows).step_by(rows).collect();
    let parts = starts.par_iter().map(|&first| {
        if stop() {
            return Err(super::interrupted());
        }
        let len = rows.min(tensor.rows - first) * tensor.cols;
        let (mut a, mut b) = (vec![0.0; len], vec![0.0; len]);
        tensor.read(first, &mut a)?;
        written.read(first, &mut b)?;
        Ok(Sums::of(&a, &b))
    });
    let mut sums = Sums::default();
    parts.collect::<Result<Vec<_>>>()?.iter().for_each(|part| sums.add(part));
    Ok(sums)
}
