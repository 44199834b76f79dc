//! Azure Blob Storage. Its buckets are called containers, and belong to a storage account.
//!
//! Only what `credentials` names is looked at, whatever else is in the environment.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use object_store::azure::{
    AzureAccessKey, AzureConfigKey, AzureCredential, MicrosoftAzureBuilder, split_sas,
};
use object_store::{ObjectStore, StaticCredentialProvider};

use super::build::{Client, Surroundings, no_retries, not_built, of_environment_error};
use super::credentials::{CredentialsFile, UNSENDABLE, is_sendable, value_of};
use super::lacks::Lack;
use crate::{Credentials, SpecError, StoreSpec};

/// The account's key: as Azure's own command calls it, and as others do.
const KEYS: [&str; 2] = ["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"];
/// A shared access signature.
const SAS: &str = "AZURE_STORAGE_SAS_TOKEN";
/// A service principal, with its tenant and id.
const SECRET: &str = "AZURE_CLIENT_SECRET";
const TENANT: &str = "AZURE_TENANT_ID";
const CLIENT: &str = "AZURE_CLIENT_ID";
/// Where tokens are given for them, if not in the public cloud.
const AUTHORITY: &str = "AZURE_AUTHORITY_HOST";
/// A token of Kubernetes that Azure takes for a workload's identity.
const FEDERATED: &str = "AZURE_FEDERATED_TOKEN_FILE";
/// Where tokens of the machine's own identity are given, if not at the address that virtual machines have for it.
const MACHINE: &str = "IDENTITY_ENDPOINT";

type Variable<'v> = dyn Fn(&str) -> Option<String> + 'v;

/// A client.
pub(super) fn build(
    spec: &StoreSpec,
    surroundings: &Surroundings<'_>,
    client: Client,
) -> Result<Arc<dyn ObjectStore>, SpecError> {
    let account = spec.account.as_deref().filter(|account| !account.is_empty());
    let account = account
        .ok_or_else(|| SpecError::Store("want the name of the bucket's storage account".to_owned()))?;
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(account)
        .with_container_name(&spec.bucket)
        .with_retry(no_retries())
        .with_client_options(client.options)
        .with_http_connector(client.connector);
    if let Some(endpoint) = client.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder = match &spec.credentials {
        // The type is never asked for anything.
        Credentials::Anonymous => builder
            .with_skip_signature(true)
            .with_credential_type("managed_identity"),
        Credentials::Environment => {
            match of_environment(surroundings.variable).map_err(|texts| of_environment_error(&texts))? {
                Known::Credential(found) => {
                    builder.with_credentials(Arc::new(StaticCredentialProvider::new(found)))
                }
                Known::Principal {
                    tenant,
                    client,
                    secret,
                } => {
                    let builder = builder
                        .with_client_secret_authorization(client, secret, tenant)
                        .with_credential_type("client_secret");
                    at_authority(builder, surroundings.variable)
                }
            }
        }
        Credentials::File { path, .. } => builder.with_credentials(Arc::new(file(path))),
        Credentials::Identity => with_identity(builder, surroundings.variable),
    };
    let store = builder.build().map_err(|error| not_built(&error))?;
    Ok(Arc::new(store))
}

/// What this machine lacks of what the credentials need.
pub(super) fn lacks(spec: &StoreSpec, surroundings: &Surroundings<'_>) -> Vec<Lack> {
    match &spec.credentials {
        Credentials::Anonymous => Vec::new(),
        Credentials::Environment => {
            let wrong = of_environment(surroundings.variable).err().unwrap_or_default();
            wrong.into_iter().map(Lack::Credentials).collect()
        }
        Credentials::File { path, .. } => {
            let found = file(path).current(Instant::now());
            found.err().map(Lack::CredentialsFile).into_iter().collect()
        }
        Credentials::Identity => of_identity(surroundings.variable),
    }
}

/// What the environment can say of who we are.
enum Known {
    Credential(AzureCredential),
    Principal {
        tenant: String,
        client: String,
        secret: String,
    },
}

