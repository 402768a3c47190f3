//! The distance. Shapes: B pairs of images, C channels.

use std::path::Path;

use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use temper_adapters::weights::{Checkpoint, View};
use temper_adapters::{AdaptedConv2d, Param};

use super::plan::{ALEX, Step, VGG};
use crate::ModelError;
use crate::names::Names;
use crate::weights::{ParamSource, Tensors};

/// The means and deviations of ImageNet, for values in [−1, 1].
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// The perceptual distance, for evaluation; always in f32.
///
/// # Examples
/// ```no_run
/// use burn::tensor::{Device, Tensor};
/// use temper_models::Lpips;
///
/// let device = Device::flex();
/// let lpips = Lpips::load(std::path::Path::new("lpips-alex"), &device)?;
/// let image = Tensor::<4>::zeros([1, 3, 64, 64], &device);
/// let distance = lpips.forward(image.clone(), image)?;
/// assert_eq!(distance.into_scalar::<f32>(), 0.0);
/// # Ok::<(), temper_models::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lpips {
    steps: &'static [Step],
    convs: Vec<AdaptedConv2d>,
    /// One weight a channel at each tap.
    heads: Vec<Param>,
}

impl Lpips {
    /// Loads a directory with `model.safetensors` (or the file itself), described at the head of this module.
    ///
    /// # Errors
    /// Whatever is wrong with the weights, naming file and tensor.
    pub fn load(path: &Path, device: &Device) -> Result<Self, ModelError> {
        Self::from_checkpoint(&Checkpoint::open(path)?, device)
    }

    /// The same from an opened checkpoint.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device) -> Result<Self, ModelError> {
        let checkpoint = torchvision_names(checkpoint)?;
        let vgg = checkpoint.info("features.28.weight").is_some();
        let steps = if vgg { VGG } else { ALEX };
        let tensors = tensors(steps, &checkpoint);
        let source = ParamSource::checkpoint(tensors, &checkpoint, FloatDType::F32, device)?;
        let mut convs = Vec::new();
        let mut heads = Vec::new();
        for step in steps {
            match *step {
                Step::Conv(number, [_, stride, padding]) => {
                    convs.push(source.conv(&format!("features.{number}"), stride, padding)?);
                }
                Step::Tap => heads.push(source.param(&head(heads.len()))?),
                Step::Pool(..) => {}
            }
        }
        Ok(Self {
            steps,
            convs,
            heads,
        })
    }

    /// The distance of each pair of images `[B, 3, H, W]` with values in [−1, 1], `[B]`.
    ///
    /// # Errors
    /// [`ModelError::ImageSize`] when the two differ in shape, are not RGB, or are too small for the network's poolings.
    pub fn forward(&self, a: Tensor<4>, b: Tensor<4>) -> Result<Tensor<1>, ModelError> {
        let (found, expected) = (b.dims(), a.dims());
        if found != expected {
            return Err(image_size(found, expected));
        }
        let both = self.look(Tensor::cat(vec![a, b], 0))?;
        let batch = found[0];
        Ok(self.compare(&both.narrow(0, batch), &both.narrow(batch, batch)))
    }

    /// What the network sees in images `[B, 3, H, W]` with values in [−1, 1]. Of n images it is computed n times instead of
    /// once for each of their n(n − 1) / 2 pairs.
    ///
    /// # Errors
    /// [`ModelError::ImageSize`] when the images are not RGB or too small for the network's poolings.
    pub fn look(&self, images: Tensor<4>) -> Result<LpipsFeatures, ModelError> {
        let found = images.dims();
        // The second of AlexNet's poolings needs 31 pixels, the four halvings of VGG 16.
        let least = if self.steps == ALEX { 31 } else { 16 };
        if found[1] != 3 || found[2].min(found[3]) < least {
            let expected = [found[0], 3, found[2].max(least), found[3].max(least)];
            return Err(image_size(found, expected));
        }
        let taps = self.features(normalised(images.cast(FloatDType::F32)));
        Ok(LpipsFeatures {
            taps: taps.into_iter().map(unit).collect(),
        })
    }

    /// The distance of each pair, `[B]`, from what [`Self::look`] saw; [`Self::forward`] gives the same.
    ///
    /// # Errors
    /// [`ModelError::ImageSize`] when the two are of different sizes or numbers of images.
    pub fn distance(&self, a: &LpipsFeatures, b: &LpipsFeatures) -> Result<Tensor<1>, ModelError> {
        let shapes = |features: &LpipsFeatures| features.taps.first().map(Tensor::dims);
        match (shapes(a), shapes(b)) {
            (Some(a), Some(b)) if a != b => Err(image_size(b, a)),
            _ => Ok(self.compare(a, b)),
        }
    }

    fn compare(&self, a: &LpipsFeatures, b: &LpipsFeatures) -> Tensor<1> {
        let total = a
            .taps
            .iter()
            .zip(&b.taps)
            .zip(&self.heads)
            .map(|((a, b), head)| {
                let weighted = (a.clone() - b.clone()).square() * head.get::<4>();
                let [batch, channels, height, width] = weighted.dims();
                let positions = height * width;
                let sums = weighted.reshape([batch, channels * positions]).sum_dim(1);
                sums.reshape([batch]).div_scalar(positions as f64)
            })
            .reduce(|total, distance| total + distance);
        match total {
            Some(total) => total,
            None => unreachable!("both networks have five taps"),
        }
    }

    fn features(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        let mut convs = self.convs.iter();
        let mut taps = Vec::new();
        self.steps.iter().fold(x, |x, step| match *step {
            Step::Conv(..) => match convs.next() {
                Some(conv) => relu(conv.forward(x)),
                None => x,
            },
            Step::Pool(kernel, stride) => {
                let options = MaxPoolOptions::new([kernel; 2]).with_stride([stride; 2]);
                max_pool2d(x, options)
            }
            Step::Tap => {
                taps.push(x.clone());
                x
            }
        });
        taps
    }
}

