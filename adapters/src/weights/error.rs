//! What can be wrong with weights on disk.

use std::fmt;
use std::path::PathBuf;

use safetensors::{Dtype, SafeTensorError};

use super::near::{hint_list, list};

/// Why weights could not be read or written.
///
/// Each variant carries the file and, where one is involved, the tensor; the message says what was
/// found and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The operating system refused an operation on a file.
    #[error("cannot {action} `{}`: {source}", file.display())]
    Io {
        /// What was being done: `open`, `read`, `write`, `rename`…
        action: &'static str,
        /// The file or directory concerned.
        file: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A directory holds no weights in a layout we read.
    #[error(
        "no safetensors weights in `{}`: looked for {}{}", directory.display(), looked_for.join(", "),
        if *pickled { "; it has pickled `.bin` weights, convert them to safetensors first" } else { "" }
    )]
    NoWeights {
        /// The directory that was searched.
        directory: PathBuf,
        /// The file names tried, in order.
        looked_for: Vec<String>,
        /// Whether pickled weights (`.bin`, `.pth`, `.ckpt`) lie there instead.
        pickled: bool,
    },
    /// The file is not a regular file (a directory, a pipe, a device).
    #[error("`{}` is not a regular file", file.display())]
    NotAFile {
        /// The path given.
        file: PathBuf,
    },
    /// The file ends before its header or its data does.
    #[error(
        "`{}` is truncated: expected {expected} bytes, found {actual}; download or copy it again",
        file.display()
    )]
    Truncated {
        /// The file.
        file: PathBuf,
        /// Bytes that the header announces.
        expected: u64,
        /// Bytes there are.
        actual: u64,
    },
    /// The file is longer than its header says.
    #[error("`{}` has bytes after its last tensor: expected {expected}, found {actual}", file.display())]
    TrailingBytes {
        /// The file.
        file: PathBuf,
        /// Bytes that the header announces.
        expected: u64,
        /// Bytes there are.
        actual: u64,
    },
    /// The header length is zero, or above the format's limit of 100 MB.
    #[error(
        "`{}` is no safetensors file: {}",
        file.display(), instead(*length)
    )]
    HeaderLength {
        /// The file.
        file: PathBuf,
        /// The announced length in bytes.
        length: u64,
    },
    /// The header is not UTF-8.
    #[error("the header of `{}` is not UTF-8: {source}", file.display())]
    HeaderUtf8 {
        /// The file.
        file: PathBuf,
        /// Where the text breaks.
        source: std::str::Utf8Error,
    },
    /// The header is not a JSON table of tensors.
    #[error("the header of `{}` is not a table of tensors: {source}", file.display())]
    HeaderJson {
        /// The file.
        file: PathBuf,
        /// The parser's reason; names the tensor when it is inside one.
        source: serde_json::Error,
    },
    /// One file names the same tensor twice.
    #[error("`{}` lists tensor `{tensor}` twice", file.display())]
    DuplicateTensor {
        /// The file.
        file: PathBuf,
        /// The repeated name.
        tensor: String,
    },
    /// The element type is not one of the format's.
    #[error("tensor `{tensor}` in `{}` has unknown dtype `{dtype}`", file.display())]
    UnknownDtype {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The dtype as written.
        dtype: String,
    },
    /// Shape and dtype multiply to more bytes than a machine word can count, or to no whole byte.
    #[error("tensor `{tensor}` in `{}` has an impossible size: {dtype} {shape:?}", file.display())]
    ImpossibleSize {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its shape as written.
        shape: Vec<u64>,
    },
    /// The byte range of a tensor does not fit its shape.
    #[error(
        "tensor `{tensor}` in `{}` is {dtype} {shape:?}, which takes {expected} bytes, but spans bytes {start}..{end}",
        file.display()
    )]
    SizeMismatch {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its shape as written.
        shape: Vec<u64>,
        /// Bytes that dtype and shape take.
        expected: u64,
        /// First byte, counted from the end of the header.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// Two tensors overlap, or there is a gap between them.
    #[error(
        "tensor `{tensor}` in `{}` starts at byte {start}, expected {expected}: tensors must follow each other without gap or overlap",
        file.display()
    )]
    Misplaced {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where it starts, counted from the end of the header.
        start: u64,
        /// Where the tensor before it ends.
        expected: u64,
    },
    /// The safetensors library refuses a header that passed our own checks.
    #[error("`{}` is not a valid safetensors file: {source}", file.display())]
    Rejected {
        /// The file.
        file: PathBuf,
        /// The library's reason.
        source: SafeTensorError,
    },
    /// The shard index is not the JSON it should be.
    #[error("`{}` is not a shard index: {source}", file.display())]
    IndexJson {
        /// The index file.
        file: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// The shard index is larger than any real one.
    #[error("`{}` has {length} bytes, more than the limit of {limit} for such a file", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Its size in bytes.
        length: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Index and shards disagree; everything found is listed.
    #[error("`{}` does not match its shards: {}", file.display(), list(problems))]
    Index {
        /// The index file.
        file: PathBuf,
        /// Every inconsistency found.
        problems: Vec<IndexProblem>,
    },
    /// A tensor that is needed is not there.
    #[error("tensor `{tensor}` is not in `{}`{}", file.display(), hint_list(near))]
    MissingTensor {
        /// The file or directory searched.
        file: PathBuf,
        /// The name asked for.
        tensor: String,
        /// Names that look alike.
        near: Vec<String>,
    },
    /// A tensor has another shape than the model needs.
    #[error("tensor `{tensor}` in `{}` has shape {actual:?}, expected {expected:?}", file.display())]
    WrongShape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape needed.
        expected: Vec<usize>,
        /// The shape found.
        actual: Vec<usize>,
    },
    /// Numbers were asked from a tensor that does not hold F32, F16, BF16 or F64.
    #[error("cannot convert {from} to {to}: only F64, F32, F16 and BF16 hold convertible numbers")]
    NotFloat {
        /// The dtype there is.
        from: Dtype,
        /// The dtype wanted.
        to: Dtype,
    },
    /// A failure that concerns one tensor of one file.
    #[error("tensor `{tensor}` in `{}`: {source}", file.display())]
    Tensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What went wrong.
        source: Box<Self>,
    },
    /// The data given for a tensor has not the length its shape and dtype need.
    #[error("{dtype} {shape:?} takes {} bytes, got {actual}",
        expected.map_or_else(|| "too many".to_owned(), |bytes| bytes.to_string()))]
    DataLength {
        /// The dtype.
        dtype: Dtype,
        /// The shape.
        shape: Vec<usize>,
        /// Bytes needed, `None` when no whole countable number.
        expected: Option<usize>,
        /// Bytes given.
        actual: usize,
    },
    /// The tensor handed over while saving is not the one that was announced.
    #[error("tensor `{tensor}` was announced as {expected}, but came as {actual}")]
    Announced {
        /// The tensor.
        tensor: String,
        /// Announced dtype and shape.
        expected: String,
        /// Dtype and shape that came.
        actual: String,
    },
    /// Whoever produces the tensors to be saved failed.
    #[error("cannot produce tensor `{tensor}`: {source}")]
    Producer {
        /// The tensor asked for.
        tensor: String,
        /// The producer's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// One way in which a shard index and its shards disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IndexProblem {
    /// The shard's name is absolute, has `..`, or is a link that leaves the directory.
    OutsideDirectory {
        /// The name in the index.
        shard: String,
    },
    /// The shard file does not exist.
    MissingShard {
        /// The name in the index.
        shard: String,
    },
    /// The index puts a tensor in a shard that does not hold it.
    NotInShard {
        /// The tensor.
        tensor: String,
        /// The shard that should hold it.
        shard: String,
    },
    /// Two shards hold the tensor, or the index lists it twice.
    InTwoShards {
        /// The tensor.
        tensor: String,
        /// The first shard.
        first: String,
        /// The second shard.
        second: String,
    },
}

