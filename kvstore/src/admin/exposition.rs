//! Metrics as text: OpenMetrics 1.0, or Prometheus' older format for those who do not ask for it.
//!
//! Written by hand, because the values are a snapshot of plain numbers that engine threads count; a registry of shared
//! counters would want each of them to be something else.

use std::fmt::Write;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    OpenMetrics,
    Prometheus,
}

impl Format {
    /// What a scraper that accepts this gets.
    pub(super) fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What a family's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows; samples are called `NAME_total`.
    Counter,
    Gauge,
    Histogram,
    /// Always 1, for its labels; the sample is called `NAME_info`.
    Info,
}

/// A label's name and value.
pub(super) type Label<'a> = (&'static str, &'a str);

/// The text so far.
#[derive(Debug)]
pub(super) struct Writer {
    format: Format,
    text: String,
    name: &'static str,
    kind: Kind,
}

impl Writer {
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            text: String::with_capacity(64 << 10),
            name: "",
            kind: Kind::Gauge,
        }
    }

    /// Begins a family. All samples of it follow, and no family comes twice.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> &mut Self {
        (self.name, self.kind) = (name, kind);
        let (shown, type_name) = match (self.format, kind) {
            (Format::OpenMetrics, Kind::Info) => (name.to_owned(), "info"),
            (Format::Prometheus, Kind::Info) => (format!("{name}_info"), "gauge"),
            (Format::OpenMetrics, Kind::Counter) => (name.to_owned(), "counter"),
            (Format::Prometheus, Kind::Counter) => (format!("{name}_total"), "counter"),
            (_, Kind::Gauge) => (name.to_owned(), "gauge"),
            (_, Kind::Histogram) => (name.to_owned(), "histogram"),
        };
        let _ = writeln!(self.text, "# HELP {shown} {help}");
        let _ = writeln!(self.text, "# TYPE {shown} {type_name}");
        let unit = ["seconds", "bytes"]
            .into_iter()
            .find(|unit| name.ends_with(&format!("_{unit}")));
        if let Some(unit) = unit.filter(|_| self.format == Format::OpenMetrics) {
            let _ = writeln!(self.text, "# UNIT {shown} {unit}");
        }
        self
    }

    /// One number of the family that was begun last.
    pub(super) fn number(&mut self, labels: &[Label<'_>], value: u64) -> &mut Self {
        self.sample(labels, &value.to_string())
    }

    /// The same of one that is no whole number.
    pub(super) fn float(&mut self, labels: &[Label<'_>], value: f64) -> &mut Self {
        self.sample(labels, &format!("{value:?}"))
    }

    fn sample(&mut self, labels: &[Label<'_>], value: &str) -> &mut Self {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.line(suffix, labels, None, value);
        self
    }

    /// A histogram: how many lie below each bound (in seconds) and above the one before, one more for those beyond the last,
    /// and the sum of all.
    pub(super) fn histogram(
        &mut self,
        labels: &[Label<'_>],
        bounds: impl IntoIterator<Item = f64>,
        counts: &[u64],
        sum_seconds: f64,
    ) {
        let mut total = 0;
        let mut left = counts.iter();
        for bound in bounds {
            total += left.next().copied().unwrap_or(0);
            self.line("_bucket", labels, Some(&format!("{bound:?}")), &total.to_string());
        }
        total += left.sum::<u64>();
        self.line("_bucket", labels, Some("+Inf"), &total.to_string());
        self.line("_sum", labels, None, &format!("{sum_seconds:?}"));
        self.line("_count", labels, None, &total.to_string());
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], bound: Option<&str>, value: &str) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        let bound = bound.map(|bound| ("le", bound));
        let mut separator = '{';
        for (name, value) in labels.iter().copied().chain(bound) {
            let _ = write!(self.text, "{separator}{name}=\"");
            escape(&mut self.text, value);
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// All of it.
    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// Writes what a client said of itself so that it cannot end the value it stands in.
fn escape(text: &mut String, value: &str) {
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let mut writer = Writer::new(format);
        writer
            .family("kvtier_reads", Kind::Counter, "Reads.")
            .number(&[("tenant", "a\"\\\n}"), ("tier", "nvme")], 3);
        writer
            .family("kvtier_used_bytes", Kind::Gauge, "Used.")
            .number(&[], 7);
        writer
            .family("kvtier_build", Kind::Info, "Which.")
            .number(&[("version", "1")], 1);
        writer.family("kvtier_read_seconds", Kind::Histogram, "How long.");
        writer.histogram(&[("kind", "x")], [0.001, 0.5], &[1, 0, 2], 3.25);
        writer.finish()
    }

    #[test]
    fn open_metrics_names_families_and_ends() {
        let expected = r#"# HELP kvtier_reads Reads.
# TYPE kvtier_reads counter
kvtier_reads_total{tenant="a\"\\\n}",tier="nvme"} 3
# HELP kvtier_used_bytes Used.
# TYPE kvtier_used_bytes gauge
# UNIT kvtier_used_bytes bytes
kvtier_used_bytes 7
# HELP kvtier_build Which.
# TYPE kvtier_build info
kvtier_build_info{version="1"} 1
# HELP kvtier_read_seconds How long.
# TYPE kvtier_read_seconds histogram
# UNIT kvtier_read_seconds seconds
kvtier_read_seconds_bucket{kind="x",le="0.001"} 1
kvtier_read_seconds_bucket{kind="x",le="0.5"} 1
kvtier_read_seconds_bucket{kind="x",le="+Inf"} 3
kvtier_read_seconds_sum{kind="x"} 3.25
kvtier_read_seconds_count{kind="x"} 3
# EOF
"#;
        assert_eq!(written(Format::OpenMetrics), expected);
    }

    #[test]
    fn the_older_format_names_samples() {
        let text = written(Format::Prometheus);
        for line in [
            "# TYPE kvtier_reads_total counter",
            "# TYPE kvtier_build_info gauge",
            "kvtier_used_bytes 7",
        ] {
            assert!(text.lines().any(|each| each == line), "{line} in {text}");
        }
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
    }

    #[test]
    fn a_scraper_gets_what_it_accepts() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::accepted("*/*"), Format::Prometheus);
    }
}
