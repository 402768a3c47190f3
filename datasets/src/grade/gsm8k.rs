//! `MetaMath`'s grader for GSM8K (arXiv 2309.12284, evaluation program).

use std::sync::LazyLock;

use num_bigint::BigUint;
use num_traits::ToPrimitive;
use regex::Regex;

use super::python;

/// The marker after which a completion's answer is looked for.
pub(crate) const ANSWER_IS: &str = "The answer is: ";

static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\-+]?\d*[\.,/]?\d+").ok());

/// The integer that a completion gives as its answer, or `None` if it gives none.
///
/// It is the first number after the last `The answer is: `, in which one point, comma or slash may occur.
/// A fraction is divided, everything is rounded to an integer, halves to the even one. What makes the
/// authors' program fail (`5/00`, a number beyond the floats) is no answer.
///
/// ```
/// use temper_datasets::grade::gsm8k_answer;
///
/// assert_eq!(gsm8k_answer("The answer is: 7/2"), Some(4.0));
/// assert_eq!(gsm8k_answer("The answer is: $1,234.50"), Some(1234.0));
/// assert_eq!(gsm8k_answer("#### 7"), None);
/// ```
pub fn gsm8k_answer(completion: &str) -> Option<f64> {
    let (_, after) = completion.rsplit_once(ANSWER_IS)?;
    let matched = NUMBER.as_ref()?.find(python::strip(after))?.as_str();
    let value = match matched.split_once('/') {
        Some((numerator, denominator)) => fraction(numerator, denominator)?,
        None => python::float(&matched.replace(',', ""))?,
    };
    value.is_finite().then(|| python::round(value))
}

/// The quotient of a signed and an unsigned run of digits, as Python's `Fraction` and `/` give it.
fn fraction(numerator: &str, denominator: &str) -> Option<f64> {
    if denominator == "0" {
        return python::float(numerator);
    }
    let negative = numerator.starts_with('-');
    let magnitude = quotient(
        &natural(numerator.trim_start_matches(['+', '-']))?,
        &natural(denominator)?,
    )?;
    Some(if negative { -magnitude } else { magnitude })
}

fn natural(digits: &str) -> Option<BigUint> {
    let digits = python::ascii_digits(digits);
    if digits.len() > python::MAX_INT_DIGITS {
        return None;
    }
    BigUint::parse_bytes(digits.as_bytes(), 10)
}

/// `numerator / denominator` rounded once, to the nearest float, halves to even.
fn quotient(numerator: &BigUint, denominator: &BigUint) -> Option<f64> {
    let zero = BigUint::ZERO;
    if *denominator == zero {
        return None;
    }
    // At least 66 bits of the quotient, the last of which also stands for all that follow.
    let shift = (66 + denominator.bits()).saturating_sub(numerator.bits());
    let shifted = numerator << shift;
    let mut bits = &shifted / denominator;
    if &bits * denominator != shifted {
        bits |= BigUint::from(1_u8);
    }
    let scale = (-(shift as f64)).exp2();
    bits.to_f64().map(|value| value * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Option<f64> {
        gsm8k_answer(&format!("The answer is: {text}"))
    }

    #[test]
    fn only_the_first_number_after_the_last_marker_counts() {
        assert_eq!(
            gsm8k_answer("The answer is: 1 The answer is: 2 or 3"),
            Some(2.0)
        );
        assert_eq!(gsm8k_answer("The answer is 5"), None);
        assert_eq!(answer("1,234,567"), Some(1234.0));
        assert_eq!(answer("2,000.50"), Some(2000.0));
        assert_eq!(answer("- 7"), Some(7.0));
        assert_eq!(answer("٣/٢"), Some(2.0));
    }

    #[test]
    fn what_the_program_cannot_compute_is_no_answer() {
        for text in ["5/00", "0/٠", "/5", "-/5", "", "."] {
            assert_eq!(answer(text), None, "{text}");
        }
        let long = "9".repeat(100_000);
        for text in [
            long.clone(),
            format!("-{long}"),
            format!("{long}/0"),
            format!("{long}/3"),
        ] {
            assert_eq!(answer(&text), None);
        }
        assert_eq!(answer("5/0"), Some(5.0));
    }

    #[test]
    fn long_fractions_are_rounded_once() {
        // 2^53 + 1 halves lie between two floats; a sum just above must not round down.
        assert_eq!(answer("9007199254740993/1"), Some(9_007_199_254_740_992.0));
        assert_eq!(answer("9007199254740995/1"), Some(9_007_199_254_740_996.0));
        let three = format!("{}/{}", "9".repeat(4000), "3".repeat(4000));
        assert_eq!(answer(&three), Some(3.0));
        assert_eq!(answer(&format!("1/{}", "7".repeat(4000))), Some(0.0));
        assert_eq!(answer(&format!("{}/7", "1".repeat(4000))), None);
    }
}
