//! Medians, because one disturbed round must not move a figure.

/// The samples of one figure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Adds one round.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many rounds there were.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The middle value, or the mean of the two middle ones; not a number if there are none.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// The smallest value.
    pub(crate) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest value.
    pub(crate) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// Each round divided by the same round of `other`: what drifts in both drops out.
    pub(crate) fn ratios(&self, other: &Self) -> Self {
        self.0
            .iter()
            .zip(&other.0)
            .map(|(ours, theirs)| ours / theirs)
            .collect()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_disturbed_round_does_not_move_the_median() {
        let samples: Samples = [2.0, 1.0, 900.0, 3.0, 2.0].into_iter().collect();
        assert_eq!(
            (samples.median(), samples.min(), samples.max()),
            (2.0, 1.0, 900.0)
        );
        let even: Samples = [1.0, 4.0, 2.0, 3.0].into_iter().collect();
        assert!((even.median() - 2.5).abs() < f64::EPSILON);
    }

    #[test]
    fn ratios_pair_the_rounds() {
        let ours: Samples = [1.0, 20.0].into_iter().collect();
        let theirs: Samples = [2.0, 40.0].into_iter().collect();
        let ratios = ours.ratios(&theirs);
        assert_eq!((ratios.min(), ratios.max()), (0.5, 0.5));
    }
}
