//! The text format that Prometheus reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::table::{ALL, Kind, Metric};

/// Longest value of a label, in characters. More makes a store of metrics swell for what a log says better.
const MAX_LABEL: usize = 200;

/// Samples, written down as they come and shown in the table's order.
#[derive(Debug, Default)]
pub(crate) struct Page {
    samples: BTreeMap<&'static str, String>,
}

impl Page {
    /// A sample. `labels` are the values of the metric's own labels, in their order.
    pub(crate) fn add(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        let pairs: Vec<String> = metric
            .labels
            .iter()
            .zip(labels)
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        self.line(metric, "", &pairs, value);
    }

    /// A histogram: how many fell into each class, one more for what is beyond the last bound, and the sum of all values.
    pub(crate) fn histogram(&mut self, metric: &Metric, bounds: &[f64], counts: &[u64], sum: f64) {
        let mut so_far = 0_u64;
        let bounds = bounds.iter().map(ToString::to_string);
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(counts) {
            so_far = so_far.saturating_add(*count);
            self.line(
                metric,
                "_bucket",
                &[format!("le=\"{bound}\"")],
                so_far as f64,
            );
        }
        self.line(metric, "_sum", &[], sum);
        self.line(metric, "_count", &[], so_far as f64);
    }

    fn line(&mut self, metric: &Metric, suffix: &str, pairs: &[String], value: f64) {
        let lines = self.samples.entry(metric.name).or_default();
        let labels = match pairs {
            [] => String::new(),
            pairs => format!("{{{}}}", pairs.join(",")),
        };
        // Writing to a text cannot fail.
        let _ = writeln!(lines, "{}{suffix}{labels} {value}", metric.name);
    }

    /// The whole page. Metrics without a sample are named all the same.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for metric in ALL {
            let Metric {
                name, kind, help, ..
            } = metric;
            let kind: &Kind = kind;
            let samples = self.samples.get(name).map_or("", String::as_str);
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {}\n{samples}",
                kind.name()
            );
        }
        text
    }
}

/// A label's value: what would end it is escaped, the rest of one line.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars().take(MAX_LABEL) {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;

    #[test]
    fn labels_cannot_break_out() {
        let mut page = Page::default();
        page.add(&table::GENERATION, &["a\"} 7\nevil 1\\"], 1.0);
        let text = page.text();
        assert!(text.contains(r#"studio_worker_generation_info{generation="a\"} 7\nevil 1\\"} 1"#));
        assert!(!text.contains("\nevil"));
    }

    #[test]
    fn classes_of_a_histogram_add_up() {
        let mut page = Page::default();
        page.histogram(&table::JOB_SECONDS, &[0.5, 1.0], &[2, 0, 1], 7.5);
        let text = page.text();
        for line in [
            "_bucket{le=\"0.5\"} 2",
            "_bucket{le=\"1\"} 2",
            "_bucket{le=\"+Inf\"} 3",
            "_sum 7.5",
            "_count 3",
        ] {
            assert!(
                text.contains(&format!("studio_worker_job_duration_seconds{line}\n")),
                "{line}: {text}"
            );
        }
    }
}