/// What LPIPS sees in a batch of images: the activations at its five taps, of unit length at each position.
#[derive(Clone, Debug)]
pub struct LpipsFeatures {
    taps: Vec<Tensor<4>>,
}

impl LpipsFeatures {
    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> u64 {
        let numbers = |tap: &Tensor<4>| tap.dims().into_iter().product::<usize>();
        self.taps.iter().map(numbers).sum::<usize>() as u64 * 4
    }

    fn narrow(&self, first: usize, count: usize) -> Self {
        let taps = self.taps.iter();
        Self {
            taps: taps
                .map(|tap| tap.clone().narrow(0, first, count))
                .collect(),
        }
    }
}

fn image_size(found: [usize; 4], expected: [usize; 4]) -> ModelError {
    let shape = |[_, channels, height, width]: [usize; 4]| [channels, height, width];
    ModelError::ImageSize {
        found: shape(found),
        expected: shape(expected),
    }
}

fn normalised(x: Tensor<4>) -> Tensor<4> {
    let device = x.device();
    let channels = |values: [f32; 3]| {
        Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), &device)
    };
    (x - channels(SHIFT)) / channels(SCALE)
}

/// Unit length over the channels at each position.
fn unit(x: Tensor<4>) -> Tensor<4> {
    let length = x.clone().square().sum_dim(1).sqrt() + 1e-10;
    x / length
}

fn head(tap: usize) -> String {
    format!("lin{tap}.model.1.weight")
}

/// Names and shapes of the network, whose widths are those of the file.
fn tensors(steps: &[Step], checkpoint: &Checkpoint) -> Tensors {
    let mut names = Names::default();
    let (mut width, mut taps) = (3, 0);
    for step in steps {
        match *step {
            Step::Conv(number, [kernel, ..]) => {
                let module = format!("features.{number}");
                let weight = checkpoint.info(&format!("{module}.weight"));
                let outputs = weight.and_then(|info| info.shape.first());
                let outputs = outputs.copied().unwrap_or(width);
                names.conv(&module, [outputs, width], kernel);
                width = outputs;
            }
            Step::Tap => {
                names.tensor(head(taps), &[1, width, 1, 1]);
                taps += 1;
            }
            Step::Pool(..) => {}
        }
    }
    names.into_tensors()
}

/// `net.slice2.3.weight` of the published package is `features.3.weight`; what it holds twice or torchvision's classifier has no use.
fn torchvision_names(checkpoint: &Checkpoint) -> Result<Checkpoint, ModelError> {
    let view = |from: &str| {
        let name = match from.strip_prefix("net.slice") {
            Some(rest) => format!("features.{}", rest.split_once('.')?.1),
            None => from.to_owned(),
        };
        let ours = name.starts_with("features.")
            || (name.starts_with("lin") && !name.starts_with("lins."));
        ours.then(|| View::new(from, name))
    };
    Ok(checkpoint.views(checkpoint.names().filter_map(view).collect::<Vec<_>>())?)
}
