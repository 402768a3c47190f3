//! The same weights under other names: a checkpoint written by one program read as another program's.

use std::collections::BTreeMap;
use std::ops::Range;

use super::checkpoint::Place;
use super::{Checkpoint, WeightsError};

/// One tensor of a checkpoint as another layout names and shapes it: a slice of rows, another shape over the same values, the
/// transpose.
///
/// # Examples
/// ```
/// use temper_adapters::weights::View;
///
/// // The queries of a fused projection `[3·C, C]`, C = 64.
/// let view = View::new("attn.in_proj_weight", "self_attn.q_proj.weight").rows(0..64);
/// assert_eq!(view.name(), "self_attn.q_proj.weight");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    from: String,
    name: String,
    rows: Option<Range<usize>>,
    shape: Option<Vec<usize>>,
    transposed: bool,
}

impl View {
    /// Tensor `from` under the name `name`.
    pub fn new(from: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            from: from.into(),
            name: name.into(),
            rows: None,
            shape: None,
            transposed: false,
        }
    }

    /// The new name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Only these rows (indices of the outermost dimension).
    #[must_use]
    pub fn rows(mut self, rows: Range<usize>) -> Self {
        self.rows = Some(rows);
        self
    }

    /// Another shape over the same values, such as a 1×1 convolution's kernel as a matrix.
    #[must_use]
    pub fn shaped(mut self, shape: &[usize]) -> Self {
        self.shape = Some(shape.to_vec());
        self
    }

    /// A matrix with its dimensions exchanged.
    #[must_use]
    pub fn transposed(mut self) -> Self {
        self.transposed = true;
        self
    }

    fn apply(&self, checkpoint: &Checkpoint) -> Result<Place, WeightsError> {
        let mut place = checkpoint.place(&self.from)?.clone();
        let wrong = |place: &Place, expected: &[usize]| WeightsError::WrongShape {
            file: place.info.file.to_path_buf(),
            tensor: self.from.clone(),
            expected: expected.to_vec(),
            actual: place.info.shape.clone(),
        };
        if let Some(rows) = &self.rows {
            let mut shape = place.info.shape.clone();
            let fits = !place.transposed && rows.start <= rows.end;
            let Some(all) = shape.first_mut().filter(|all| fits && rows.end <= **all) else {
                return Err(wrong(&place, &[rows.end]));
            };
            let row = place.span.len() / (*all).max(1);
            *all = rows.len();
            let start = place.span.start + rows.start * row;
            place.span = start..start + rows.len() * row;
            place.info.bytes = place.span.len();
            place.info.shape = shape;
        }
        if let Some(shape) = &self.shape {
            let count = |shape: &[usize]| shape.iter().product::<usize>();
            if place.transposed || count(shape) != count(&place.info.shape) {
                return Err(wrong(&place, shape));
            }
            place.info.shape.clone_from(shape);
        }
        if self.transposed {
            if place.info.shape.len() != 2 {
                return Err(wrong(&place, &[0, 0]));
            }
            place.info.shape.swap(0, 1);
            place.transposed = !place.transposed;
        }
        Ok(place)
    }
}

impl Checkpoint {
    /// The tensors named by `views`, and no others, over the same mapped files (nothing is read or copied).
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`] for a view of a tensor that is not there, [`WeightsError::WrongShape`] for rows or a
    /// shape that it does not have, [`WeightsError::DuplicateTensor`] for two views of one name.
    pub fn views(&self, views: impl IntoIterator<Item = View>) -> Result<Self, WeightsError> {
        let mut tensors = BTreeMap::new();
        for view in views {
            let place = view.apply(self)?;
            let file = place.info.file.to_path_buf();
            if tensors.insert(view.name.clone(), place).is_some() {
                return Err(WeightsError::DuplicateTensor {
                    file,
                    tensor: view.name,
                });
            }
        }
        Ok(self.over_the_same_files(tensors))
    }

    /// The same tensors with every name changed by `rename`; `None` leaves a tensor out.
    ///
    /// # Errors
    /// [`WeightsError::DuplicateTensor`] when two tensors get one name.
    pub fn renamed(&self, rename: impl Fn(&str) -> Option<String>) -> Result<Self, WeightsError> {
        let views = self
            .names()
            .filter_map(|from| Some(View::new(from, rename(from)?)));
        self.views(views.collect::<Vec<_>>())
    }
}

/// `[columns, rows]` row-major to `[rows, columns]` row-major, elements of `size` bytes.
pub(crate) fn transpose(bytes: &[u8], [rows, columns]: [usize; 2], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        for column in 0..columns {
            let at = (column * rows + row) * size;
            out.extend_from_slice(bytes.get(at..at + size).unwrap_or_default());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Dtype, HostTensor, save_safetensors};

    fn checkpoint(directory: &std::path::Path) -> Checkpoint {
        let path = directory.join("model.safetensors");
        let values: Vec<f32> = (0..6_u8).map(f32::from).collect();
        let tensor = HostTensor::from_f32(Dtype::F32, vec![3, 2], &values).unwrap();
        let tensors = [("fused".to_owned(), tensor)];
        save_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
        Checkpoint::open(path).unwrap()
    }

    #[test]
    fn rows_shapes_and_transposes_are_read_under_their_new_names() {
        let directory = tempfile::tempdir().unwrap();
        let views = checkpoint(directory.path())
            .views([
                View::new("fused", "q").rows(1..2),
                View::new("fused", "kernel").shaped(&[3, 2, 1, 1]),
                View::new("fused", "turned").transposed(),
                View::new("fused", "both").rows(1..3).transposed(),
            ])
            .unwrap();
        assert_eq!(views.read_f32("q").unwrap(), [2.0, 3.0]);
        assert_eq!(views.expect("kernel", &[3, 2, 1, 1]).unwrap().bytes, 24);
        views.expect("turned", &[2, 3]).unwrap();
        let turned = views.read("turned").unwrap();
        assert_eq!(turned.to_f32().unwrap(), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
        assert_eq!(views.read_f32("both").unwrap(), [2.0, 4.0, 3.0, 5.0]);
        assert!(views.info("fused").is_none());
    }

    #[test]
    fn views_that_do_not_fit_name_the_tensor() {
        let directory = tempfile::tempdir().unwrap();
        let weights = checkpoint(directory.path());
        let message = |view| weights.views([view]).unwrap_err().to_string();
        assert!(message(View::new("fused", "x").rows(2..4)).contains("`fused`"));
        assert!(message(View::new("fused", "x").shaped(&[5])).contains("`fused`"));
        assert!(message(View::new("fusd", "x")).contains("`fusd`"));
        let twice = [View::new("fused", "x"), View::new("fused", "x")];
        assert!(
            weights
                .views(twice)
                .unwrap_err()
                .to_string()
                .contains("`x` twice")
        );
    }

    #[test]
    fn renaming_keeps_what_it_names_and_leaves_out_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let weights = checkpoint(directory.path());
        let renamed = weights
            .renamed(|name| Some(format!("model.{name}")))
            .unwrap();
        assert_eq!(renamed.names().collect::<Vec<_>>(), ["model.fused"]);
        assert!(weights.renamed(|_| None).unwrap().is_empty());
    }
}
