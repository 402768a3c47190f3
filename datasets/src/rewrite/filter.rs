//! Which replies are kept: those whose answer is the known one.

use super::mask::word_value;
use super::{Behaviour, Rewriting, Source, clean_answer};
use crate::grade::{Program, normalise_as};

/// Reads answers out of replies to one kind of question and compares them with the truth, as text.
///
/// With [`Behaviour::Released`] the faults of the authors' program are in effect:
/// - rephrased and self-verification questions of MATH are judged by the rule of GSM8K;
/// - FOBAR questions of MATH are answered after `The value of $X$ is`, though examples end in
///   `The value of X is`;
/// - a colon after `The answer is` counts as part of an answer to MATH;
/// - the truth of a backward question is cleaned twice, which matters from 1e16 on.
///
/// By default each collection keeps its rule, both ways of writing the unknown and both of writing the
/// sentence are understood, everything is cleaned once, and a reply without an answer is never kept.
///
/// ```
/// use temper_datasets::rewrite::{AnswerFilter, Behaviour, Rewriting, Source};
///
/// let filter = AnswerFilter::new(Source::Gsm8k, Rewriting::Fobar, Behaviour::Fixed);
/// let truth = filter.truth("$1,200.").unwrap();
/// assert_eq!(truth, "1200");
/// assert!(filter.accepts("So 2 * 600 = x.\nThe value of x is 1200.", &truth));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerFilter {
    source: Source,
    rewriting: Rewriting,
    behaviour: Behaviour,
}

impl AnswerFilter {
    /// The filter for replies to questions of this kind.
    pub fn new(source: Source, rewriting: Rewriting, behaviour: Behaviour) -> Self {
        Self {
            source,
            rewriting,
            behaviour,
        }
    }

    /// The truth in the form in which it is compared: the gold answer for forward questions, what was hidden
    /// for backward ones. `None` where there is none, so that no reply could be kept.
    pub fn truth(self, answer: &str) -> Option<String> {
        let truth = match (self.rewriting.is_backward(), self.source) {
            (true, _) => self.hidden_value(answer)?,
            (false, Source::Gsm8k) => clean_answer(Source::Gsm8k, answer, "The answer is")?,
            (false, Source::Math) => normalise_as(answer, Program::Cleaner)?,
        };
        Some(truth).filter(|truth| !truth.is_empty())
    }

    fn hidden_value(self, hidden: &str) -> Option<String> {
        let hidden = match self.source {
            Source::Gsm8k => word_value(hidden),
            Source::Math => hidden,
        };
        let clean = |text: &str| clean_answer(self.rule(), text, "The answer is");
        let once = clean(hidden)?;
        match self.behaviour {
            Behaviour::Fixed => Some(once),
            Behaviour::Released => clean(&once),
        }
    }

    /// The answer that a reply gives, in the form in which it is compared. `None` where it gives none.
    pub fn prediction(self, reply: &str) -> Option<String> {
        let answer = match self.behaviour {
            Behaviour::Released => clean_answer(self.rule(), reply, self.marker()),
            Behaviour::Fixed => {
                let plain = reply
                    .replace("The answer is:", "The answer is")
                    .replace("The value of $X$ is", "The value of X is")
                    .replace("The value of $x$ is", "The value of x is");
                clean_answer(self.rule(), &plain, self.marker())
            }
        };
        answer.filter(|answer| !answer.is_empty())
    }

    /// Whether a reply gives the answer `truth`, which [`Self::truth`] made.
    pub fn accepts(self, reply: &str, truth: &str) -> bool {
        self.prediction(reply).is_some_and(|answer| answer == truth)
    }

    fn rule(self) -> Source {
        match (self.behaviour, self.rewriting) {
            (Behaviour::Released, Rewriting::Rephrased | Rewriting::Sv) => Source::Gsm8k,
            _ => self.source,
        }
    }

    fn marker(self) -> &'static str {
        match (self.rewriting, self.source) {
            (Rewriting::AnsAug | Rewriting::Rephrased, _) => "The answer is",
            (_, Source::Gsm8k) => "The value of x is",
            (Rewriting::Fobar, Source::Math) if self.behaviour == Behaviour::Released => {
                "The value of $X$ is"
            }
            (_, Source::Math) => "The value of X is",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prediction(rewriting: Rewriting, behaviour: Behaviour, reply: &str) -> Option<String> {
        AnswerFilter::new(Source::Math, rewriting, behaviour).prediction(reply)
    }

    #[test]
    fn both_ways_of_writing_the_sentence_are_understood() {
        for reply in [
            "The value of X is 5.",
            "The value of $X$ is 5.",
            "The value of X is $5$",
        ] {
            for rewriting in [Rewriting::Sv, Rewriting::Fobar] {
                let found = prediction(rewriting, Behaviour::Fixed, reply);
                assert!(matches!(found.as_deref(), Some("5" | "$5$")), "{reply}");
            }
        }
        let colon = "The answer is: 5";
        let found = |behaviour| prediction(Rewriting::AnsAug, behaviour, colon);
        assert_eq!(found(Behaviour::Fixed).as_deref(), Some("5"));
        assert_eq!(found(Behaviour::Released).as_deref(), Some(":5"));
    }

    #[test]
    fn the_released_program_judges_some_questions_of_math_by_the_rule_of_gsm8k() {
        let reply = r"The answer is \frac{1}{2}.";
        let found = |behaviour| prediction(Rewriting::Rephrased, behaviour, reply);
        assert_eq!(found(Behaviour::Fixed).as_deref(), Some(r"\frac{1}{2}"));
        assert_eq!(found(Behaviour::Released).as_deref(), Some("2"));
    }

    #[test]
    fn truths_are_values_of_what_was_hidden() {
        let filter = AnswerFilter::new(Source::Gsm8k, Rewriting::Sv, Behaviour::Fixed);
        for (hidden, truth) in [
            ("twelve", "12"),
            ("half", "50"),
            ("$3.50,", "3.5"),
            ("1/2", "1/2"),
        ] {
            assert_eq!(filter.truth(hidden).as_deref(), Some(truth), "{hidden}");
        }
        assert_eq!(filter.truth("many"), None);
        let filter = AnswerFilter::new(Source::Math, Rewriting::AnsAug, Behaviour::Fixed);
        assert_eq!(
            filter.truth(r"\dfrac{7}{22}").as_deref(),
            Some(r"\frac{7}{22}")
        );
        assert!(!filter.accepts("I do not know.", ""));
    }

    #[test]
    fn the_released_program_cleans_a_hidden_number_twice() {
        let truth = |behaviour| {
            let filter = AnswerFilter::new(Source::Gsm8k, Rewriting::Fobar, behaviour);
            filter.truth("100000000000000000000")
        };
        assert_eq!(truth(Behaviour::Fixed).as_deref(), Some("100.0"));
        assert_eq!(truth(Behaviour::Released).as_deref(), Some("100"));
    }
}
