//! How well pictures show a subject: CLIP-I, DINO, CLIP-T and diversity (arXiv 2208.12242, section 4; 2306.07280, section 5.1).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::diversity::Diversity;
use super::files::{LeftOuts, Subject, subjects};
use super::judges::{Judges, dot};
use super::mean::{Figure, Pairs};
use super::prompts::{Prompts, sheet};
use super::seen::{CLIP, Counter, DINO, Seen, mean_cosines, pair_cosines, see};
use super::summary::{OneSubject, PictureRow, PromptScores, Scores, SubjectSummary, over_subjects};
use crate::eval::EvalError;
use crate::run::{Progress, Verbosity, note};

/// What is compared with what.
#[derive(Debug)]
pub(crate) struct SubjectRequest {
    pub(crate) generated: PathBuf,
    pub(crate) real: PathBuf,
    /// A list of prompts.
    pub(crate) prompts: Option<PathBuf>,
    /// The prompt of pictures that have none.
    pub(crate) prompt: Option<String>,
    /// A word that means the subject and nothing to CLIP.
    pub(crate) identifier: Option<String>,
    /// Side of the squares in which distances are measured.
    pub(crate) lpips_size: Option<usize>,
}

/// Measures all subjects. The rows are those of the generated pictures, in the order of their files.
pub(crate) fn measure_subjects(
    request: &SubjectRequest,
    judges: &Judges,
) -> Result<(SubjectSummary, Vec<PictureRow>), EvalError> {
    let subjects = subjects(&request.generated, &request.real)?;
    let files = |subject: &Subject| subject.generated.len() + subject.real.len();
    let total = subjects.iter().map(files).sum::<usize>() as u64;
    let list = request.prompts.as_deref();
    let mut work = Work {
        request,
        judges,
        prompts: Prompts::new(&request.generated, list, request.prompt.clone())?,
        counter: Counter {
            progress: Progress::new("eval", total, Verbosity::Normal),
            done: 0,
        },
    };
    let (mut measured, mut rows) = (Vec::new(), Vec::new());
    for subject in subjects {
        let (one, mut of_subject) = work.subject(subject)?;
        measured.push(one);
        rows.append(&mut of_subject);
    }
    work.counter.progress.finish();
    drop(work);
    let summary = summarise(judges, measured);
    summary.left_out.tell();
    if summary.pictures == 0 {
        return Err(summary.left_out.nothing_to_score(&request.generated));
    }
    if summary.without_prompt > 0 {
        note(&format!(
            "{} pictures have no prompt: CLIP-T and diversity are without them; see --prompts and --prompt",
            summary.without_prompt
        ));
    }
    Ok((summary, rows))
}

fn summarise(judges: &Judges, subjects: Vec<OneSubject>) -> SubjectSummary {
    let mut left_out = LeftOuts::default();
    for subject in &subjects {
        left_out.join(&subject.left_out);
    }
    SubjectSummary {
        task: "subject",
        models: judges.ids.clone(),
        device: judges.device.name.clone(),
        pictures: subjects.iter().map(|subject| subject.pictures).sum(),
        real_pictures: subjects.iter().map(|subject| subject.real_pictures).sum(),
        without_prompt: subjects.iter().map(|subject| subject.without_prompt).sum(),
        left_out,
        scores: over_subjects(&subjects, |one| &one.scores),
        real: over_subjects(&subjects, |one| &one.real),
        subjects,
    }
}

struct Work<'a> {
    request: &'a SubjectRequest,
    judges: &'a Judges,
    prompts: Prompts,
    counter: Counter,
}

/// A generated picture of a subject.
struct Picture {
    seen: Seen,
    prompt: Option<String>,
}

