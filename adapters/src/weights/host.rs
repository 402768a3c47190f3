//! A tensor in host memory.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;

use super::WeightsError;

/// A tensor in host memory: element type, shape (outermost first) and row-major little-endian
/// bytes. Shape and byte count always agree.
///
/// ```
/// use temper_adapters::weights::{Dtype, HostTensor};
///
/// let tensor = HostTensor::from_f32(Dtype::BF16, vec![2, 2], &[1.0, -2.0, 0.5, 0.0])?;
/// assert_eq!(tensor.data().len(), 8);
/// assert_eq!(tensor.to_f32()?, [1.0, -2.0, 0.5, 0.0]);
/// # Ok::<(), temper_adapters::weights::WeightsError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct HostTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl HostTensor {
    /// A tensor from its parts.
    ///
    /// # Errors
    /// [`WeightsError::DataLength`] when `data` has not the length that `dtype` and `shape` take.
    pub fn new(dtype: Dtype, shape: Vec<usize>, data: Vec<u8>) -> Result<Self, WeightsError> {
        let expected = byte_count(dtype, &shape);
        if expected == Some(data.len()) {
            return Ok(Self { dtype, shape, data });
        }
        Err(WeightsError::DataLength {
            dtype,
            shape,
            expected,
            actual: data.len(),
        })
    }

    /// A tensor of the floating-point type `dtype` from `values`, rounded to nearest even.
    ///
    /// # Errors
    /// [`WeightsError::NotFloat`] for another type, [`WeightsError::DataLength`] when the number of
    /// values is not the product of `shape`.
    pub fn from_f32(dtype: Dtype, shape: Vec<usize>, values: &[f32]) -> Result<Self, WeightsError> {
        let data = match dtype {
            Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::F16 => values
                .iter()
                .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                .collect(),
            Dtype::BF16 => values
                .iter()
                .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                .collect(),
            Dtype::F64 => values
                .iter()
                .flat_map(|v| f64::from(*v).to_le_bytes())
                .collect(),
            _ => {
                return Err(WeightsError::NotFloat {
                    from: Dtype::F32,
                    to: dtype,
                });
            }
        };
        Self::new(dtype, shape, data)
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The sizes, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The bytes, row-major, little-endian.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The bytes, without copying them.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// The values as `f32`, widened from F16 or BF16, rounded from F64.
    ///
    /// # Errors
    /// [`WeightsError::NotFloat`] for integers and 8-bit floats.
    pub fn to_f32(&self) -> Result<Vec<f32>, WeightsError> {
        floats(self.dtype, &self.data)
    }

    /// The same values in another floating-point type; no copy when the type is already right.
    ///
    /// # Errors
    /// [`WeightsError::NotFloat`] when either type is not F64, F32, F16 or BF16.
    pub fn cast(self, dtype: Dtype) -> Result<Self, WeightsError> {
        if self.dtype == dtype {
            return Ok(self);
        }
        let values = self.to_f32()?;
        Self::from_f32(dtype, self.shape, &values)
    }

    /// Whether every value is a number and not an infinity, also as `f32`; integers are.
    pub fn is_finite(&self) -> bool {
        let values = self.to_f32().unwrap_or_default();
        values.iter().all(|value| value.is_finite())
    }

    /// Whether every byte is zero (a tensor of zeros, for every type but a negative zero).
    pub fn is_zero(&self) -> bool {
        self.data.iter().all(|byte| *byte == 0)
    }
}

impl std::fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostTensor({} {:?})", self.dtype, self.shape)
    }
}

/// Bytes that `shape` takes; `None` when the number overflows or is not whole.
pub(crate) fn byte_count(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let elements = shape
        .iter()
        .try_fold(1_usize, |product, size| product.checked_mul(*size))?;
    let bits = elements.checked_mul(dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// The values in `bytes` as `f32`.
pub(crate) fn floats(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, WeightsError> {
    match dtype {
        Dtype::F32 => Ok(words(bytes).map(f32::from_le_bytes).collect()),
        Dtype::F64 => Ok(words(bytes)
            .map(|word| f64::from_le_bytes(word) as f32)
            .collect()),
        Dtype::F16 => Ok(halves(bytes, f16::ZERO, f16::from_le_bytes)),
        Dtype::BF16 => Ok(halves(bytes, bf16::ZERO, bf16::from_le_bytes)),
        from => Err(WeightsError::NotFloat {
            from,
            to: Dtype::F32,
        }),
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// Widens block by block, so that the conversion uses the processor's vector instructions.
fn halves<H: Copy>(bytes: &[u8], zero: H, read: fn([u8; 2]) -> H) -> Vec<f32>
where
    [H]: HalfFloatSliceExt,
{
    const BLOCK: usize = 512;
    let mut block = [zero; BLOCK];
    let mut values = vec![0.0; bytes.len() / 2];
    for (out, source) in values.chunks_mut(BLOCK).zip(bytes.chunks(2 * BLOCK)) {
        for (slot, word) in block.iter_mut().zip(words(source)) {
            *slot = read(word);
        }
        block[..out.len()].convert_to_f32_slice(out);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_types_round_to_nearest_even_and_widen_exactly() {
        let values: Vec<f32> = (0..1300_u16).map(|i| f32::from(i) * 0.37 - 99.0).collect();
        for dtype in [Dtype::F16, Dtype::BF16] {
            let tensor = HostTensor::from_f32(dtype, vec![1300], &values).unwrap();
            let wide = tensor.to_f32().unwrap();
            for (value, widened) in values.iter().zip(&wide) {
                let expected = match dtype {
                    Dtype::F16 => f16::from_f32(*value).to_f32(),
                    _ => bf16::from_f32(*value).to_f32(),
                };
                assert!(
                    (expected - widened).abs() == 0.0,
                    "{value} became {widened}"
                );
            }
            let again = HostTensor::from_f32(dtype, vec![1300], &wide).unwrap();
            assert_eq!(again, tensor);
        }
    }

    #[test]
    fn data_of_the_wrong_length_is_refused() {
        let error = HostTensor::new(Dtype::F32, vec![2, 3], vec![0; 23]).unwrap_err();
        assert_eq!(error.to_string(), "F32 [2, 3] takes 24 bytes, got 23");
        assert!(HostTensor::new(Dtype::F32, vec![usize::MAX, 9], vec![]).is_err());
    }

    #[test]
    fn integers_are_not_silently_made_floats() {
        let tensor = HostTensor::new(Dtype::I64, vec![1], vec![0; 8]).unwrap();
        assert!(matches!(
            tensor.to_f32(),
            Err(WeightsError::NotFloat { .. })
        ));
        assert!(tensor.cast(Dtype::F32).is_err());
    }

    #[test]
    fn scalars_and_empty_tensors_are_allowed() {
        assert!(HostTensor::new(Dtype::F32, vec![], vec![0; 4]).is_ok());
        assert!(HostTensor::new(Dtype::F32, vec![0, 4], vec![]).is_ok());
    }
}