/// What it says, or all that is wrong with it. What is there is not shown.
fn of_environment(variable: &Variable<'_>) -> Result<Known, Vec<String>> {
    let is_set = |name: &&str| value_of(variable, name).is_some();
    let set: Vec<&str> = [KEYS[0], KEYS[1], SAS, SECRET]
        .into_iter()
        .filter(is_set)
        .collect();
    let &[name] = &set[..] else {
        let wrong = match set.len() {
            0 => format!("want one of {}, {SAS} and {SECRET}, none is set", KEYS[0]),
            _ => format!("want one of {}, and not several", set.join(", ")),
        };
        return Err(vec![wrong]);
    };
    let text = value_of(variable, name).unwrap_or_default();
    let said = |what: &str| vec![format!("{name} {what}")];
    match name {
        SECRET => principal(variable, text),
        SAS => signature(&text).map(Known::Credential).map_err(said),
        _ => key(&text).map(Known::Credential).map_err(said),
    }
}

fn principal(variable: &Variable<'_>, secret: String) -> Result<Known, Vec<String>> {
    let mut wrong = Vec::new();
    let mut value = |name: &str| {
        let found = value_of(variable, name);
        if found.is_none() {
            wrong.push(format!("{name} is not set, and {SECRET} is"));
        }
        found.unwrap_or_default()
    };
    let (tenant, client) = (value(TENANT), value(CLIENT));
    for (name, value) in [(TENANT, &tenant), (CLIENT, &client), (SECRET, &secret)] {
        if !is_sendable(value) {
            wrong.push(format!("{name} {UNSENDABLE}"));
        }
    }
    if wrong.is_empty() {
        Ok(Known::Principal {
            tenant,
            client,
            secret,
        })
    } else {
        Err(wrong)
    }
}

/// The account's key. What cannot be read is not shown, nor is where reading it ended.
fn key(text: &str) -> Result<AzureCredential, &'static str> {
    let text = Some(text).filter(|text| !text.is_empty());
    let found = text.and_then(|text| AzureAccessKey::try_new(text).ok());
    found
        .map(AzureCredential::AccessKey)
        .ok_or("is no account key, which is base64")
}

/// A shared access signature: `sv=…&se=…&sig=…`, with or without a question mark before it.
fn signature(text: &str) -> Result<AzureCredential, &'static str> {
    let pairs = is_sendable(text).then(|| split_sas(text).ok()).flatten();
    let is_signed = |pairs: &Vec<(String, String)>| pairs.iter().any(|(name, _)| name == "sig");
    pairs
        .filter(is_signed)
        .map(AzureCredential::SASToken)
        .ok_or("is no SAS token, which has a sig=")
}

/// A file with the account's key or a SAS token, and nothing else.
fn file(path: &Path) -> CredentialsFile<AzureCredential> {
    CredentialsFile::new(path, parse)
}

fn parse(text: &str) -> Result<AzureCredential, String> {
    let text = text.trim();
    if text.contains("AccountKey=") || text.contains("SharedAccessSignature=") {
        return Err("it is a connection string; want the account's key or a SAS token alone".to_owned());
    }
    // A key has no such sign, and a SAS token has several.
    if text.contains('&') {
        return signature(text).map_err(|what| format!("it {what}"));
    }
    key(text).map_err(|_| "it is neither an account key, which is base64, nor a SAS token".to_owned())
}

fn at_authority(builder: MicrosoftAzureBuilder, variable: &Variable<'_>) -> MicrosoftAzureBuilder {
    match value_of(variable, AUTHORITY) {
        // What puts it into pods ends it with a slash, and what is made of it begins with one.
        Some(host) => builder.with_config(AzureConfigKey::AuthorityHost, host.trim_end_matches('/')),
        None => builder,
    }
}

/// The workload's identity where its token is, else the machine's own.
fn with_identity(mut builder: MicrosoftAzureBuilder, variable: &Variable<'_>) -> MicrosoftAzureBuilder {
    if let Some(client) = value_of(variable, CLIENT) {
        builder = builder.with_client_id(client);
    }
    if let Some(token) = value_of(variable, FEDERATED) {
        let builder = builder
            .with_federated_token_file(token)
            .with_tenant_id(value_of(variable, TENANT).unwrap_or_default())
            .with_credential_type("workload_identity");
        return at_authority(builder, variable);
    }
    if let Some(place) = value_of(variable, MACHINE) {
        builder = builder.with_msi_endpoint(place);
    }
    builder.with_credential_type("managed_identity")
}

