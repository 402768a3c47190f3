//! What the model is really trained on, to look at.

use crate::error::Result;
use crate::example::{ExampleRef, IGNORED};
use crate::stream::DecodeStream;
use crate::tokenizer::Tokenizer;

/// An example as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Text before the first trained token.
    pub prompt: String,
    /// Text from the first trained token on.
    pub response: String,
    /// The whole text with the trained parts marked.
    pub marked: String,
    /// Number of tokens.
    pub tokens: usize,
    /// Number of trained tokens.
    pub targets: usize,
}

/// Shows `example` with the trained tokens between `«` and `»`, and green with `colour`. Special tokens
/// are shown.
///
/// # Errors
/// If an id is outside the vocabulary.
///
/// ```no_run
/// # use temper_datasets::{Dataset, Tokenizer, preview};
/// # fn show(dataset: &Dataset, tokenizer: &Tokenizer) -> temper_datasets::Result<()> {
/// println!("{}", preview(dataset.example(0), tokenizer, false)?.marked);
/// # Ok(())
/// # }
/// ```
pub fn preview(example: ExampleRef<'_>, tokenizer: &Tokenizer, colour: bool) -> Result<Preview> {
    let (open, close) = if colour {
        ("\x1b[32m«", "»\x1b[0m")
    } else {
        ("«", "»")
    };
    let parts = parts(example, tokenizer)?;
    let mut shown = Preview {
        prompt: String::new(),
        response: String::new(),
        marked: String::new(),
        tokens: 0,
        targets: 0,
    };
    for (trained, text) in &parts {
        if *trained || !shown.response.is_empty() {
            shown.response.push_str(text);
        } else {
            shown.prompt.push_str(text);
        }
        if *trained {
            shown.marked.push_str(open);
            shown.marked.push_str(text);
            shown.marked.push_str(close);
        } else {
            shown.marked.push_str(text);
        }
    }
    shown.tokens = example.len();
    shown.targets = example.targets();
    Ok(shown)
}

/// The text in runs of trained and untrained tokens.
fn parts(example: ExampleRef<'_>, tokenizer: &Tokenizer) -> Result<Vec<(bool, String)>> {
    let mut stream = DecodeStream::new(tokenizer, false);
    let mut parts: Vec<(bool, String)> = Vec::new();
    let mut add = |trained: bool, text: &str| match parts.last_mut() {
        Some((last, so_far)) if *last == trained => so_far.push_str(text),
        _ => parts.push((trained, text.to_owned())),
    };
    let mut trained = false;
    for (id, label) in example.input_ids.iter().zip(example.labels) {
        trained = *label != IGNORED;
        if let Some(text) = stream.push(*id)? {
            add(trained, &text);
        }
    }
    let rest = stream.finish()?;
    if !rest.is_empty() {
        add(trained, &rest);
    }
    Ok(parts)
}
