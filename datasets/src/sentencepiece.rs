//! Reads a `SentencePiece` BPE model (`tokenizer.model`, Kudo and Richardson 2018, arXiv 1808.06226) and
//! writes it as the equivalent `tokenizer.json`.
//!
//! A `SentencePiece` model has scores instead of merges: of all adjacent pairs whose concatenation is a
//! piece, the one with the highest score is joined first. The equivalent list of merges therefore holds
//! every way to cut every piece into two pieces, ordered by the score of the whole.
//!
//! Control, unknown and byte pieces never come out of a merge, so literal `<s>` or `<0x0A>` in a text are
//! ordinary characters.

use std::collections::HashMap;
use std::path::Path;

use prost::Message;
use serde_json::{Map, Value, json};

use crate::error::{DataError, Result};

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

const MODEL_TYPE_BPE: i32 = 2;

/// The parts of the file that decide how text is cut.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceProto>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerProto>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerProto>,
}

#[derive(Clone, PartialEq, Message)]
struct PieceProto {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, optional, tag = "3", default = "1")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerProto {
    #[prost(int32, optional, tag = "3", default = "1")]
    model_type: Option<i32>,
    #[prost(bool, tag = "24")]
    whitespace_as_suffix: bool,
    #[prost(bool, tag = "35")]
    byte_fallback: bool,
    #[prost(int32, optional, tag = "41", default = "1")]
    bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42", default = "2")]
    eos_id: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerProto {
    #[prost(bytes = "vec", tag = "2")]
    charsmap: Vec<u8>,
    #[prost(bool, optional, tag = "3", default = "true")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "true")]
    escape_whitespaces: Option<bool>,
}

impl PieceProto {
    fn can_merge(&self) -> bool {
        matches!(self.kind(), NORMAL | UNUSED)
    }
}

/// A checked `SentencePiece` BPE model.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    pieces: Vec<PieceProto>,
    trainer: TrainerProto,
    normalizer: NormalizerProto,
}

