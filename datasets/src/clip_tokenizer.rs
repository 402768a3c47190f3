//! The tokenizer of CLIP's text encoders: lower case, byte-level BPE with word ends (`</w>`), a fixed length.
//!
//! It gives the ids that the fast tokenizer of transformers gives: NFC, runs of white space become one space,
//! lower case, no repair of broken encodings. Texts are cut to the length with the end token last; what was
//! cut off is reported.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::Sequence as Normalizers;
use tokenizers::normalizers::{
    Lowercase, NFC, NormalizerWrapper, Replace, replace::ReplacePattern,
};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::bytes::{hash_part, hex};
use crate::error::{DataError, Result};

/// Words, single digits, runs of other signs, English contractions.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// Files that make up a tokenizer, in the order in which the fingerprint takes them.
const FILES: [&str; 5] = [
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
];
/// Length of CLIP's position table, where no file names another.
const DEFAULT_LENGTH: usize = 77;

/// The ids of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipTokens {
    /// Start, text, end, padding: as many as [`ClipTokenizer::max_length`].
    pub ids: Vec<u32>,
    /// Ids before the padding; start and end are counted.
    pub used: usize,
    /// The end of the text that did not fit.
    pub truncated: Option<String>,
}

/// A tokenizer of CLIP, see [the module](self).
///
/// ```
/// use temper_datasets::ClipTokenizer;
///
/// let tokenizer = ClipTokenizer::load("../assets/tiny-diffusion/tokenizer")?;
/// let tokens = tokenizer.encode("A photo of  sks dog")?;
/// assert_eq!(tokens.ids.len(), 77);
/// assert_eq!(tokens.ids[0], tokenizer.bos_id());
/// assert_eq!(tokens.ids, tokenizer.encode("a photo of sks dog")?.ids);
/// # Ok::<(), temper_datasets::DataError>(())
/// ```
#[derive(Debug)]
pub struct ClipTokenizer {
    inner: tokenizers::Tokenizer,
    bos: u32,
    eos: u32,
    pad: u32,
    max_length: usize,
    /// Names and contents of the files it was read from.
    files: Vec<(&'static str, Vec<u8>)>,
}

impl ClipTokenizer {
    /// Loads a directory with `tokenizer.json` (preferred), or `vocab.json` and `merges.txt`.
    ///
    /// Special tokens and the length come from `special_tokens_map.json` and `tokenizer_config.json`: SD 1.x
    /// pads with the end token, SD 2.x and the second encoder of SDXL with `!` (id 0).
    ///
    /// # Errors
    /// If the files are missing or malformed, or a special token has no id.
    pub fn load(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let mut files = Vec::new();
        for name in FILES {
            let path = directory.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => files.push((name, bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(DataError::io("read", path)(error)),
            }
        }
        Self::from_files(directory, files)
    }

    /// The same tokenizer with another token for padding, which [`save`](Self::save) then writes too. SD 2.x and the second
    /// encoder of SDXL pad with `!`.
    ///
    /// # Errors
    /// If the token has no id.
    pub fn padded_with(&self, token: &str) -> Result<Self> {
        let mut files = self.files.clone();
        for name in ["special_tokens_map.json", "tokenizer_config.json"] {
            let there = files.iter().position(|(found, _)| *found == name);
            let source = Source {
                directory: Path::new(""),
                files: &files,
            };
            let mut json = source.json(name)?;
            if !json.is_object() {
                json = Value::Object(serde_json::Map::new());
            }
            json["pad_token"] = token.into();
            let bytes = format!("{json:#}\n").into_bytes();
            match there {
                Some(at) => files[at].1 = bytes,
                None => files.push((name, bytes)),
            }
        }
        Self::from_files(Path::new(""), files)
    }

    fn from_files(directory: &Path, files: Vec<(&'static str, Vec<u8>)>) -> Result<Self> {
        let source = Source {
            directory,
            files: &files,
        };
        let special = Special::read(&source)?;
        let mut inner = source.tokenizer()?;
        let padding = AddedToken::from(special.pad.clone(), true).normalized(false);
        let ends = [&special.bos, &special.eos];
        let mut added: Vec<AddedToken> = ends
            .iter()
            .map(|token| AddedToken::from((*token).clone(), true).normalized(true))
            .collect();
        added.push(padding);
        let known: Vec<AddedToken> = added
            .into_iter()
            .filter(|token| inner.token_to_id(&token.content).is_some())
            .collect();
        inner.add_special_tokens(&known);
        let id = |what: &str, token: &str| {
            inner.token_to_id(token).ok_or_else(|| {
                source.bad(
                    "vocab.json",
                    format!("the {what} token `{token}` has no id"),
                )
            })
        };
        let (bos, eos, pad) = (
            id("start", &special.bos)?,
            id("end", &special.eos)?,
            id("padding", &special.pad)?,
        );
        if special.max_length < 2 {
            let reason = format!("`model_max_length` is {}", special.max_length);
            return Err(source.bad("tokenizer_config.json", reason));
        }
        Ok(Self {
            inner,
            bos,
            eos,
            pad,
            max_length: special.max_length,
            files,
        })
    }

    /// The ids of a text, cut or padded to [`max_length`](Self::max_length).
    ///
    /// # Errors
    /// If the tokenizer's own rules fail on the text.
    pub fn encode(&self, text: &str) -> Result<ClipTokens> {
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|error| DataError::Encode {
                bytes: text.len(),
                reason: error.to_string(),
            })?;
        let room = self.max_length - 2;
        let kept = encoding.get_ids().len().min(room);
        let mut ids = Vec::with_capacity(self.max_length);
        ids.push(self.bos);
        ids.extend(&encoding.get_ids()[..kept]);
        ids.push(self.eos);
        let used = ids.len();
        ids.resize(self.max_length, self.pad);
        let truncated = encoding.get_offsets().get(kept).map(|(first, _)| {
            // A cut inside a character keeps the whole character.
            text[text.floor_char_boundary(*first)..].trim().to_owned()
        });
        Ok(ClipTokens {
            ids,
            used,
            truncated,
        })
    }

    /// Id of the start token.
    pub fn bos_id(&self) -> u32 {
        self.bos
    }

    /// Id of the end token.
    pub fn eos_id(&self) -> u32 {
        self.eos
    }

    /// Id behind the end.
    pub fn pad_id(&self) -> u32 {
        self.pad
    }

    /// Ids per text.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The smallest number that every id is below: rows that an embedding needs.
    pub fn vocab_size(&self) -> usize {
        let vocabulary = self.inner.get_vocab(true);
        vocabulary.values().max().map_or(0, |id| *id as usize + 1)
    }

    /// Identifies the tokenizer's files.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        for (name, bytes) in &self.files {
            hash_part(&mut hasher, name.as_bytes());
            hash_part(&mut hasher, bytes);
        }
        hex(&hasher.finalize())
    }

