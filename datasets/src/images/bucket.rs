//! Aspect-ratio buckets: sizes of about the same area, so that photographs keep their shape.

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};

/// Sizes that buckets may have.
///
/// | Setting | Default | Meaning |
/// |---|---|---|
/// | `step` | 64 | sides are multiples of this |
/// | `min_side` | 256 | smallest side |
/// | `max_side` | 1024 | largest side |
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Buckets {
    /// Sides are multiples of this.
    pub step: usize,
    /// Smallest side.
    pub min_side: usize,
    /// Largest side.
    pub max_side: usize,
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            step: 64,
            min_side: 256,
            max_side: 1024,
        }
    }
}

impl Buckets {
    /// Sides from half of `resolution` to twice as much: from 256 to 1024 at 512, from 512 to 2048 at 1024, the lists that Stable
    /// Diffusion 1.x and SDXL are trained with.
    ///
    /// ```
    /// let buckets = temper_datasets::images::Buckets::around(1024, 64);
    /// assert!(buckets.sizes(1024)?.contains(&(1216, 832)));
    /// # Ok::<(), temper_datasets::DataError>(())
    /// ```
    pub fn around(resolution: usize, step: usize) -> Self {
        Self {
            step,
            min_side: resolution / 2,
            max_side: resolution.saturating_mul(2),
        }
    }

    /// The sizes (width, height) for training at `resolution`, by width: for every width the largest height
    /// such that the area is at most `resolution²`, each also turned on its side, and the square. It is the
    /// list that kohya's trainer and SDXL use.
    ///
    /// # Errors
    /// If `step` is 0 or no size fits.
    ///
    /// ```
    /// let sizes = temper_datasets::images::Buckets::default().sizes(512)?;
    /// assert!(sizes.contains(&(512, 512)) && sizes.contains(&(384, 640)));
    /// # Ok::<(), temper_datasets::DataError>(())
    /// ```
    pub fn sizes(&self, resolution: usize) -> Result<Vec<(usize, usize)>> {
        let bad = |reason: String| Err(DataError::setting("buckets", reason));
        if self.step == 0 {
            return bad("have the step 0".into());
        }
        let down = |side: usize| side / self.step * self.step;
        let area = resolution.saturating_mul(resolution);
        let mut sizes = Vec::new();
        if down(resolution) > 0 {
            sizes.push((down(resolution), down(resolution)));
        }
        let first = self.min_side.next_multiple_of(self.step).max(self.step);
        for width in (first..=self.max_side).step_by(self.step) {
            let height = down(area / width).min(down(self.max_side));
            if height >= self.min_side.max(1) {
                sizes.extend([(width, height), (height, width)]);
            }
        }
        sizes.sort_unstable();
        sizes.dedup();
        if sizes.is_empty() {
            let Self {
                step,
                min_side,
                max_side,
            } = self;
            return bad(format!(
                "have no size for the resolution {resolution}: multiples of {step} from {min_side} to {max_side}"
            ));
        }
        Ok(sizes)
    }
}

/// The size whose shape is nearest to the image's: the smallest difference of logarithms of width over height,
/// and of equals the one with the larger area, then the narrower.
pub fn nearest_bucket(
    sizes: &[(usize, usize)],
    width: usize,
    height: usize,
) -> Option<(usize, usize)> {
    let shape = |w: usize, h: usize| (w.max(1) as f64 / h.max(1) as f64).ln();
    let wanted = shape(width, height);
    let key = |size: &(usize, usize)| (shape(size.0, size.1) - wanted).abs();
    sizes.iter().copied().min_by(|a, b| {
        key(a)
            .total_cmp(&key(b))
            .then((b.0 * b.1).cmp(&(a.0 * a.1)))
            .then(a.0.cmp(&b.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_at_512_are_those_of_kohyas_trainer() {
        // model_util.make_bucket_resolutions((512, 512)) of sd-scripts.
        let expected = [
            (256, 832),
            (256, 896),
            (256, 960),
            (256, 1024),
            (320, 704),
            (320, 768),
            (384, 640),
            (448, 576),
            (512, 512),
            (576, 448),
            (640, 384),
            (704, 320),
            (768, 320),
            (832, 256),
            (896, 256),
            (960, 256),
            (1024, 256),
        ];
        assert_eq!(Buckets::default().sizes(512).unwrap(), expected);
    }

    #[test]
    fn sizes_grow_and_shrink_with_the_resolution() {
        assert_eq!(Buckets::around(512, 64), Buckets::default());
        let tiny = Buckets::around(32, 8).sizes(32).unwrap();
        let expected = [(16, 64), (24, 40), (32, 32), (40, 24), (64, 16)];
        assert!(expected.iter().all(|size| tiny.contains(size)), "{tiny:?}");
        let large = Buckets::around(1024, 64).sizes(1024).unwrap();
        // A photograph of 3 : 2 keeps about the area of the square.
        let (width, height) = nearest_bucket(&large, 3000, 2000).unwrap();
        assert_eq!((width, height), (1216, 832));
    }

    #[test]
    fn no_size_exceeds_the_area_and_every_side_is_a_multiple() {
        let buckets = Buckets {
            step: 32,
            min_side: 64,
            max_side: 2048,
        };
        for (width, height) in buckets.sizes(1024).unwrap() {
            assert!(width * height <= 1024 * 1024);
            assert_eq!((width % 32, height % 32), (0, 0));
        }
    }

    #[test]
    fn an_image_goes_to_the_nearest_shape() {
        let sizes = Buckets::default().sizes(512).unwrap();
        assert_eq!(nearest_bucket(&sizes, 3000, 3000), Some((512, 512)));
        assert_eq!(nearest_bucket(&sizes, 3000, 4000), Some((448, 576)));
        assert_eq!(nearest_bucket(&sizes, 4000, 3000), Some((576, 448)));
        assert_eq!(nearest_bucket(&sizes, 9000, 10), Some((1024, 256)));
    }

    #[test]
    fn impossible_buckets_are_refused() {
        let none = Buckets {
            step: 64,
            min_side: 600,
            max_side: 620,
        };
        assert!(none.sizes(512).is_ok(), "the square always fits");
        assert!(none.sizes(32).is_err());
        let zero = Buckets {
            step: 0,
            ..Buckets::default()
        };
        assert!(zero.sizes(512).is_err());
    }
}
