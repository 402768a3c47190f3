//! `temper sample`: pictures from prompts.

mod control;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use serde_json::{Value, json};
use temper_datasets::images::{Photo, grid, write_png};
use temper_models::{ModelError, Scheduler, SchedulerConfig};

use super::output::print;
use crate::Failure;
use crate::device::{self, dtype_name};
use crate::diffusion::{
    AdapterChoice, Control, DiffusionError, Event, Guidance, Pipeline, SampleRequest, TrainedWith,
    apply_adapters, sample,
};
use crate::loading::Precision;
use crate::recipe::shorten;
use crate::run::{Progress, Signals, Verbosity, note};
use control::ControlArgs;

/// Under this key a picture says how it was made.
pub(crate) const RECIPE: &str = "temper";

/// Arguments of `temper sample`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pipeline directory (diffusers), checkpoint in one `.safetensors` file, or `org/name[@revision]` on the hub
    #[arg(long, value_name = "DIR")]
    model: String,
    /// Adapter: PEFT directory, or LoRA file of diffusers or kohya; `:0.8` behind it is its strength. May be repeated
    #[arg(long, value_name = "DIR[:STRENGTH]")]
    adapter: Vec<AdapterChoice>,
    /// What to draw; may be repeated
    #[arg(long, value_name = "TEXT", required = true, num_args = 1..)]
    prompt: Vec<String>,
    /// What not to draw
    #[arg(long, value_name = "TEXT")]
    negative_prompt: Option<String>,
    /// Seed of the noise; a picture depends on seed, number and prompt alone
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Pictures of each prompt
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Number of the first picture: with --seed it makes one picture of many again
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u64,
    /// Steps of the scheduler
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
    /// How strongly the prompt is followed; 1 and below run without guidance
    #[arg(long, value_name = "W", default_value_t = 7.5)]
    guidance_scale: f64,
    /// How far guidance is brought back to the spread of the unguided prediction, 0 to 1
    #[arg(long, value_name = "PHI", default_value_t = 0.0)]
    guidance_rescale: f64,
    /// Another scheduler than the model's: ddpm, ddim, pndm, euler, `euler_ancestral`, heun, `dpmpp_2m`, `dpmpp_2m_sde` or unipc; euler, heun and both
    /// `dpmpp_2m` also with Karras' noise levels, as `euler_karras`
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,
    /// What the model predicts, where its scheduler is wrong about it: epsilon, `v_prediction` or sample; by default what the
    /// run that trained the adapter says
    #[arg(long, value_name = "WHAT")]
    prediction: Option<String>,
    /// Pixels; by default what the model was trained on
    #[arg(long, value_name = "PIXELS")]
    width: Option<usize>,
    /// Pixels; by default what the model was trained on
    #[arg(long, value_name = "PIXELS")]
    height: Option<usize>,
    /// Last layers of the text encoder to leave out; by default as many as in the run that trained the adapter
    #[arg(long, value_name = "LAYERS")]
    clip_skip: Option<usize>,
    /// Pictures at once on a graphics card; changes the speed, not the pictures
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch_size: u32,
    /// Device: auto, cpu, cuda[:N], metal, vulkan, wgpu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Precision of the UNet and the text encoders; by default what suits the device
    #[arg(long, value_enum)]
    compute: Option<Precision>,
    #[command(flatten)]
    control: ControlArgs,
    /// A `.png` file when there is one picture, else a directory
    #[arg(long, value_name = "FILE_OR_DIR")]
    output: PathBuf,
    /// Also write all pictures side by side
    #[arg(long, value_name = "FILE")]
    grid: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long)]
    overwrite: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.check()?;
    let places = Places::new(args)?;
    let open = device::open(&args.device)?;
    let compute = open.precision(args.compute.map(FloatDType::from))?;
    let mut pipeline = Pipeline::load(&args.model, compute, &open)?;
    let trained = args.trained_with()?;
    let mut request = args.request(&pipeline, &trained)?;
    let (width, height) = args.size(&pipeline);
    pipeline.check_size(width, height)?;
    pipeline.check_memory((width, height), request.guidance.is_on())?;
    let control = args
        .control
        .load(&args.adapter, &pipeline, (width, height))?;
    request.control = control.as_ref().map(|control| Control {
        encoder: &control.encoder,
        hint: control.hint.clone(),
    });
    for warning in apply_adapters(&mut pipeline, &args.adapter)? {
        note(&format!("warning: {warning}"));
    }
    warn_of_cut_prompts(&pipeline, args)?;
    let signals = Signals::install()?;
    let mut progress = None;
    let mut failed = None;
    let recipe = args.recipe(&pipeline, &request);
    let drawn = sample(&pipeline, &request, &mut |event| {
        match event {
            Event::Step { done, of } => progress
                .get_or_insert_with(|| Progress::new("sample", of, Verbosity::Normal))
                .update(done, ""),
            Event::Picture {
                prompt,
                number,
                photo,
            } => {
                let file = places.file(prompt, number);
                let written = write(&file, photo, &args.described(&recipe, prompt, number))
                    .and_then(|()| print(file.display()));
                if let Err(failure) = written {
                    failed = Some(failure);
                    return ControlFlow::Break(());
                }
            }
        }
        match signals.stop_requested() {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    });
    drop(progress);
    let photos = match (failed, drawn) {
        (Some(failure), _) => return Err(failure),
        (None, Err(DiffusionError::Interrupted)) => return Err(interrupted(&signals)),
        (None, drawn) => drawn?,
    };
    args.write_grid(&photos, &recipe)
}

