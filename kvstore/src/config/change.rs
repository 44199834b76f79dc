//! Changes a configuration that runs already.

use std::collections::BTreeMap;

use super::check::cross_check;
use super::keys::KEYS;
use super::load::{Problem, Problems};
use super::read::Raw;
use super::suggest::closest;
use super::tenant_keys::TENANT_KEYS;
use super::{Config, TenantConfig};

/// A configuration with some values changed: keys as in the file, values as in the environment.
pub(crate) fn change(config: &Config, settings: &BTreeMap<String, String>) -> Result<Config, Problems> {
    let mut problems = Vec::new();
    let mut changed = config.clone();
    for (name, value) in settings {
        if let Err(text) = set_one(&mut changed, name, value) {
            let key = name.clone();
            problems.push(Problem {
                key,
                text,
                place: None,
            });
        }
    }
    // What several keys come to says nothing new if one of them is wrong by itself.
    if problems.is_empty() {
        problems = cross_check(&changed);
    }
    if problems.is_empty() {
        Ok(changed)
    } else {
        Err(Problems(problems))
    }
}

fn set_one(config: &mut Config, name: &str, value: &str) -> Result<(), String> {
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return (key.set)(config, Raw::Text(value));
    }
    let own = name
        .strip_prefix("tenant.")
        .and_then(|rest| rest.split_once('.'))
        .and_then(|(tenant, key)| {
            let tenant = config.tenants.iter_mut().find(|known| known.name == tenant)?;
            Some((tenant, TENANT_KEYS.iter().find(|known| known.name == key)?))
        });
    match own {
        Some((tenant, key)) => (key.set)(tenant, Raw::Text(value)),
        None => Err(suggest_key(name, &config.tenants)),
    }
}

/// What to say of a key that does not exist.
fn suggest_key(name: &str, tenants: &[TenantConfig]) -> String {
    if let Some((tenant, key)) = name.strip_prefix("tenant.").and_then(|rest| rest.split_once('.'))
        && TENANT_KEYS.iter().any(|known| known.name == key)
        && tenants.iter().all(|known| known.name != tenant)
    {
        let names: Vec<&str> = tenants.iter().map(|known| known.name.as_str()).collect();
        return format!("there is no tenant {tenant}, want one of {}", names.join(", "));
    }
    let of_tenants = tenants.iter().flat_map(|tenant| {
        let keys = TENANT_KEYS.iter();
        keys.map(|key| format!("tenant.{}.{}", tenant.name, key.name))
    });
    let known: Vec<String> = KEYS
        .iter()
        .map(|key| key.name.to_owned())
        .chain(of_tenants)
        .collect();
    match closest(name, known.iter().map(String::as_str)) {
        Some(candidate) => format!("no such key; did you mean {candidate}?"),
        None => "no such key".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, load};

    fn changed(settings: &[(&str, &str)]) -> Result<Config, String> {
        let text = "socket = \"/s\"\n[nvme]\ndirectories = [\"/d\"]\n[tenant.blue]";
        let config = load(text, &Environment::default()).unwrap().config;
        let settings = settings
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        change(&config, &settings.collect()).map_err(|problems| problems.to_string())
    }

    #[test]
    fn values_are_read_as_those_of_the_environment_are() {
        let config = changed(&[
            ("nvme.capacity", "5GiB"),
            ("nvme.watermark-high", "0.99"),
            ("tenant.blue.nvme-capacity", "2GiB"),
        ])
        .unwrap();
        assert_eq!(config.nvme.capacity_bytes, 5 << 30);
        assert_eq!(config.tenants[0].nvme_capacity_bytes, Some(2 << 30));
    }

    #[test]
    fn every_problem_names_its_key() {
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[("nvme.capacity", "5")], "nvme.capacity: want a size from 64MiB"),
            (
                &[("nvme.capactiy", "5GiB")],
                "nvme.capactiy: no such key; did you mean nvme.capacity?",
            ),
            (
                &[("tenant.red.nvme-capacity", "5GiB")],
                "tenant.red.nvme-capacity: there is no tenant red, want one of blue",
            ),
            (&[("nonsense", "5GiB")], "nonsense: no such key"),
            (
                &[("nvme.watermark-low", "0.99")],
                "nvme.watermark-low: want 0 < low < high <= 1",
            ),
            (
                &[("tenant.blue.nvme-capacity", "20GiB")],
                "nvme.capacity: want at least 20GiB, which the tenants' nvme-capacity come to",
            ),
        ];
        for (settings, expected) in cases {
            let error = changed(settings).unwrap_err();
            assert!(error.contains(expected), "{settings:?}: {error}");
        }
    }
}
