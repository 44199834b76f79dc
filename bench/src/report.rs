//! Where figures go: a table for people, or JSON for programs, one object a line.

use serde_json::{Map, Value, json};

use crate::statistics::Samples;

/// What a figure was measured beside, in the same rounds.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    /// Its name.
    pub(crate) name: &'static str,
    /// Which of several candidates it is: the best one.
    pub(crate) variant: String,
    /// Its rounds, paired with the figure's.
    pub(crate) samples: Samples,
}

/// What a figure should reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim {
    /// The value should be at most this.
    AtMost(f64),
    /// The ratio to the reference should be at least this.
    RatioAtLeast(f64),
}

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Its name, with the unit last.
    pub(crate) name: &'static str,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// What it was measured with.
    pub(crate) params: Value,
    /// What else a reader should know of it; null if nothing.
    pub(crate) context: Value,
    /// Its rounds.
    pub(crate) samples: Samples,
    /// What it was measured beside.
    pub(crate) reference: Option<Reference>,
    /// What it should reach.
    pub(crate) aim: Option<Aim>,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        let reference = self.reference.as_ref()?;
        Some(self.samples.ratios(&reference.samples).median())
    }

    fn reached(&self) -> Option<bool> {
        match self.aim? {
            Aim::AtMost(most) => Some(self.samples.median() <= most),
            Aim::RatioAtLeast(least) => self.ratio().map(|ratio| ratio >= least),
        }
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("name".into(), json!(self.name));
        object.insert("value".into(), json!(rounded(self.samples.median())));
        object.insert("unit".into(), json!(self.unit));
        object.insert("params".into(), self.params.clone());
        object.insert("min".into(), json!(rounded(self.samples.min())));
        object.insert("max".into(), json!(rounded(self.samples.max())));
        object.insert("rounds".into(), json!(self.samples.count()));
        if !self.context.is_null() {
            object.insert("context".into(), self.context.clone());
        }
        if let Some(reference) = &self.reference {
            let value = json!({
                "name": reference.name,
                "value": rounded(reference.samples.median()),
                "unit": self.unit,
                "variant": reference.variant,
                "min": rounded(reference.samples.min()),
                "max": rounded(reference.samples.max()),
            });
            object.insert("reference".into(), value);
        }
        if let Some(ratio) = self.ratio() {
            object.insert("ratio".into(), json!(rounded(ratio)));
        }
        if let (Some(aim), Some(reached)) = (self.aim, self.reached()) {
            object.insert("aim".into(), json!(aim.to_string()));
            object.insert("reached".into(), json!(reached));
        }
        Value::Object(object)
    }

    fn cells(&self) -> [String; 6] {
        let reference = self.reference.as_ref().map(|reference| {
            let value = shown(reference.samples.median());
            format!("{} {} ({})", reference.name, value, reference.variant)
        });
        let verdict = self.aim.map(|aim| {
            let verdict = if self.reached() == Some(true) {
                "reached"
            } else {
                "MISSED"
            };
            format!("{aim}: {verdict}")
        });
        [
            self.name.to_owned(),
            format!("{} {}", params_text(&self.params), params_text(&self.context))
                .trim_end()
                .to_owned(),
            format!("{} {}", shown(self.samples.median()), self.unit),
            format!("{} … {}", shown(self.samples.min()), shown(self.samples.max())),
            match (reference, self.ratio()) {
                (Some(reference), Some(ratio)) => format!("{ratio:.3} × {reference}"),
                _ => String::new(),
            },
            verdict.unwrap_or_default(),
        ]
    }
}

impl std::fmt::Display for Aim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::RatioAtLeast(least) => write!(f, "at least {least} of the reference"),
        }
    }
}

/// Collects figures, and prints JSON lines as they come or a table at the end.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    rows: Vec<[String; 6]>,
}