    /// Writes the files from which this was loaded into a directory, byte for byte.
    ///
    /// # Errors
    /// If the directory cannot be made or a file cannot be written.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        std::fs::create_dir_all(directory).map_err(DataError::io("create", directory))?;
        for (name, bytes) in &self.files {
            let path = directory.join(name);
            std::fs::write(&path, bytes).map_err(DataError::io("write", &path))?;
        }
        Ok(())
    }
}

/// Files of a tokenizer, and where they lie.
struct Source<'a> {
    directory: &'a Path,
    files: &'a [(&'static str, Vec<u8>)],
}

impl Source<'_> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        let mut files = self.files.iter();
        files
            .find(|(found, _)| *found == name)
            .map(|(_, bytes)| bytes.as_slice())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn bad(&self, name: &str, reason: impl Into<String>) -> DataError {
        DataError::BadTokenizer {
            path: self.path(name),
            reason: reason.into(),
        }
    }

    fn json(&self, name: &str) -> Result<Value> {
        let Some(bytes) = self.get(name) else {
            return Ok(Value::Null);
        };
        serde_json::from_slice(bytes).map_err(|source| DataError::BadJson {
            path: self.path(name),
            source,
        })
    }

    /// The tokenizer itself, without padding, truncation or special tokens of its own.
    fn tokenizer(&self) -> Result<tokenizers::Tokenizer> {
        if let Some(bytes) = self.get("tokenizer.json") {
            let bad = |error: tokenizers::Error| self.bad("tokenizer.json", error.to_string());
            let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(bad)?;
            inner.with_padding(None);
            inner.with_truncation(None).map_err(bad)?;
            return Ok(inner);
        }
        if self.get("vocab.json").is_none() || self.get("merges.txt").is_none() {
            return Err(DataError::NoClipTokenizer {
                path: self.directory.into(),
            });
        }
        let bad = |error: tokenizers::Error| self.bad("merges.txt", error.to_string());
        let model = BPE::builder()
            .vocab_and_merges(self.vocabulary()?, self.merges()?)
            .unk_token("<|endoftext|>".into())
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix("</w>".into())
            .build()
            .map_err(bad)?;
        let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ").map_err(bad)?;
        let words = Split::new(
            SplitPattern::Regex(WORDS.into()),
            SplitDelimiterBehavior::Removed,
            true,
        );
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_normalizer(Some(Normalizers::new(vec![
            NormalizerWrapper::NFC(NFC),
            NormalizerWrapper::Replace(spaces),
            NormalizerWrapper::Lowercase(Lowercase),
        ])));
        inner.with_pre_tokenizer(Some(PreTokenizers::new(vec![
            PreTokenizerWrapper::Split(words.map_err(bad)?),
            PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
        ])));
        Ok(inner)
    }

    fn vocabulary(&self) -> Result<tokenizers::models::bpe::Vocab> {
        let Value::Object(entries) = self.json("vocab.json")? else {
            return Err(self.bad("vocab.json", "it is no object of tokens and ids"));
        };
        let id = |token: String, value: Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            let bad = || self.bad("vocab.json", format!("the id of `{token}` is {value}"));
            let id = id.ok_or_else(bad)?;
            Ok((token, id))
        };
        entries
            .into_iter()
            .map(|(token, value)| id(token, value))
            .collect()
    }

    /// Pairs of `merges.txt`, after its version line.
    fn merges(&self) -> Result<Vec<(String, String)>> {
        let bytes = self.get("merges.txt").unwrap_or_default();
        let text = std::str::from_utf8(bytes)
            .map_err(|error| self.bad("merges.txt", format!("it is not UTF-8: {error}")))?;
        let mut merges = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || (index == 0 && line.starts_with("#version")) {
                continue;
            }
            let pair = line
                .split_once(' ')
                .filter(|(_, right)| !right.contains(' '));
            let (left, right) = pair.ok_or_else(|| {
                self.bad(
                    "merges.txt",
                    format!("line {} is no pair: `{line}`", index + 1),
                )
            })?;
            merges.push((left.to_owned(), right.to_owned()));
        }
        Ok(merges)
    }
}

