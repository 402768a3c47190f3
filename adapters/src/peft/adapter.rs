//! An adapter directory: configuration and tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::error::KeyProblem;
use super::keys::{self, Parsed, Slot};
use super::matching::Matcher;
use super::shapes;
use super::{AdapterConfig, ConfigWarning, PeftError};
use crate::weights::{Checkpoint, Dtype, HostTensor, WeightsError};
use crate::weights::{read_limited, save_safetensors, write_atomically};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
/// Far above any configuration, which lists some thousand module names at most.
const MAX_CONFIG: u64 = 16 * 1024 * 1024;

/// One tensor of an adapter: which module, which parameter, which values.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterTensor {
    /// Full name of the module in the base model.
    pub module: String,
    /// The parameter.
    pub slot: Slot,
    /// The values.
    pub tensor: HostTensor,
}

/// A complete adapter, in memory.
///
/// ```
/// use temper_adapters::peft::{AdapterConfig, AdapterFile, AdapterTensor, OftConfig, Slot};
/// use temper_adapters::weights::{Dtype, HostTensor};
///
/// let config = AdapterConfig::Oft(OftConfig { oft_block_size: 2, ..OftConfig::default() });
/// let tensor = HostTensor::from_f32(Dtype::F32, vec![2, 1], &[0.1, -0.2])?;
/// let tensors = vec![AdapterTensor { module: "fc".into(), slot: Slot::OftR, tensor }];
/// let adapter = AdapterFile::new(config, tensors)?;
///
/// let directory = tempfile::tempdir()?;
/// adapter.save(directory.path())?;
/// let (again, warnings) = AdapterFile::load(directory.path())?;
/// assert_eq!(again.tensors(), adapter.tensors());
/// assert!(warnings.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFile {
    config: AdapterConfig,
    tensors: Vec<AdapterTensor>,
}

impl AdapterFile {
    /// An adapter from its parts, in any order.
    ///
    /// # Errors
    /// Whatever [`AdapterConfig::validate`] finds, and [`PeftError::Keys`] with every tensor that
    /// the configuration does not allow.
    pub fn new(config: AdapterConfig, tensors: Vec<AdapterTensor>) -> Result<Self, PeftError> {
        let problems = unreadable(&config, &tensors)?;
        Self::checked(config, tensors, problems, Path::new(TENSORS))
    }

    /// Reads the adapter in `directory`, strictly: every tensor must have a known name, a dtype of
    /// floating-point numbers, a shape that the configuration gives and finite values.
    ///
    /// # Errors
    /// [`PeftError::NoAdapter`]; those of [`AdapterConfig::parse`]; those of [`Checkpoint::open`];
    /// [`PeftError::Keys`] with every problem of the tensors; [`PeftError::NotFinite`].
    pub fn load(directory: &Path) -> Result<(Self, Vec<ConfigWarning>), PeftError> {
        let (config_file, tensor_file) = (directory.join(CONFIG), directory.join(TENSORS));
        for (file, missing) in [(&config_file, CONFIG), (&tensor_file, TENSORS)] {
            if !file.is_file() {
                let pickled = directory.join("adapter_model.bin").is_file();
                let directory = directory.to_owned();
                return Err(PeftError::NoAdapter {
                    directory,
                    missing,
                    pickled,
                });
            }
        }
        let text = read_limited(&config_file, MAX_CONFIG)?;
        let (config, warnings) = AdapterConfig::parse(&text, &config_file)?;
        let weights = Checkpoint::open(&tensor_file)?;
        let (tensors, problems) = read_tensors(&config, &weights)?;
        let file = Self::checked(config, tensors, problems, &tensor_file)?;
        let wrong = file.keyed().filter(|(_, tensor)| !tensor.is_finite());
        let keys: Vec<String> = wrong.map(|(key, _)| key).collect();
        if !keys.is_empty() {
            return Err(PeftError::NotFinite {
                file: tensor_file,
                keys,
            });
        }
        Ok((file, warnings))
    }

    /// The same adapter, which names its base model if it did not yet.
    #[must_use]
    pub fn with_base_model(mut self, name: &str) -> Self {
        let base = &mut self.config.common_mut().base_model_name_or_path;
        base.get_or_insert_with(|| name.to_owned());
        self
    }

    /// Writes the adapter to `directory`, values as F32, names and bytes as PEFT writes them. The
    /// configuration comes last, so a directory that has one is complete.
    ///
    /// # Errors
    /// [`PeftError::Weights`] when the disk refuses.
    pub fn save(&self, directory: &Path) -> Result<(), PeftError> {
        self.save_as(directory, Dtype::F32)
    }

