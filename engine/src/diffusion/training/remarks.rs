//! What happens to images and captions that their owner may not expect.

use temper_datasets::images::{Captions, Hints, ImageEntry, ImageLoader, caption_beside};

use crate::Failure;
use crate::diffusion::Pipeline;
use crate::recipe::{DiffusionRecipe, Images, shorten};

/// Most that are named of what there is more of.
const NAMED: usize = 3;

/// What shows without a model.
pub(super) fn remarks(loader: &ImageLoader) -> Vec<String> {
    let all = [
        enlarged(loader),
        small(loader),
        blank(loader),
        unread(loader),
    ];
    all.into_iter().flatten().collect()
}

/// Photographs in which no edges are found have nothing to be followed. A few of many tell.
fn blank(loader: &ImageLoader) -> Option<String> {
    const LOOKED_AT: usize = 16;
    let set = loader.instance();
    if !matches!(set.config().hints, Hints::Canny { .. }) {
        return None;
    }
    let (side, all) = (loader.config().resolution, set.entries().len());
    let looked = all.min(LOOKED_AT);
    let is_blank = |index: &usize| {
        // What cannot be read is reported when it is trained on.
        let edges = set.hint(*index, (side, side)).ok().flatten();
        edges.is_some_and(|edges| edges.rgb.iter().all(|value| *value == 0))
    };
    let spread = (0..looked).map(|number| number * all / looked);
    let blank: Vec<&ImageEntry> = spread
        .filter(is_blank)
        .map(|index| &set.entries()[index])
        .collect();
    (!blank.is_empty()).then(|| format!(
        "{} of {looked} photographs that were looked at have no edges at these thresholds, so that there is nothing to follow; lower `diffusion.canny_high` and `canny_low`: {}",
        blank.len(),
        named(&blank, |entry| file(entry))
    ))
}

/// Caption files that one prompt for all passes over.
fn unread(loader: &ImageLoader) -> Option<String> {
    let set = loader.instance();
    if !matches!(&set.config().captions, Captions::Prompt(prompt) if !prompt.is_empty()) {
        return None;
    }
    // What cannot be read is not missed.
    let has = |entry: &&ImageEntry| matches!(caption_beside(&entry.path), Ok(Some(_)));
    let beside: Vec<&ImageEntry> = set.entries().iter().filter(has).collect();
    (!beside.is_empty()).then(|| format!(
        "{} images have caption files, which are not read, as `images.instance_prompt` is the caption of all; `images.captions = \"files\"` reads them: {}",
        beside.len(),
        named(&beside, |entry| file(entry))
    ))
}

fn enlarged(loader: &ImageLoader) -> Option<String> {
    let enlarged = loader.enlarged();
    let (many, verbs) = match enlarged.len() {
        0 => return None,
        1 => ("image", "is smaller than its training size and is enlarged"),
        _ => (
            "images",
            "are smaller than their training size and are enlarged",
        ),
    };
    Some(format!(
        "{} {many} {verbs} (`images.resolution = {}`): {}",
        enlarged.len(),
        loader.config().resolution,
        named(&enlarged, |entry| file(entry))
    ))
}

fn small(loader: &ImageLoader) -> Option<String> {
    let (asked, largest) = (loader.config().batch_size, loader.largest_batch());
    let sizes = if loader.counts().len() > 1 {
        " of one size"
    } else {
        ""
    };
    (largest < asked).then(|| format!(
        "no step has the {asked} images of `train.batch_size`, but at most {largest}: an epoch has no more{sizes}, and images are not repeated within a batch; add images or write `batch_size = {largest}`"
    ))
}

/// The size that stands where a recipe says none is that of most models, not of all.
pub(super) fn of_another_size(recipe: &DiffusionRecipe, pipeline: &Pipeline) -> Option<String> {
    let (side, usual) = (recipe.images.resolution, pipeline.usual_size());
    let is_usual = side == usual || side != Images::default().resolution;
    (!is_usual).then(|| format!(
        "photographs are seen at {side} pixels, and this model was made for {usual}: `images.resolution = {usual}` is what it draws"
    ))
}

/// Captions and prompts whose end the text encoders never read.
///
/// # Errors
/// What a tokenizer refuses.
pub(super) fn cut(
    recipe: &DiffusionRecipe,
    loader: &ImageLoader,
    pipeline: &Pipeline,
) -> Result<Vec<String>, Failure> {
    let captions: Vec<(String, String)> = loader
        .instance()
        .entries()
        .iter()
        .map(|entry| (file(entry), entry.caption.clone()))
        .collect();
    let prompts = recipe.images.class_prompt.iter();
    let prompts: Vec<(String, String)> = prompts
        .map(|prompt| ("`images.class_prompt`".to_owned(), prompt.clone()))
        .chain(recipe.sample.prompts().iter().map(|prompt| {
            let name = format!("`{}` of `[sample]`", shorten(prompt));
            (name, prompt.clone())
        }))
        .collect();
    let mut said = Vec::new();
    for (what, texts) in [("captions", captions), ("prompts", prompts)] {
        said.extend(longer(what, &texts, pipeline)?);
    }
    Ok(said)
}

fn longer(
    what: &str,
    texts: &[(String, String)],
    pipeline: &Pipeline,
) -> Result<Option<String>, Failure> {
    if texts.is_empty() {
        return Ok(None);
    }
    let prompts: Vec<String> = texts.iter().map(|(_, text)| text.clone()).collect();
    let ids = pipeline.tokenize(&prompts)?;
    let most = ids.tokens.first().copied().unwrap_or_default();
    let names = named(&ids.truncated, |(row, rest)| {
        format!("{} loses `{}`", texts[*row].0, shorten(rest))
    });
    let count = ids.truncated.len();
    Ok((count > 0)
        .then(|| format!("{what} of more than {most} tokens are cut there ({count}): {names}")))
}

fn file(entry: &ImageEntry) -> String {
    format!("`{}`", entry.path.display())
}

/// The first of a list, and how many more there are.
fn named<T>(list: &[T], name: impl Fn(&T) -> String) -> String {
    let names: Vec<String> = list.iter().take(NAMED).map(name).collect();
    let names = names.join(", ");
    match list.len().saturating_sub(NAMED) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}
