//! Kept replies to rows of `MetaMathQA`.

use serde::{Deserialize, Serialize};

use super::{Rewriting, Source, type_name};

/// A row in the schema of `MetaMathQA`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaMathRow {
    /// Collection and rewriting, such as `GSM_FOBAR`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The question to learn.
    pub query: String,
    /// The question it was made of; the same for answer augmentation.
    pub original_question: String,
    /// The answer to learn.
    pub response: String,
}

impl MetaMathRow {
    /// A row for a kept reply. `truth` is what [`super::AnswerFilter::truth`] gave.
    ///
    /// The response is the reply's steps, then for GSM8K a line `#### N`, then `The answer is: N`. A last
    /// sentence of the reply that says `The answer is N`, and a line `#### N` of its own, give way to them;
    /// `The value of x is N` stays.
    pub fn new(
        source: Source,
        rewriting: Rewriting,
        query: &str,
        original_question: &str,
        (reply, truth): (&str, &str),
    ) -> Self {
        let steps = without_answer(reply);
        let hashes = match source {
            Source::Gsm8k => format!("#### {truth}\n"),
            Source::Math => String::new(),
        };
        let separator = if steps.is_empty() { "" } else { "\n" };
        Self {
            kind: type_name(source, rewriting),
            query: query.to_owned(),
            original_question: original_question.to_owned(),
            response: format!("{steps}{separator}{hashes}The answer is: {truth}"),
        }
    }
}

/// `reply` without the sentence that states the answer, if it is the last one, and without `#### …`.
fn without_answer(reply: &str) -> &str {
    let reply = reply.trim();
    let steps = match reply.rfind("The answer is") {
        Some(start) if !reply[start..].contains('\n') => reply[..start].trim_end(),
        _ => reply,
    };
    match steps.rsplit_once("####") {
        Some((before, rest)) if !rest.contains('\n') => before.trim_end(),
        _ => steps,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(source: Source, rewriting: Rewriting, reply: &str, truth: &str) -> String {
        MetaMathRow::new(source, rewriting, "q", "o", (reply, truth)).response
    }

    #[test]
    fn forward_replies_end_as_the_published_rows_do() {
        let expected = "2 * 3 = 6.\n#### 6\nThe answer is: 6";
        for reply in [
            "2 * 3 = 6.\nThe answer is 6.",
            "2 * 3 = 6. The answer is: 6 dollars",
            "2 * 3 = 6.\n#### 6\nThe answer is: 6",
            " 2 * 3 = 6.\n#### 6\n",
        ] {
            assert_eq!(
                response(Source::Gsm8k, Rewriting::AnsAug, reply, "6"),
                expected
            );
        }
        let math = response(Source::Math, Rewriting::Rephrased, r"So $\boxed{6}$.", "6");
        assert_eq!(math, "So $\\boxed{6}$.\nThe answer is: 6");
    }

    #[test]
    fn backward_replies_keep_their_sentence() {
        let reply = "x + 1 = 7.\nThe value of x is 6.";
        let expected = "x + 1 = 7.\nThe value of x is 6.\n#### 6\nThe answer is: 6";
        assert_eq!(
            response(Source::Gsm8k, Rewriting::Fobar, reply, "6"),
            expected
        );
    }

    #[test]
    fn a_row_has_the_four_fields_of_metamathqa_in_their_order() {
        let row = MetaMathRow::new(Source::Gsm8k, Rewriting::Sv, "q", "o", ("", "6"));
        let text = serde_json::to_string(&row).unwrap();
        let expected = r#####"{"type":"GSM_SV","query":"q","original_question":"o","response":"#### 6\nThe answer is: 6"}"#####;
        assert_eq!(text, expected);
    }
}
