//! S3, and what speaks as it does.
//!
//! A file of credentials is in the form of AWS's shared credentials: sections with `aws_access_key_id`, `aws_secret_access_key`
//! and perhaps `aws_session_token`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, S3ConditionalPut};
use object_store::{ObjectStore, StaticCredentialProvider};

use super::build::{Client, Surroundings, no_retries, not_built, of_environment_error};
use super::credentials::{CredentialsFile, UNSENDABLE, is_sendable, value_of};
use super::lacks::Lack;
use crate::{Credentials, SpecError, StoreSpec};

/// What instances, pods and web identities are told by their environment.
const IDENTITY_KEYS: [AmazonS3ConfigKey; 7] = [
    AmazonS3ConfigKey::WebIdentityTokenFile,
    AmazonS3ConfigKey::RoleArn,
    AmazonS3ConfigKey::RoleSessionName,
    AmazonS3ConfigKey::StsEndpoint,
    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    AmazonS3ConfigKey::ContainerCredentialsFullUri,
    AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
];

/// A client.
pub(super) fn build(
    spec: &StoreSpec,
    surroundings: &Surroundings<'_>,
    client: Client,
) -> Result<Arc<dyn ObjectStore>, SpecError> {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&spec.bucket)
        .with_region(spec.region.as_deref().unwrap_or("us-east-1"))
        .with_virtual_hosted_style_request(spec.virtual_hosted)
        // The bytes have a checksum of ours, and the connection one of TLS's: signing each payload costs more than all else.
        .with_unsigned_payload(!spec.sign_payload)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(no_retries())
        .with_client_options(client.options)
        .with_http_connector(client.connector);
    if let Some(endpoint) = client.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder = match &spec.credentials {
        Credentials::Anonymous => builder.with_skip_signature(true),
        Credentials::Environment => {
            let found =
                of_environment(surroundings.variable).map_err(|texts| of_environment_error(&texts))?;
            builder.with_credentials(Arc::new(StaticCredentialProvider::new(found)))
        }
        Credentials::File { path, profile } => {
            builder.with_credentials(Arc::new(file(path, profile.as_deref())))
        }
        Credentials::Identity => IDENTITY_KEYS.iter().fold(builder, |builder, key| {
            match (surroundings.variable)(&key.as_ref().to_uppercase()) {
                Some(value) => builder.with_config(*key, value),
                None => builder,
            }
        }),
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
        Credentials::File { path, profile } => {
            let found = file(path, profile.as_deref()).current(Instant::now());
            found.err().map(Lack::CredentialsFile).into_iter().collect()
        }
        Credentials::Identity => of_identity(&|name| value_of(surroundings.variable, name)),
    }
}

/// Files that an identity may be told by.
const TOKENS: [&str; 2] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// A role needs its token. Where nothing is told there is the machine's own service, which only an attempt can tell of.
fn of_identity(variable: &dyn Fn(&str) -> Option<String>) -> Vec<Lack> {
    let mut lacks = Vec::new();
    for name in TOKENS {
        let Some(path) = variable(name).map(PathBuf::from) else {
            continue;
        };
        if let Err(error) = std::fs::File::open(&path) {
            let text = format!("{name} names {}: {error}", path.display());
            lacks.push(Lack::Credentials(text));
        }
    }
    if variable(TOKENS[0]).is_some() && variable("AWS_ROLE_ARN").is_none() {
        let text = format!("{} is set and AWS_ROLE_ARN is not", TOKENS[0]);
        lacks.push(Lack::Credentials(text));
    }
    lacks
}