impl Work<'_> {
    fn subject(&mut self, subject: Subject) -> Result<(OneSubject, Vec<PictureRow>), EvalError> {
        let (pictures, mut left_out) = self.generated(&subject.generated)?;
        let (real, real_out) = see(self.judges, &subject.real, &mut self.counter)?;
        if real.is_empty() {
            real_out.tell();
            return Err(real_out.nothing_to_score(common_folder(&subject.real)));
        }
        let (seen, prompts): (Vec<Seen>, Vec<Option<String>>) = pictures
            .into_iter()
            .map(|picture| (picture.seen, picture.prompt))
            .unzip();
        let clip_i = mean_cosines(&seen, &real, CLIP);
        let dino = mean_cosines(&seen, &real, DINO);
        let clip_t = self.with_prompts(&seen, &prompts)?;
        let distances = self.diversity(&seen, &prompts)?;
        let lpips: Vec<Option<f64>> = (0..seen.len())
            .map(|picture| distances.mean_of(picture))
            .collect();
        let mut rows = Vec::with_capacity(seen.len() + left_out.files.len());
        for (at, seen) in seen.iter().enumerate() {
            rows.push(PictureRow {
                subject: subject.name.clone(),
                file: seen.file.clone(),
                prompt: prompts[at].clone(),
                scores: Scores {
                    clip_i: clip_i[at],
                    clip_t: clip_t[at],
                    dino: dino[at],
                    lpips: lpips[at],
                },
                ..PictureRow::default()
            });
        }
        let scores = Scores {
            clip_i: Figure::of(clip_i.into_iter().flatten()),
            clip_t: Figure::of(clip_t.into_iter().flatten()),
            dino: Figure::of(dino.into_iter().flatten()),
            lpips: distances.figure(),
        };
        let real_scores = self.real(&seen, &real)?;
        let by_prompt = by_prompt(&rows);
        rows.extend(left_out.files.iter().map(|one| PictureRow {
            subject: subject.name.clone(),
            ..PictureRow::left_out(one)
        }));
        rows.sort_by(|a, b| a.file.cmp(&b.file));
        left_out.join(&real_out);
        let one = OneSubject {
            subject: subject.name,
            pictures: seen.len() as u64,
            real_pictures: real.len() as u64,
            without_prompt: prompts.iter().filter(|prompt| prompt.is_none()).count() as u64,
            duplicates: duplicates(&seen, &real),
            left_out,
            scores,
            real: real_scores,
            prompts: by_prompt,
        };
        one.tell_duplicates();
        Ok((one, rows))
    }

    /// Finds prompts and looks at the pictures; sheets of several pictures are left out.
    fn generated(&mut self, files: &[PathBuf]) -> Result<(Vec<Picture>, LeftOuts), EvalError> {
        let mut prompts = BTreeMap::new();
        let mut singles = Vec::new();
        let mut sheets = LeftOuts::default();
        for file in files {
            if let Some(one) = sheet(file) {
                sheets.add(one);
                continue;
            }
            if let Some(prompt) = self.prompts.of(file)? {
                prompts.insert(file.clone(), prompt);
            }
            singles.push(file.clone());
        }
        let (seen, mut left_out) = see(self.judges, &singles, &mut self.counter)?;
        left_out.join(&sheets);
        let pictures = seen.into_iter().map(|seen| Picture {
            prompt: prompts.remove(&seen.file),
            seen,
        });
        Ok((pictures.collect(), left_out))
    }

    /// Cosine of each picture with its own prompt.
    fn with_prompts(
        &self,
        seen: &[Seen],
        prompts: &[Option<String>],
    ) -> Result<Vec<Option<f64>>, EvalError> {
        if !self.judges.has_clip() {
            return Ok(vec![None; seen.len()]);
        }
        let mut places = BTreeMap::new();
        let mut texts = Vec::new();
        for prompt in prompts.iter().flatten() {
            places.entry(prompt.as_str()).or_insert_with(|| {
                texts.push(without_word(prompt, self.request.identifier.as_deref()));
                texts.len() - 1
            });
        }
        let embeddings = self.judges.clip_texts(&texts)?;
        let one = |(seen, prompt): (&Seen, &Option<String>)| {
            let place = places.get(prompt.as_deref()?)?;
            Some(dot(seen.clip.as_deref()?, embeddings.get(*place)?))
        };
        Ok(seen.iter().zip(prompts).map(one).collect())
    }

    /// Distances of the pairs with the same prompt.
    fn diversity(&self, seen: &[Seen], prompts: &[Option<String>]) -> Result<Pairs, EvalError> {
        let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, prompt) in prompts.iter().enumerate() {
            if let Some(prompt) = prompt {
                groups.entry(prompt).or_default().push(at);
            }
        }
        self.distances(seen, seen, groups.into_values())
    }

    /// What the photographs score among each other: what generated pictures could reach at most.
    fn real(&self, seen: &[Seen], real: &[Seen]) -> Result<Scores, EvalError> {
        let all = (0..real.len()).collect();
        Ok(Scores {
            clip_i: pair_cosines(real, CLIP).figure(),
            clip_t: None,
            dino: pair_cosines(real, DINO).figure(),
            lpips: self.distances(seen, real, [all].into_iter())?.figure(),
        })
    }

    /// At the size of the first generated picture, unless one is asked for.
    fn distances(
        &self,
        generated: &[Seen],
        of: &[Seen],
        groups: impl Iterator<Item = Vec<usize>>,
    ) -> Result<Pairs, EvalError> {
        let mut pairs = Pairs::default();
        let asked = self.request.lpips_size.map(|side| (side, side));
        let size = asked.or_else(|| generated.first().map(|seen| seen.size));
        let (Some(lpips), Some(size)) = (&self.judges.lpips, size) else {
            return Ok(pairs);
        };
        let diversity = Diversity::new(lpips, &self.judges.device, size);
        let files: Vec<&Path> = of.iter().map(|seen| seen.file.as_path()).collect();
        for group in groups {
            diversity.add(&files, &group, &mut pairs)?;
        }
        Ok(pairs)
    }
}

