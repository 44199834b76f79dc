//! Licences and sources of everything that is linked, against `deny.toml`; so that the rule holds where cargo-deny is
//! not installed.

use serde_json::Value;

use super::Problems;

const ONLY_SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The licences that `deny.toml` allows.
///
/// # Errors
/// When the file does not have the list.
pub fn allowed(deny: &str) -> Result<Vec<String>, String> {
    let value: toml::Table = deny.parse().map_err(|error| format!("deny.toml: {error}"))?;
    let list = value
        .get("licenses")
        .and_then(|licences| licences.get("allow")?.as_array());
    let list = list.ok_or("deny.toml: want [licenses] allow = [...]")?;
    Ok(list
        .iter()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect())
}

/// Problems with the packages in the answer of `cargo metadata`.
pub fn check(metadata: &Value, allowed: &[String]) -> Problems {
    let mut problems = Problems::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = format!("{} {}", package["name"], package["version"]).replace('"', "");
        match package["license"].as_str() {
            Some(expression) if permits(expression, allowed) => {}
            Some(expression) => {
                problems.push(format!("{name}: licence {expression}, want one of {allowed:?}"));
            }
            None => problems.push(format!("{name}: declares no licence")),
        }
        if let Some(source) = package["source"].as_str().filter(|source| *source != ONLY_SOURCE) {
            problems.push(format!(
                "{name}: comes from {source}, want crates.io or this workspace"
            ));
        }
    }
    problems
}

/// Whether an SPDX expression can be met with the allowed licences alone.
fn permits(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    any(&mut rest, allowed) && rest.is_empty()
}

fn any(tokens: &mut &[&str], allowed: &[String]) -> bool {
    let mut result = all(tokens, allowed);
    while tokens.first() == Some(&"OR") {
        *tokens = &tokens[1..];
        result |= all(tokens, allowed);
    }
    result
}

fn all(tokens: &mut &[&str], allowed: &[String]) -> bool {
    let mut result = one(tokens, allowed);
    while tokens.first() == Some(&"AND") {
        *tokens = &tokens[1..];
        result &= one(tokens, allowed);
    }
    result
}

fn one(tokens: &mut &[&str], allowed: &[String]) -> bool {
    let Some((first, rest)) = tokens.split_first() else {
        return false;
    };
    *tokens = rest;
    if *first == "(" {
        let result = any(tokens, allowed);
        let closed = tokens.first() == Some(&")");
        *tokens = tokens.get(1..).unwrap_or_default();
        return result && closed;
    }
    // An exception only adds permissions.
    if tokens.first() == Some(&"WITH") {
        *tokens = tokens.get(2..).unwrap_or_default();
    }
    allowed.iter().any(|name| name == first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_met_by_allowed_licences_only() {
        let allowed = [
            "MIT".to_owned(),
            "Apache-2.0".to_owned(),
            "Unicode-3.0".to_owned(),
        ];
        let cases = [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
            ("(MIT OR Apache-2.0) AND GPL-3.0", false),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
            ("GPL-2.0 WITH Classpath-exception-2.0", false),
            ("(MIT", false),
            ("MIT MIT", false),
            ("", false),
        ];
        for (expression, expected) in cases {
            assert_eq!(permits(expression, &allowed), expected, "{expression}");
        }
    }

    #[test]
    fn a_missing_licence_and_a_foreign_source_are_found() {
        let metadata = serde_json::json!({"packages": [
            {"name": "good", "version": "1.0.0", "license": "MIT", "source": ONLY_SOURCE},
            {"name": "ours", "version": "1.0.0", "license": "MIT", "source": null},
            {"name": "silent", "version": "1.0.0", "license": null, "source": ONLY_SOURCE},
            {"name": "forked", "version": "1.0.0", "license": "MIT", "source": "git+https://example.org/forked"},
        ]});
        let problems = check(&metadata, &["MIT".to_owned()]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("silent 1.0.0") && problems[1].starts_with("forked 1.0.0"));
    }

    #[test]
    fn the_list_is_read_from_deny_toml() {
        assert_eq!(allowed("[licenses]\nallow = ['MIT']"), Ok(vec!["MIT".to_owned()]));
        assert!(allowed("[licenses]").is_err());
    }
}
