//! The layers of the two networks.

/// One step of a network that ends at five taps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A convolution and `max(x, 0)`: its number in torchvision's `features`, kernel, stride, padding.
    Conv(usize, [usize; 3]),
    /// Max pooling: kernel and stride.
    Pool(usize, usize),
    /// The activations are compared here.
    Tap,
}

use Step::{Conv, Pool, Tap};

/// AlexNet, compared after each of its five convolutions.
pub(super) const ALEX: &[Step] = &[
    Conv(0, [11, 4, 2]),
    Tap,
    Pool(3, 2),
    Conv(3, [5, 1, 2]),
    Tap,
    Pool(3, 2),
    Conv(6, [3, 1, 1]),
    Tap,
    Conv(8, [3, 1, 1]),
    Tap,
    Conv(10, [3, 1, 1]),
    Tap,
];

/// VGG-16, compared at the end of each of its five blocks.
pub(super) const VGG: &[Step] = &[
    Conv(0, [3, 1, 1]),
    Conv(2, [3, 1, 1]),
    Tap,
    Pool(2, 2),
    Conv(5, [3, 1, 1]),
    Conv(7, [3, 1, 1]),
    Tap,
    Pool(2, 2),
    Conv(10, [3, 1, 1]),
    Conv(12, [3, 1, 1]),
    Conv(14, [3, 1, 1]),
    Tap,
    Pool(2, 2),
    Conv(17, [3, 1, 1]),
    Conv(19, [3, 1, 1]),
    Conv(21, [3, 1, 1]),
    Tap,
    Pool(2, 2),
    Conv(24, [3, 1, 1]),
    Conv(26, [3, 1, 1]),
    Conv(28, [3, 1, 1]),
    Tap,
];
