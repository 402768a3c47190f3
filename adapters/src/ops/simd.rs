//! Loops compiled for the widest vector unit found at run time.
//!
//! The binary is built for the baseline instruction set; functions defined through [`vectorized!`](crate::vectorized) are compiled again for AVX2 and AVX-512,
//! chosen when it is called. Inside it, plain loops over slices become vector code.

use pulp::{Simd, WithSimd};

#[doc(hidden)]
pub use pulp;

/// Runs `work` compiled for the widest vector unit of this processor.
#[inline]
pub fn dispatch<W: WithSimd>(work: W) -> W::Output {
    // pulp's own choice goes from AVX-512 straight to scalar code unless one more of its features is on.
    #[cfg(target_arch = "x86_64")]
    if let (None, Some(simd)) = (pulp::x86::V4::try_new(), pulp::x86::V3::try_new()) {
        return Simd::vectorize(simd, work);
    }
    pulp::Arch::new().dispatch(work)
}

/// Defines functions whose bodies are compiled for each instruction set and chosen at the call.
///
/// Lifetimes of reference parameters must be the named one. What the body calls must be `#[inline(always)]` (as everything in
/// this module is), or it keeps the baseline. A closure in the place of this macro is left un-inlined, and at the baseline,
/// as soon as it is more than a few lines (three times slower, measured).
///
/// # Examples
/// ```
/// temper_adapters::vectorized! {
///     /// Doubles every value.
///     fn double<'a>(values: &'a mut [f32]) -> () {
///         for value in values {
///             *value *= 2.0;
///         }
///     }
/// }
/// let mut values = [1.0, 2.0];
/// double(&mut values);
/// assert_eq!(values, [2.0, 4.0]);
/// ```
#[macro_export]
macro_rules! vectorized {
    ($($(#[$meta:meta])* $visibility:vis fn $name:ident<$life:lifetime>($($arg:ident: $kind:ty),* $(,)?) -> $result:ty $body:block)*) => {$(
        $(#[$meta])*
        $visibility fn $name<$life>($($arg: $kind),*) -> $result {
            struct Work<$life> {
                $($arg: $kind,)*
                lifetime: ::std::marker::PhantomData<&$life ()>,
            }
            impl<$life> $crate::ops::simd::pulp::NullaryFnOnce for Work<$life> {
                type Output = $result;
                #[inline(always)]
                fn call(self) -> $result {
                    let Self { $($arg,)* lifetime: _ } = self;
                    $body
                }
            }
            $crate::ops::simd::dispatch(Work { $($arg,)* lifetime: ::std::marker::PhantomData })
        }
    )*};
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
    // Comparisons rather than `clamp`, which must handle NaN bounds; a NaN input ends as the lower bound.
    let x = if x > -87.3 { x } else { -87.3 };
    let x = if x < 88.3 { x } else { 88.3 };
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
    // The low bits of `shifted` are n in two's complement: moved to the exponent they make 2^n.
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    p * scale
}

/// `Σ aᵢ bᵢ`, in sixteen lanes.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((wide_a, rest_a), (wide_b, rest_b)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let tail: f32 = rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum();
    let mut lanes = [0.0_f32; 16];
    for (a, b) in wide_a.iter().zip(wide_b) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    tail + lanes.iter().sum::<f32>()
}

/// The largest value, or −∞.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let (wide, rest) = values.as_chunks::<16>();
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in wide {
        for lane in 0..16 {
            lanes[lane] = larger(lanes[lane], chunk[lane]);
        }
    }
    rest.iter()
        .chain(&lanes)
        .fold(f32::NEG_INFINITY, |best, &value| larger(best, value))
}

/// Replaces every value by `exp(value − shift)`; returns their sum.
#[inline(always)]
pub fn exp_sum(values: &mut [f32], shift: f32) -> f64 {
    let (wide, rest) = values.as_chunks_mut::<16>();
    let mut lanes = [0.0_f32; 16];
    for chunk in wide {
        for lane in 0..16 {
            chunk[lane] = exp(chunk[lane] - shift);
            lanes[lane] += chunk[lane];
        }
    }
    let mut total: f64 = lanes.iter().map(|&lane| f64::from(lane)).sum();
    for value in rest {
        *value = exp(*value - shift);
        total += f64::from(*value);
    }
    total
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