/// A prompt without a word that CLIP has never read.
fn without_word(prompt: &str, word: Option<&str>) -> String {
    let Some(word) = word else {
        return prompt.to_owned();
    };
    let kept: Vec<&str> = prompt
        .split_whitespace()
        .filter(|found| *found != word)
        .collect();
    kept.join(" ")
}

fn common_folder(files: &[PathBuf]) -> &Path {
    let folder = files.first().and_then(|file| file.parent());
    folder.unwrap_or(Path::new(""))
}

/// Pictures with the same pixels: the later and the earlier file.
fn duplicates(generated: &[Seen], real: &[Seen]) -> Vec<(PathBuf, PathBuf)> {
    let mut first: BTreeMap<[u8; 32], &Path> = BTreeMap::new();
    let mut copies = Vec::new();
    for seen in real.iter().chain(generated) {
        let earlier = first.entry(seen.print).or_insert(&seen.file);
        if *earlier != seen.file {
            copies.push((seen.file.clone(), earlier.to_path_buf()));
        }
    }
    copies
}

/// Scores of each prompt, in the order of the pictures.
fn by_prompt(rows: &[PictureRow]) -> Vec<PromptScores> {
    let mut order: Vec<&str> = Vec::new();
    let mut groups: BTreeMap<&str, Vec<&PictureRow>> = BTreeMap::new();
    for row in rows {
        if let Some(prompt) = row.prompt.as_deref() {
            let group = groups.entry(prompt).or_default();
            if group.is_empty() {
                order.push(prompt);
            }
            group.push(row);
        }
    }
    let one = |prompt: &str| {
        let rows = groups.get(prompt)?;
        let figure = |score: fn(&Scores<f64>) -> Option<f64>| {
            Figure::of(rows.iter().filter_map(|row| score(&row.scores)))
        };
        Some(PromptScores {
            prompt: prompt.to_owned(),
            pictures: rows.len() as u64,
            scores: Scores {
                clip_i: figure(|scores| scores.clip_i),
                clip_t: figure(|scores| scores.clip_t),
                dino: figure(|scores| scores.dino),
                // Each pair is in the means of both its pictures, so their mean is that of the pairs.
                lpips: figure(|scores| scores.lpips).map(|figure| figure.mean),
            },
        })
    };
    order.into_iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_left_out_of_a_prompt_and_a_part_of_a_word_is_not() {
        let without = |prompt| without_word(prompt, Some("sks"));
        assert_eq!(without("a photo of sks dog"), "a photo of dog");
        assert_eq!(without("skss  sks"), "skss");
        assert_eq!(without_word("a  b", None), "a  b");
    }
}
