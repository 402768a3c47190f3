//! A model's weights: one file or a sharded directory, mapped, read tensor by tensor.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::Dtype;

use super::host::floats;
use super::mapped::MappedFile;
use super::near::near;
use super::view::transpose;
use super::{HostTensor, IndexProblem, WeightsError, index};

/// File names of a model directory, tried in this order.
const LAYOUTS: [&str; 8] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
];

/// What is known of a tensor without reading it.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Size on disk.
    pub bytes: usize,
    /// The file that holds it.
    pub file: Arc<Path>,
}

/// Names and shapes of a checkpoint compared with those a model needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameReport {
    /// Needed and not there.
    pub missing: Vec<String>,
    /// There and not needed.
    pub unexpected: Vec<String>,
    /// There with another shape: name, needed shape, shape found.
    pub wrong_shape: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl NameReport {
    /// Whether both sides agree.
    pub fn is_clean(&self) -> bool {
        self == &Self::default()
    }
}

/// Weights in Hugging Face or diffusers layout, memory-mapped.
///
/// Opening checks every header and the shard index; tensors are read one at a time, when asked
/// for.
///
/// ```no_run
/// use temper_adapters::weights::Checkpoint;
///
/// let weights = Checkpoint::open("llama2-7b")?;
/// weights.expect("model.norm.weight", &[4096])?;
/// let norm: Vec<f32> = weights.read_f32("model.norm.weight")?;
/// # Ok::<(), temper_adapters::weights::WeightsError>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    root: PathBuf,
    files: Arc<Vec<MappedFile>>,
    tensors: BTreeMap<String, Place>,
    warnings: Vec<String>,
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    file: usize,
    pub(crate) span: Range<usize>,
    pub(crate) info: TensorInfo,
    /// The values lie column by column: `info.shape` is that of the transpose.
    pub(crate) transposed: bool,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, or a directory with `model.safetensors`,
    /// `model.safetensors.index.json` and its shards, or the same under diffusers' stem
    /// `diffusion_pytorch_model`. A single file wins over an index.
    ///
    /// # Errors
    /// Any [`WeightsError`] that reading can give: an absent, truncated or malformed file, an
    /// index that disagrees with its shards (all disagreements at once) or points outside the
    /// directory.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let root = path.as_ref();
        if !root.is_dir() {
            return Self::from_files(root, vec![MappedFile::open(root)?]);
        }
        let found = LAYOUTS.iter().find(|name| root.join(name).is_file());
        match found {
            Some(name) if name.contains(".index.") => Self::open_sharded(root, name),
            Some(name) => {
                let file = index::locate(root, name).map_err(|problem| WeightsError::Index {
                    file: root.join(name),
                    problems: vec![problem],
                })?;
                Self::from_files(root, vec![MappedFile::open(&file)?])
            }
            None => Err(WeightsError::NoWeights {
                directory: root.to_owned(),
                looked_for: LAYOUTS.iter().map(|name| format!("`{name}`")).collect(),
                pickled: has_pickles(root),
            }),
        }
    }

    /// Names in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Size of all tensors together, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.tensors
            .values()
            .map(|place| place.info.bytes as u64)
            .sum()
    }

    /// Oddities that do no harm, for the log: a tensor in a shard that the index does not list.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The free-form texts in the first file's header, such as `format` = `pt`.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        self.files
            .first()
            .map(|file| file.header.metadata.clone())
            .unwrap_or_default()
    }

    /// What is known of tensor `name`, `None` when there is none.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|place| &place.info)
    }

    /// What is known of tensor `name`, which must have `shape`.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`], [`WeightsError::WrongShape`].
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo, WeightsError> {
        let info = &self.place(name)?.info;
        if info.shape == shape {
            return Ok(info);
        }
        Err(WeightsError::WrongShape {
            file: info.file.to_path_buf(),
            tensor: name.to_owned(),
            expected: shape.to_vec(),
            actual: info.shape.clone(),
        })
    }

    /// The bytes of tensor `name` where they lie in the map; only a transposed [`View`](super::View) is copied.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`].
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        let place = self.place(name)?;
        let bytes = self.files[place.file].bytes(place.span.clone());
        Ok(match place.info.shape.as_slice() {
            [rows, columns] if place.transposed => {
                let size = bytes.len() / (rows * columns).max(1);
                transpose(bytes, [*rows, *columns], size).into()
            }
            _ => bytes.into(),
        })
    }

    /// A copy of tensor `name` in its own dtype.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`].
    pub fn read(&self, name: &str) -> Result<HostTensor, WeightsError> {
        let info = &self.place(name)?.info;
        HostTensor::new(
            info.dtype,
            info.shape.clone(),
            self.bytes(name)?.into_owned(),
        )
        .map_err(|error| error.in_tensor(&info.file, name))
    }

    /// The values of tensor `name`, widened from F16 or BF16, rounded from F64.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`]; [`WeightsError::NotFloat`] within
    /// [`WeightsError::Tensor`] for other types.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let info = &self.place(name)?.info;
        floats(info.dtype, &self.bytes(name)?).map_err(|error| error.in_tensor(&info.file, name))
    }

    /// Lets the system drop the pages of tensor `name`, keeping memory at one tensor's size while
    /// a large model is copied to a device. The tensor can still be read.
    pub fn release(&self, name: &str) {
        if let Some(place) = self.tensors.get(name) {
            self.files[place.file].release(&place.span);
        }
    }

    /// Compares with all the names and shapes that a model needs.
    pub fn compare(&self, needed: &BTreeMap<String, Vec<usize>>) -> NameReport {
        let mut report = NameReport::default();
        for (name, shape) in needed {
            match self.info(name) {
                None => report.missing.push(name.clone()),
                Some(info) if info.shape != *shape => {
                    report
                        .wrong_shape
                        .push((name.clone(), shape.clone(), info.shape.clone()));
                }
                Some(_) => {}
            }
        }
        report.unexpected = self
            .names()
            .filter(|name| !needed.contains_key(*name))
            .map(str::to_owned)
            .collect();
        report
    }

    pub(crate) fn place(&self, name: &str) -> Result<&Place, WeightsError> {
        self.tensors
            .get(name)
            .ok_or_else(|| WeightsError::MissingTensor {
                file: self.root.clone(),
                tensor: name.to_owned(),
                near: near(name, self.names()),
            })
    }

    fn open_sharded(root: &Path, name: &str) -> Result<Self, WeightsError> {
        let file = root.join(name);
        let mut index = index::read(&file)?;
        let mut files = Vec::new();
        let mut listed = Vec::new();
        for (shard, tensors) in &index.shards {
            match index::locate(root, shard) {
                Ok(path) => {
                    files.push(MappedFile::open(&path)?);
                    listed.push((shard, tensors));
                }
                Err(problem) => index.problems.push(problem),
            }
        }
        let warnings = cross_check(&files, &listed, &mut index.problems);
        if !index.problems.is_empty() {
            return Err(WeightsError::Index {
                file,
                problems: index.problems,
            });
        }
        let mut checkpoint = Self::from_files(root, files)?;
        checkpoint.warnings = warnings;
        Ok(checkpoint)
    }

    fn from_files(root: &Path, files: Vec<MappedFile>) -> Result<Self, WeightsError> {
        let mut tensors = BTreeMap::new();
        for (number, mapped) in files.iter().enumerate() {
            for (name, entry) in &mapped.header.tensors {
                let info = TensorInfo {
                    dtype: entry.dtype,
                    shape: entry.shape.clone(),
                    bytes: entry.span.len(),
                    file: mapped.path.clone(),
                };
                let place = Place {
                    file: number,
                    span: entry.span.clone(),
                    info,
                    transposed: false,
                };
                if tensors.insert(name.clone(), place).is_some() {
                    return Err(WeightsError::DuplicateTensor {
                        file: mapped.path.to_path_buf(),
                        tensor: name.clone(),
                    });
                }
            }
        }
        Ok(Self {
            root: root.to_owned(),
            files: Arc::new(files),
            tensors,
            warnings: Vec::new(),
        })
    }

    /// Another table of tensors over the same files.
    pub(crate) fn over_the_same_files(&self, tensors: BTreeMap<String, Place>) -> Self {
        Self {
            root: self.root.clone(),
            files: Arc::clone(&self.files),
            tensors,
            warnings: self.warnings.clone(),
        }
    }
}

