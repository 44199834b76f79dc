//! Google Cloud Storage.
//!
//! Only what `credentials` names is looked at: neither the environment nor the home directory adds to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use object_store::gcp::{GcpCredential, GcpCredentialProvider, GoogleCloudStorageBuilder};
use object_store::{CredentialProvider, ObjectStore, StaticCredentialProvider};
use serde_json::Value;

use super::build::{Client, NO_AUTHORITIES, Surroundings, no_retries, not_built, of_environment_error};
use super::credentials::{CredentialsFile, value_of};
use super::fault::chain_text;
use super::lacks::Lack;
use crate::{Credentials, SpecError, StoreSpec};

/// Where the environment says the file is.
const NAMED: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// What Google's own command leaves in a home directory, for its user.
const OF_USER: &str = ".config/gcloud/application_default_credentials.json";

/// A client.
pub(super) fn build(
    spec: &StoreSpec,
    surroundings: &Surroundings<'_>,
    client: Client,
) -> Result<Arc<dyn ObjectStore>, SpecError> {
    let mut builder = client.builder().with_bucket_name(&spec.bucket);
    if let Some(endpoint) = &client.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    builder = match &spec.credentials {
        // Without any at all it would ask the machine's service for some, and send them with what it writes.
        Credentials::Anonymous => {
            let nobody = GcpCredential {
                bearer: String::new(),
            };
            builder
                .with_skip_signature(true)
                .with_credentials(Arc::new(StaticCredentialProvider::new(nobody)))
        }
        Credentials::File { path, .. } => builder.with_credentials(Arc::new(FromFile(file(path, client)))),
        Credentials::Environment => {
            let path = named(surroundings).map_err(|text| of_environment_error(&[text]))?;
            builder.with_credentials(Arc::new(FromFile(file(&path, client))))
        }
        Credentials::Identity => match of_user(surroundings) {
            Some(text) => return Err(SpecError::Store(text)),
            None => builder,
        },
    };
    let store = builder.build().map_err(|error| not_built(&error))?;
    Ok(Arc::new(store))
}

/// What this machine lacks of what the credentials need.
pub(super) fn lacks(spec: &StoreSpec, surroundings: &Surroundings<'_>) -> Vec<Lack> {
    let usable = |path: &Path| {
        let Ok(client) = Client::new(spec, surroundings) else {
            // Others tell what is wrong with the rest.
            return Ok(());
        };
        file(path, client).current(Instant::now()).map(|_| ())
    };
    let lack: Option<Lack> = match &spec.credentials {
        Credentials::Anonymous => None,
        Credentials::Environment => {
            let found =
                named(surroundings).and_then(|path| usable(&path).map_err(|told| format!("{NAMED}: {told}")));
            found.err().map(Lack::Credentials)
        }
        Credentials::File { path, .. } => usable(path).err().map(Lack::CredentialsFile),
        Credentials::Identity => of_user(surroundings).map(Lack::Credentials),
    };
    lack.into_iter().collect()
}

fn named(surroundings: &Surroundings<'_>) -> Result<PathBuf, String> {
    let found = value_of(surroundings.variable, NAMED);
    found
        .map(PathBuf::from)
        .ok_or_else(|| format!("{NAMED} is not set"))
}

/// The client would take the credentials of a user before the machine's, and nobody would see whose they are.
fn of_user(surroundings: &Surroundings<'_>) -> Option<String> {
    let home = value_of(surroundings.variable, "HOME")?;
    let path = Path::new(&home).join(OF_USER);
    path.exists().then(|| {
        format!(
            "{} would be taken for this machine's identity; remove it, or name it by remote.credentials-file",
            path.display()
        )
    })
}

/// Whose credentials a file has.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    ServiceAccount,
    AuthorizedUser,
}

impl Form {
    /// Reads it, and looks for what has to be in it. What is there is not shown.
    fn of(text: &str) -> Result<Self, String> {
        let found: Value = serde_json::from_str(text).map_err(|_| "not JSON".to_owned())?;
        let told = found.get("type").and_then(Value::as_str).unwrap_or_default();
        let (form, wanted) = match told {
            "service_account" => (
                Self::ServiceAccount,
                ["client_email", "private_key", "private_key_id"],
            ),
            "authorized_user" => (
                Self::AuthorizedUser,
                ["client_id", "client_secret", "refresh_token"],
            ),
            known @ ("external_account"
            | "external_account_authorized_user"
            | "impersonated_service_account"
            | "gdch_service_account") => {
                return Err(format!(
                    "its type is {known}; want service_account or authorized_user"
                ));
            }
            _ => return Err("want a type of service_account or authorized_user in it".to_owned()),
        };
        let missing = wanted.into_iter().find(|name| {
            let value = found.get(name).and_then(Value::as_str);
            value.is_none_or(str::is_empty)
        });
        match missing {
            Some(name) => Err(format!("no {name} in it")),
            None => Ok(form),
        }
    }
}

/// A file, and what gives tokens by what is in it.
fn file(path: &Path, client: Client) -> CredentialsFile<GcpCredentialProvider> {
    let named = path.to_owned();
    CredentialsFile::new(path, move |text| {
        let builder = client.builder().with_bucket_name("none");
        let builder = match Form::of(text)? {
            Form::ServiceAccount => builder.with_service_account_key(text),
            Form::AuthorizedUser => builder.with_application_credentials(named.display().to_string()),
        };
        // A client of no bucket, for its credentials alone.
        let client = builder.build();
        let client = client.map_err(|error| {
            if chain_text(&error).contains(NO_AUTHORITIES) {
                not_built(&error).to_string()
            } else {
                "its private_key is no RSA key in PEM".to_owned()
            }
        })?;
        Ok(client.credentials().clone())
    })
}

/// Tokens of whoever the file names now.
#[derive(Debug)]
struct FromFile(CredentialsFile<GcpCredentialProvider>);

#[async_trait]
impl CredentialProvider for FromFile {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<GcpCredential>> {
        self.0.provided()?.get_credential().await
    }
}

impl Client {
    fn builder(&self) -> GoogleCloudStorageBuilder {
        GoogleCloudStorageBuilder::new()
            .with_retry(no_retries())
            .with_client_options(self.options.clone())
            .with_http_connector(self.connector.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_file_is_known_and_what_is_wrong_with_it_is_named_and_not_shown() {
        let account = r#"{"type": "service_account", "client_email": "a@b", "private_key": "hush", "private_key_id": "1"}"#;
        assert_eq!(Form::of(account), Ok(Form::ServiceAccount));
        let user = r#"{"type": "authorized_user", "client_id": "a", "client_secret": "hush", "refresh_token": "hush"}"#;
        assert_eq!(Form::of(user), Ok(Form::AuthorizedUser));
        for (text, expected) in [
            ("hush", "not JSON"),
            (
                "{\"hush\": 1}",
                "want a type of service_account or authorized_user in it",
            ),
            (
                "{\"type\": \"hush\"}",
                "want a type of service_account or authorized_user in it",
            ),
            (
                "{\"type\": \"external_account\"}",
                "its type is external_account; want service_account or authorized_user",
            ),
            (
                "{\"type\": \"service_account\", \"client_email\": \"hush\"}",
                "no private_key in it",
            ),
        ] {
            assert_eq!(Form::of(text).unwrap_err(), expected);
        }
    }
}
