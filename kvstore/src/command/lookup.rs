//! `kvtier lookup`.

use kvtier_proto::v1;

use super::Answer;
use super::arguments::LookupOptions;
use super::client::{Client, Trouble, message};
use super::code;
use super::table::Table;

pub(super) async fn show(client: &mut Client, options: &LookupOptions) -> Result<Answer, Trouble> {
    let namespace = match &options.namespace {
        Some(digits) => Some(whole_namespace(client, &options.tenant, digits).await?),
        None => None,
    };
    let names = options
        .keys
        .iter()
        .map(|key| name(key, namespace.as_deref(), options.group));
    let request = client.request(v1::LookupBlocksRequest {
        tenant: options.tenant.clone(),
        blocks: names.collect::<Result<_, _>>()?,
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
    if digits.len() == 32 {
        return Ok(digits.to_owned());
    }
    let request = client.request(v1::ListNamespacesRequest {
        tenant: tenant.to_owned(),
        namespace: digits.to_owned(),
        with_descriptor: false,
    });
    let found = message(client.admin.list_namespaces(request).await)?.namespaces;
    match found.as_slice() {
        [one] => Ok(one.namespace.clone()),
        more => Err(Trouble::Usage(format!(
            "--namespace: {} begin with {digits}; want more digits",
            more.len()
        ))),
    }
}

/// A block's whole name, NAMESPACE/GROUP/HASH.
pub(super) fn whole_name(key: &str) -> Result<v1::BlockName, Trouble> {
    name(key, None, 0)
}

fn name(key: &str, namespace: Option<&str>, group: u32) -> Result<v1::BlockName, Trouble> {
    let wrong = |what: &str| Trouble::Usage(format!("{key:?}: {what}"));
    let parts: Vec<&str> = key.split('/').collect();
    let (namespace, group, hash) = match (parts.as_slice(), namespace) {
        ([hash], Some(namespace)) => (namespace, group, *hash),
        ([_], None) => return Err(wrong("want --namespace beside a hash, or NAMESPACE/GROUP/HASH")),
        ([namespace, group, hash], _) => {
            let group = group.parse().map_err(|_| wrong("want a number for the group"))?;
            (*namespace, group, *hash)
        }
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
