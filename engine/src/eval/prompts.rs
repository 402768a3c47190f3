//! Questions as the model reads them.

use temper_datasets::problems::{STOP_STRINGS, Shot, Task, eval_prompt, lm_eval_prompt, shots};
use temper_datasets::template::instruction_prompt;
use temper_datasets::{ChatTemplate, Message, Tokenizer};

use super::EvalError;
use crate::recipe::PromptStyle;

/// How questions become prompts.
#[derive(Debug)]
pub(crate) struct Prompter {
    task: Task,
    style: PromptStyle,
    shots: Vec<Shot>,
    suffix: String,
    chat: Option<ChatTemplate>,
}

impl Prompter {
    /// Prepares a style with `few_shot` worked examples and a text behind each question.
    pub(crate) fn new(
        task: Task,
        style: PromptStyle,
        few_shot: usize,
        suffix: &str,
        tokenizer: &Tokenizer,
    ) -> Result<Self, EvalError> {
        let wrong = |reason: String| Err(EvalError::Prompt { reason });
        let mut examples = shots(task);
        if few_shot > examples.len() {
            return wrong(format!(
                "{few_shot} worked examples are asked for, and `{task}` has {}",
                examples.len()
            ));
        }
        let takes_examples = matches!(style, PromptStyle::Metamath | PromptStyle::LmEval);
        if few_shot > 0 && !takes_examples {
            return wrong(format!(
                "the prompt style `{}` has no place for worked examples; use `metamath` or `lm-eval`",
                style.as_str()
            ));
        }
        examples.truncate(few_shot);
        let chat = match (style, tokenizer.chat_template()) {
            (PromptStyle::Chat, Some(jinja)) => Some(ChatTemplate::new(jinja, tokenizer)?),
            (PromptStyle::Chat, None) => {
                return wrong(
                    "the model has no chat template; use another prompt style".to_owned(),
                );
            }
            _ => None,
        };
        Ok(Self {
            task,
            style,
            shots: examples,
            suffix: suffix.to_owned(),
            chat,
        })
    }

    /// The prompt of a question.
    pub(crate) fn text(&self, question: &str) -> Result<String, EvalError> {
        let question = format!("{question}{}", self.suffix);
        Ok(match (&self.chat, self.style) {
            (Some(template), _) => template.render(&[Message::new("user", question)], true)?,
            (None, PromptStyle::Metamath) => eval_prompt(&question, &self.shots),
            (None, PromptStyle::LmEval) => lm_eval_prompt(self.task, &question, &self.shots),
            (None, PromptStyle::Alpaca) => instruction_prompt(&question, ""),
            (None, PromptStyle::Raw | PromptStyle::Chat) => question,
        })
    }

    /// The tokens of a prompt.
    pub(crate) fn ids(
        &self,
        question: &str,
        prompt: &str,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, EvalError> {
        if self.chat.is_none() {
            return Ok(tokenizer.encode(prompt, true)?);
        }
        match tokenizer.special_in(question) {
            None => Ok(tokenizer.encode_with_specials(prompt)?),
            Some(token) => Err(EvalError::Prompt {
                reason: format!(
                    "a question holds the special token `{token}`, which would end or split the \
                     conversation; use another prompt style"
                ),
            }),
        }
    }
}

/// Texts that end a completion in a style, as its authors chose them.
pub(crate) fn stop_strings(task: Task, style: PromptStyle) -> Vec<String> {
    let texts: &[&str] = match (style, task) {
        (PromptStyle::Metamath | PromptStyle::Alpaca, _) => &STOP_STRINGS,
        (PromptStyle::LmEval, Task::Math) => &["Problem:", "</s>", "<|im_end|>"],
        (PromptStyle::LmEval, _) => &["Question:", "</s>", "<|im_end|>"],
        (PromptStyle::Raw | PromptStyle::Chat, _) => &[],
    };
    texts.iter().map(|&text| text.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let stories = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/stories260k");
        Tokenizer::load(stories).unwrap()
    }

    fn prompt(style: PromptStyle, few_shot: usize, suffix: &str) -> Result<String, EvalError> {
        Prompter::new(Task::Gsm8k, style, few_shot, suffix, &tokenizer())?.text("1 + 1?")
    }

    #[test]
    fn styles_frame_the_question() {
        let head = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\n1 + 1?\n\n### Response:";
        assert_eq!(
            prompt(PromptStyle::Metamath, 0, "").unwrap(),
            format!("{head} Let's think step by step.")
        );
        assert_eq!(prompt(PromptStyle::Alpaca, 0, "").unwrap(), head);
        assert_eq!(
            prompt(PromptStyle::LmEval, 0, "").unwrap(),
            "Question: 1 + 1?\nAnswer:"
        );
        assert_eq!(
            prompt(PromptStyle::Raw, 0, "\nEnd with `The answer is: `.").unwrap(),
            "1 + 1?\nEnd with `The answer is: `."
        );
    }

    #[test]
    fn examples_stand_before_the_question_where_the_style_has_a_place_for_them() {
        let two = prompt(PromptStyle::LmEval, 2, "").unwrap();
        assert_eq!(two.matches("Question: ").count(), 3);
        assert!(two.ends_with("Question: 1 + 1?\nAnswer:"));
        for (style, few_shot, part) in [
            (PromptStyle::Raw, 1, "no place"),
            (PromptStyle::Metamath, 1000, "has 8"),
            (PromptStyle::Chat, 0, "no chat template"),
        ] {
            let error = prompt(style, few_shot, "").unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_style_ends_where_its_authors_end_it() {
        assert_eq!(stop_strings(Task::Gsm8k, PromptStyle::Metamath).len(), 10);
        assert_eq!(stop_strings(Task::Math, PromptStyle::LmEval)[0], "Problem:");
        assert!(stop_strings(Task::Math, PromptStyle::Raw).is_empty());
    }
}
