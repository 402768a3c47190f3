//! Rows of Parquet files.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row as ParquetRow};
use serde_json::{Map, Value, json};

use crate::error::{DataError, Result};
use crate::reader::{RowLocation, RowSink};
use crate::record::Record;

/// Reads the rows of `file` into `sink`.
///
/// The Parquet library panics on some damaged files; this is reported as a broken file like any other.
pub(crate) fn read(file: &Arc<Path>, sink: &mut RowSink) -> Result<()> {
    let outcome = catch_unwind(AssertUnwindSafe(|| read_rows(file, sink)));
    outcome.unwrap_or_else(|_| {
        let location = RowLocation {
            file: file.clone(),
            unit: "row",
            number: 1,
        };
        Err(DataError::broken(&location, "the Parquet file is damaged"))
    })
}

fn read_rows(file: &Arc<Path>, sink: &mut RowSink) -> Result<()> {
    let handle = File::open(file).map_err(DataError::io("open", file.as_ref()))?;
    let mut location = RowLocation {
        file: file.clone(),
        unit: "row",
        number: 1,
    };
    let broken = |location: &RowLocation, error: parquet::errors::ParquetError| {
        DataError::broken(location, error.to_string())
    };
    let reader = SerializedFileReader::new(handle).map_err(|error| broken(&location, error))?;
    let rows = reader
        .get_row_iter(None)
        .map_err(|error| broken(&location, error))?;
    for row in rows {
        if sink.is_full() {
            break;
        }
        let row = row.map_err(|error| broken(&location, error))?;
        sink.push(Record(object(&row)), location.clone())?;
        location.number += 1;
    }
    Ok(())
}

fn object(row: &ParquetRow) -> Map<String, Value> {
    row.get_column_iter()
        .map(|(name, field)| (name.clone(), value(field)))
        .collect()
}

fn value(field: &Field) -> Value {
    match field {
        Field::Bool(value) => json!(value),
        Field::Byte(value) => json!(value),
        Field::Short(value) => json!(value),
        Field::Int(value) => json!(value),
        Field::Long(value) => json!(value),
        Field::UByte(value) => json!(value),
        Field::UShort(value) => json!(value),
        Field::UInt(value) => json!(value),
        Field::ULong(value) => json!(value),
        Field::Float(value) => json!(value),
        Field::Double(value) => json!(value),
        Field::Str(value) => json!(value),
        // Some writers do not mark their texts as such.
        Field::Bytes(bytes) => bytes.as_utf8().map_or(Value::Null, |text| json!(text)),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        // Other types mean nothing to the kinds of data known here.
        _ => Value::Null,
    }
}
