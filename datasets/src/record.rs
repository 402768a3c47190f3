//! Rows: what a record of a file means for training.

use std::fmt;
use std::sync::LazyLock;

use regex::Regex;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use serde_json::{Map, Value};

use crate::bytes::excerpt;
use crate::error::{DataError, Result};
use crate::reader::{DataKind, RowLocation};

/// One row of a data set, before any template.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// A task and its answer.
    Pair {
        /// The task; the whole query where the file does not separate an input.
        instruction: String,
        /// Further context. `None` where the file has no such field at all.
        input: Option<String>,
        /// The answer to learn.
        response: String,
    },
    /// Text to continue; every token of it is trained.
    Text(String),
    /// Ids made elsewhere.
    Tokens {
        /// The ids.
        input_ids: Vec<u32>,
        /// One label per id, not shifted, [`IGNORED`](crate::IGNORED) where nothing is trained.
        labels: Option<Vec<i32>>,
    },
    /// A conversation, whose last message is the answer to learn.
    Chat(Vec<Message>),
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`, as the chat template expects.
    pub role: String,
    /// What is said.
    pub content: String,
    /// Whatever else the file gives; a chat template may use it.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message with no extra fields.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            extra: Map::new(),
        }
    }
}

/// A JSON object in which no key occurs twice.
pub(crate) struct Record(pub(crate) Map<String, Value>);

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RecordVisitor;
        impl<'de> Visitor<'de> for RecordVisitor {
            type Value = Record;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Record, A::Error> {
                let mut map = Map::new();
                while let Some((key, value)) = access.next_entry::<String, Value>()? {
                    if map.contains_key(&key) {
                        return Err(A::Error::custom(format!("field `{key}` occurs twice")));
                    }
                    map.insert(key, value);
                }
                Ok(Record(map))
            }
        }
        deserializer.deserialize_map(RecordVisitor)
    }
}

/// Interprets a record of the given kind.
pub(crate) fn to_row(record: Record, kind: DataKind, location: &RowLocation) -> Result<Row> {
    let mut fields = Fields {
        map: record.0,
        location,
    };
    match kind {
        DataKind::Metamathqa => metamathqa(&mut fields),
        DataKind::Gsm8k => gsm8k(&mut fields),
        DataKind::Text => {
            fields.require(&["text"], "`text`")?;
            Ok(Row::Text(fields.text("text")?))
        }
        DataKind::Tokens => tokens(&mut fields),
        DataKind::Chat => chat(&mut fields),
    }
}

/// The fields of one record and where it is.
struct Fields<'a> {
    map: Map<String, Value>,
    location: &'a RowLocation,
}

impl Fields<'_> {
    fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    fn require(&self, names: &[&str], expected: &'static str) -> Result<()> {
        if names.iter().all(|name| self.has(name)) {
            return Ok(());
        }
        let found = self.map.keys().map(|key| excerpt(key)).collect();
        Err(DataError::MissingField {
            location: self.location.clone(),
            expected,
            found,
        })
    }

    fn text(&mut self, name: &'static str) -> Result<String> {
        match self.map.remove(name) {
            Some(Value::String(text)) => Ok(text),
            other => Err(self.wrong(name, "a text", &other.unwrap_or_default())),
        }
    }

    fn wrong(&self, field: &'static str, expected: &'static str, found: &Value) -> DataError {
        let found = kind_of(found);
        DataError::WrongType {
            location: self.location.clone(),
            field,
            expected,
            found,
        }
    }

    fn integers<T: TryFrom<i64>>(&mut self, field: &'static str) -> Result<Vec<T>> {
        let expected = "a list of token ids";
        let value = self.map.remove(field).unwrap_or_default();
        let Value::Array(list) = value else {
            return Err(self.wrong(field, expected, &value));
        };
        list.iter()
            .map(|item| {
                let number = item.as_i64().and_then(|number| T::try_from(number).ok());
                number.ok_or_else(|| {
                    let reason = format!(
                        "`{field}` holds {}, which is no token id",
                        excerpt(&item.to_string())
                    );
                    DataError::broken(self.location, reason)
                })
            })
            .collect()
    }
}

fn metamathqa(fields: &mut Fields<'_>) -> Result<Row> {
    const EXPECTED: &str = "`query` and `response`, or `instruction` and `output`";
    let task = if fields.has("instruction") {
        "instruction"
    } else {
        "query"
    };
    let answer = match task {
        "instruction" if fields.has("output") => "output",
        _ => "response",
    };
    fields.require(&[task, answer], EXPECTED)?;
    let input = match fields.map.get("input") {
        _ if task == "query" => None,
        None | Some(Value::Null) => Some(String::new()),
        Some(_) => Some(fields.text("input")?),
    };
    Ok(Row::Pair {
        instruction: fields.text(task)?,
        input,
        response: fields.text(answer)?,
    })
}

/// Calculator marks of GSM8K, such as `<<48/2=24>>`.
static CALCULATOR: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new("<<.*?>>").ok());

fn gsm8k(fields: &mut Fields<'_>) -> Result<Row> {
    fields.require(&["question", "answer"], "`question` and `answer`")?;
    let question = fields.text("question")?;
    let answer = fields.text("answer")?;
    gsm8k_pair(question, &answer, fields.location)
}

/// A question of GSM8K and its answer as it is trained.
pub(crate) fn gsm8k_pair(question: String, answer: &str, location: &RowLocation) -> Result<Row> {
    let Some((rationale, last)) = answer.rsplit_once("####") else {
        let reason = format!(
            "`answer` has no `#### ` before the final number: `{}`",
            excerpt(answer)
        );
        return Err(DataError::broken(location, reason));
    };
    let rationale = match CALCULATOR.as_ref() {
        Some(marks) => marks.replace_all(rationale, ""),
        None => rationale.into(),
    };
    let number = last.trim();
    let response = format!(
        "{}\n#### {number}\nThe answer is: {number}",
        rationale.trim_end()
    );
    Ok(Row::Pair {
        instruction: question,
        input: None,
        response,
    })
}

fn tokens(fields: &mut Fields<'_>) -> Result<Row> {
    fields.require(&["input_ids"], "`input_ids`, optionally `labels`")?;
    let input_ids: Vec<u32> = fields.integers("input_ids")?;
    let labels = match fields.map.get("labels") {
        None | Some(Value::Null) => None,
        Some(_) => Some(fields.integers::<i32>("labels")?),
    };
    if let Some(labels) = labels
        .as_ref()
        .filter(|labels| labels.len() != input_ids.len())
    {
        let reason = format!(
            "{} `input_ids` but {} `labels`",
            input_ids.len(),
            labels.len()
        );
        return Err(DataError::broken(fields.location, reason));
    }
    Ok(Row::Tokens { input_ids, labels })
}

fn chat(fields: &mut Fields<'_>) -> Result<Row> {
    fields.require(&["messages"], "`messages`")?;
    let value = fields.map.remove("messages").unwrap_or_default();
    if !value.is_array() {
        return Err(fields.wrong("messages", "a list of messages", &value));
    }
    let messages: Vec<Message> = serde_json::from_value(value)
        .map_err(|error| DataError::broken(fields.location, format!("`messages`: {error}")))?;
    Ok(Row::Chat(messages))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
