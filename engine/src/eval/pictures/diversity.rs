//! How different pictures of the same thing are: LPIPS of all pairs.

use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use temper_datasets::images::{fit, read};
use temper_models::{Lpips, LpipsFeatures};

use super::mean::Pairs;
use crate::device::OpenDevice;
use crate::eval::EvalError;

/// Memory for what the network saw in pictures that are compared with others.
const MEMORY: u64 = 1 << 30;

/// Measures distances at one size.
pub(crate) struct Diversity<'a> {
    pub(crate) lpips: &'a Lpips,
    pub(crate) device: &'a OpenDevice,
    /// Width and height; others are scaled to cover it and cut to the middle.
    pub(crate) size: (usize, usize),
    /// Bytes that may be held, [`MEMORY`] by default.
    memory: u64,
}

impl<'a> Diversity<'a> {
    pub(crate) fn new(lpips: &'a Lpips, device: &'a OpenDevice, size: (usize, usize)) -> Self {
        Self {
            lpips,
            device,
            size,
            memory: MEMORY,
        }
    }

    /// Adds the distance of each pair of `pictures`, numbers among `files`.
    ///
    /// The network looks at each picture once, unless memory does not hold what it saw in all of them: then blocks of pictures
    /// are held, and those after a block are looked at once a block.
    pub(crate) fn add(
        &self,
        files: &[&Path],
        pictures: &[usize],
        pairs: &mut Pairs,
    ) -> Result<(), EvalError> {
        let mut first = 0;
        while first + 1 < pictures.len() {
            let mut held: Vec<LpipsFeatures> = Vec::new();
            let mut room = true;
            for &picture in &pictures[first..] {
                let seen = self.look(files[picture])?;
                let distances = held
                    .iter()
                    .map(|held| self.lpips.distance(held, &seen))
                    .collect::<Result<Vec<_>, _>>()?;
                let others = &pictures[first..first + held.len()];
                for (&other, distance) in others.iter().zip(numbers(distances)) {
                    pairs.add(other, picture, distance);
                }
                room = room && (held.is_empty() || self.fits(held.len() + 1, &seen));
                if room {
                    held.push(seen);
                }
            }
            first += held.len();
        }
        Ok(())
    }

    fn fits(&self, count: usize, seen: &LpipsFeatures) -> bool {
        seen.bytes().saturating_mul(count as u64) <= self.memory
    }

    fn look(&self, file: &Path) -> Result<LpipsFeatures, EvalError> {
        let (width, height) = self.size;
        let photo = fit(&read(file)?, width, height);
        let data = TensorData::new(photo.to_signed(), [1, 3, height, width]);
        let images = Tensor::<4>::from_data(data, &self.device.device);
        self.lpips.look(images).map_err(|error| {
            use temper_models::ModelError::ImageSize;
            match error {
                ImageSize { .. } => EvalError::TooSmall { width, height },
                other => other.into(),
            }
        })
    }
}

/// All in one transfer.
fn numbers(distances: Vec<Tensor<1>>) -> Vec<f64> {
    if distances.is_empty() {
        return Vec::new();
    }
    let data = Tensor::cat(distances, 0).into_data();
    data.iter::<f32>().map(f64::from).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use temper_datasets::images::{Photo, write_png};

    use super::*;

    #[test]
    fn less_memory_gives_the_same_distances_of_the_same_pairs() {
        let golden = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/golden/vision/lpips_alex"
        );
        let device = crate::device::open("cpu").unwrap();
        let lpips = Lpips::load(Path::new(golden), &device.device).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..5_u8)
            .map(|at| {
                let path = folder.path().join(format!("{at}.png"));
                let mut photo = Photo::filled(34, 33, [40 * at, 90, 255 - 30 * at]);
                photo.rgb[usize::from(at) * 700] = 255;
                write_png(&path, &photo, &[]).unwrap();
                path
            })
            .collect();
        let files: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        let measured = |pictures_held: u64| {
            let mut diversity = Diversity::new(&lpips, &device, (34, 33));
            diversity.memory = diversity.look(files[0]).unwrap().bytes() * pictures_held;
            let mut pairs = Pairs::default();
            diversity.add(&files, &[0, 1, 2, 4], &mut pairs).unwrap();
            pairs
        };
        let all = measured(100);
        assert_eq!(all.figure().unwrap().pairs, Some(6));
        assert!(all.figure().unwrap().mean > 0.0);
        for held in 0..4 {
            let blocks = measured(held);
            assert_eq!(blocks.figure().unwrap().pairs, Some(6), "{held} held");
            for picture in 0..5 {
                let (ours, theirs) = (blocks.mean_of(picture), all.mean_of(picture));
                assert_eq!(ours.is_some(), picture != 3);
                let apart = ours.unwrap_or_default() - theirs.unwrap_or_default();
                assert!(apart.abs() < 1e-9, "{held} held: {apart}");
            }
        }
    }
}