    /// As [`Self::save`], values rounded to `dtype` (F32, F16, BF16 or F64).
    ///
    /// # Errors
    /// [`PeftError::Weights`] when the disk refuses, or `dtype` is none of those.
    pub fn save_as(&self, directory: &Path, dtype: Dtype) -> Result<(), PeftError> {
        std::fs::create_dir_all(directory).map_err(WeightsError::io("create", directory))?;
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for (key, tensor) in self.keyed() {
            tensors.push((key, tensor.clone().cast(dtype)?));
        }
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        save_safetensors(&directory.join(TENSORS), &tensors, &metadata)?;
        let (file, text) = (directory.join(CONFIG), self.config.to_text());
        write_atomically(&file, |out| {
            out.write_all(text.as_bytes())
                .map_err(WeightsError::io("write", &file))
        })?;
        Ok(())
    }

    /// The configuration.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// The tensors, by module and parameter.
    pub fn tensors(&self) -> &[AdapterTensor] {
        &self.tensors
    }

    /// The values of one parameter of one module.
    pub fn get(&self, module: &str, slot: &Slot) -> Option<&HostTensor> {
        let found = |tensor: &&AdapterTensor| tensor.module == module && tensor.slot == *slot;
        self.tensors.iter().find(found).map(|tensor| &tensor.tensor)
    }

    /// Names of the modules that have an adapter, in order.
    pub fn adapted_modules(&self) -> BTreeSet<&str> {
        let adapts = |tensor: &&AdapterTensor| !matches!(tensor.slot, Slot::Bias | Slot::Saved(_));
        self.tensors
            .iter()
            .filter(adapts)
            .map(|tensor| tensor.module.as_str())
            .collect()
    }

    /// Whether the adapter leaves the model as it is: every rotation or `lora_B` is zero, and
    /// nothing else is stored. Training that ends here did nothing.
    pub fn changes_nothing(&self) -> bool {
        self.tensors.iter().all(|tensor| match tensor.slot {
            Slot::OftR | Slot::LoraB => tensor.tensor.is_zero(),
            Slot::LoraA => true,
            Slot::LoraMagnitude | Slot::Bias | Slot::Saved(_) => false,
        })
    }

    /// Keys as they stand in the file, with their tensors.
    pub(crate) fn keyed(&self) -> impl Iterator<Item = (String, &HostTensor)> {
        let adapted = self.adapted_modules();
        self.tensors.iter().map(
            move |AdapterTensor {
                      module,
                      slot,
                      tensor,
                  }| {
                (
                    keys::key(module, slot, adapted.contains(module.as_str())),
                    tensor,
                )
            },
        )
    }

    fn checked(
        config: AdapterConfig,
        mut tensors: Vec<AdapterTensor>,
        mut problems: Vec<KeyProblem>,
        file: &Path,
    ) -> Result<Self, PeftError> {
        config.validate()?;
        tensors.sort_by(|a, b| (&a.module, &a.slot).cmp(&(&b.module, &b.slot)));
        for pair in tensors.windows(2) {
            if (&pair[0].module, &pair[0].slot) == (&pair[1].module, &pair[1].slot) {
                let key = keys::key(&pair[1].module, &pair[1].slot, true);
                problems.push(KeyProblem::Duplicate { key });
            }
        }
        problems.extend(shapes::problems(&config, &tensors)?);
        if problems.is_empty() {
            return Ok(Self { config, tensors });
        }
        Err(PeftError::Keys {
            file: file.to_owned(),
            problems,
        })
    }
}

/// Tensors that would be written under a key that does not read back as the same parameter.
fn unreadable(
    config: &AdapterConfig,
    tensors: &[AdapterTensor],
) -> Result<Vec<KeyProblem>, PeftError> {
    let (common, matcher) = (config.common(), Matcher::new(config.common())?);
    let mut problems = Vec::new();
    for AdapterTensor { module, slot, .. } in tensors {
        let key = keys::key(module, slot, false);
        match keys::parse(&key, common, &matcher) {
            Ok(parsed) if (&parsed.module, &parsed.slot) == (module, slot) => {}
            Ok(_) => problems.push(KeyProblem::NotCovered { key }),
            Err(problem) => problems.push(problem),
        }
    }
    Ok(problems)
}

fn read_tensors(
    config: &AdapterConfig,
    weights: &Checkpoint,
) -> Result<(Vec<AdapterTensor>, Vec<KeyProblem>), PeftError> {
    let (common, matcher) = (config.common(), Matcher::new(config.common())?);
    let (mut tensors, mut problems) = (Vec::new(), Vec::new());
    let mut adapter: Option<String> = None;
    for key in weights.names() {
        match keys::parse(key, common, &matcher) {
            Ok(Parsed {
                module,
                slot,
                adapter: name,
            }) => {
                if let (Some(first), Some(second)) = (&adapter, &name)
                    && first != second
                {
                    let (first, second) = (first.clone(), second.clone());
                    problems.push(KeyProblem::TwoAdapters { first, second });
                }
                adapter = adapter.or(name);
                tensors.push(AdapterTensor {
                    module,
                    slot,
                    tensor: weights.read(key)?,
                });
            }
            Err(problem) => problems.push(problem),
        }
    }
    Ok((tensors, problems))
}
