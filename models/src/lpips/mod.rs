//! The learned perceptual distance between images, LPIPS (arXiv 1801.03924, eq. 1), version 0.1 of its weights.
//!
//! A network trained on ImageNet looks at both images; at five layers l its activations are brought to unit length at each
//! position, and `d(x, x₀) = Σ_l 1/(H_l W_l) Σ_hw Σ_c w_lc (ŷ_hwc − ŷ₀_hwc)²`.
//!
//! One file `model.safetensors`, no configuration: `features.N.weight` and `.bias` as torchvision numbers the layers of AlexNet
//! (0, 3, 6, 8, 10) or VGG-16 (0, 2, 5, …, 28), and `linK.model.1.weight` `[1, C, 1, 1]`, K = 0..4, as the published package
//! names its heads. The whole model as that package saves it (`net.sliceK.N.*`) loads too; which network it is follows from
//! the names, widths from the shapes. `scripts/convert_lpips.py` makes the file from the two published ones.

mod model;
mod plan;

pub use model::{Lpips, LpipsFeatures};
