//! `kvtier lookup`.

use std::collections::{BTreeMap, BTreeSet};

use kvtier_proto::v1;

use super::Answer;
use super::arguments::LookupOptions;
use super::client::{Client, Trouble, message};
use super::code;
use super::table::{Table, short};

/// Digits of a namespace's whole name.
const NAMESPACE_DIGITS: usize = 32;

pub(super) async fn show(client: &mut Client, options: &LookupOptions) -> Result<Answer, Trouble> {
    let namespace = match &options.namespace {
        Some(digits) => Some(whole_namespace(client, &options.tenant, digits).await?),
        None => None,
    };
    let names = options
        .keys
        .iter()
        .map(|key| name(key, namespace.as_deref(), options.group));
    let mut blocks = names.collect::<Result<Vec<_>, _>>()?;
    complete(client, &options.tenant, &mut blocks).await?;
    let request = client.request(v1::LookupBlocksRequest {
        tenant: options.tenant.clone(),
        blocks,
    });
    let found = message(client.admin.lookup_blocks(request).await)?;
    let everywhere = found.blocks.iter().all(|block| !block.tiers.is_empty());
    let answer = Answer::new(options.daemon.json, &found, |found| {
        let mut table = Table::new(&["namespace", "group", "hash", "tiers"], "nothing was looked up");
        for block in &found.blocks {
            let name = block.block.clone().unwrap_or_default();
            let tiers: Vec<&str> = block.tiers().map(v1::Tier::name).collect();
            table.row([
                name.namespace,
                name.group.to_string(),
                name.hash,
                tiers.join(", "),
            ]);
        }
        table.text()
    })?;
    Ok(answer.or_code(everywhere, code::NOT_SO))
}

/// The namespace that was named by its first digits.
pub(super) async fn whole_namespace(
    client: &mut Client,
    tenant: &str,
    digits: &str,
) -> Result<String, Trouble> {
    if digits.len() == NAMESPACE_DIGITS {
        return Ok(digits.to_owned());
    }
    let request = client.request(v1::ListNamespacesRequest {
        tenant: tenant.to_owned(),
        namespace: digits.to_owned(),
        with_descriptor: false,
    });
    let found = message(client.admin.list_namespaces(request).await)?.namespaces;
    // Two tenants may have the same one.
    let found: BTreeSet<String> = found.into_iter().map(|one| one.namespace).collect();
    let count = found.len();
    match found.into_iter().next() {
        Some(one) if count == 1 => Ok(one),
        None => Err(Trouble::Usage(format!("no namespace begins with {digits}"))),
        Some(_) => Err(Trouble::Usage(format!(
            "{count} namespaces begin with {digits}; want more digits"
        ))),
    }
}

/// Blocks' whole names. A key is NAMESPACE/GROUP/HASH, as listings show it: the namespace may be its first digits.
pub(super) async fn whole_names(
    client: &mut Client,
    tenant: &str,
    keys: &[String],
) -> Result<Vec<v1::BlockName>, Trouble> {
    let names = keys.iter().map(|key| name(key, None, 0));
    let mut names = names.collect::<Result<Vec<_>, _>>()?;
    complete(client, tenant, &mut names).await?;
    Ok(names)
}

/// The same of one key, if there is one.
pub(super) async fn whole_name(
    client: &mut Client,
    tenant: &str,
    key: Option<&String>,
) -> Result<Option<v1::BlockName>, Trouble> {
    let names = whole_names(client, tenant, key.map_or(&[], std::slice::from_ref)).await?;
    Ok(names.into_iter().next())
}

/// A key as listings show it: what is understood where a key is asked for, and short enough for a line.
pub(super) fn shown_key(block: &v1::BlockName) -> String {
    format!("{}/{}/{}", short(&block.namespace), block.group, block.hash)
}

/// Makes whole names of namespaces' first digits; each is asked for once.
async fn complete(client: &mut Client, tenant: &str, names: &mut [v1::BlockName]) -> Result<(), Trouble> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for name in names {
        let whole = match known.get(&name.namespace) {
            Some(whole) => whole.clone(),
            None => whole_namespace(client, tenant, &name.namespace).await?,
        };
        known.insert(std::mem::replace(&mut name.namespace, whole.clone()), whole);
    }
    Ok(())
}

fn name(key: &str, namespace: Option<&str>, group: u32) -> Result<v1::BlockName, Trouble> {
    let wrong = |what: &str| Trouble::Usage(format!("{key:?}: {what}"));
    let number = |group: &str| group.parse().map_err(|_| wrong("want a number for the group"));
    let parts: Vec<&str> = key.split('/').collect();
    let (namespace, group, hash) = match (parts.as_slice(), namespace) {
        ([hash], Some(namespace)) => (namespace, group, *hash),
        ([_], None) => {
            return Err(wrong("want --namespace beside a hash, or NAMESPACE/GROUP/HASH"));
        }
        ([group, hash], Some(namespace)) => (namespace, number(group)?, *hash),
        ([namespace, group, hash], _) => (*namespace, number(group)?, *hash),
        _ => return Err(wrong("want NAMESPACE/GROUP/HASH, or a hash with --namespace")),
    };
    Ok(v1::BlockName {
        namespace: namespace.to_owned(),
        group,
        hash: hash.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_whole_or_a_hash_of_the_named_namespace() {
        let cases = [
            ("a/1/b", None, Some(("a", 1, "b"))),
            ("a/1/b", Some("c"), Some(("a", 1, "b"))),
            ("b", Some("c"), Some(("c", 7, "b"))),
            ("b", None, None),
            ("a/x/b", None, None),
            ("a/b", None, None),
            ("2/b", Some("c"), Some(("c", 2, "b"))),
            ("a/1/b/d", Some("c"), None),
        ];
        for (key, namespace, expected) in cases {
            let found = name(key, namespace, 7).ok();
            let found = found
                .as_ref()
                .map(|name| (name.namespace.as_str(), name.group, name.hash.as_str()));
            assert_eq!(found, expected, "{key}");
        }
    }
}
