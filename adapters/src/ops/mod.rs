//! The kernels of the hot path: hand-written gradients, and host loops where they are faster than composed operations.

mod conv;
mod gemm;
mod grad;
mod host;
mod linear;
mod rotate;
mod rows;
pub mod simd;

pub use conv::conv2d;
pub use gemm::{Matrix, MatrixMut, matmul_into};
pub use grad::{Erased, GraphInput, InputGradients, erase, with_gradient};
pub use host::{HostView, Updated};
pub use linear::linear;
pub use rotate::rotate;
pub use rows::rows_product;
