//! Text to ids and back.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::bytes::{hash_part, hex};
use crate::error::{DataError, Result};
use crate::sentencepiece::SentencePiece;
use crate::special::SideFiles;
use crate::stream::DecodeStream;

/// A tokenizer together with its special tokens and its chat template.
///
/// Two ways of reading text exist. [`encode`](Self::encode) takes every character as text, so a `</s>`
/// that a user typed stays four characters; this is the right one for data.
/// [`encode_with_specials`](Self::encode_with_specials) recognises special tokens in the text; this is
/// the right one for what a chat template rendered.
///
/// ```no_run
/// # fn main() -> temper_datasets::Result<()> {
/// let tokenizer = temper_datasets::Tokenizer::load("llama-2-7b")?;
/// let ids = tokenizer.encode("Hello this is a test", true)?;
/// assert_eq!(ids, [1, 15043, 445, 338, 263, 1243]);
/// assert_eq!(tokenizer.decode(&ids, true)?, "Hello this is a test");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tokenizer {
    plain: tokenizers::Tokenizer,
    with_specials: OnceLock<tokenizers::Tokenizer>,
    special_texts: Vec<(String, u32)>,
    bos: Option<u32>,
    eos: Option<u32>,
    stops: Vec<u32>,
    adds_bos: bool,
    vocab_size: usize,
    chat_template: Option<String>,
    fingerprint: String,
}

/// What a tokenizer file holds besides the tokenizer.
struct Loaded {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    adds_bos: bool,
}

