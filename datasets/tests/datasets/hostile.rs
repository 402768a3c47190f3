//! Text that means no good: nothing panics, and nothing takes more than time in proportion to its length.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use temper_datasets::grade::{
    boxed_answer, gold, grade, gsm8k_answer, is_equiv, last_boxed, math_answer, normalise,
};
use temper_datasets::problems::{Task, eval_prompt, shots};
use temper_datasets::rewrite::{
    AnswerFilter, Behaviour, MetaMathRow, Rewriting, Source, clean_answer, fobar_question, masks,
    split_question,
};

/// What the rules look for, and what upsets those who look for it.
const PIECES: [&str; 44] = [
    "The answer is: ",
    "The answer is ",
    "the answer is ",
    "The value of x is ",
    "#### ",
    "\\boxed",
    "\\boxed{",
    "\\fbox{",
    "boxed",
    "\\frac",
    "\\dfrac",
    "\\sqrt",
    "\\text{ ",
    "\\left",
    "\\right",
    "^\\circ",
    "^{\\circ}",
    "\\!",
    "\\\\",
    "\\$",
    "\\%",
    "{",
    "}",
    "$",
    "/",
    ".",
    ",",
    "=",
    "-",
    "+",
    "_",
    " ",
    "\n",
    ".\n",
    "0",
    "7",
    "00",
    "9.5",
    "٣",
    "é",
    "e\u{301}",
    "\0",
    "\u{a0}",
    "Final Answer: The final answer is",
];

fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => prop::sample::select(PIECES.as_slice()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => "[0-9]{1,30}",
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn graders_take_any_text(completion in text(), answer in text()) {
        for task in Task::ALL {
            match gold(task, &answer) {
                // A box around the marker itself is read anew when read again.
                Ok(found) if !found.contains("The answer is") => {
                    prop_assert_eq!(gold(task, &found), Ok(found.clone()));
                    let grades = grade(task, &completion, &answer).unwrap();
                    prop_assert_eq!(&grades, &grade(task, &completion, &found).unwrap());
                    for grade in [grades.metamath, grades.lm_eval_strict, grades.lm_eval_flexible] {
                        prop_assert!(grade.extracted.is_some() || !grade.correct);
                    }
                }
                Ok(_) => prop_assert!(grade(task, &completion, &answer).is_ok()),
                Err(error) => prop_assert_eq!(grade(task, &completion, &answer), Err(error)),
            }
        }
        prop_assert!(gsm8k_answer(&completion).is_none_or(|value| value.fract() == 0.0));
        prop_assert!(math_answer(&completion).is_none_or(|found| completion.contains(found)));
        prop_assert!(boxed_answer(&completion).is_none() || last_boxed(&completion).is_some());
    }

    #[test]
    fn equivalence_is_reflexive_and_symmetric(one in text(), other in text()) {
        prop_assert!(is_equiv(Some(&one), Some(&one)));
        prop_assert_eq!(is_equiv(Some(&one), Some(&other)), is_equiv(Some(&other), Some(&one)));
        prop_assert!(normalise(&one).is_none_or(|normal| !normal.contains([' ', '\n'])));
    }

    #[test]
    fn masks_hide_what_they_say(question in text()) {
        for source in Source::ALL {
            for mask in masks(source, &question) {
                let masked = mask.question();
                let spaces = |text: &str| text.matches(' ').count();
                prop_assert_eq!(spaces(&masked), spaces(&question));
                prop_assert!(masked.contains(source.unknown()));
                prop_assert!(question.contains(mask.hidden()));
                let parts = split_question(&masked);
                prop_assert!(masked.contains(parts.base) && masked.ends_with(parts.clause.trim_end())
                    || masked.trim_end().ends_with(parts.clause));
            }
        }
    }

    #[test]
    fn replies_are_cleaned_and_kept_without_a_panic(reply in text(), answer in text()) {
        for source in Source::ALL {
            clean_answer(source, &reply, "The answer is");
            for rewriting in Rewriting::ALL {
                for behaviour in [Behaviour::Fixed, Behaviour::Released] {
                    let filter = AnswerFilter::new(source, rewriting, behaviour);
                    if let Some(truth) = filter.truth(&answer) {
                        let kept = filter.accepts(&reply, &truth);
                        prop_assert_eq!(kept, filter.prediction(&reply) == Some(truth.clone()));
                        let row = MetaMathRow::new(source, rewriting, "q", "o", (&reply, &truth));
                        let end = format!("The answer is: {truth}");
                        prop_assert!(row.response.ends_with(&end));
                    }
                }
            }
        }
    }
}

