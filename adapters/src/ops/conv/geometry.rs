//! Sizes of one convolution.

/// `x: [B, C, H, W]` convolved with `[O, C, kh, kw]` to `[B, O, H', W']`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) batch: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) size: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) padding: [usize; 2],
}

impl Geometry {
    /// `H', W'`.
    pub(super) fn out(&self) -> [usize; 2] {
        std::array::from_fn(|i| {
            (self.size[i] + 2 * self.padding[i] - self.kernel[i]) / self.stride[i] + 1
        })
    }

    /// Values of one output plane.
    pub(super) fn pixels(&self) -> usize {
        self.out().iter().product()
    }

    /// Values of one input plane.
    pub(super) fn plane(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Weights of one input channel.
    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Weights of one output channel.
    pub(super) fn depth(&self) -> usize {
        self.inputs * self.taps()
    }

    /// Whether a plane of the input is a row of the matrix that the weight is multiplied with.
    pub(super) fn is_product(&self) -> bool {
        self.taps() == 1 && self.stride == [1, 1] && self.padding == [0, 0]
    }

    /// The convolution of the output's gradient with the turned weight that gives the input's gradient: stride 1 only.
    pub(super) fn turned(&self) -> Option<Self> {
        let fits = (0..2).all(|i| self.stride[i] == 1 && self.padding[i] < self.kernel[i]);
        fits.then(|| Self {
            inputs: self.outputs,
            outputs: self.inputs,
            size: self.out(),
            padding: std::array::from_fn(|i| self.kernel[i] - 1 - self.padding[i]),
            ..*self
        })
    }
}