impl Tokenizer {
    /// Loads `tokenizer.json` (preferred) or `tokenizer.model` from a directory, or the file itself.
    ///
    /// Special tokens and the chat template come from `tokenizer_config.json`, `generation_config.json`,
    /// `config.json`, `added_tokens.json` and `chat_template.jinja` in the same directory, where present.
    ///
    /// # Errors
    /// If there is no tokenizer, or a file is unreadable, malformed, or a `SentencePiece` model that is
    /// not BPE.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let file = tokenizer_file(path.as_ref())?;
        let directory = file.parent().unwrap_or(Path::new("."));
        let mut side = SideFiles::read(directory)?;
        let bytes = std::fs::read(&file).map_err(DataError::io("read", &file))?;
        let is_model = file
            .extension()
            .is_some_and(|extension| extension == "model");
        let loaded = if is_model {
            load_model(&bytes, &file, &side)?
        } else {
            load_json(&bytes, &file, &side)?
        };
        let template = side.take_chat_template();
        Self::assemble(loaded, &side, template, &bytes, &file)
    }

    /// Stands in for a tokenizer where rows of ids need none: it knows how many ids there are, and nothing
    /// else. To encode or decode with it is an error.
    ///
    /// ```
    /// let ids = temper_datasets::Tokenizer::of_ids(256);
    /// assert_eq!(ids.vocab_size(), 256);
    /// assert!(ids.is_without_text() && ids.encode("text", false).is_err());
    /// ```
    pub fn of_ids(vocab_size: usize) -> Self {
        let mut tokenizer = Self {
            plain: tokenizers::Tokenizer::new(tokenizers::models::bpe::BPE::default()),
            with_specials: OnceLock::new(),
            special_texts: Vec::new(),
            bos: None,
            eos: None,
            stops: Vec::new(),
            adds_bos: false,
            vocab_size,
            chat_template: None,
            fingerprint: String::new(),
        };
        let size = vocab_size as u64;
        tokenizer.fingerprint = tokenizer.compute_fingerprint(&size.to_le_bytes());
        tokenizer
    }

    /// Whether this only stands in for a tokenizer, see [`of_ids`](Self::of_ids).
    pub fn is_without_text(&self) -> bool {
        // A tokenizer with an empty vocabulary is never loaded. Counting the whole vocabulary would copy it, and this is asked
        // for every token.
        self.plain.get_vocab_size(false) == 0 && self.plain.get_added_vocabulary().is_empty()
    }

    fn assemble(
        loaded: Loaded,
        side: &SideFiles,
        chat_template: Option<String>,
        bytes: &[u8],
        file: &Path,
    ) -> Result<Self> {
        let Loaded {
            mut inner,
            bos,
            eos,
            adds_bos,
        } = loaded;
        let vocab_size = check_vocabulary(&inner, file)?;
        inner.set_encode_special_tokens(true);
        let in_range = |id: &u32| (*id as usize) < vocab_size;
        let (bos, eos) = (bos.filter(in_range), eos.filter(in_range));
        let mut stops: Vec<u32> = eos
            .into_iter()
            .chain(side.stops())
            .filter(in_range)
            .collect();
        stops.sort_unstable();
        stops.dedup();
        let mut tokenizer = Self {
            special_texts: special_texts(&inner),
            plain: inner,
            with_specials: OnceLock::new(),
            bos,
            eos,
            stops,
            adds_bos: adds_bos && bos.is_some(),
            vocab_size,
            chat_template,
            fingerprint: String::new(),
        };
        tokenizer.fingerprint = tokenizer.compute_fingerprint(bytes);
        Ok(tokenizer)
    }

    /// Ids of `text`, every character of which is plain text. With `add_bos` the begin token comes first,
    /// if texts for this model begin with one.
    ///
    /// # Errors
    /// If the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str, add_bos: bool) -> Result<Vec<u32>> {
        let encoding = encode_with(&self.plain, text)?;
        let bos = self.required_bos().filter(|_| add_bos);
        Ok(bos.into_iter().chain(encoding).collect())
    }

    /// Ids of `text` in which the texts of special tokens stand for those tokens. No begin token is added.
    ///
    /// Never use it on text that a user wrote, except inside a chat template.
    ///
    /// # Errors
    /// If the tokenizer cannot represent the text.
    pub fn encode_with_specials(&self, text: &str) -> Result<Vec<u32>> {
        let inner = self.with_specials.get_or_init(|| {
            let mut inner = self.plain.clone();
            inner.set_encode_special_tokens(false);
            inner
        });
        encode_with(inner, text)
    }

    /// The text of `ids`; special tokens are left out with `skip_special`. Bytes that are not UTF-8 become
    /// U+FFFD.
    ///
    /// # Errors
    /// If an id is outside the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        if let Some(&id) = ids.iter().find(|id| **id as usize >= self.vocab_size) {
            let reason = format!("id {id} is outside the vocabulary of {}", self.vocab_size);
            return Err(DataError::Decode {
                tokens: ids.len(),
                reason,
            });
        }
        if self.is_without_text() && !ids.is_empty() {
            return Err(DataError::Decode {
                tokens: ids.len(),
                reason: NO_TOKENIZER.into(),
            });
        }
        self.plain
            .decode(ids, skip_special)
            .map_err(|error| DataError::Decode {
                tokens: ids.len(),
                reason: error.to_string(),
            })
    }

    /// Decodes ids one by one as they are generated; special tokens are left out.
    pub fn stream(&self) -> DecodeStream<&Self> {
        DecodeStream::new(self, true)
    }

    /// Id that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The begin token, if texts for this model begin with one.
    pub(crate) fn required_bos(&self) -> Option<u32> {
        self.bos.filter(|_| self.adds_bos)
    }

    /// Id that ends an answer; the one that training appends.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// All ids at which a generation ends, in ascending order; [`eos`](Self::eos) is among them.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stops
    }

    /// Number of rows that an embedding needs: the highest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The model's chat template, in Jinja.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Text of a token, as written in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.plain.id_to_token(id)
    }

    /// Id of a token, by its text in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.plain.token_to_id(token)
    }

    /// The first special token whose text occurs in `text`.
    pub fn special_in<'a>(&'a self, text: &str) -> Option<&'a str> {
        let mut tokens = self.special_texts.iter().map(|(token, _)| token.as_str());
        tokens.find(|token| text.contains(token))
    }

    /// Sha256 of everything that decides about ids and templates, as hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn compute_fingerprint(&self, file: &[u8]) -> String {
        let mut hasher = Sha256::new();
        hash_part(&mut hasher, file);
        let settings = format!("{:?}", (self.bos, self.eos, &self.stops, self.adds_bos));
        hash_part(&mut hasher, settings.as_bytes());
        for (token, id) in &self.special_texts {
            hash_part(&mut hasher, token.as_bytes());
            hash_part(&mut hasher, &id.to_le_bytes());
        }
        hash_part(
            &mut hasher,
            self.chat_template.as_deref().unwrap_or_default().as_bytes(),
        );
        hex(&hasher.finalize())
    }
}

