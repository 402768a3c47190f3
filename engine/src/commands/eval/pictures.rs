//! `temper eval` on pictures: `--task subject` and `--task control`.

use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;

use super::super::output::print;
use super::missing;
use crate::Failure;
use crate::device;
use crate::eval::pictures::{
    ControlSummary, EdgeRequest, EdgeRow, JudgePaths, Judges, LabelRequest, PictureOutput,
    SubjectRequest, control_table, measure_edges, measure_labels, measure_subjects, subject_table,
};
use crate::loading::Precision;
use crate::recipe::Diffusion;

/// What both tasks know.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Pictures (--task subject, --task control)")]
pub(super) struct PictureArgs {
    /// Folder of the pictures that a model drew; folders within it count
    #[arg(long, value_name = "DIR")]
    generated: Option<PathBuf>,
    /// Replace earlier results in --output
    #[arg(long)]
    overwrite: bool,
}

/// Likeness, obedience and diversity.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Pictures of subjects (--task subject)")]
pub(super) struct SubjectArgs {
    /// Folder of photographs of the subject; or a folder for each of several subjects, which --generated has too
    #[arg(long, value_name = "DIR")]
    real: Option<PathBuf>,
    /// CLIP model directory: measures CLIP-I and, where prompts are known, CLIP-T
    #[arg(long, value_name = "DIR")]
    clip: Option<PathBuf>,
    /// Directory of a vision transformer trained by DINO, such as dino-vits16: measures DINO
    #[arg(long, value_name = "DIR")]
    dino: Option<PathBuf>,
    /// LPIPS weights, a directory or file made by `scripts/convert_lpips.py`: measures diversity
    #[arg(long, value_name = "PATH")]
    lpips: Option<PathBuf>,
    /// Measure diversity in squares of this side [default: size of the first generated picture]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u16).range(16..=4096))]
    lpips_size: Option<u16>,
    /// JSONL of prompts: `file_name` and `text`. Without it a prompt comes from the PNG itself (as `temper sample` writes it), a
    /// `.txt` beside the picture, or `metadata.jsonl`
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Prompt of the pictures for which no other is found
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Word for the subject that CLIP cannot know, such as sks; left out of prompts
    #[arg(long, value_name = "WORD")]
    identifier: Option<String>,
}

/// Agreement with control maps.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Pictures after control maps (--task control)")]
pub(super) struct ControlArgs {
    /// Folder of edge maps, each named like its picture (or the one that `temper sample --control` was given); pixels from
    /// brightness 128 on are edges
    #[arg(long, value_name = "DIR", requires = "generated")]
    control: Option<PathBuf>,
    /// The files of --control are photographs: take their edges, with the same thresholds
    #[arg(long, requires = "control")]
    photographs: bool,
    /// Edges go on where the gradient exceeds this [default: as in training, 100]
    #[arg(long, value_name = "GRADIENT", requires = "control")]
    low: Option<f32>,
    /// Edges begin where the gradient exceeds this [default: as in training, 200]
    #[arg(long, value_name = "GRADIENT", requires = "control")]
    high: Option<f32>,
    /// Folder of true label maps: PNG, palette or grey
    #[arg(long, value_name = "DIR", requires_all = ["predicted", "classes"])]
    labels: Option<PathBuf>,
    /// Folder of label maps of the generated pictures, named alike, made by a segmenter of your own: none is part of Temper
    #[arg(long, value_name = "DIR", requires = "labels")]
    predicted: Option<PathBuf>,
    /// Labels are below this
    #[arg(long, value_name = "N", requires = "labels", value_parser = clap::value_parser!(u8).range(1..))]
    classes: Option<u8>,
    /// Pixels with this true label do not count [default: 255]
    #[arg(long, value_name = "LABEL", requires = "labels")]
    ignore: Option<u8>,
    /// Bring maps of another size to that of what they are compared with, by the nearest pixel
    #[arg(long)]
    resize: bool,
}

/// How to run and what to leave.
#[derive(Debug)]
pub(super) struct Common<'a> {
    pub(super) output: Option<&'a Path>,
    pub(super) json: bool,
    pub(super) device: &'a str,
    pub(super) dtype: Option<Precision>,
}

