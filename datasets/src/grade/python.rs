//! The parts of Python's text handling on which the official verdicts depend.
//!
//! The graders that define the published scores are Python programs. Where their verdict hangs on what
//! Python calls a space, a digit or an integer, these functions answer as Python does.

use std::borrow::Cow;

/// Python refuses to convert integers of more digits from or to text.
pub(crate) const MAX_INT_DIGITS: usize = 4300;

/// `str.isspace` of one character: Unicode white space, and four separators that Unicode leaves out.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// `str.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// The zeros of all decimal digits of Unicode 16 (general category Nd). Each is followed by its one to nine.
const ZEROS: [u32; 76] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66,
    0xde6, 0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90,
    0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x10d40, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0,
    0x11650, 0x116c0, 0x116d0, 0x116da, 0x11730, 0x118e0, 0x11950, 0x11bf0, 0x11c50, 0x11d50,
    0x11da0, 0x11f50, 0x16130, 0x16a60, 0x16ac0, 0x16b50, 0x16d70, 0x1ccf0, 0x1d7ce, 0x1d7d8,
    0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e4f0, 0x1e5f1, 0x1e950, 0x1fbf0,
];

/// The value of a decimal digit of any script.
pub(crate) fn digit(character: char) -> Option<u8> {
    if character.is_ascii() {
        return character.to_digit(10).map(|value| value as u8);
    }
    let code = u32::from(character);
    let at = ZEROS.partition_point(|zero| *zero <= code).checked_sub(1)?;
    let value = code - ZEROS[at];
    (value < 10).then_some(value as u8)
}

/// `text` with the decimal digits of all scripts written in ASCII.
pub(crate) fn ascii_digits(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let ascii = |character| digit(character).map_or(character, |value| char::from(b'0' + value));
    Cow::Owned(text.chars().map(ascii).collect())
}

/// Whether `int(text)` succeeds: spaces around, a sign, digits of any script with single underscores
/// between them, not too many of them.
pub(crate) fn is_int(text: &str) -> bool {
    // The four separators count as spaces for `strip`, but not here.
    let text = text.trim_matches(char::is_whitespace);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut count = 0;
    let mut after_digit = false;
    for character in digits.chars() {
        if digit(character).is_some() {
            count += 1;
            after_digit = true;
        } else if character == '_' && after_digit {
            after_digit = false;
        } else {
            return false;
        }
    }
    after_digit && count <= MAX_INT_DIGITS
}

/// Whether `text` is what Python prints for an integer, so that `str(int(text)) == text`.
pub(crate) fn is_printed_int(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    match digits.as_bytes() {
        [b'0'] => text == "0",
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// `float(text)` of a sign, digits of any script and at most one point, which is all that is ever matched.
pub(crate) fn float(text: &str) -> Option<f64> {
    ascii_digits(text).parse().ok()
}

/// `round(value)` of a finite number: halves go to the even neighbour, and zero has no sign.
pub(crate) fn round(value: f64) -> f64 {
    value.round_ties_even() + 0.0
}

/// `repr(value)`: the fewest digits that give the value back and of these the nearest ones, with an exponent
/// below 1e-4 and from 1e16 on.
pub(crate) fn repr(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string().to_lowercase();
    }
    let scientific = shortest(value);
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let sign = if digits.starts_with('-') { "-" } else { "" };
    let digits: String = digits.chars().filter(char::is_ascii_digit).collect();
    if let Ok(exponent) = usize::try_from(exponent) {
        let digits = format!("{digits:0<width$}", width = exponent + 2);
        let (whole, part) = digits.split_at(exponent + 1);
        return format!("{sign}{whole}.{part}");
    }
    let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
    format!("{sign}0.{zeros}{digits}")
}

/// The shortest digits of `value` with an exponent. Where two are equally near, Rust may take the odd one.
fn shortest(value: f64) -> String {
    let some = format!("{value:e}");
    let places = some
        .find('.')
        .map_or(0, |point| some.find('e').unwrap_or(some.len()) - point - 1);
    let nearest = format!("{value:.places$e}");
    if nearest.parse() == Ok(value) {
        nearest
    } else {
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_that_a_regular_expression_calls_digits() {
        let pattern = regex::Regex::new(r"^\d$").unwrap();
        for character in '\0'..=char::MAX {
            let mut bytes = [0; 4];
            let is_digit = pattern.is_match(character.encode_utf8(&mut bytes));
            assert_eq!(digit(character).is_some(), is_digit, "{character:?}");
        }
        assert_eq!(digit('٣'), Some(3));
        assert_eq!(digit('𝟡'), Some(9));
        assert_eq!(digit('³'), None);
    }

    #[test]
    fn integers_are_what_python_accepts() {
        for text in [
            "5", "-5", "+5", " 5\t", "\u{a0}5", "1_0", "٣_٣", "007", "5\u{b}",
        ] {
            assert!(is_int(text), "{text:?}");
        }
        let long = "9".repeat(MAX_INT_DIGITS + 1);
        for text in [
            "", "-", "+ 5", "_1", "1_", "1__0", "1.0", "³", "5\0", "\u{1c}5", &long,
        ] {
            assert!(!is_int(text), "{text:?}");
        }
        assert!(is_int(&long[1..]));
    }

    #[test]
    fn printed_integers_have_no_sign_or_zero_too_much() {
        for text in ["0", "7", "-7", "10"] {
            assert!(is_printed_int(text), "{text:?}");
        }
        for text in ["", "-", "-0", "07", "+7", "٣", "7 ", "--7"] {
            assert!(!is_printed_int(text), "{text:?}");
        }
    }

    #[test]
    fn floats_print_as_in_python() {
        let cases = [
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            // Halfway between two texts of the same length.
            (2_249_121_901_608_150.0 + 0.25, "2249121901608150.2"),
            (5e-324, "5e-324"),
            (-0.001_25, "-0.00125"),
            (5.684_341_886_080_802e-14, "5.684341886080802e-14"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (value, text) in cases {
            assert_eq!(repr(value), text);
        }
    }

    #[test]
    fn halves_round_to_even_and_zero_loses_its_sign() {
        let rounded = [2.5, 3.5, 0.5, -0.5].map(round);
        assert_eq!(rounded, [2.0, 4.0, 0.0, 0.0]);
        assert!(rounded[3].is_sign_positive());
    }

    #[test]
    fn strip_removes_what_python_calls_space() {
        assert_eq!(strip("\u{1c}\u{a0} x\u{3000}\n"), "x");
        assert_eq!(strip("\u{200b}x"), "\u{200b}x");
    }
}