fn tokenizer_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    ["tokenizer.json", "tokenizer.model"]
        .iter()
        .map(|name| path.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| DataError::NoTokenizer { path: path.into() })
}

fn load_model(bytes: &[u8], file: &Path, side: &SideFiles) -> Result<Loaded> {
    let model = SentencePiece::parse(bytes, file)?;
    let json = model.to_json(&side.added_tokens(), file)?;
    let inner = parse_json(json.to_string().as_bytes(), file)?;
    let lookup = |name: &str| inner.token_to_id(name);
    let bos = side.bos(model.bos(), &lookup);
    let eos = side.eos(model.eos(), &lookup);
    Ok(Loaded {
        inner,
        bos,
        eos,
        adds_bos: side.add_bos().unwrap_or(true),
    })
}

fn load_json(bytes: &[u8], file: &Path, side: &SideFiles) -> Result<Loaded> {
    let mut inner = parse_json(bytes, file)?;
    // Either would change the data without a word.
    inner.with_padding(None);
    let bad = |error: tokenizers::Error| DataError::BadTokenizer {
        path: file.into(),
        reason: error.to_string(),
    };
    inner.with_truncation(None).map_err(bad)?;
    let lookup = |name: &str| inner.token_to_id(name);
    let bos = side.bos(None, &lookup);
    let eos = side.eos(None, &lookup);
    let adds_bos = side.add_bos().unwrap_or_else(|| begins_with(&inner, bos));
    Ok(Loaded {
        inner,
        bos,
        eos,
        adds_bos,
    })
}

/// Whether the tokenizer's own post-processor puts `bos` first.
fn begins_with(inner: &tokenizers::Tokenizer, bos: Option<u32>) -> bool {
    let encoding = inner.encode_fast("a", true).ok();
    bos.is_some() && encoding.and_then(|encoding| encoding.get_ids().first().copied()) == bos
}

fn parse_json(bytes: &[u8], file: &Path) -> Result<tokenizers::Tokenizer> {
    tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| DataError::BadTokenizer {
        path: file.into(),
        reason: error.to_string(),
    })
}

/// The highest id plus one; refuses a vocabulary in which two tokens share an id.
fn check_vocabulary(inner: &tokenizers::Tokenizer, file: &Path) -> Result<usize> {
    let bad = |reason: String| DataError::BadTokenizer {
        path: file.into(),
        reason,
    };
    let vocab = inner.get_vocab(true);
    let mut by_id: HashMap<u32, &str> = HashMap::with_capacity(vocab.len());
    let mut entries: Vec<(&String, &u32)> = vocab.iter().collect();
    entries.sort();
    for (token, &id) in entries {
        if let Some(other) = by_id.insert(id, token) {
            return Err(bad(format!("tokens `{other}` and `{token}` share id {id}")));
        }
    }
    let highest = by_id
        .keys()
        .max()
        .ok_or_else(|| bad("the vocabulary is empty".into()))?;
    Ok(*highest as usize + 1)
}

fn special_texts(inner: &tokenizers::Tokenizer) -> Vec<(String, u32)> {
    let added = inner.get_added_tokens_decoder();
    let mut texts: Vec<(String, u32)> = added
        .into_iter()
        .filter(|(_, token)| token.special && !token.content.is_empty())
        .map(|(id, token)| (token.content, id))
        .collect();
    texts.sort_by_key(|(_, id)| *id);
    texts
}

const NO_TOKENIZER: &str = "there is no tokenizer, only a number of ids";

fn encode_with(inner: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>> {
    if inner.get_vocab_size(true) == 0 {
        return Err(DataError::Encode {
            bytes: text.len(),
            reason: NO_TOKENIZER.into(),
        });
    }
    let encoding = inner
        .encode_fast(text, false)
        .map_err(|error| DataError::Encode {
            bytes: text.len(),
            reason: error.to_string(),
        })?;
    Ok(encoding.get_ids().to_vec())
}
