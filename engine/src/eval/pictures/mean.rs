//! Means with the error that comes of having looked at few pictures.

use serde::Serialize;

/// A measured mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The mean.
    pub mean: f64,
    /// Its standard error; nothing where a single thing was measured.
    pub standard_error: Option<f64>,
    /// How many things the error is taken over: pictures, or subjects where several were averaged.
    pub n: u64,
    /// Pairs that were compared, for a mean over pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<u64>,
}

impl Figure {
    /// Mean of independent values with the standard error `s / √n`, s with n − 1; nothing of no value.
    ///
    /// ```
    /// use temper_engine::eval::pictures::Figure;
    ///
    /// let figure = Figure::of([1.0, 2.0, 3.0]).unwrap();
    /// assert_eq!(figure.mean, 2.0);
    /// assert!((figure.standard_error.unwrap() - (1.0_f64 / 3.0).sqrt()).abs() < 1e-15);
    /// assert_eq!(Figure::of([1.0]).unwrap().standard_error, None);
    /// ```
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (!values.is_empty()).then(|| Self {
            mean,
            standard_error: (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()),
            n: values.len() as u64,
            pairs: None,
        })
    }
}

/// Values of pairs of pictures. Pairs with a picture in common are not independent, so the error of their mean is taken over
/// pictures: the jackknife, `√((n − 1)/n Σᵢ (θ₍ᵢ₎ − θ̄)²)` where θ₍ᵢ₎ is the mean without the pairs of picture i.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs {
    /// Sum and number of the pairs of each picture.
    of: Vec<(f64, u64)>,
    total: f64,
    count: u64,
}

impl Pairs {
    /// Adds the value of two different pictures.
    pub(crate) fn add(&mut self, a: usize, b: usize, value: f64) {
        let most = a.max(b);
        if self.of.len() <= most {
            self.of.resize(most + 1, (0.0, 0));
        }
        for picture in [a, b] {
            self.of[picture].0 += value;
            self.of[picture].1 += 1;
        }
        self.total += value;
        self.count += 1;
    }

    /// Mean value of the pairs of a picture.
    pub(crate) fn mean_of(&self, picture: usize) -> Option<f64> {
        let (sum, count) = *self.of.get(picture)?;
        (count > 0).then(|| sum / count as f64)
    }

    /// Mean over all pairs.
    pub(crate) fn figure(&self) -> Option<Figure> {
        let in_pairs = self.of.iter().filter(|(_, count)| *count > 0);
        let without: Vec<Option<f64>> = in_pairs
            .map(|(sum, count)| {
                let left = self.count - count;
                (left > 0).then(|| (self.total - sum) / left as f64)
            })
            .collect();
        let n = without.len() as f64;
        let known: Option<Vec<f64>> = without.iter().copied().collect();
        let error = known.map(|means| {
            let centre = means.iter().sum::<f64>() / n;
            let squares: f64 = means.iter().map(|mean| (mean - centre).powi(2)).sum();
            ((n - 1.0) / n * squares).sqrt()
        });
        (self.count > 0).then(|| Figure {
            mean: self.total / self.count as f64,
            standard_error: error,
            n: without.len() as u64,
            pairs: Some(self.count),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jackknife_of_a_plain_mean_over_pictures_is_its_standard_error() {
        // Picture 0 against each of the others: dropping it leaves nothing, so the error is unknown.
        let mut star = Pairs::default();
        star.add(0, 1, 1.0);
        star.add(0, 2, 3.0);
        assert_eq!(star.figure().unwrap().standard_error, None);
        // Disjoint pairs are independent: pairs 1, 3 and 8 have the mean 4, and each picture stands for half a pair.
        let mut apart = Pairs::default();
        for (at, value) in [1.0, 3.0, 8.0].into_iter().enumerate() {
            apart.add(2 * at, 2 * at + 1, value);
        }
        let figure = apart.figure().unwrap();
        assert_eq!((figure.mean, figure.n, figure.pairs), (4.0, 6, Some(3)));
        // Means without a pair are 5.5, 4.5 and 2, each twice.
        let squares = 2.0 * (1.5_f64.powi(2) + 0.5_f64.powi(2) + 2.0_f64.powi(2));
        let expected = (5.0 / 6.0 * squares).sqrt();
        assert!((figure.standard_error.unwrap() - expected).abs() < 1e-12);
        assert_eq!(apart.mean_of(3), Some(3.0));
        assert_eq!((apart.mean_of(6), Pairs::default().figure()), (None, None));
    }

    #[test]
    fn one_pair_has_a_mean_and_no_error() {
        let mut pairs = Pairs::default();
        pairs.add(1, 4, 0.5);
        let figure = pairs.figure().unwrap();
        assert_eq!((figure.mean, figure.n), (0.5, 2));
        assert_eq!(figure.standard_error, None);
    }
}
