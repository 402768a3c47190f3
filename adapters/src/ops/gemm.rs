//! Matrix products on strided host slices, through the `gemm` crate.

/// A read-only matrix inside a slice: element `(i, j)` is `data[offset + i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The slice that holds the matrix.
    pub data: &'a [f32],
    /// Index of element (0, 0).
    pub offset: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix whose rows are `row_stride` apart.
    ///
    /// # Examples
    /// ```
    /// use temper_adapters::ops::Matrix;
    /// let m = Matrix::rows(&[1.0, 2.0, 3.0, 4.0], 0, [2, 2], 2);
    /// assert_eq!(m.transposed().row_stride, 1);
    /// ```
    pub fn rows(
        data: &'a [f32],
        offset: usize,
        [rows, cols]: [usize; 2],
        row_stride: usize,
    ) -> Self {
        Self {
            data,
            offset,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// The transpose, without moving data.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Row `i`, whose columns must be contiguous.
    #[inline(always)]
    pub(super) fn row(&self, i: usize) -> &'a [f32] {
        &self.data[self.offset + i * self.row_stride..][..self.cols]
    }

    fn last(&self) -> usize {
        self.offset + (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride
    }
}

/// The destination of a product: a row-major matrix inside a slice.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    /// The slice that holds the matrix.
    pub data: &'a mut [f32],
    /// Index of element (0, 0).
    pub offset: usize,
    /// Distance between rows.
    pub row_stride: usize,
}

/// `dst = alpha * a b`, or `dst += alpha * a b` when `accumulate`. `a: [m, k]`, `b: [k, n]`, `dst: [m, n]`. One thread.
///
/// # Panics
/// When the shapes disagree or a matrix reaches outside its slice.
pub fn matmul_into(
    dst: &mut MatrixMut<'_>,
    a: Matrix<'_>,
    b: Matrix<'_>,
    alpha: f32,
    accumulate: bool,
) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(k, b.rows, "inner dimensions of a product");
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        k > 0 && a.last() < a.data.len() && b.last() < b.data.len(),
        "operand outside its slice"
    );
    let last = dst.offset + (m - 1) * dst.row_stride + n - 1;
    assert!(
        last < dst.data.len() && (m == 1 || dst.row_stride >= n),
        "destination outside its slice"
    );
    #[expect(
        unsafe_code,
        reason = "the gemm crate takes pointers; the asserts above bound every access"
    )]
    // SAFETY: all three matrices lie inside their slices (asserted), and `dst` is borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.data.as_mut_ptr().add(dst.offset),
            1,
            dst.row_stride as isize,
            accumulate,
            a.data.as_ptr().add(a.offset),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr().add(b.offset),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_product_matches_the_sum_by_hand() {
        let a = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0];
        let b = [1.0, 0.0, 2.0, 1.0];
        let mut c = [10.0; 4];
        let a = Matrix::rows(&a, 0, [2, 2], 3);
        let b = Matrix::rows(&b, 0, [2, 2], 2);
        let dst = &mut MatrixMut {
            data: &mut c,
            offset: 0,
            row_stride: 2,
        };
        matmul_into(dst, a, b, 1.0, true);
        assert_eq!(dst.data, [15.0, 12.0, 21.0, 14.0]);
        matmul_into(dst, a.transposed(), b, 2.0, false);
        assert_eq!(dst.data, [14.0, 6.0, 20.0, 8.0]);
    }

    #[test]
    #[should_panic(expected = "operand outside")]
    fn a_matrix_larger_than_its_slice_is_refused() {
        let a = [1.0; 4];
        let mut c = [0.0; 9];
        let m = Matrix::rows(&a, 0, [3, 3], 3);
        matmul_into(
            &mut MatrixMut {
                data: &mut c,
                offset: 0,
                row_stride: 3,
            },
            m,
            m,
            1.0,
            false,
        );
    }
}