impl SentencePiece {
    /// Parses and checks the bytes of `path`.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let bad = |reason: String| DataError::BadTokenizer {
            path: path.into(),
            reason,
        };
        let proto = ModelProto::decode(bytes)
            .map_err(|error| bad(format!("not a SentencePiece model ({error})")))?;
        let trainer = proto
            .trainer
            .ok_or_else(|| bad("the SentencePiece model has no trainer part".into()))?;
        let model = Self {
            pieces: proto.pieces,
            trainer,
            normalizer: proto.normalizer.unwrap_or_default(),
        };
        if let Some(feature) = model.unsupported() {
            return Err(DataError::UnsupportedTokenizer {
                path: path.into(),
                feature,
            });
        }
        model.check_pieces().map_err(bad)?;
        Ok(model)
    }

    fn unsupported(&self) -> Option<String> {
        let kind = self.trainer.model_type();
        if kind != MODEL_TYPE_BPE {
            return Some(format!(
                "SentencePiece model type {kind} (only BPE, type 2, is known)"
            ));
        }
        if self.trainer.whitespace_as_suffix {
            return Some("white space as a suffix".into());
        }
        (!self.normalizer.charsmap.is_empty()).then(|| "a Unicode normalisation table".into())
    }

    fn check_pieces(&self) -> Result<(), String> {
        let mut seen = HashMap::with_capacity(self.pieces.len());
        for (id, piece) in self.pieces.iter().enumerate() {
            if piece.text.is_empty() {
                return Err(format!("piece {id} is empty"));
            }
            if piece.score.is_nan() {
                return Err(format!("piece {id} has no score"));
            }
            if let Some(other) = seen.insert(piece.text.as_str(), id) {
                return Err(format!("pieces {other} and {id} are both `{}`", piece.text));
            }
        }
        if self.unknown().is_none() {
            return Err("there is no piece for unknown text".into());
        }
        let bytes = self
            .pieces
            .iter()
            .filter(|piece| piece.kind() == BYTE)
            .count();
        if self.trainer.byte_fallback && bytes != 256 {
            return Err(format!("expected 256 byte pieces, found {bytes}"));
        }
        Ok(())
    }

    fn unknown(&self) -> Option<&str> {
        self.pieces
            .iter()
            .find(|piece| piece.kind() == UNKNOWN)
            .map(|piece| piece.text.as_str())
    }

    /// Id that begins a text, if the model defines one.
    pub(crate) fn bos(&self) -> Option<u32> {
        self.control(self.trainer.bos_id())
    }

    /// Id that ends a text, if the model defines one.
    pub(crate) fn eos(&self) -> Option<u32> {
        self.control(self.trainer.eos_id())
    }

    fn control(&self, id: i32) -> Option<u32> {
        let id = usize::try_from(id).ok()?;
        let piece = self.pieces.get(id)?;
        (piece.kind() == CONTROL).then_some(id as u32)
    }

    /// The model in the format of the `tokenizers` library. `extra` are tokens with ids of their own that
    /// were added to the vocabulary after training, such as a padding token.
    pub(crate) fn to_json(&self, extra: &[(String, u32)], path: &Path) -> Result<Value> {
        let vocab = self.vocabulary(extra, path)?;
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(extra),
            "normalizer": { "type": "Sequence", "normalizers": self.normalizers() },
            "pre_tokenizer": null,
            "post_processor": null,
            "decoder": { "type": "Sequence", "decoders": self.decoders() },
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": self.unknown(),
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": true,
                "byte_fallback": self.trainer.byte_fallback,
                "ignore_merges": false,
                "vocab": vocab,
                "merges": self.merges(),
            },
        }))
    }

    fn vocabulary(&self, extra: &[(String, u32)], path: &Path) -> Result<Map<String, Value>> {
        let mut vocab: Map<String, Value> = Map::with_capacity(self.pieces.len());
        for (id, piece) in self.pieces.iter().enumerate() {
            vocab.insert(piece.text.clone(), json!(id));
        }
        for (text, id) in extra {
            let taken = self
                .pieces
                .get(*id as usize)
                .is_some_and(|piece| piece.text != *text);
            let moved = vocab
                .insert(text.clone(), json!(id))
                .is_some_and(|old| old != json!(id));
            if taken || moved {
                let reason = format!("the added token `{text}` with id {id} clashes with a piece");
                return Err(DataError::BadTokenizer {
                    path: path.into(),
                    reason,
                });
            }
        }
        Ok(vocab)
    }

    fn added_tokens(&self, extra: &[(String, u32)]) -> Vec<Value> {
        let token = |id: usize, text: &str, special: bool| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": special,
            })
        };
        let own = self
            .pieces
            .iter()
            .enumerate()
            .filter_map(|(id, piece)| match piece.kind() {
                CONTROL | UNKNOWN => Some(token(id, &piece.text, true)),
                USER_DEFINED => Some(token(id, &piece.text, false)),
                _ => None,
            });
        let known = self.pieces.len();
        let extra = extra.iter().filter(|(_, id)| *id as usize >= known);
        own.chain(extra.map(|(text, id)| token(*id as usize, text, true)))
            .collect()
    }

    fn normalizers(&self) -> Vec<Value> {
        let replace = |pattern: Value, content: &str| json!({ "type": "Replace", "pattern": pattern, "content": content });
        let mut steps = Vec::new();
        if self.normalizer.remove_extra_whitespaces() {
            steps.push(replace(json!({ "Regex": "^ +| +$" }), ""));
            steps.push(replace(json!({ "Regex": " {2,}" }), " "));
        }
        if self.normalizer.add_dummy_prefix() {
            steps.push(json!({ "type": "Prepend", "prepend": "▁" }));
        }
        if self.normalizer.escape_whitespaces() {
            steps.push(replace(json!({ "String": " " }), "▁"));
        }
        steps
    }

    fn decoders(&self) -> Vec<Value> {
        let mut steps = vec![
            json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if self.normalizer.add_dummy_prefix() {
            steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        steps
    }

    /// All cuts of all pieces: highest score first, then lowest id, then lowest ids of the halves.
    fn merges(&self) -> Vec<[&str; 2]> {
        let ids: HashMap<&str, usize> = self
            .pieces
            .iter()
            .enumerate()
            .filter(|(_, piece)| piece.can_merge())
            .map(|(id, piece)| (piece.text.as_str(), id))
            .collect();
        let mut merges = Vec::new();
        for (id, piece) in self
            .pieces
            .iter()
            .enumerate()
            .filter(|(_, piece)| piece.can_merge())
        {
            for (cut, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(cut);
                if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                    merges.push((piece.score, id, left, right));
                }
            }
        }
        merges.sort_by(|a, b| {
            b.0.total_cmp(&a.0)
                .then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3)))
        });
        let text = |id: usize| self.pieces[id].text.as_str();
        merges
            .into_iter()
            .map(|(_, _, left, right)| [text(left), text(right)])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str, score: f32, kind: i32) -> PieceProto {
        PieceProto {
            text: text.into(),
            score,
            kind: Some(kind),
        }
    }

    fn tiny() -> ModelProto {
        let mut pieces = vec![piece("<unk>", 0.0, UNKNOWN), piece("<s>", 0.0, CONTROL)];
        pieces.push(piece("</s>", 0.0, CONTROL));
        for (rank, text) in ["ab", "abc", "bc", "a", "b", "c", "▁"]
            .into_iter()
            .enumerate()
        {
            pieces.push(piece(text, -(rank as f32), NORMAL));
        }
        let trainer = TrainerProto {
            model_type: Some(MODEL_TYPE_BPE),
            ..TrainerProto::default()
        };
        ModelProto {
            pieces,
            trainer: Some(trainer),
            normalizer: None,
        }
    }

    #[test]
    fn merges_are_all_cuts_in_order_of_score() {
        let model = SentencePiece::parse(&tiny().encode_to_vec(), Path::new("x")).unwrap();
        assert_eq!(
            model.merges(),
            [["a", "b"], ["ab", "c"], ["a", "bc"], ["b", "c"]]
        );
        assert_eq!((model.bos(), model.eos()), (Some(1), Some(2)));
    }

    #[test]
    fn duplicate_pieces_are_refused() {
        let mut model = tiny();
        model.pieces.push(piece("abc", 0.0, NORMAL));
        let error = SentencePiece::parse(&model.encode_to_vec(), Path::new("x")).unwrap_err();
        assert!(
            error.to_string().contains("pieces 4 and 10 are both `abc`"),
            "{error}"
        );
    }

    #[test]
    fn a_unigram_model_is_refused_with_a_hint() {
        let mut model = tiny();
        model.trainer = Some(TrainerProto {
            model_type: Some(1),
            ..TrainerProto::default()
        });
        let error = SentencePiece::parse(&model.encode_to_vec(), Path::new("x")).unwrap_err();
        assert!(matches!(error, DataError::UnsupportedTokenizer { .. }));
        assert!(error.to_string().contains("tokenizer.json"));
    }

    #[test]
    fn an_added_token_that_takes_a_piece_id_is_refused() {
        let model = SentencePiece::parse(&tiny().encode_to_vec(), Path::new("x")).unwrap();
        assert!(
            model
                .to_json(&[("[PAD]".into(), 10)], Path::new("x"))
                .is_ok()
        );
        assert!(
            model
                .to_json(&[("[PAD]".into(), 4)], Path::new("x"))
                .is_err()
        );
        assert!(
            model
                .to_json(&[("abc".into(), 11)], Path::new("x"))
                .is_err()
        );
    }
}