impl fmt::Display for IndexProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutsideDirectory { shard } => {
                write!(f, "shard `{shard}` lies outside the checkpoint directory")
            }
            Self::MissingShard { shard } => write!(f, "shard `{shard}` is missing"),
            Self::NotInShard { tensor, shard } => {
                write!(f, "tensor `{tensor}` is not in shard `{shard}`")
            }
            Self::InTwoShards {
                tensor,
                first,
                second,
            } => {
                write!(f, "tensor `{tensor}` is in both `{first}` and `{second}`")
            }
        }
    }
}

impl WeightsError {
    pub(crate) fn io(
        action: &'static str,
        file: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io {
            action,
            file,
            source,
        }
    }

    pub(crate) fn in_tensor(self, file: &std::path::Path, tensor: &str) -> Self {
        Self::Tensor {
            file: file.to_owned(),
            tensor: tensor.to_owned(),
            source: Box::new(self),
        }
    }
}

/// What the first eight bytes of a file say that should have been the length of its header.
fn instead(length: u64) -> String {
    match length.to_le_bytes() {
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => {
            "it is pickled, as PyTorch does (`.ckpt`, `.pt`, `.bin`), and such files can run programs when they are opened; \
             convert it to safetensors first"
                .to_owned()
        }
        _ => format!("it announces a header of {length} bytes, expected 2 to 100000000"),
    }
}