impl Args {
    fn check(&self) -> Result<(), Failure> {
        let wrong = |option: &str, value: f64, expected: &str| {
            Err(Failure::usage(format!(
                "{option} is {value}, expected {expected}"
            )))
        };
        if !self.guidance_scale.is_finite() || self.guidance_scale < 0.0 {
            return wrong(
                "--guidance-scale",
                self.guidance_scale,
                "a number from 0 on",
            );
        }
        if !(0.0..=1.0).contains(&self.guidance_rescale) {
            return wrong("--guidance-rescale", self.guidance_rescale, "0 to 1");
        }
        if self.guidance_scale <= 1.0 {
            let unused = [
                ("--negative-prompt", self.negative_prompt.is_some()),
                ("--guidance-rescale", self.guidance_rescale > 0.0),
            ];
            for (option, _) in unused.iter().filter(|(_, given)| *given) {
                note(&format!(
                    "warning: {option} does nothing without guidance: --guidance-scale is {}",
                    self.guidance_scale
                ));
            }
        }
        if self.first.checked_add(u64::from(self.count)).is_none() {
            let most = u64::MAX - u64::from(self.count);
            return Err(Failure::usage(format!(
                "--first is {}, expected at most {most} for {} pictures",
                self.first, self.count
            )));
        }
        Ok(())
    }

    fn guidance(&self) -> Guidance {
        Guidance {
            scale: self.guidance_scale,
            rescale: self.guidance_rescale,
        }
    }

    /// The pipeline's scheduler with the changes asked for.
    fn scheduler(
        &self,
        own: &SchedulerConfig,
        trained: &TrainedWith,
    ) -> Result<SchedulerConfig, Failure> {
        let mut config = own.clone();
        if let Some(name) = &self.scheduler {
            config = config.with_kind(name).map_err(|error| match error {
                ModelError::Preset { known, .. } => Failure::usage(format!(
                    "--scheduler is `{name}`, expected one of {}",
                    known.join(", ")
                )),
                error => error.into(),
            })?;
        }
        trained.noise_process(&config).map_err(Failure::usage)
    }

    /// What the command line says of the noise process and the text encoder, and for the rest what the runs say whose results are
    /// drawn with.
    fn trained_with(&self) -> Result<TrainedWith, Failure> {
        let adapters = self.adapter.iter().map(|adapter| adapter.path.as_path());
        let asked = TrainedWith {
            prediction_type: self.prediction.clone(),
            clip_skip: self.clip_skip,
            ..TrainedWith::default()
        };
        let found = TrainedWith::of_all(adapters.chain([Path::new(&self.model)]), &asked)
            .map_err(|failure| {
                failure.with_hint(
                    "say with --prediction and --clip-skip which to draw with, or draw with one of them",
                )
            })?;
        if found != asked {
            note(&format!("as in training: {found}"));
        }
        Ok(found)
    }

