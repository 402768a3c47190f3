//! Loops compiled for the widest vector unit found at run time.
//!
//! The binary is built for the baseline instruction set; [`vectorized`] runs a closure compiled again for AVX2 and AVX-512,
//! chosen when it is called. Inside it, plain loops over slices become vector code.

/// Runs `work` in its widest compiled form. Mark the functions it calls `#[inline(always)]`, or they keep the baseline.
#[inline]
pub fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    struct Work<F>(F);
    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Work<F> {
        type Output = R;
        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    pulp::Arch::new().dispatch(Work(work))
}

/// `eˣ` in f32 without a branch, so that loops over it vectorise. Relative error below 3e-7 on [−87, 88]; clamps outside.
///
/// # Examples
/// ```
/// assert!((temper_adapters::ops::simd::exp(1.0) - std::f32::consts::E).abs() < 1e-6);
/// ```
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with |r| <= ln 2 / 2; the constant 1.5·2²³ rounds to an integer by addition.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor series of e^r to the 7th power; its remainder is below 2^-24 on the interval.
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let scale = f32::from_bits((((n as i32) + 127) << 23) as u32);
    p * scale
}


/// `Σ aᵢ bᵢ`.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (chunks_a, chunks_b) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = chunks_a.remainder().iter().zip(chunks_b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in chunks_a.zip(chunks_b) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    tail + lanes.iter().sum::<f32>()
}

/// The largest value, or −∞.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let chunks = values.chunks_exact(16);
    let mut best = f32::NEG_INFINITY;
    for &value in chunks.remainder() {
        best = if value > best { value } else { best };
    }
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for lane in 0..16 {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().fold(best, |best, &lane| if lane > best { lane } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_stays_within_a_few_units_of_the_last_place() {
        for step in -8700..=8800 {
            let x = step as f32 * 0.01;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 3e-7, "exp({x}): relative error {error:e}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38 && exp(1e9).is_finite());
    }

    #[test]
    fn reductions_agree_with_the_plain_loops() {
        let a: Vec<f32> = (0..37).map(|i| i as f32 * 0.5 - 3.0).collect();
        let b: Vec<f32> = (0..37).map(|i| 1.0 - i as f32 * 0.1).collect();
        let expected: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(a * b)).sum();
        assert!((f64::from(dot(&a, &b)) - expected).abs() < 1e-3);
        assert_eq!(max(&a), 15.0);
    }
}