/// Compares the index with what the shards really hold.
fn cross_check(
    files: &[MappedFile],
    listed: &[(&String, &Vec<String>)],
    problems: &mut Vec<IndexProblem>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut holder: BTreeMap<&str, &str> = BTreeMap::new();
    for (file, (shard, tensors)) in files.iter().zip(listed) {
        let (shard, held) = (shard.as_str(), &file.header.tensors);
        for tensor in tensors.iter().filter(|tensor| !held.contains_key(*tensor)) {
            let (tensor, shard) = (tensor.clone(), shard.to_owned());
            problems.push(IndexProblem::NotInShard { tensor, shard });
        }
        for tensor in held.keys() {
            if let Some(first) = holder.insert(tensor, shard) {
                problems.push(IndexProblem::InTwoShards {
                    tensor: tensor.clone(),
                    first: first.to_owned(),
                    second: shard.to_owned(),
                });
            } else if !listed
                .iter()
                .any(|(_, tensors)| tensors.binary_search(tensor).is_ok())
            {
                warnings.push(format!(
                    "tensor `{tensor}` in `{shard}` is not in the index"
                ));
            }
        }
    }
    warnings
}

fn has_pickles(directory: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let path = entry.path();
        path.extension()
            .is_some_and(|kind| kind == "bin" || kind == "pth" || kind == "ckpt")
    })
}
