//! The worked examples that the crate ships: right, and consistent with the rules they illustrate.

use regex::Regex;
use temper_datasets::rewrite::{
    AnswerFilter, Behaviour, Few, Rewriting, Source, fobar_question, masks, prompt_prefix,
    rephrase_prompt, solve_prompt, split_question, sv_question, sv_rewrite_prompt,
};

/// Question and what follows `separator`, of the eight examples.
fn examples(source: Source, few: Few, separator: &str) -> Vec<(String, String)> {
    let text = prompt_prefix(source, few, Behaviour::Fixed);
    let pairs: Vec<_> = text
        .split("\n\n")
        .filter_map(|block| block.strip_prefix("Question: ")?.split_once(separator))
        .map(|(question, rest)| (question.to_owned(), rest.to_owned()))
        .collect();
    assert_eq!(pairs.len(), 8, "{source:?} {few:?}");
    pairs
}

const SOLVED: &str = "\nA: Let's think step by step.\n";
const ALL: [Few; 5] = [
    Few::AnsAug,
    Few::Rephrase,
    Few::Fobar,
    Few::Sv,
    Few::SvRewrite,
];

fn answer<'a>(solution: &'a str, sentence: &str) -> &'a str {
    let last = solution.lines().last().unwrap();
    last.strip_prefix(sentence)
        .unwrap()
        .strip_suffix('.')
        .unwrap()
}

#[test]
fn every_calculation_in_an_example_is_right() {
    let number = r"(\d+(?:\.\d+)?)";
    let pattern = Regex::new(&format!(
        r"(?:^|[^\w.^] ?){number} ([-+*/]) {number} = {number}"
    ))
    .unwrap();
    let mut calculations = 0;
    for (source, few) in Source::ALL
        .iter()
        .flat_map(|source| ALL.map(|few| (*source, few)))
    {
        for found in pattern.captures_iter(prompt_prefix(source, few, Behaviour::Fixed)) {
            let operand = |index: usize| found[index].parse::<f64>().unwrap();
            let (left, right) = (operand(1), operand(3));
            let result = match &found[2] {
                "+" => left + right,
                "-" => left - right,
                "*" => left * right,
                _ => left / right,
            };
            assert!((result - operand(4)).abs() < 1e-9, "{}", &found[0]);
            calculations += 1;
        }
    }
    assert!(calculations > 150, "{calculations}");
}

#[test]
fn every_solution_is_accepted_by_the_filter_that_judges_replies() {
    for source in Source::ALL {
        let unknown = source.unknown();
        for (few, rewriting, sentence) in [
            (Few::AnsAug, Rewriting::AnsAug, "The answer is ".to_owned()),
            (
                Few::Fobar,
                Rewriting::Fobar,
                format!("The value of {unknown} is "),
            ),
            (
                Few::Sv,
                Rewriting::Sv,
                format!("The value of {unknown} is "),
            ),
        ] {
            let filter = AnswerFilter::new(source, rewriting, Behaviour::Fixed);
            for (_, solution) in examples(source, few, SOLVED) {
                let truth = filter.truth(answer(&solution, &sentence)).unwrap();
                assert!(filter.accepts(&solution, &truth), "{solution}");
                assert!(!filter.accepts(&solution, "1"), "{solution}");
            }
        }
    }
}

#[test]
fn backward_examples_hide_a_number_of_the_forward_examples() {
    for source in Source::ALL {
        let unknown = format!("The value of {} is ", source.unknown());
        let forward = examples(source, Few::AnsAug, SOLVED);
        let fobar = examples(source, Few::Fobar, SOLVED);
        let statements = examples(source, Few::SvRewrite, "\n Result: ");
        let verified = examples(source, Few::Sv, SOLVED);
        let filter = AnswerFilter::new(source, Rewriting::Fobar, Behaviour::Fixed);
        for index in 0..8 {
            let (question, solution) = &forward[index];
            let given = answer(solution, "The answer is ");
            let mask = masks(source, question)
                .into_iter()
                .find(|mask| fobar_question(source, &mask.question(), given) == fobar[index].0)
                .expect("a mask of the forward question");
            let hidden = filter.truth(mask.hidden()).unwrap();
            assert_eq!(answer(&fobar[index].1, &unknown), hidden);
            let masked = mask.question();
            let parts = split_question(&masked);
            let clause = format!("{} The answer is {given}.", parts.clause);
            assert_eq!(statements[index].0, clause);
            let backward = sv_question(source, parts.base, &statements[index].1);
            assert_eq!(verified[index].0, backward);
            assert_eq!(answer(&verified[index].1, &unknown), hidden);
        }
    }
}

#[test]
fn rephrased_examples_keep_every_number() {
    let number = Regex::new(r"\d+(\.\d+)?").unwrap();
    for source in Source::ALL {
        let forward = examples(source, Few::AnsAug, SOLVED);
        let rephrased = examples(source, Few::Rephrase, "\nRephrase the above question: ");
        for ((question, _), (same, other)) in forward.iter().zip(&rephrased) {
            assert_eq!(question, same);
            let numbers = |text: &str| {
                let mut found: Vec<String> = number
                    .find_iter(text)
                    .map(|found| found.as_str().to_owned())
                    .collect();
                found.sort();
                found
            };
            assert_eq!(numbers(question), numbers(other), "{other}");
        }
    }
}

#[test]
fn prompts_end_in_the_authors_layout() {
    let solved = solve_prompt(Source::Math, Rewriting::Sv, "Q", Behaviour::Fixed);
    assert!(
        solved.ends_with("\nThe value of X is 25.\n\nQuestion: Q\nA: Let's think step by step.\n")
    );
    let rephrase = rephrase_prompt(Source::Gsm8k, "Q");
    assert!(rephrase.ends_with("?\n\nQuestion: Q\nRephrase the above question: "));
    let rewrite = sv_rewrite_prompt(Source::Gsm8k, "How many?", "5");
    assert!(rewrite.ends_with(".\n\nQuestion: How many? The answer is 5.\n Result: "));
    assert_eq!(
        fobar_question(Source::Math, "M", "5"),
        "M\n### If we know the answer to the above question is 5, what is the value of unknown variable $X$?"
    );
    assert_eq!(
        sv_question(Source::Math, "B.", "S."),
        "B. S. What is the value of unknown variable $X$?"
    );
}

#[test]
fn the_released_program_shows_examples_of_math_for_backward_questions() {
    for few in ALL {
        let [gsm8k, math] =
            Source::ALL.map(|source| prompt_prefix(source, few, Behaviour::Released));
        assert_eq!(
            gsm8k == math,
            matches!(few, Few::Fobar | Few::Sv),
            "{few:?}"
        );
    }
}

#[test]
fn a_question_is_cut_after_its_last_point_or_comma() {
    for (question, base, clause) in [
        ("A. B, c?", "A. B,", "c?"),
        ("Pay $1,000?", "Pay $1,", "000?"),
        ("It costs 2.5 x?", "It costs 2.", "5 x?"),
        ("Ends here.", "Ends here.", ""),
        (" Neither? ", "Neither?", ""),
        ("", "", ""),
    ] {
        let parts = split_question(question);
        assert_eq!((parts.base, parts.clause), (base, clause), "{question}");
    }
}
