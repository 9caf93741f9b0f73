//! A scrape, and a way to ask it: `metrics.metric("crier_vip_owned").label("vip", "10.77.0.100").value()`.

use std::collections::BTreeMap;

/// A sample: name, labels, value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The metric's name, with `_bucket`, `_sum` or `_count` for histograms.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// A parsed scrape.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Sample>);

impl Metrics {
    /// Reads the Prometheus text format; lines that are not samples are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(sample).collect())
    }

    /// The samples of a metric.
    #[must_use]
    pub fn metric(&self, name: &str) -> Matched {
        Matched(self.0.iter().filter(|sample| sample.name == name).cloned().collect())
    }

    /// All names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.0.iter().map(|sample| sample.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Samples chosen by name and labels.
#[derive(Debug, Clone)]
pub struct Matched(Vec<Sample>);

impl Matched {
    /// Only those with this label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0.retain(|sample| sample.labels.get(key).is_some_and(|is| is == value));
        self
    }

    /// The only sample's value; `None` if there is none or more than one.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        if let [only] = self.0.as_slice() { Some(only.value) } else { None }
    }

    /// The sum of all values; 0 without samples.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.0.iter().map(|sample| sample.value).sum()
    }

    /// Whether there are samples at all.
    #[must_use]
    pub fn exists(&self) -> bool {
        !self.0.is_empty()
    }
}

fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (head, labels, tail) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, tail) = read_labels(rest)?;
            (name, labels, tail)
        }
        None => line.split_once(' ').map(|(name, tail)| (name, BTreeMap::new(), tail))?,
    };
    let value = tail.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: head.to_owned(), labels, value })
}

/// Reads `key="value",...}` and gives what follows. Values may hold `}`, `,` and escaped quotes.
fn read_labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(tail) = rest.strip_prefix('}') {
            return Some((labels, tail));
        }
        let (key, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(key.to_owned(), value);
        rest = &quoted[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let scrape = Metrics::parse(
            "# HELP crier_vip_owned x\ncrier_vip_owned{vip=\"fd77::100\",service=\"a\\\"}b\"} 1\n\
             crier_vip_owned{vip=\"10.77.0.100\",service=\"c\"} 0\ncrier_source_connected 1\nnonsense\n",
        );
        let owned = scrape.metric("crier_vip_owned");
        assert_eq!(owned.clone().label("vip", "fd77::100").label("service", "a\"}b").value(), Some(1.0));
        assert_eq!(owned.clone().label("vip", "10.77.0.100").value(), Some(0.0));
        assert_eq!(owned.value(), None, "two samples have no single value");
        assert_eq!(owned.sum(), 1.0);
        assert_eq!(scrape.metric("crier_source_connected").value(), Some(1.0));
        assert!(!scrape.metric("crier_nothing").exists());
    }
}
