//! One row that may come of a question: its generations, and whether it is kept.
//!
//! | kind | generations | kept if the answer is |
//! |---|---|---|
//! | answer augmentation (eq. 1) | solve the question | the known answer |
//! | rephrasing (eq. 2) | say it in other words; solve that | the known answer |
//! | self-verification (eq. 3) | turn the last clause and the answer into a statement; solve for x | the hidden number |
//! | FOBAR (eq. 4) | solve for x | the hidden number |

use std::cell::RefCell;

use sha2::{Digest, Sha256};
use temper_datasets::random::{below, rng};
use temper_datasets::rewrite::{
    Mask, Rewriting, fobar_question, rephrase_prompt, solve_prompt, split_question, sv_question,
    sv_rewrite_prompt,
};

use super::BootstrapError;
use super::journal::Journal;
use super::plan::{Rules, Seed, Unit};
use super::record::{Key, Outcome, Record, Stage};
use crate::run::hex;
use crate::text_model::{Asked, Gate, Patience, Reply, TextError, TextModel, TextRequest, ask};

/// Everything that the units of a run share.
#[derive(Debug)]
pub(super) struct Workshop<'a> {
    pub(super) seeds: &'a [Seed],
    pub(super) rules: Rules,
    /// The recipe's seed.
    pub(super) seed: u64,
    pub(super) model: &'a dyn TextModel,
    pub(super) patience: Patience,
    pub(super) gate: &'a Gate,
    /// Borrowed only between waits.
    pub(super) journal: &'a RefCell<Journal>,
    pub(super) journal_path: &'a std::path::Path,
}

/// A generation before it is made.
struct Order {
    key: Key,
    prompt: String,
    /// The question to be answered, and its answer; none if a question is to be written.
    query: Option<String>,
    truth: Option<String>,
}

impl Workshop<'_> {
    /// Makes the generations of a unit that are not made yet.
    pub(super) async fn make(&self, unit: Unit) -> Result<(), BootstrapError> {
        let seed = &self.seeds[unit.seed];
        let numbers = seed.numbers(self.rules);
        let number = unit.number.and_then(|number| numbers.get(number as usize));
        let Some(query) = self.query(unit, seed, number).await? else {
            return Ok(());
        };
        let order = Order {
            key: unit.key(seed, Stage::Solve),
            prompt: solve_prompt(self.rules.source, unit.kind, &query, self.rules.behaviour),
            truth: seed.truth(self.rules, unit.kind, number),
            query: Some(query),
        };
        self.fulfil(order).await.map(|_| ())
    }

    /// The question that is to be answered; `None` if it could not be written.
    async fn query(
        &self,
        unit: Unit,
        seed: &Seed,
        number: Option<&Mask<'_>>,
    ) -> Result<Option<String>, BootstrapError> {
        let source = self.rules.source;
        let masked = number.map(Mask::question).unwrap_or_default();
        let split = split_question(&masked);
        let prompt = match unit.kind {
            Rewriting::AnsAug => return Ok(Some(seed.question.clone())),
            Rewriting::Fobar => return Ok(Some(fobar_question(source, &masked, &seed.told))),
            Rewriting::Rephrased => rephrase_prompt(source, &seed.question),
            Rewriting::Sv => sv_rewrite_prompt(source, split.clause, &seed.told),
        };
        let order = Order {
            key: unit.key(seed, Stage::Rewrite),
            prompt,
            query: None,
            truth: None,
        };
        let written = self.fulfil(order).await?;
        Ok(written.map(|text| match unit.kind {
            Rewriting::Sv => sv_question(source, split.base, &text),
            _ => text,
        }))
    }

    /// Makes a generation, or finds it among those that were made; returns the text of one that goes on.
    async fn fulfil(&self, order: Order) -> Result<Option<String>, BootstrapError> {
        let hash = hex(&Sha256::digest(order.prompt.as_bytes()));
        let found = self.journal.borrow_mut().find(&order.key)?;
        if let Some(record) = found {
            if record.prompt_sha256 != hash {
                return Err(BootstrapError::OtherQuestions {
                    row: order.key.row,
                    path: self.journal_path.to_path_buf(),
                });
            }
            return Ok(usable(&record));
        }
        let request = TextRequest {
            prompt: order.prompt.clone(),
            seed: seed_of(self.seed, &order.key),
        };
        let asked = ask(self.model, &request, self.patience, self.gate).await;
        if asked.attempts == 0 && matches!(asked.result, Err(TextError::Stopped)) {
            return Ok(None);
        }
        let record = self.record(order, request.seed, hash, asked);
        self.journal.borrow_mut().append(&record)?;
        Ok(usable(&record))
    }

    fn record(&self, order: Order, seed: u64, prompt_sha256: String, asked: Asked) -> Record {
        let mut record = Record {
            key: order.key,
            seed,
            model: self.model.name().to_owned(),
            prompt_sha256,
            query: order.query,
            reply: None,
            answer: None,
            truth: order.truth,
            outcome: Outcome::Failed,
            reason: None,
            attempts: asked.attempts,
            failures: asked.failures,
            prompt_tokens: 0,
            reply_tokens: 0,
            tokens_estimated: false,
        };
        match asked.result {
            Err(error) => record.reason = Some(error.name()),
            Ok(reply) => self.judge(&mut record, reply),
        }
        record
    }

    /// Decides what becomes of a reply.
    fn judge(&self, record: &mut Record, reply: Reply) {
        record.prompt_tokens = reply.usage.prompt_tokens;
        record.reply_tokens = reply.usage.reply_tokens;
        record.tokens_estimated = reply.usage.estimated;
        let text = reply.text.trim();
        if record.key.stage == Stage::Solve {
            record.answer = self.rules.filter(record.key.kind).prediction(text);
        }
        let refusal = match (record.key.stage, &record.answer) {
            _ if text.is_empty() => Some("empty reply"),
            (Stage::Rewrite, _) => reply.cut_off.then_some("cut off"),
            (Stage::Solve, answer) if answer.is_some() && *answer == record.truth => None,
            (Stage::Solve, _) if reply.cut_off => Some("cut off"),
            (Stage::Solve, None) => Some("no answer"),
            (Stage::Solve, Some(_)) => Some("other answer"),
        };
        record.outcome = match (refusal, record.key.stage) {
            (Some(_), _) => Outcome::Rejected,
            (None, Stage::Rewrite) => Outcome::Rewritten,
            (None, Stage::Solve) => Outcome::Accepted,
        };
        record.reason = refusal.map(str::to_owned);
        record.reply = Some(reply.text);
    }
}

/// The text of a reply that can be used.
fn usable(record: &Record) -> Option<String> {
    let is_usable = matches!(record.outcome, Outcome::Accepted | Outcome::Rewritten);
    let text = record.reply.as_deref().filter(|_| is_usable)?;
    Some(text.trim().to_owned())
}

/// The seed of a generation: 31 bits, which every endpoint understands.
fn seed_of(seed: u64, key: &Key) -> u64 {
    let number = key.number.map_or(0, |number| number + 1);
    let purpose = format!("bootstrap {} {:?} {number}", key.kind, key.stage);
    below(
        &mut rng(seed, &purpose, u64::from(key.sample), key.row),
        1 << 31,
    )
}
