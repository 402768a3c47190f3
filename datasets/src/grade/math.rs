//! `MetaMath`'s grader for MATH (arXiv 2309.12284, evaluation program): text is normalised, then compared.

use super::gsm8k::ANSWER_IS;
use super::python;

/// What a solution keeps in its last `\boxed{…}`: the command with its braces.
///
/// Braces are counted from the command to the first balanced close; `\fbox` is looked for only where
/// there is no `\boxed`.
pub fn last_boxed(solution: &str) -> Option<&str> {
    let start = solution
        .rfind(r"\boxed")
        .or_else(|| solution.rfind(r"\fbox"))?;
    let mut open = 0_i64;
    for (index, byte) in solution.bytes().enumerate().skip(start) {
        match byte {
            b'{' => open += 1,
            b'}' => {
                open -= 1;
                if open == 0 {
                    return Some(&solution[start..=index]);
                }
            }
            _ => {}
        }
    }
    None
}

/// The content of a solution's last `\boxed{…}`; nothing where the box is not written like this.
///
/// ```
/// use temper_datasets::grade::boxed_answer;
///
/// assert_eq!(boxed_answer(r"so $x = \boxed{\frac{1}{2}}$."), Some(r"\frac{1}{2}"));
/// assert_eq!(boxed_answer(r"\boxed 5"), None);
/// ```
pub fn boxed_answer(solution: &str) -> Option<&str> {
    last_boxed(solution)?
        .strip_prefix(r"\boxed{")?
        .strip_suffix('}')
}

/// The text that a completion gives as its answer: what follows the last `The answer is: `, up to a
/// sentence end at a line end, without one last full stop.
pub fn math_answer(completion: &str) -> Option<&str> {
    let (_, after) = completion.rsplit_once(ANSWER_IS)?;
    let sentence = after.split_once(".\n").map_or(after, |(first, _)| first);
    let sentence = python::strip(sentence);
    Some(python::strip(
        sentence.strip_suffix('.').unwrap_or(sentence),
    ))
}

