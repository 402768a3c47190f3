//! What a run would ask, without asking.

use std::fmt::Write as _;
use std::io::Write as _;

use temper_datasets::rewrite::{
    Mask, Rewriting, fobar_question, rephrase_prompt, solve_prompt, split_question,
    sv_rewrite_prompt, type_name,
};

use super::plan::{Rules, Seed, Seeds, Unit, has_rewrite, units};
use super::source;
use super::table::{Line, render};
use crate::Failure;
use crate::recipe::{BootstrapRecipe, TextModelKind};
use crate::run::note;
use crate::text_model::{Spent, estimated_tokens};
use crate::train::grouped;

/// Tokens of a reply, for estimates.
const USUAL_REPLY: u64 = 200;

/// What one kind would take.
#[derive(Default)]
struct Estimate {
    rows: u64,
    requests: u64,
    prompt_tokens: u64,
}

/// Prints rows, requests and tokens of a recipe, and the beginning of what would be asked. Nothing is sent or written.
///
/// # Errors
/// Question files that cannot be read.
pub fn dry_run(recipe: &BootstrapRecipe) -> Result<(), Failure> {
    let seeds = Seeds::read(recipe)?;
    seeds.note_skipped();
    let rules = Rules::of(recipe);
    let numbers: usize = seeds.all.iter().map(|seed| seed.numbers(rules).len()).sum();
    let mut text = format!(
        "{} questions, {} numbers to hide\n",
        grouped(seeds.all.len() as u64),
        grouped(numbers as u64)
    );
    if recipe.text_model.kind != TextModelKind::None {
        let all = units(&seeds.all, &recipe.samples, rules);
        text += &estimates(recipe, &seeds.all, &all, rules);
        text += &examples(&seeds.all, &all, rules);
    }
    let mut out = std::io::stdout().lock();
    write!(out, "{text}")?;
    out.flush()?;
    note("a dry run: nothing was asked and nothing written");
    Ok(())
}

fn estimates(recipe: &BootstrapRecipe, seeds: &[Seed], all: &[Unit], rules: Rules) -> String {
    let mut lines = Vec::new();
    let mut spent = Spent::default();
    let kinds: Vec<(Rewriting, Estimate)> = Rewriting::ALL
        .into_iter()
        .map(|kind| (kind, estimate(kind, seeds, all, rules)))
        .filter(|(_, estimate)| estimate.rows > 0)
        .collect();
    let heads = kinds.iter().map(|(kind, _)| type_name(rules.source, *kind));
    lines.push(Line::head(heads.collect()));
    let mut add = |label: &str, count: &dyn Fn(&Estimate) -> u64| {
        let counts = kinds.iter().map(|(_, estimate)| count(estimate));
        lines.push(Line::summed(label, counts.collect()));
    };
    add("rows at most", &|estimate| estimate.rows);
    add("requests, if none fails", &|estimate| estimate.requests);
    add("prompt tokens, about", &|estimate| estimate.prompt_tokens);
    for (_, estimate) in &kinds {
        spent.requests += estimate.requests;
        spent.prompt_tokens += estimate.prompt_tokens;
    }
    spent.reply_tokens = spent.requests * USUAL_REPLY;
    format!("{}\n{}", render(&lines), bounds(recipe, spent))
}

fn estimate(kind: Rewriting, seeds: &[Seed], all: &[Unit], rules: Rules) -> Estimate {
    let mut estimate = Estimate::default();
    for unit in all.iter().filter(|unit| unit.kind == kind) {
        let seed = &seeds[unit.seed];
        estimate.rows += 1;
        estimate.requests += if has_rewrite(kind) { 2 } else { 1 };
        estimate.prompt_tokens += estimated_tokens(&first_prompt(*unit, seed, rules));
        if has_rewrite(kind) {
            // The question that is yet to be written is about as long as the one it is made of.
            let prompt = solve_prompt(rules.source, kind, &seed.question, rules.behaviour);
            estimate.prompt_tokens += estimated_tokens(&prompt);
        }
    }
    estimate
}

/// Time and money, as far as the recipe says how fast and how dear.
fn bounds(recipe: &BootstrapRecipe, spent: Spent) -> String {
    let mut text = String::new();
    let limits = source::limits(recipe);
    if limits.prompt_price + limits.reply_price > 0.0 {
        let price = limits.price_of(spent);
        let _ = writeln!(
            text,
            "price, about: {price:.2} (replies of {USUAL_REPLY} tokens)"
        );
    }
    let minutes = [
        (recipe.text_model.requests_per_minute, spent.requests),
        (recipe.text_model.tokens_per_minute, spent.tokens()),
    ];
    let minutes = minutes
        .into_iter()
        .filter_map(|(rate, amount)| rate.map(|rate| amount as f64 / f64::from(rate)));
    let minutes = minutes.fold(0.0, f64::max);
    if minutes > 0.0 {
        let _ = writeln!(
            text,
            "at the given rates: at least {:.1} hours",
            minutes / 60.0
        );
    }
    text
}

/// The first prompt of each kind, without its worked examples.
fn examples(seeds: &[Seed], all: &[Unit], rules: Rules) -> String {
    let mut text = String::new();
    for kind in Rewriting::ALL {
        if let Some(unit) = all.iter().find(|unit| unit.kind == kind) {
            let prompt = first_prompt(*unit, &seeds[unit.seed], rules);
            let end = prompt
                .rsplit_once("\n\n")
                .map_or(prompt.as_str(), |(_, end)| end);
            let name = type_name(rules.source, kind);
            let end = end.trim_end();
            let _ = writeln!(text, "\n--- {name}: 8 worked examples, then\n{end}");
        }
    }
    text
}

fn first_prompt(unit: Unit, seed: &Seed, rules: Rules) -> String {
    let numbers = seed.numbers(rules);
    let number = unit.number.and_then(|number| numbers.get(number as usize));
    let masked = number.map(Mask::question).unwrap_or_default();
    let solve = |question: &str| solve_prompt(rules.source, unit.kind, question, rules.behaviour);
    match unit.kind {
        Rewriting::AnsAug => solve(&seed.question),
        Rewriting::Fobar => solve(&fobar_question(rules.source, &masked, &seed.told)),
        Rewriting::Rephrased => rephrase_prompt(rules.source, &seed.question),
        Rewriting::Sv => {
            let clause = split_question(&masked).clause;
            sv_rewrite_prompt(rules.source, clause, &seed.told)
        }
    }
}