/// The credentials of the environment, or all that is wrong with them. What is there is not shown.
fn of_environment(variable: &dyn Fn(&str) -> Option<String>) -> Result<AwsCredential, Vec<String>> {
    let mut wrong = Vec::new();
    let mut value = |name: &str, is_wanted: bool| {
        let found = value_of(variable, name);
        match &found {
            None if is_wanted => wrong.push(format!("{name} is not set")),
            Some(value) if !is_sendable(value) => wrong.push(format!("{name} {UNSENDABLE}")),
            _ => {}
        }
        found
    };
    let credential = AwsCredential {
        key_id: value("AWS_ACCESS_KEY_ID", true).unwrap_or_default(),
        secret_key: value("AWS_SECRET_ACCESS_KEY", true).unwrap_or_default(),
        token: value("AWS_SESSION_TOKEN", false),
    };
    if wrong.is_empty() {
        Ok(credential)
    } else {
        Err(wrong)
    }
}

/// A file of credentials, and the section of it that counts.
fn file(path: &Path, profile: Option<&str>) -> CredentialsFile<AwsCredential> {
    let profile = profile.unwrap_or("default").to_owned();
    CredentialsFile::new(path, move |text| parse(text, &profile))
}

/// The credentials of one section. Errors name what is missing, never what is there.
fn parse(text: &str, profile: &str) -> Result<AwsCredential, String> {
    let mut is_inside = false;
    let mut is_found = false;
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_inside = section.trim() == profile;
            is_found |= is_inside;
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|_| is_inside) else {
            continue;
        };
        let place = match name.trim() {
            "aws_access_key_id" => &mut key_id,
            "aws_secret_access_key" => &mut secret_key,
            "aws_session_token" => &mut token,
            _ => continue,
        };
        *place = Some(value.trim().to_owned());
    }
    if !is_found {
        return Err(format!("no section [{profile}]"));
    }
    for (value, name) in [
        (&key_id, "aws_access_key_id"),
        (&secret_key, "aws_secret_access_key"),
        (&token, "aws_session_token"),
    ] {
        if !value.as_deref().is_none_or(is_sendable) {
            return Err(format!("{name} in [{profile}] {UNSENDABLE}"));
        }
    }
    let want = |value: Option<String>, name: &str| value.ok_or_else(|| format!("no {name} in [{profile}]"));
    Ok(AwsCredential {
        key_id: want(key_id, "aws_access_key_id")?,
        secret_key: want(secret_key, "aws_secret_access_key")?,
        token,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# ours\n[other]\naws_access_key_id = no\n[default]\naws_access_key_id = id\n \
                        aws_secret_access_key=hush = hush\naws_session_token = token\nregion = here\n";

    #[test]
    fn the_section_is_read_and_what_is_missing_is_named() {
        let found = parse(TEXT, "default").unwrap();
        let (id, secret, token) = (&*found.key_id, &*found.secret_key, found.token.as_deref());
        assert_eq!((id, secret, token), ("id", "hush = hush", Some("token")));
        let missing = parse(TEXT, "other").unwrap_err();
        assert_eq!(missing, "no aws_secret_access_key in [other]");
        assert_eq!(parse("", "default").unwrap_err(), "no section [default]");
        assert!(
            !missing.contains("hush") && !missing.contains("token"),
            "{missing}"
        );
    }

    #[test]
    fn what_cannot_be_part_of_a_request_is_refused_and_not_shown() {
        for strange in ["hush\u{7}", "hüsh"] {
            let text = TEXT.replace("token = token", &format!("token = {strange}"));
            let told = parse(&text, "default").unwrap_err();
            assert_eq!(told, format!("aws_session_token in [default] {UNSENDABLE}"));
        }
        let with = |id: &str, token: &str| {
            let (id, token) = (id.to_owned(), token.to_owned());
            of_environment(&move |name| match name {
                "AWS_ACCESS_KEY_ID" => Some(id.clone()),
                "AWS_SECRET_ACCESS_KEY" => Some("hush".to_owned()),
                _ => Some(token.clone()),
            })
        };
        let found = with("id\n", "token\r\n").unwrap();
        assert_eq!((&*found.key_id, found.token.as_deref()), ("id", Some("token")));
        assert_eq!(with("id", "").unwrap().token, None);
        let wrong = with("i\nd", "to\nken").unwrap_err();
        let names = ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"];
        assert_eq!(wrong, names.map(|name| format!("{name} {UNSENDABLE}")));
    }
}
