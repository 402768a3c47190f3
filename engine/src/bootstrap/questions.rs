//! Backward questions without a text model: every number of every question hidden in turn, and asked for in the manner of FOBAR.

use std::io::Write;
use std::time::Instant;

use serde::Serialize;
use temper_datasets::rewrite::{Mask, Rewriting, fobar_question, type_name};

use super::BootstrapError;
use super::plan::{Rules, Seed, Seeds};
use super::table::{Line, render};
use crate::Failure;
use crate::run::{RunDir, note, write_atomic_with};

/// A line of `questions.jsonl`; its first four fields are those of GSM8K-Backward.
#[derive(Debug, Serialize)]
struct Backward<'a> {
    query: String,
    /// The value of the unknown, as replies to it are compared.
    answer: String,
    r#type: String,
    original_question: &'a str,
    masked_question: String,
    /// What was hidden, as it stood there.
    hidden: &'a str,
    row: u64,
    number: u32,
}

/// The content of `summary.json`.
#[derive(Debug, Default, Serialize)]
struct Counts {
    questions: u64,
    /// Questions without a number that can be hidden.
    without_numbers: u64,
    numbers: u64,
    /// Hidden numbers whose value cannot be compared.
    incomparable: u64,
    backward_questions: u64,
    skipped: Vec<String>,
    seconds: f64,
}

/// Writes the questions and prints how many there are.
pub(super) fn write(
    seeds: &Seeds,
    rules: Rules,
    directory: &RunDir,
    begin: Instant,
) -> Result<(), Failure> {
    let path = directory.path().join("questions.jsonl");
    let mut counts = Counts {
        questions: seeds.all.len() as u64,
        skipped: seeds.skipped.clone(),
        ..Counts::default()
    };
    let written = write_atomic_with(&path, |file| {
        for seed in &seeds.all {
            write_seed(seed, rules, &mut counts, file)?;
        }
        Ok(())
    });
    written.map_err(BootstrapError::from)?;
    counts.seconds = begin.elapsed().as_secs_f64();
    directory.write_json(&directory.summary(), &counts)?;
    let line = |label: &str, count| Line::numbers(label, &[count]);
    let table = render(&[
        line("questions", counts.questions),
        line("without a number to hide", counts.without_numbers),
        line("numbers", counts.numbers),
        line("of no comparable value", counts.incomparable),
        line("backward questions", counts.backward_questions),
    ]);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{table}")?;
    out.flush()?;
    note(&format!("`{}`, in {:.2} s", path.display(), counts.seconds));
    Ok(())
}

fn write_seed(
    seed: &Seed,
    rules: Rules,
    counts: &mut Counts,
    file: &mut dyn Write,
) -> std::io::Result<()> {
    let numbers = seed.numbers(rules);
    counts.without_numbers += u64::from(numbers.is_empty());
    for (number, mask) in (0..).zip(&numbers) {
        counts.numbers += 1;
        match backward(seed, rules, number, mask) {
            None => counts.incomparable += 1,
            Some(question) => {
                counts.backward_questions += 1;
                serde_json::to_writer(&mut *file, &question)?;
                file.write_all(b"\n")?;
            }
        }
    }
    Ok(())
}

fn backward<'a>(
    seed: &'a Seed,
    rules: Rules,
    number: u32,
    mask: &Mask<'a>,
) -> Option<Backward<'a>> {
    let masked_question = mask.question();
    Some(Backward {
        query: fobar_question(rules.source, &masked_question, &seed.told),
        answer: seed.truth(rules, Rewriting::Fobar, Some(mask))?,
        r#type: type_name(rules.source, Rewriting::Fobar),
        original_question: &seed.question,
        masked_question,
        hidden: mask.hidden(),
        row: seed.row,
        number,
    })
}