/// A workload's identity is told whole. Whether a machine has one only an attempt can tell.
fn of_identity(variable: &Variable<'_>) -> Vec<Lack> {
    let Some(path) = value_of(variable, FEDERATED) else {
        return Vec::new();
    };
    let mut lacks = Vec::new();
    if let Err(error) = std::fs::File::open(&path) {
        lacks.push(Lack::Credentials(format!("{FEDERATED} names {path}: {error}")));
    }
    for name in [TENANT, CLIENT] {
        if value_of(variable, name).is_none() {
            lacks.push(Lack::Credentials(format!("{FEDERATED} is set and {name} is not")));
        }
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "?sv=2022-11-02&ss=b&se=2030-01-01T00%3A00%3A00Z&sig=aHVzaA%3D%3D";

    fn wrong(variables: &[(&str, &str)]) -> Vec<String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        of_environment(&variable).err().unwrap_or_default()
    }

    #[test]
    fn the_environment_says_in_one_way_who_we_are_and_what_is_wrong_is_named_and_not_shown() {
        let key = ("AZURE_STORAGE_KEY", "aHVzaA==");
        let none: [String; 0] = [];
        assert_eq!(wrong(&[key]), none);
        assert_eq!(wrong(&[("AZURE_STORAGE_ACCOUNT_KEY", "aHVzaA==\n")]), none);
        assert_eq!(wrong(&[(SAS, TOKEN)]), none);
        // What a pod with a workload identity has beside it is no second way.
        let pod = [(TENANT, "t"), (CLIENT, "c"), (FEDERATED, "/nowhere")];
        assert_eq!(wrong(&[key, pod[0], pod[1], pod[2]]), none);
        let secret = (SECRET, "hush");
        assert_eq!(wrong(&[secret, pod[0], pod[1]]), none);
        let one =
            "want one of AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN and AZURE_CLIENT_SECRET, none is set";
        assert_eq!(wrong(&pod), [one]);
        assert_eq!(wrong(&[("AZURE_STORAGE_KEY", "")]), [one]);
        assert_eq!(
            wrong(&[key, (SAS, TOKEN)]),
            ["want one of AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, and not several"]
        );
        assert_eq!(
            wrong(&[secret, pod[1]]),
            ["AZURE_TENANT_ID is not set, and AZURE_CLIENT_SECRET is"]
        );
        for (name, value, expected) in [
            (
                "AZURE_STORAGE_KEY",
                "hush!",
                "AZURE_STORAGE_KEY is no account key, which is base64",
            ),
            (
                SAS,
                "sv=hush",
                "AZURE_STORAGE_SAS_TOKEN is no SAS token, which has a sig=",
            ),
            (
                SAS,
                "sig=hu\u{7}sh",
                "AZURE_STORAGE_SAS_TOKEN is no SAS token, which has a sig=",
            ),
        ] {
            assert_eq!(wrong(&[(name, value)]), [expected]);
        }
    }

    #[test]
    fn a_file_has_a_key_or_a_sas_token_and_what_is_wrong_with_it_is_not_shown() {
        assert!(matches!(parse("aHVzaA==\n"), Ok(AzureCredential::AccessKey(_))));
        let Ok(AzureCredential::SASToken(pairs)) = parse(TOKEN) else {
            panic!("no SAS token");
        };
        assert_eq!(pairs[3], ("sig".to_owned(), "aHVzaA==".to_owned()));
        for text in [
            "",
            "hush!",
            "sv=hush&se=hush",
            "AccountName=a;AccountKey=aHVzaA==",
        ] {
            let told = parse(text).unwrap_err();
            assert!(told.starts_with("it is ") && !told.contains("hush"), "{told}");
        }
    }

    #[test]
    fn a_workload_identity_is_told_whole_or_not_at_all() {
        let with = |variables: &[(&str, &str)]| {
            of_identity(&|name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(with(&[]), []);
        assert_eq!(with(&[(CLIENT, "c")]), []);
        let lack = |text: &str| Lack::Credentials(text.to_owned());
        assert_eq!(
            with(&[(FEDERATED, "/nowhere/token"), (CLIENT, "c")]),
            [
                lack(
                    "AZURE_FEDERATED_TOKEN_FILE names /nowhere/token: No such file or directory (os error 2)"
                ),
                lack("AZURE_FEDERATED_TOKEN_FILE is set and AZURE_TENANT_ID is not"),
            ]
        );
    }
}
