//! What this machine lacks for a store, found without asking the store.

use super::build::{Surroundings, build, certificates};
use super::{azure, gcs, s3};
use crate::{StoreKind, StoreSpec};

/// Something that a store needs and that is not here. Each text is for people and has nothing secret in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Where credentials come from has none.
    Credentials(String),
    /// The file that credentials come from cannot be used.
    CredentialsFile(String),
    /// The file of certificates cannot be used.
    Ca(String),
    /// A client cannot be made of these settings.
    Settings(String),
}

/// All that is not here.
pub(crate) fn lacks(spec: &StoreSpec, surroundings: &Surroundings<'_>) -> Vec<Lack> {
    let mut lacks = match spec.kind {
        StoreKind::S3 => s3::lacks(spec, surroundings),
        StoreKind::Gcs => gcs::lacks(spec, surroundings),
        StoreKind::Azure => azure::lacks(spec, surroundings),
    };
    if let Some(path) = &spec.ca_file
        && let Err(text) = certificates(path)
    {
        lacks.push(Lack::Ca(text));
    }
    // What follows would only be said again.
    if lacks.is_empty()
        && let Err(error) = build(spec, surroundings)
    {
        lacks.push(Lack::Settings(error.to_string()));
    }
    lacks
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Credentials;
    use crate::unwell::Server;

    /// What is lacking with these variables.
    fn with(spec: &StoreSpec, variables: &[(&str, &str)]) -> Vec<Lack> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let surroundings = Surroundings {
            variable: &variable,
            ..Surroundings::real()
        };
        lacks(spec, &surroundings)
    }

    #[test]
    fn every_source_of_credentials_is_looked_at_and_nothing_secret_is_said() {
        let server = Server::start();
        let of = |credentials| StoreSpec {
            credentials,
            ..server.spec()
        };
        let lack = |text: &str| Lack::Credentials(text.to_owned());
        let environment = of(Credentials::Environment);
        assert_eq!(
            with(
                &environment,
                &[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "")]
            ),
            [lack("AWS_SECRET_ACCESS_KEY is not set")]
        );
        assert_eq!(with(&environment, &[]).len(), 2);
        let both = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hush")];
        assert_eq!(with(&environment, &both), []);
        let broken = [both[0], both[1], ("AWS_SESSION_TOKEN", "hush\nhush")];
        assert_eq!(
            with(&environment, &broken),
            [lack(
                "AWS_SESSION_TOKEN has something in it that is no visible ASCII"
            )]
        );

        assert_eq!(with(&server.spec(), &[]), []);
        let file = |path: &Path, profile: Option<&str>| {
            let credentials = Credentials::File {
                path: path.to_owned(),
                profile: profile.map(str::to_owned),
            };
            with(&of(credentials), &[])
        };
        let found = file(Path::new("/nowhere/credentials"), None);
        assert!(matches!(&found[..], [Lack::CredentialsFile(text)] if text.contains("No such file")));
        let found = file(&server.credentials(), Some("other"));
        let told = format!(
            "credentials file {}: no section [other]",
            server.credentials().display()
        );
        assert_eq!(found, [Lack::CredentialsFile(told)]);

        let identity = of(Credentials::Identity);
        assert_eq!(with(&identity, &[]), []);
        let token = ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token");
        assert_eq!(
            with(&identity, &[token]),
            [
                lack(
                    "AWS_WEB_IDENTITY_TOKEN_FILE names /nowhere/token: No such file or directory (os error 2)"
                ),
                lack("AWS_WEB_IDENTITY_TOKEN_FILE is set and AWS_ROLE_ARN is not"),
            ]
        );
        assert_eq!(with(&of(Credentials::Anonymous), &[]), []);
    }

    #[test]
    fn certificates_and_settings_are_looked_at_as_well() {
        let server = Server::start();
        let unread = StoreSpec {
            ca_file: Some("/nowhere/ca.pem".into()),
            ..server.spec()
        };
        assert!(matches!(&with(&unread, &[])[..], [Lack::Ca(text)] if text.contains("/nowhere/ca.pem")));
        let nameless = StoreSpec {
            bucket: String::new(),
            ..server.spec()
        };
        assert!(matches!(&with(&nameless, &[])[..], [Lack::Settings(text)] if text.contains("bucket")));
    }
}