/// Whether two answers are equal for `MetaMath`: the same text after [`normalise`], or the very same text
/// where one of them cannot be normalised. There is no arithmetic, so `\frac{2}{4}` is not `\frac{1}{2}`.
///
/// ```
/// use temper_datasets::grade::is_equiv;
///
/// assert!(is_equiv(Some(r"x = \dfrac12"), Some("0.5")));
/// assert!(!is_equiv(Some("x/2"), Some("x/2 ")));
/// ```
pub fn is_equiv(one: Option<&str>, other: Option<&str>) -> bool {
    let (Some(one), Some(other)) = (one, other) else {
        return one.is_none() && other.is_none();
    };
    match (normalise(one), normalise(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// The form of an answer in which it is compared, or `None` where the authors' program fails.
///
/// ```
/// use temper_datasets::grade::normalise;
///
/// assert_eq!(normalise(r"\left(\tfrac34, 5\text{ cm}").as_deref(), Some(r"(\frac{3}{4},5"));
/// assert_eq!(normalise("60 km/h"), None);
/// ```
pub fn normalise(answer: &str) -> Option<String> {
    normalise_as(answer, Program::Grader)
}

/// Which of the authors' two copies of the normaliser: they differ in what they let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// Fails on several units, and on a fraction of something other than integers.
    Grader,
    /// Keeps what it cannot read, except `\sqrt` and `\frac` at the end.
    Cleaner,
}

/// Texts that are replaced in the first steps, in this order.
const REPLACED: [(&str, &str); 10] = [
    ("\n", ""),
    (r"\!", ""),
    (r"\\", r"\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    (r"\left", ""),
    (r"\right", ""),
    (r"^{\circ}", ""),
    (r"^\circ", ""),
    (r"\$", ""),
];

pub(crate) fn normalise_as(answer: &str, program: Program) -> Option<String> {
    let mut text = answer.to_owned();
    for (from, to) in REPLACED {
        replace(&mut text, from, to);
    }
    without_units(&mut text, program)?;
    for (from, to) in [(r"\%", ""), (" .", " 0."), ("{.", "{0.")] {
        replace(&mut text, from, to);
    }
    if text.is_empty() {
        return Some(text);
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    without_left_side(&mut text);
    let mut text = brace_roots(&text)?;
    replace(&mut text, " ", "");
    let mut text = brace_fractions(text)?;
    if text == "0.5" {
        r"\frac{1}{2}".clone_into(&mut text);
    }
    slash_to_fraction(text, program)
}

fn replace(text: &mut String, from: &str, to: &str) {
    if text.contains(from) {
        *text = text.replace(from, to);
    }
}

/// Cuts at `\text{ `, which begins a unit.
fn without_units(text: &mut String, program: Program) -> Option<()> {
    const UNIT: &str = r"\text{ ";
    let Some(first) = text.find(UNIT) else {
        return Some(());
    };
    let several = text[first + UNIT.len()..].contains(UNIT);
    if several && program == Program::Grader {
        return None;
    }
    text.truncate(first);
    Some(())
}

/// `x = 3` to ` 3`, where the only `=` has at most two characters before it.
fn without_left_side(text: &mut String) {
    if let Some((left, right)) = text.split_once('=')
        && !right.contains('=')
        && left.chars().nth(2).is_none()
    {
        *text = right.to_owned();
    }
}

/// `\sqrt3` to `\sqrt{3}`: the next character alone; a root of nothing at the end is a failure.
fn brace_roots(text: &str) -> Option<String> {
    const ROOT: &str = r"\sqrt";
    let mut pieces = text.split(ROOT);
    let mut braced = pieces.next()?.to_owned();
    for piece in pieces {
        braced.push_str(ROOT);
        let first = piece.chars().next()?;
        if first == '{' {
            braced.push_str(piece);
        } else {
            braced.extend(['{', first, '}']);
            braced.push_str(&piece[first.len_utf8()..]);
        }
    }
    Some(braced)
}

/// `\frac12` to `\frac{1}{2}`, all of them or, where one has a single character to show, none.
fn brace_fractions(text: String) -> Option<String> {
    const FRACTION: &str = r"\frac";
    let mut pieces = text.split(FRACTION);
    let mut braced = pieces.next()?.to_owned();
    for piece in pieces {
        braced.push_str(FRACTION);
        let mut characters = piece.chars();
        let above = characters.next()?;
        if above == '{' {
            braced.push_str(piece);
            continue;
        }
        let rest = characters.as_str();
        let Some(below) = characters.next() else {
            return Some(text);
        };
        braced.extend(['{', above, '}']);
        if below == '{' {
            braced.push_str(rest);
        } else {
            braced.extend(['{', below, '}']);
            braced.push_str(characters.as_str());
        }
    }
    Some(braced)
}

/// `3/4` to `\frac{3}{4}` for integers.
fn slash_to_fraction(text: String, program: Program) -> Option<String> {
    let Some((above, below)) = text.split_once('/') else {
        return Some(text);
    };
    if below.contains('/') {
        return Some(text);
    }
    if !(python::is_int(above) && python::is_int(below)) {
        return (program == Program::Cleaner).then_some(text);
    }
    if python::is_printed_int(above) && python::is_printed_int(below) {
        return Some(format!(r"\frac{{{above}}}{{{below}}}"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_cut_and_several_units_are_a_failure_of_the_grader_alone() {
        assert_eq!(normalise(r"5\text{ m}").as_deref(), Some("5"));
        assert_eq!(normalise(r"5\text{ m}\text{ s}"), None);
        let cleaned = normalise_as(r"5\text{ m}\text{ s}", Program::Cleaner);
        assert_eq!(cleaned.as_deref(), Some("5"));
    }

    #[test]
    fn a_left_side_goes_after_the_zero_was_added() {
        assert_eq!(normalise("x=.5").as_deref(), Some(".5"));
        assert_eq!(normalise("x= .5").as_deref(), Some(r"\frac{1}{2}"));
        assert_eq!(normalise("éé=3").as_deref(), Some("3"));
        assert_eq!(normalise("k  =3").as_deref(), Some("k=3"));
    }

    #[test]
    fn roots_and_fractions_take_whole_characters() {
        assert_eq!(normalise(r"\sqrté3").as_deref(), Some(r"\sqrt{é}3"));
        assert_eq!(normalise(r"\fracéü7").as_deref(), Some(r"\frac{é}{ü}7"));
        assert_eq!(
            normalise(r"\frac12\frac3").as_deref(),
            Some(r"\frac12\frac3")
        );
        for failing in [r"2\sqrt", r"\sqrt2\sqrt", r"\frac", r"\frac12\frac"] {
            assert_eq!(normalise(failing), None, "{failing}");
        }
    }

    #[test]
    fn a_slash_between_anything_but_integers_is_a_failure_of_the_grader_alone() {
        assert_eq!(normalise("-3/4").as_deref(), Some(r"\frac{-3}{4}"));
        assert_eq!(normalise("03/4").as_deref(), Some("03/4"));
        assert_eq!(normalise("\u{a0}3/4_0").as_deref(), Some("\u{a0}3/4_0"));
        assert_eq!(normalise("x/2"), None);
        assert_eq!(
            normalise_as("x/2", Program::Cleaner).as_deref(),
            Some("x/2")
        );
        let long = format!("{}/2", "9".repeat(python::MAX_INT_DIGITS + 1));
        assert_eq!(normalise(&long), None);
    }

    #[test]
    fn a_completion_answers_after_the_last_marker_up_to_a_sentence_end() {
        let text = "The answer is: 1. The answer is:  x.\nThen The answer is given.";
        assert_eq!(math_answer(text), Some("x"));
        assert_eq!(math_answer("The answer is: 5.."), Some("5."));
        assert_eq!(math_answer("The answer is 5"), None);
    }
}