/// Special tokens and the length.
struct Special {
    bos: String,
    eos: String,
    pad: String,
    max_length: usize,
}

impl Special {
    fn read(source: &Source<'_>) -> Result<Self> {
        let map = source.json("special_tokens_map.json")?;
        let config = source.json("tokenizer_config.json")?;
        // Configurations that list their added tokens are complete; older ones are overruled by the map. SD
        // 2.x is such a case: its configuration and its map name different padding.
        let order = if config.get("added_tokens_decoder").is_some() {
            [&config, &map]
        } else {
            [&map, &config]
        };
        let token = |name: &str, default: &str| {
            let values = order.iter().filter_map(|json| text_of(json.get(name)?));
            values
                .into_iter()
                .next()
                .unwrap_or_else(|| default.to_owned())
        };
        let eos = token("eos_token", "<|endoftext|>");
        let length = config.get("model_max_length").and_then(Value::as_f64);
        // Tokenizers without a length write a number of thirty digits.
        let length = length.filter(|length| *length < 1e6);
        Ok(Self {
            bos: token("bos_token", "<|startoftext|>"),
            pad: token("pad_token", &eos),
            eos,
            max_length: length.map_or(DEFAULT_LENGTH, |length| length.max(0.0) as usize),
        })
    }
}

/// A token is a string, or an object that describes one.
fn text_of(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    Some(text.to_owned())
}

#[cfg(test)]
mod tests;
