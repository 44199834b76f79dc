//! Sizes and durations with units.

use std::time::Duration;

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

const DURATIONS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000)];

/// Reads `64GiB`, `1.5 GiB`, `500MB` or `4096B`. A number without a unit is refused: most people mean another one.
pub fn parse_size(text: &str) -> Option<u64> {
    parse_with_units(text, &UNITS)
}

/// Reads `500ms`, `10s`, `2min` or `1h`. A number without a unit is refused: of what?
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    parse_with_units(text, &DURATIONS).map(Duration::from_millis)
}

fn parse_with_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let scale = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1;
    scale_decimal(number, scale)
}

/// `number × scale` in integers: exact, or nothing if it is not a whole number or does not fit.
fn scale_decimal(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let denominator = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = digits.checked_mul(u128::from(scale))?;
    if !scaled.is_multiple_of(denominator) {
        return None;
    }
    u64::try_from(scaled / denominator).ok()
}

/// Writes a size with the largest binary unit that keeps it exact in at most four digits, or else with one decimal.
pub fn format_size(bytes: u64) -> String {
    for (name, scale) in &UNITS[..4] {
        if bytes >= *scale && bytes.is_multiple_of(*scale) && bytes / scale < 10_000 {
            return format!("{}{name}", bytes / scale);
        }
    }
    for (name, scale) in &UNITS[..4] {
        if bytes >= *scale {
            let tenths = u128::from(bytes) * 10 / u128::from(*scale);
            return format!("{}.{}{name}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes}B")
}

/// Writes a duration the way it can be read back.
pub(crate) fn format_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let is_whole = |scale: u64| ms >= u128::from(scale) && ms.is_multiple_of(u128::from(scale));
    let unit = DURATIONS.iter().rev().find(|(_, scale)| is_whole(*scale));
    match unit {
        Some((name, scale)) => format!("{}{name}", ms / u128::from(*scale)),
        None => format!("{}s", ms / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_exactly_or_not_at_all() {
        let cases = [
            ("64GiB", Some(64 << 30)),
            ("1.5 GiB", Some(3 << 29)),
            ("500MB", Some(500_000_000)),
            ("4096", None),
            ("0", None),
            ("4096B", Some(4096)),
            ("10b", Some(10)),
            ("64gib", Some(64 << 30)),
            ("0.3B", None),
            ("-1", None),
            ("", None),
            ("GiB", None),
            (".5GiB", None),
            ("1.GiB", None),
            ("1.2.3GiB", None),
            ("64 apples", None),
            ("99999999999TiB", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_size(text), expected, "{text:?}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2min"), Some(Duration::from_mins(2)));
        assert_eq!(parse_duration("10"), None);
    }

    #[test]
    fn durations_are_written_with_the_largest_unit_that_keeps_them_exact() {
        for text in ["0s", "10ms", "1500ms", "10s", "90s", "1min", "1h"] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(format_duration(duration), text);
        }
    }

    #[test]
    fn sizes_are_written_so_that_people_can_read_them() {
        for (bytes, text) in [
            (1 << 30, "1GiB"),
            (3 << 29, "1536MiB"),
            (24_588_061_081, "22.8GiB"),
            (17, "17B"),
            ((64 << 20) + 4096, "64.0MiB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }
}