    fn size(&self, pipeline: &Pipeline) -> (usize, usize) {
        let usual = || pipeline.usual_size();
        (
            self.width.unwrap_or_else(usual),
            self.height.unwrap_or_else(usual),
        )
    }

    fn request<'a>(
        &self,
        pipeline: &Pipeline,
        trained: &TrainedWith,
    ) -> Result<SampleRequest<'a>, Failure> {
        let scheduler = self.scheduler(&pipeline.scheduler, trained)?;
        Scheduler::new(&scheduler, self.steps as usize).map_err(DiffusionError::from)?;
        Ok(SampleRequest {
            prompts: self.prompt.clone(),
            negative: self.negative_prompt.clone(),
            seed: self.seed,
            first: self.first,
            count: self.count as usize,
            steps: self.steps as usize,
            guidance: self.guidance(),
            width: self.width,
            height: self.height,
            scheduler: Some(scheduler),
            clip_skip: trained.clip_skip.unwrap_or(0),
            batch_size: self.batch_size as usize,
            control: None,
        })
    }

    /// What all pictures have in common, under the names of the options where there is one.
    fn recipe(&self, pipeline: &Pipeline, request: &SampleRequest<'_>) -> Value {
        let scheduler = request.scheduler.as_ref().unwrap_or(&pipeline.scheduler);
        let adapters: Vec<Value> = self
            .adapter
            .iter()
            .map(|adapter| json!({"path": adapter.path, "strength": adapter.strength}))
            .collect();
        let (width, height) = self.size(pipeline);
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": self.model,
            "adapter": adapters,
            "negative_prompt": self.negative_prompt,
            "seed": self.seed,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "guidance_rescale": self.guidance_rescale,
            "scheduler": scheduler.to_json(),
            "width": width,
            "height": height,
            "clip_skip": request.clip_skip,
            "control": self.control.describe(),
            "device": pipeline.device.name,
            "compute": dtype_name(pipeline.compute.into()),
        })
    }

    /// The text that goes into a picture.
    fn described(&self, recipe: &Value, prompt: usize, number: u64) -> [(String, String); 1] {
        let mut recipe = recipe.clone();
        recipe["prompt"] = json!(self.prompt[prompt]);
        recipe["first"] = json!(number);
        [(RECIPE.to_owned(), recipe.to_string())]
    }

    fn write_grid(&self, photos: &[Photo], recipe: &Value) -> Result<(), Failure> {
        let Some(file) = &self.grid else {
            return Ok(());
        };
        // A row a prompt, unless there is only one.
        let columns = match self.prompt.len() {
            1 => (photos.len() as f64).sqrt().ceil() as usize,
            _ => self.count as usize,
        };
        let mut recipe = recipe.clone();
        recipe["prompt"] = json!(self.prompt);
        recipe["first"] = json!(self.first);
        recipe["count"] = json!(self.count);
        let text = [(RECIPE.to_owned(), recipe.to_string())];
        write(file, &grid(photos, columns, 4), &text)?;
        print(file.display())
    }
}

fn interrupted(signals: &Signals) -> Failure {
    let signal = signals.stop_requested().unwrap_or_default();
    Failure::interrupted(
        signal,
        "interrupted; the pictures that were done are written",
    )
}

/// What of a prompt does not fit is left out, which nobody would notice in a picture.
fn warn_of_cut_prompts(pipeline: &Pipeline, args: &Args) -> Result<(), Failure> {
    let texts = args.prompt.iter().chain(&args.negative_prompt);
    let texts: Vec<String> = texts.cloned().collect();
    let ids = pipeline.tokenize(&texts)?;
    for (row, cut) in &ids.truncated {
        let which = if *row < args.prompt.len() {
            format!("prompt {}", row + 1)
        } else {
            "the negative prompt".to_owned()
        };
        let most = ids.tokens[0];
        note(&format!(
            "warning: {which} is longer than {most} tokens; left out is `{}`",
            shorten(cut)
        ));
    }
    Ok(())
}

