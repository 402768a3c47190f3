//! Questions to prompts.

use std::fmt::Write as _;

use super::{Shot, Task};
use crate::rewrite::{Few, Source, worked_examples};
use crate::template::instruction_prompt;

/// Our own worked examples for a task, eight of them; take as many as there shall be.
pub fn shots(task: Task) -> Vec<Shot> {
    match task {
        Task::Gsm8k => worked_examples(Source::Gsm8k, Few::AnsAug),
        Task::Gsm8kBackward => worked_examples(Source::Gsm8k, Few::Fobar),
        Task::Math => worked_examples(Source::Math, Few::AnsAug),
    }
}

/// `MetaMath`'s evaluation prompt: the whole question as instruction, and the beginning of the answer.
///
/// Without examples it is that of the authors byte for byte. Examples come between the first paragraph and
/// the question, each under the same two headings and with a last line `The answer is: N`, blank lines
/// between them.
///
/// ```
/// let prompt = temper_datasets::problems::eval_prompt("1 + 1?", &[]);
/// assert!(prompt.ends_with("\n1 + 1?\n\n### Response: Let's think step by step."));
/// ```
pub fn eval_prompt(question: &str, few_shot: &[Shot]) -> String {
    const BEGIN: &str = " Let's think step by step.";
    let last = instruction_prompt(question, "") + BEGIN;
    let Some((task, block)) = last.split_once("\n\n") else {
        return last;
    };
    if few_shot.is_empty() {
        return last;
    }
    let mut prompt = task.to_owned();
    for shot in few_shot {
        // Writing to a string cannot fail.
        let _ = write!(
            prompt,
            "\n\n### Instruction:\n{}\n\n### Response:{BEGIN}\n{}\nThe answer is: {}",
            shot.question, shot.rationale, shot.answer
        );
    }
    prompt + "\n\n" + block
}

/// The prompt of lm-evaluation-harness: `Question: …\nAnswer:` for GSM8K, `Problem:\n…\n\nSolution:` for
/// MATH, examples in front with a blank line between them.
///
/// ```
/// use temper_datasets::problems::{Task, lm_eval_prompt};
///
/// assert_eq!(lm_eval_prompt(Task::Gsm8k, "1 + 1?", &[]), "Question: 1 + 1?\nAnswer:");
/// ```
pub fn lm_eval_prompt(task: Task, question: &str, few_shot: &[Shot]) -> String {
    let put = |question: &str| match task {
        Task::Gsm8k | Task::Gsm8kBackward => format!("Question: {question}\nAnswer:"),
        Task::Math => format!("Problem:\n{question}\n\nSolution:"),
    };
    let mut prompt = String::new();
    for Shot {
        question,
        rationale,
        answer,
    } in few_shot
    {
        let _ = write!(prompt, "{} {rationale}", put(question));
        if task == Task::Math {
            let _ = write!(
                prompt,
                "\nFinal Answer: The final answer is ${answer}$. I hope it is correct."
            );
        }
        prompt.push_str("\n\n");
    }
    prompt + &put(question)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shot() -> Shot {
        Shot {
            question: "Q\n1".into(),
            rationale: "R\n#### 5".into(),
            answer: "5".into(),
        }
    }

    #[test]
    fn the_evaluation_prompt_holds_the_whole_question() {
        assert_eq!(
            eval_prompt("Q1\nQ2", &[]),
            "Below is an instruction that describes a task. Write a response that appropriately \
             completes the request.\n\n### Instruction:\nQ1\nQ2\n\n### Response: Let's think step by step."
        );
    }

    #[test]
    fn examples_stand_between_the_task_and_the_question() {
        assert_eq!(
            eval_prompt("Q2\n\nX", &[shot()]),
            "Below is an instruction that describes a task. Write a response that appropriately \
             completes the request.\n\n### Instruction:\nQ\n1\n\n### Response: Let's think step by step.\n\
             R\n#### 5\nThe answer is: 5\n\n### Instruction:\nQ2\n\nX\n\n### Response: Let's think step by \
             step."
        );
    }

    #[test]
    fn the_harness_separates_examples_by_blank_lines() {
        assert_eq!(
            lm_eval_prompt(Task::Gsm8k, "Q2", &[shot()]),
            "Question: Q\n1\nAnswer: R\n#### 5\n\nQuestion: Q2\nAnswer:"
        );
        let shot = Shot {
            rationale: "R".into(),
            ..shot()
        };
        assert_eq!(
            lm_eval_prompt(Task::Math, "Q2", &[shot]),
            "Problem:\nQ\n1\n\nSolution: R\nFinal Answer: The final answer is $5$. I hope it is \
             correct.\n\nProblem:\nQ2\n\nSolution:"
        );
    }

    #[test]
    fn every_task_has_eight_examples_that_its_own_graders_accept() {
        for task in Task::ALL {
            let shots = shots(task);
            assert_eq!(shots.len(), 8);
            for shot in &shots {
                let completion = format!("{}\nThe answer is: {}", shot.rationale, shot.answer);
                let grades = crate::grade::grade(task, &completion, &shot.answer).unwrap();
                assert!(
                    grades.metamath.correct && grades.lm_eval_flexible.correct,
                    "{completion}"
                );
                assert!(
                    task == Task::Math || grades.lm_eval_strict.correct,
                    "{completion}"
                );
            }
        }
    }
}
