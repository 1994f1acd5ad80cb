//! The loss that every measurement reports, in f64. Training has a faster one in f32, with a gradient
//! (`train/ops/cross_entropy.rs`).

/// Minus the natural logarithm of the softmax of `logits`, `[classes]`, at `target`: nats.
pub fn cross_entropy(logits: &[f32], target: usize) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    sum.ln() - f64::from(logits[target] - max)
}

#[cfg(test)]
mod tests {
    use super::cross_entropy;

    #[test]
    fn losses_are_logarithms_of_the_softmax() {
        assert!((cross_entropy(&[0.0; 4], 2) - 4_f64.ln()).abs() < 1e-12);
        let all = [1000.0, 999.0, f32::NEG_INFINITY];
        assert!((cross_entropy(&all, 0) - (1.0 + (-1_f64).exp()).ln()).abs() < 1e-9);
        assert_eq!(cross_entropy(&all, 2), f64::INFINITY);
    }
}
