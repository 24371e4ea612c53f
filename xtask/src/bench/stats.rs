//! What several measurements of one thing say: their middle and their spread. Pure.

use std::time::Duration;

use anyhow::{Result, ensure};

/// Measurements of one thing within one run, in the order in which they were made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    /// Of these values.
    ///
    /// # Errors
    /// Where there is none, or one that is no number.
    pub(crate) fn of(values: Vec<f64>) -> Result<Self> {
        ensure!(!values.is_empty(), "nothing was measured");
        ensure!(values.iter().all(|value| value.is_finite()), "not all are numbers: {values:?}");
        Ok(Self(values))
    }

    /// Of these times, in milliseconds.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) fn of_times(times: &[Duration]) -> Result<Self> {
        Self::of(times.iter().map(|time| time.as_secs_f64() * 1e3).collect())
    }

    /// How many there are.
    pub(crate) fn n(&self) -> usize {
        self.0.len()
    }

    /// The one in the middle, or the mean of the two that are.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 {
            return sorted[middle];
        }
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }

    /// Between which values the middle half of them lies.
    pub(crate) fn quartiles(&self) -> (f64, f64) {
        let sorted = self.sorted();
        let from_the_end = (sorted.len() - 1) / 4;
        (sorted[from_the_end], sorted[sorted.len() - 1 - from_the_end])
    }

    /// Each over the one of `other` that was measured beside it: what slows both down, such as
    /// another load of the machine, falls out.
    ///
    /// # Errors
    /// Where they are not pairs.
    pub(crate) fn over(&self, other: &Self) -> Result<Self> {
        ensure!(self.n() == other.n(), "{} values and {} are no pairs", self.n(), other.n());
        Self::of(self.0.iter().zip(&other.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: &[f64]) -> Sample {
        Sample::of(values.to_vec()).unwrap()
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert_eq!(sample(&[9.0, 1.0, 2.0]).median().to_bits(), 2.0_f64.to_bits());
        assert_eq!(sample(&[4.0, 1.0, 2.0, 90.0]).median().to_bits(), 3.0_f64.to_bits());
        assert_eq!(sample(&[7.0]).median().to_bits(), 7.0_f64.to_bits());
    }

    #[test]
    fn one_outlier_does_not_move_the_quartiles() {
        let calm = sample(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!(calm.quartiles(), (3.0, 7.0));
        let outlier = sample(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 900.0]);
        assert_eq!(outlier.quartiles(), (3.0, 7.0));
        assert_eq!(sample(&[5.0]).quartiles(), (5.0, 5.0));
        assert_eq!(sample(&[5.0, 6.0]).quartiles(), (5.0, 6.0));
    }

    #[test]
    fn ratios_are_of_pairs() {
        let ratio = sample(&[2.0, 30.0]).over(&sample(&[1.0, 10.0])).unwrap();
        assert_eq!(ratio, sample(&[2.0, 3.0]));
        assert!(sample(&[2.0]).over(&sample(&[1.0, 1.0])).is_err());
    }

    #[test]
    fn nothing_is_no_sample_and_neither_is_a_division_by_nothing() {
        assert!(Sample::of(vec![]).is_err());
        assert!(sample(&[1.0]).over(&sample(&[0.0])).is_err());
        let times = [Duration::from_millis(2), Duration::from_micros(2500)];
        assert_eq!(Sample::of_times(&times).unwrap(), sample(&[2.0, 2.5]));
    }
}
