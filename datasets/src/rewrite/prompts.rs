//! Prompts for a model that writes: our own worked examples, the authors' layout.

use super::{Behaviour, Rewriting, Source};
use crate::problems::Shot;

/// The system message with which every prompt is sent.
pub const SYSTEM_MESSAGE: &str = "Follow the given examples and answer the question.";

const STEP_BY_STEP: &str = "\nA: Let's think step by step.\n";

/// What the worked examples of a prompt show. There are eight of each, from the same eight problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Few {
    /// Solving a question.
    AnsAug,
    /// Saying a question in other words.
    Rephrase,
    /// Solving a FOBAR question.
    Fobar,
    /// Solving a self-verification question.
    Sv,
    /// Rewriting what is asked, with its answer, as a statement.
    SvRewrite,
}

/// The worked examples as text, the instruction that heads them included.
///
/// The authors' released program takes the examples of MATH for the backward questions of both
/// collections; [`Behaviour::Released`] does so, too.
pub fn prompt_prefix(source: Source, few: Few, behaviour: Behaviour) -> &'static str {
    let backward = matches!(few, Few::Fobar | Few::Sv);
    let source = if backward && behaviour == Behaviour::Released {
        Source::Math
    } else {
        source
    };
    let text = match (source, few) {
        (Source::Gsm8k, Few::AnsAug) => include_str!("prompts/ansaug_gsm8k.txt"),
        (Source::Gsm8k, Few::Rephrase) => include_str!("prompts/rephrase_gsm8k.txt"),
        (Source::Gsm8k, Few::Fobar) => include_str!("prompts/fobar_gsm8k.txt"),
        (Source::Gsm8k, Few::Sv) => include_str!("prompts/sv_gsm8k.txt"),
        (Source::Gsm8k, Few::SvRewrite) => include_str!("prompts/sv_rewrite_gsm8k.txt"),
        (Source::Math, Few::AnsAug) => include_str!("prompts/ansaug_math.txt"),
        (Source::Math, Few::Rephrase) => include_str!("prompts/rephrase_math.txt"),
        (Source::Math, Few::Fobar) => include_str!("prompts/fobar_math.txt"),
        (Source::Math, Few::Sv) => include_str!("prompts/sv_math.txt"),
        (Source::Math, Few::SvRewrite) => include_str!("prompts/sv_rewrite_math.txt"),
    };
    text.trim_end()
}

/// The prompt that has a question solved step by step. `question` is the original or rephrased one, or one
/// of [`super::fobar_question`] and [`super::sv_question`].
///
/// ```
/// use temper_datasets::rewrite::{Behaviour, Rewriting, Source, solve_prompt};
///
/// let prompt = solve_prompt(Source::Gsm8k, Rewriting::AnsAug, "1 + 1?", Behaviour::Fixed);
/// assert!(prompt.ends_with("\n\nQuestion: 1 + 1?\nA: Let's think step by step.\n"));
/// ```
pub fn solve_prompt(
    source: Source,
    rewriting: Rewriting,
    question: &str,
    behaviour: Behaviour,
) -> String {
    let few = match rewriting {
        Rewriting::AnsAug | Rewriting::Rephrased => Few::AnsAug,
        Rewriting::Fobar => Few::Fobar,
        Rewriting::Sv => Few::Sv,
    };
    let prefix = prompt_prefix(source, few, behaviour);
    format!("{prefix}\n\nQuestion: {question}{STEP_BY_STEP}")
}

/// The prompt that asks for a question in other words.
pub fn rephrase_prompt(source: Source, question: &str) -> String {
    let prefix = prompt_prefix(source, Few::Rephrase, Behaviour::Fixed);
    format!("{prefix}\n\nQuestion: {question}\nRephrase the above question: ")
}

/// The prompt that asks for a question's last clause and its answer as a statement.
pub fn sv_rewrite_prompt(source: Source, clause: &str, answer: &str) -> String {
    let prefix = prompt_prefix(source, Few::SvRewrite, Behaviour::Fixed);
    format!("{prefix}\n\nQuestion: {clause} The answer is {answer}.\n Result: ")
}

/// The worked examples of a prompt that solves, taken apart; nothing for the others.
pub fn worked_examples(source: Source, few: Few) -> Vec<Shot> {
    let text = prompt_prefix(source, few, Behaviour::Fixed);
    text.split("\n\n")
        .filter_map(|block| example(source, block))
        .collect()
}

fn example(source: Source, block: &str) -> Option<Shot> {
    let (question, solution) = block.strip_prefix("Question: ")?.split_once(STEP_BY_STEP)?;
    let (steps, last) = solution.rsplit_once('\n')?;
    let (_, answer) = last.split_once(" is ")?;
    let answer = answer.strip_suffix('.')?;
    let rationale = match source {
        Source::Gsm8k => format!("{steps}\n#### {answer}"),
        Source::Math => steps.to_owned(),
    };
    Some(Shot {
        question: question.to_owned(),
        rationale,
        answer: answer.to_owned(),
    })
}