/// Runs everything on `text`; the slowest rule and its time.
fn slowest(text: &str) -> (&'static str, Duration) {
    let answered = format!("The answer is: {text}");
    let boxed = format!("\\boxed{{{text}}}");
    let rules: [(&'static str, &dyn Fn()); 10] = [
        ("grade gsm8k", &|| drop(grade(Task::Gsm8k, &answered, "7"))),
        ("grade math", &|| drop(grade(Task::Math, &answered, &boxed))),
        ("grade math, plain", &|| drop(grade(Task::Math, text, text))),
        ("gold gsm8k", &|| drop(gold(Task::Gsm8k, text))),
        ("is_equiv", &|| {
            assert!(!is_equiv(Some(text), Some(&answered)));
        }),
        ("clean gsm8k", &|| {
            drop(clean_answer(Source::Gsm8k, text, "The answer is"));
        }),
        ("clean math", &|| {
            drop(clean_answer(Source::Math, &boxed, "The answer is"));
        }),
        ("clean math, number", &|| {
            drop(clean_answer(Source::Math, text, "?"));
        }),
        ("masks", &|| {
            drop((masks(Source::Gsm8k, text), masks(Source::Math, text)));
        }),
        ("rows", &|| {
            let row = MetaMathRow::new(Source::Gsm8k, Rewriting::Fobar, text, text, (text, "7"));
            drop((
                row,
                fobar_question(Source::Math, text, "7"),
                eval_prompt(text, &shots(Task::Gsm8k)),
            ));
            assert!(split_question(text).base.len() <= text.len());
        }),
    ];
    rules
        .into_iter()
        .map(|(name, rule)| {
            let start = Instant::now();
            rule();
            (name, start.elapsed())
        })
        .max_by_key(|(_, elapsed)| *elapsed)
        .unwrap()
}

#[test]
fn no_text_below_a_megabyte_takes_long() {
    let mut worst = (String::new(), "", Duration::ZERO);
    let pieces = [
        "9",
        "٣",
        ",",
        ".",
        ".5",
        "1,",
        "1.",
        "1/",
        "-1",
        "1 ",
        " ",
        "\n",
        ".\n",
        "$.",
        "=",
        "/",
        "{",
        "}{",
        "\\frac",
        "\\frac{",
        "\\frac1",
        "\\sqrt",
        "\\sqrt2",
        "\\boxed{",
        "\\boxed{1}",
        "boxed",
        "\\text{ ",
        "\\\\",
        "\\\\\\",
        "The answer is: ",
        "The answer is",
        "#### ",
        "####",
        "Final Answer: The final answer is",
        "I hope it is correct.",
        "\0",
        "\u{301}",
        "\u{1c}",
    ];
    for piece in pieces {
        let text = piece.repeat((1 << 20) / piece.len() - 4);
        let (rule, elapsed) = slowest(&text);
        assert!(
            elapsed < Duration::from_secs(1),
            "{rule} on {piece:?}: {elapsed:?}"
        );
        if elapsed > worst.2 {
            worst = (piece.to_owned(), rule, elapsed);
        }
    }
    println!("slowest: {worst:?}");
}

#[test]
fn numbers_of_a_hundred_thousand_digits_are_no_answer() {
    let long = "8".repeat(100_000);
    for answer in [long.clone(), format!("-{long}"), format!("{long}/{long}")] {
        let grades = grade(Task::Gsm8k, &format!("The answer is: {answer}"), "7").unwrap();
        assert_eq!(grades.metamath.extracted, None);
        assert!(!grades.metamath.correct);
    }
}
