//! Few numbers for many: median, 95th percentile, extremes. Plain functions.

/// A summary of values, in their unit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Summary {
    /// How many values.
    pub count: usize,
    /// The smallest.
    pub least: f64,
    /// The middle one; the mean of the two in the middle of an even number.
    pub median: f64,
    /// The smallest value that 95 % do not exceed (nearest rank).
    pub p95: f64,
    /// The largest.
    pub most: f64,
}

impl Summary {
    /// Summarises; all zero without values. Values that are not numbers are left out.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(&least), Some(&most)) = (sorted.first(), sorted.last()) else { return Self::default() };
        let count = sorted.len();
        let median = f64::midpoint(sorted[(count - 1) / 2], sorted[count / 2]);
        let rank = (count * 95).div_ceil(100);
        Self { count, least, median, p95: sorted[rank - 1], most }
    }
}

/// A round number not below `value` at which an axis may end: 1, 2 or 5 times a power of ten.
#[must_use]
pub fn axis_end(value: f64) -> f64 {
    if !value.is_finite() || value <= 0.0 {
        return 1.0;
    }
    let decade = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
    steps.into_iter().find(|end| *end >= value * (1.0 - 1e-9)).unwrap_or(10.0 * decade)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_a_hundred_values() {
        let summary = Summary::of((1..=100).rev().map(f64::from));
        assert_eq!(summary, Summary { count: 100, least: 1.0, median: 50.5, p95: 95.0, most: 100.0 });
    }

    #[test]
    fn few_values_and_none_have_summaries_too() {
        assert_eq!(Summary::of([7.0]), Summary { count: 1, least: 7.0, median: 7.0, p95: 7.0, most: 7.0 });
        assert_eq!(Summary::of([3.0, f64::NAN, 1.0]).median, 2.0);
        assert_eq!(Summary::of([]), Summary::default());
    }

    #[test]
    fn an_axis_ends_at_a_round_number() {
        for (value, end) in [(0.0, 1.0), (0.3, 0.5), (1.0, 1.0), (338.0, 500.0), (501.0, 1000.0), (f64::NAN, 1.0)] {
            assert!((axis_end(value) - end).abs() < 1e-9, "{value}: {}", axis_end(value));
        }
    }
}
