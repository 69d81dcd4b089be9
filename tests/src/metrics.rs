//! Reads OpenMetrics text, as a Prometheus server would.
//!
//! It must not know which metrics there are.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The metric's name with its suffix.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// All samples of one page.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

impl Metrics {
    /// Parses a page, which has to end in `# EOF`.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(
            text.trim_end().ends_with("# EOF"),
            "the page does not end in # EOF"
        );
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        let samples = lines.map(|line| sample(line).with_context(|| format!("no sample: {line}")));
        Ok(Self {
            samples: samples.collect::<Result<_>>()?,
        })
    }

    /// The samples of a metric that have all of these labels.
    pub fn matching<'m>(
        &'m self,
        name: &'m str,
        labels: &'m [(&str, &str)],
    ) -> impl Iterator<Item = &'m Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        })
    }

    /// The sum of the samples of a metric that have all of these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(key.to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = rest.strip_prefix('}')?;
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// A label's value up to its closing quote, with escapes undone, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, text.get(at + 1..)?)),
            (_, '\\') => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_labels_with_escapes_and_commas() {
        let page =
            "# TYPE a counter\na_total{x=\"1,\\\"2\\\"\",y=\"\"} 3.5 # {trace=\"z\"} 1\nb 1e3\n# EOF\n";
        let metrics = Metrics::parse(page).unwrap();
        assert!((metrics.sum("a_total", &[("x", "1,\"2\""), ("y", "")]) - 3.5).abs() < f64::EPSILON);
        assert!((metrics.sum("b", &[]) - 1000.0).abs() < f64::EPSILON);
    }

    #[test]
    fn sums_only_what_has_every_label() {
        let metrics = Metrics::parse("a{x=\"1\",y=\"1\"} 1\na{x=\"1\",y=\"2\"} 2\n# EOF").unwrap();
        assert!((metrics.sum("a", &[("x", "1"), ("y", "2")]) - 2.0).abs() < f64::EPSILON);
        assert!(metrics.sum("a", &[("z", "1")]).abs() < f64::EPSILON);
    }

    #[test]
    fn a_page_that_was_cut_is_refused() {
        assert!(Metrics::parse("a 1\n").is_err());
    }
}
