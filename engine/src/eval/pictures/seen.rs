//! Pictures as the models saw them: read once, a batch at a time.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::files::{LeftOut, LeftOuts, fingerprint, open, unreadable};
use super::judges::{BATCH, Inputs, Judges, dot};
use super::mean::Pairs;
use crate::eval::EvalError;
use crate::run::Progress;

/// A picture without its pixels.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) file: PathBuf,
    /// Width and height.
    pub(crate) size: (usize, usize),
    /// Of its pixels.
    pub(crate) print: [u8; 32],
    /// Embedding of unit length.
    pub(crate) clip: Option<Vec<f64>>,
    /// The same by DINO.
    pub(crate) dino: Option<Vec<f64>>,
}

/// How far the reading of all pictures is.
pub(crate) struct Counter {
    pub(crate) progress: Progress,
    pub(crate) done: u64,
}

/// Looks at pictures in order; broken and black ones are left out.
pub(crate) fn see(
    judges: &Judges,
    files: &[PathBuf],
    counter: &mut Counter,
) -> Result<(Vec<Seen>, LeftOuts), EvalError> {
    let mut all = Vec::with_capacity(files.len());
    let mut out = LeftOuts::default();
    for files in files.chunks(BATCH) {
        // Photographs may be large: each is scaled down before the next one of its thread is read.
        let read: Vec<Result<(Seen, Inputs), LeftOut>> =
            files.par_iter().map(|file| prepare(judges, file)).collect();
        let mut batch = Vec::new();
        for one in read {
            match one {
                Ok(one) => batch.push(one),
                Err(one) => out.add(one),
            }
        }
        all.extend(embed(judges, batch)?);
        counter.done += files.len() as u64;
        counter.progress.update(counter.done, "");
    }
    Ok((all, out))
}

fn prepare(judges: &Judges, file: &Path) -> Result<(Seen, Inputs), LeftOut> {
    let photo = open(file)?;
    let inputs = judges
        .inputs(&photo)
        .map_err(|error| unreadable(file, &error))?;
    let seen = Seen {
        file: file.to_owned(),
        size: (photo.width, photo.height),
        print: fingerprint(&photo),
        clip: None,
        dino: None,
    };
    Ok((seen, inputs))
}

fn embed(judges: &Judges, batch: Vec<(Seen, Inputs)>) -> Result<Vec<Seen>, EvalError> {
    let (mut seen, inputs): (Vec<Seen>, Vec<Inputs>) = batch.into_iter().unzip();
    let of = |which: fn(&Inputs) -> Option<&[f32]>| -> Vec<&[f32]> {
        inputs.iter().filter_map(which).collect()
    };
    let (clip, dino) = (
        of(|inputs| inputs.clip.as_deref()),
        of(|inputs| inputs.dino.as_deref()),
    );
    if !clip.is_empty() {
        for (seen, row) in seen.iter_mut().zip(judges.clip_images(&clip)?) {
            seen.clip = Some(row);
        }
    }
    if !dino.is_empty() {
        for (seen, row) in seen.iter_mut().zip(judges.dino_images(&dino)?) {
            seen.dino = Some(row);
        }
    }
    Ok(seen)
}

/// One of the two embeddings.
pub(crate) type Which = fn(&Seen) -> Option<&[f64]>;

pub(crate) const CLIP: Which = |seen| seen.clip.as_deref();
pub(crate) const DINO: Which = |seen| seen.dino.as_deref();

/// Mean cosine of each of `these` with all of `those`: of unit vectors it is the product with their mean.
pub(crate) fn mean_cosines(these: &[Seen], those: &[Seen], which: Which) -> Vec<Option<f64>> {
    let rows: Vec<&[f64]> = those.iter().filter_map(which).collect();
    let width = rows.first().map_or(0, |row| row.len());
    let mut centre = vec![0.0; width];
    for row in &rows {
        for (sum, value) in centre.iter_mut().zip(*row) {
            *sum += value / rows.len() as f64;
        }
    }
    let one = |seen: &Seen| {
        which(seen)
            .filter(|_| width > 0)
            .map(|row| dot(row, &centre))
    };
    these.iter().map(one).collect()
}

/// Cosines of all pairs of different pictures.
pub(crate) fn pair_cosines(these: &[Seen], which: Which) -> Pairs {
    let mut pairs = Pairs::default();
    let rows: Vec<&[f64]> = these.iter().filter_map(which).collect();
    for (at, a) in rows.iter().enumerate() {
        for (before, b) in rows[..at].iter().enumerate() {
            pairs.add(before, at, dot(a, b));
        }
    }
    pairs
}