impl Report {
    /// An empty report.
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            rows: Vec::new(),
        }
    }

    /// Says what machine this is.
    pub(crate) fn machine(&self, facts: &Map<String, Value>) {
        if self.json {
            let cores = facts.get("cores").cloned().unwrap_or_default();
            println!(
                "{}",
                json!({"name": "machine", "value": cores, "unit": "cores", "params": facts})
            );
        } else {
            println!("machine: {}", params_text(&Value::Object(facts.clone())));
        }
    }

    /// Adds a figure.
    pub(crate) fn add(&mut self, row: &Row) {
        if self.json {
            println!("{}", row.json());
        } else {
            eprintln!("  {}", row.cells().join("  "));
            self.rows.push(row.cells());
        }
    }

    /// Adds a figure that another program has printed as JSON already.
    pub(crate) fn add_foreign(&mut self, mut object: Map<String, Value>, aim: Option<f64>) {
        let value = object.get("value").and_then(Value::as_f64);
        let reached = aim.zip(value).map(|(most, value)| value <= most);
        if let (Some(most), Some(reached)) = (aim, reached) {
            object.insert("aim".into(), json!(Aim::AtMost(most).to_string()));
            object.insert("reached".into(), json!(reached));
        }
        if self.json {
            println!("{}", Value::Object(object));
            return;
        }
        let text = |key: &str| {
            object
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let number = |key: &str| {
            object
                .get(key)
                .and_then(Value::as_f64)
                .map_or("?".to_owned(), shown)
        };
        let verdict = match reached {
            Some(true) => format!("{}: reached", text("aim")),
            Some(false) => format!("{}: MISSED", text("aim")),
            None => String::new(),
        };
        self.rows.push([
            text("name"),
            object.get("params").map(params_text).unwrap_or_default(),
            format!("{} {}", number("value"), text("unit")),
            format!("{} … {}", number("min"), number("max")),
            object.get("reference").map(reference_text).unwrap_or_default(),
            verdict,
        ]);
    }

    /// Says that a figure was not measured, and why.
    pub(crate) fn skip(&mut self, name: &'static str, params: &Value, reason: &str) {
        eprintln!("  {name} {}: skipped: {reason}", params_text(params));
        if self.json {
            println!(
                "{}",
                json!({"name": name, "value": null, "params": params, "skipped": reason})
            );
            return;
        }
        let row = [name, &params_text(params), "skipped", "", reason, ""].map(str::to_owned);
        self.rows.push(row);
    }

    /// Prints the table.
    pub(crate) fn finish(&self) {
        if self.json {
            return;
        }
        let header = ["figure", "with", "median", "min … max", "beside", "aim"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(&header).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..header.len())
            .map(|column| {
                rows.iter()
                    .map(|row| row[column].chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for row in rows {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:width$}"));
            println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}

fn params_text(params: &Value) -> String {
    let Value::Object(object) = params else {
        return String::new();
    };
    let pair = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    };
    object.iter().map(pair).collect::<Vec<_>>().join(" ")
}

fn reference_text(reference: &Value) -> String {
    let name = reference.get("name").and_then(Value::as_str).unwrap_or_default();
    let value = reference.get("value").and_then(Value::as_f64);
    format!("{name} {}", value.map_or("?".to_owned(), shown))
}

/// Four significant digits are more than any of these figures deserves.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powf(4.0 - value.abs().log10().ceil());
    (value * scale).round() / scale
}

fn shown(value: f64) -> String {
    format!("{}", rounded(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            name: "host_put_gbps",
            unit: "GB/s",
            params: json!({"clients": 1}),
            context: Value::Null,
            samples: [9.0, 9.5, 9.9].into_iter().collect(),
            reference: Some(Reference {
                name: "copy_gbps",
                variant: "memcpy".to_owned(),
                samples: [10.0, 10.0, 10.0].into_iter().collect(),
            }),
            aim: Some(Aim::RatioAtLeast(0.95)),
        }
    }

    #[test]
    fn a_row_carries_its_reference_and_verdict() {
        let object = row().json();
        assert_eq!(object["value"], 9.5);
        assert_eq!(object["reference"]["value"], 10.0);
        assert_eq!(object["ratio"], 0.95);
        assert_eq!(object["reached"], true);
        assert_eq!(object["params"]["clients"], 1);
    }

    #[test]
    fn a_missed_aim_is_said() {
        let mut missed = row();
        missed.aim = Some(Aim::AtMost(1.0));
        assert_eq!(missed.json()["reached"], false);
        assert!(missed.cells()[5].contains("MISSED"));
    }

    #[test]
    fn numbers_keep_four_digits() {
        for (value, expected) in [
            (0.0, 0.0),
            (0.123_456, 0.1235),
            (1234.56, 1235.0),
            (0.000_012_34, 0.000_012_34),
        ] {
            assert!(
                (rounded(value) - expected).abs() < 1e-9,
                "{value} became {}",
                rounded(value)
            );
        }
    }
}
