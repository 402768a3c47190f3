//! `model_index.json`: which parts a pipeline has.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::DiffusionError;

const INDEX: &str = "model_index.json";

/// Pipelines with the parts of Stable Diffusion; what else they do lies outside their weights.
const CLASSES: [&str; 4] = [
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLImg2ImgPipeline",
];

/// A part of a pipeline that is read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names of the folders")]
pub enum Component {
    Unet,
    Vae,
    TextEncoder,
    TextEncoder2,
    Tokenizer,
    Tokenizer2,
    Scheduler,
}

impl Component {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Unet,
        Self::Vae,
        Self::TextEncoder,
        Self::TextEncoder2,
        Self::Tokenizer,
        Self::Tokenizer2,
        Self::Scheduler,
    ];

    /// The key in `model_index.json`, and the folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::Vae => "vae",
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
            Self::Tokenizer => "tokenizer",
            Self::Tokenizer2 => "tokenizer_2",
            Self::Scheduler => "scheduler",
        }
    }

    /// Classes that are read; `None` takes any.
    fn classes(self) -> Option<(&'static [&'static str], &'static str)> {
        match self {
            Self::Unet => Some((&["UNet2DConditionModel"], "UNet2DConditionModel")),
            Self::Vae => Some((&["AutoencoderKL"], "AutoencoderKL")),
            Self::TextEncoder | Self::TextEncoder2 => Some((
                &["CLIPTextModel", "CLIPTextModelWithProjection"],
                "CLIPTextModel or CLIPTextModelWithProjection",
            )),
            Self::Tokenizer | Self::Tokenizer2 => {
                Some((&["CLIPTokenizer", "CLIPTokenizerFast"], "CLIPTokenizer"))
            }
            Self::Scheduler => None,
        }
    }

    /// The class of a part that nobody named. A scheduler is told by its own file.
    fn usual_class(self) -> &'static str {
        match self {
            Self::TextEncoder2 => "CLIPTextModelWithProjection",
            Self::Scheduler => "DDIMScheduler",
            _ => self.classes().map_or("", |(classes, _)| classes[0]),
        }
    }

    /// A file that the folder must have.
    fn needs(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler_config.json",
            Self::Tokenizer | Self::Tokenizer2 => "vocab.json",
            _ => "config.json",
        }
    }
}

/// The parts of a pipeline directory.
///
/// A directory without `model_index.json` is described by the folders it has.
#[derive(Clone, Debug)]
pub struct ModelIndex {
    directory: PathBuf,
    json: Map<String, Value>,
}

impl ModelIndex {
    /// Whether `directory` looks like a pipeline.
    pub fn is_pipeline(directory: &Path) -> bool {
        directory.join(INDEX).is_file() || directory.join("unet/config.json").is_file()
    }

