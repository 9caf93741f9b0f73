//! The text format of Prometheus (0.0.4), written as it goes.
//!
//! The `prometheus` crate keeps every series as an object of some 700 bytes, which is what counters of events want. State is
//! known anew at every scrape, and with thousands of services it is a hundred thousand series: those are only written.

use std::{
    fmt::{Display, Write},
    time::Duration,
};

/// What a family's samples mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Counts up for as long as the agent, or the kernel's maps, live.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of values between bounds.
    Histogram,
}

/// A label's name and value. The value is escaped when it is written.
pub(super) type Label<'a> = (&'static str, &'a dyn Display);

/// The page so far.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

impl Exposition {
    /// Goes on after what is written already.
    pub(super) fn after(page: String) -> Self {
        Self(page)
    }

    /// Begins the family `name`, which must be new here. `help` is one line without a backslash.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.0.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { name, page: &mut self.0 }
    }

    /// A family of one sample without labels.
    pub(super) fn single(&mut self, name: &'static str, kind: Kind, help: &str, value: u64) {
        self.family(name, kind, help).sample(&[], value);
    }

    /// The page.
    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// A family that samples are added to; no two with the same labels.
pub(super) struct Family<'a> {
    name: &'static str,
    page: &'a mut String,
}

impl Family<'_> {
    /// Adds a sample.
    pub(super) fn sample(&mut self, labels: &[Label], value: u64) {
        self.line("", labels, &value);
    }

    /// Adds a histogram of counts between bounds, each with the one that ends it.
    pub(super) fn histogram(
        &mut self,
        labels: &[Label],
        counts: impl Iterator<Item = (f64, u64)>,
        count: u64,
        sum: Duration,
    ) {
        let mut cumulative = 0;
        for (bound, count) in counts {
            cumulative += count;
            self.line("_bucket", &[labels, &[("le", &bound)]].concat(), &cumulative);
        }
        self.line("_bucket", &[labels, &[("le", &"+Inf")]].concat(), &count);
        self.line("_sum", labels, &sum.as_secs_f64());
        self.line("_count", labels, &count);
    }

    fn line(&mut self, suffix: &str, labels: &[Label], value: &dyn Display) {
        self.page.push_str(self.name);
        self.page.push_str(suffix);
        for (index, (name, label)) in labels.iter().enumerate() {
            self.page.push(if index == 0 { '{' } else { ',' });
            self.page.push_str(name);
            self.page.push_str("=\"");
            // A `String` takes whatever it is given.
            let _ = write!(Escaped(self.page), "{label}");
            self.page.push('"');
        }
        let _ = writeln!(self.page, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// Writes a label's value.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                plain => self.0.push(plain),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped_and_others_are_as_they_are() {
        let mut page = Exposition::default();
        let mut family = page.family("crier_x", Kind::Gauge, "Some help");
        family.sample(&[("a", &"q\"b\\s\nn"), ("b", &80)], 7);
        family.sample(&[], 8);
        assert_eq!(
            page.into_text(),
            "# HELP crier_x Some help\n# TYPE crier_x gauge\ncrier_x{a=\"q\\\"b\\\\s\\nn\",b=\"80\"} 7\ncrier_x 8\n"
        );
    }

    #[test]
    fn a_histograms_buckets_add_up() {
        let mut page = Exposition::default();
        let counts = [(0.5, 2), (1.0, 1)].into_iter();
        page.family("crier_x", Kind::Histogram, "Some help").histogram(&[], counts, 4, Duration::from_millis(2500));
        let text = page.into_text();
        let samples: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            samples,
            [
                "crier_x_bucket{le=\"0.5\"} 2",
                "crier_x_bucket{le=\"1\"} 3",
                "crier_x_bucket{le=\"+Inf\"} 4",
                "crier_x_sum 2.5",
                "crier_x_count 4"
            ]
        );
    }
}