impl Common<'_> {
    fn output(&self, pictures: &PictureArgs) -> Result<Option<PictureOutput>, Failure> {
        let create = |path| PictureOutput::create(path, pictures.overwrite);
        Ok(self.output.map(create).transpose()?)
    }
}

impl SubjectArgs {
    pub(super) fn run(&self, pictures: &PictureArgs, common: &Common<'_>) -> Result<(), Failure> {
        let paths = JudgePaths {
            clip: self.clip.clone(),
            dino: self.dino.clone(),
            lpips: self.lpips.clone(),
        };
        let generated = pictures.generated.clone();
        let request = SubjectRequest {
            generated: generated.ok_or_else(|| missing("generated"))?,
            real: self.real.clone().ok_or_else(|| missing("real"))?,
            prompts: self.prompts.clone(),
            prompt: self.prompt.clone(),
            identifier: self.identifier.clone(),
            lpips_size: self.lpips_size.map(usize::from),
        };
        if [&paths.clip, &paths.dino, &paths.lpips]
            .iter()
            .all(|path| path.is_none())
        {
            let message = "nothing to measure with: give --clip, --dino or --lpips";
            return Err(Failure::usage(message).with_hint("each is a directory of a model"));
        }
        let output = common.output(pictures)?;
        let device = device::open(common.device)?;
        let dtype = device.precision(common.dtype.map(FloatDType::from))?;
        let judges = Judges::load(&paths, dtype, device)?;
        let (summary, rows) = measure_subjects(&request, &judges)?;
        if let Some(output) = output {
            output.write(&rows, &summary)?;
        }
        if common.json {
            return print(serde_json::to_string_pretty(&summary)?);
        }
        print(subject_table(&summary))
    }
}

impl ControlArgs {
    pub(super) fn run(&self, pictures: &PictureArgs, common: &Common<'_>) -> Result<(), Failure> {
        let edges = self.edges(pictures)?;
        let labels = self.labels();
        if edges.is_none() && labels.is_none() {
            let message =
                "nothing to compare: give --generated and --control, or --labels and --predicted";
            return Err(Failure::usage(message));
        }
        let output = common.output(pictures)?;
        let measured = edges.as_ref().map(measure_edges).transpose()?;
        let (edges, rows): (_, Vec<EdgeRow>) =
            measured.map_or((None, Vec::new()), |(edges, rows)| (Some(edges), rows));
        let summary = ControlSummary {
            task: "control",
            edges,
            labels: labels.as_ref().map(measure_labels).transpose()?,
        };
        if let Some(output) = output {
            output.write(&rows, &summary)?;
        }
        if common.json {
            return print(serde_json::to_string_pretty(&summary)?);
        }
        print(control_table(&summary))
    }

    fn edges(&self, pictures: &PictureArgs) -> Result<Option<EdgeRequest>, Failure> {
        let (generated, control) = match (&pictures.generated, &self.control) {
            (Some(generated), Some(control)) => (generated.clone(), control.clone()),
            (Some(_), None) => return Err(missing("control")),
            (None, _) => return Ok(None),
        };
        let usual = Diffusion::default();
        let low = self.low.unwrap_or(usual.canny_low);
        let high = self.high.unwrap_or(usual.canny_high);
        if !(low >= 0.0 && low <= high && high.is_finite()) {
            let message = format!("--low {low} and --high {high}: expected 0 ≤ low ≤ high");
            return Err(Failure::usage(message));
        }
        Ok(Some(EdgeRequest {
            generated,
            control,
            low,
            high,
            photographs: self.photographs,
            resize: self.resize,
        }))
    }

    fn labels(&self) -> Option<LabelRequest> {
        Some(LabelRequest {
            labels: self.labels.clone()?,
            predicted: self.predicted.clone()?,
            classes: self.classes?,
            ignore: self
                .ignore
                .unwrap_or(temper_datasets::images::IGNORED_LABEL),
            resize: self.resize,
        })
    }
}