    /// Reads `model_index.json` and checks the classes it names.
    ///
    /// # Errors
    /// [`DiffusionError::NotAPipeline`], [`DiffusionError::Index`], [`DiffusionError::PipelineClass`],
    /// [`DiffusionError::ComponentClass`].
    pub fn load(directory: &Path) -> Result<Self, DiffusionError> {
        let file = directory.join(INDEX);
        if !file.is_file() {
            return Self::from_folders(directory);
        }
        let problem = |problem: String| DiffusionError::Index {
            file: file.clone(),
            problem,
        };
        let text = std::fs::read_to_string(&file)
            .map_err(|error| problem(format!("cannot be read: {error}")))?;
        let json: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|error| problem(format!("is no JSON object: {error}")))?;
        let index = Self {
            directory: directory.to_owned(),
            json,
        };
        index.check()?;
        Ok(index)
    }

    fn from_folders(directory: &Path) -> Result<Self, DiffusionError> {
        if !Self::is_pipeline(directory) {
            return Err(DiffusionError::NotAPipeline {
                path: directory.to_owned(),
            });
        }
        let mut index = Self {
            directory: directory.to_owned(),
            json: Map::new(),
        };
        let two = directory.join("text_encoder_2").is_dir();
        index
            .json
            .insert("_class_name".to_owned(), json!(CLASSES[usize::from(two)]));
        let parts = Component::ALL.into_iter();
        for component in parts.filter(|part| directory.join(part.name()).is_dir()) {
            let entry = json!([library(component), component.usual_class()]);
            index.json.insert(component.name().to_owned(), entry);
        }
        Ok(index)
    }

    /// A description of parts that lie in memory, for a pipeline that came from one file.
    pub(crate) fn of_parts(directory: PathBuf, two_encoders: bool, scheduler: &str) -> Self {
        let mut json = Map::new();
        json.insert(
            "_class_name".to_owned(),
            json!(CLASSES[usize::from(two_encoders)]),
        );
        json.insert("_diffusers_version".to_owned(), json!("0.30.0"));
        if two_encoders {
            json.insert("force_zeros_for_empty_prompt".to_owned(), json!(true));
        } else {
            json.insert("feature_extractor".to_owned(), json!([null, null]));
            json.insert("safety_checker".to_owned(), json!([null, null]));
            json.insert("requires_safety_checker".to_owned(), json!(false));
        }
        let second = |part: &Component| {
            two_encoders || !matches!(part, Component::TextEncoder2 | Component::Tokenizer2)
        };
        for component in Component::ALL.into_iter().filter(second) {
            let class = match component {
                Component::Scheduler => scheduler,
                other => other.usual_class(),
            };
            json.insert(
                component.name().to_owned(),
                json!([library(component), class]),
            );
        }
        Self { directory, json }
    }

    fn check(&self) -> Result<(), DiffusionError> {
        let class = self.class();
        if !CLASSES.contains(&class) {
            return Err(DiffusionError::PipelineClass {
                class: class.to_owned(),
                supported: &CLASSES,
            });
        }
        for component in Component::ALL {
            if let (Some(found), Some((known, expected))) =
                (self.class_of(component), component.classes())
                && !known.contains(&found)
            {
                return Err(DiffusionError::ComponentClass {
                    component: component.name(),
                    found: found.to_owned(),
                    expected,
                });
            }
        }
        Ok(())
    }

    /// The pipeline's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `_class_name`, such as `StableDiffusionPipeline`.
    pub fn class(&self) -> &str {
        self.text("_class_name")
            .unwrap_or("a pipeline without a name")
    }

    /// Everything it says.
    pub fn json(&self) -> &Map<String, Value> {
        &self.json
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.json.get(key)?.as_str()
    }

    /// The class of a part, `None` where the pipeline has none.
    pub fn class_of(&self, component: Component) -> Option<&str> {
        self.json.get(component.name())?.get(1)?.as_str()
    }

    /// Whether the pipeline has the part.
    pub fn has(&self, component: Component) -> bool {
        self.class_of(component).is_some()
    }

    /// Whether an empty negative prompt is zeros (SDXL) and not the encoding of an empty text.
    pub fn zeros_for_empty_prompt(&self) -> bool {
        let key = "force_zeros_for_empty_prompt";
        self.json.get(key).and_then(Value::as_bool) == Some(true)
    }

    /// The folder of a part, which must be there.
    ///
    /// # Errors
    /// [`DiffusionError::MissingComponent`].
    pub fn folder(&self, component: Component) -> Result<PathBuf, DiffusionError> {
        let folder = self.directory.join(component.name());
        let expected = folder.join(component.needs());
        let other = component.needs() == "vocab.json" && folder.join("tokenizer.json").is_file();
        if expected.is_file() || other {
            return Ok(folder);
        }
        Err(DiffusionError::MissingComponent {
            directory: self.directory.clone(),
            component: component.name(),
            expected,
        })
    }
}

fn library(component: Component) -> &'static str {
    match component {
        Component::Unet | Component::Vae | Component::Scheduler => "diffusers",
        _ => "transformers",
    }
}