/// Where pictures go.
struct Places<'a> {
    output: &'a Path,
    /// There is one picture, and `output` is its file.
    single: bool,
    seed: u64,
}

impl<'a> Places<'a> {
    /// Decides, and looks whether anything would be lost.
    fn new(args: &'a Args) -> Result<Self, Failure> {
        let output = args.output.as_path();
        let is_png = |path: &Path| {
            path.extension()
                .is_some_and(|kind| kind.eq_ignore_ascii_case("png"))
        };
        let count = args.prompt.len() as u64 * u64::from(args.count);
        let single = is_png(output) && !output.is_dir();
        if single && count > 1 {
            let message = format!(
                "--output `{}` is one file, for {count} pictures",
                output.display()
            );
            return Err(Failure::usage(message).with_hint("name a directory"));
        }
        if !single && (output.is_file() || is_other_picture(output)) {
            let message = format!("--output `{}` is no `.png` file", output.display());
            return Err(Failure::usage(message).with_hint("name a `.png` file or a directory"));
        }
        if let Some(grid) = args.grid.as_deref().filter(|grid| !is_png(grid)) {
            let message = format!("--grid `{}` is no `.png` file", grid.display());
            return Err(Failure::usage(message));
        }
        let places = Self {
            output,
            single,
            seed: args.seed,
        };
        places.check_grid(args)?;
        places.check_free(args)?;
        places.create(args.grid.as_deref())?;
        Ok(places)
    }

    fn file(&self, prompt: usize, number: u64) -> PathBuf {
        if self.single {
            return self.output.to_owned();
        }
        let name = format!("prompt{prompt:02}-seed{}-{number:04}.png", self.seed);
        self.output.join(name)
    }

    /// The files of all pictures.
    fn pictures(&self, args: &Args) -> impl Iterator<Item = PathBuf> {
        let numbers = args.first..args.first.saturating_add(u64::from(args.count));
        (0..args.prompt.len()).flat_map(move |prompt| {
            let file = move |number| self.file(prompt, number);
            numbers.clone().map(file)
        })
    }

    /// The grid must not replace one of its pictures.
    fn check_grid(&self, args: &Args) -> Result<(), Failure> {
        let Some(grid) = &args.grid else {
            return Ok(());
        };
        let wanted = whole(grid);
        if self.pictures(args).any(|file| whole(&file) == wanted) {
            let message = format!("--grid `{}` is the file of a picture", grid.display());
            return Err(Failure::usage(message).with_hint("choose another file for --grid"));
        }
        Ok(())
    }

    fn check_free(&self, args: &Args) -> Result<(), Failure> {
        if args.overwrite {
            return Ok(());
        }
        let pictures = self.pictures(args);
        let taken = pictures.chain(args.grid.clone()).find(|file| file.exists());
        match taken {
            None => Ok(()),
            Some(file) => {
                let message = format!("`{}` is there already", file.display());
                Err(Failure::run(message).with_hint("choose another --output, or add --overwrite"))
            }
        }
    }

    fn create(&self, grid: Option<&Path>) -> Result<(), Failure> {
        let folder = if self.single {
            self.output.parent()
        } else {
            Some(self.output)
        };
        for folder in [folder, grid.and_then(Path::parent)].into_iter().flatten() {
            std::fs::create_dir_all(folder).map_err(|error| {
                Failure::run(format!("cannot create `{}`: {error}", folder.display()))
            })?;
        }
        Ok(())
    }
}

/// A name that a person would read as the file of a picture, of a kind that is not written.
fn is_other_picture(path: &Path) -> bool {
    const ENDINGS: [&str; 7] = ["jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"];
    let ending = path.extension().and_then(|ending| ending.to_str());
    !path.is_dir() && ending.is_some_and(|ending| ENDINGS.contains(&ending.to_lowercase().as_str()))
}

/// The same for two ways to write one path.
fn whole(file: &Path) -> PathBuf {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let folder = absolute
        .parent()
        .and_then(|folder| folder.canonicalize().ok());
    match (folder, absolute.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => absolute,
    }
}

fn write(file: &Path, photo: &Photo, text: &[(String, String)]) -> Result<(), Failure> {
    Ok(write_png(file, photo, text)?)
}
