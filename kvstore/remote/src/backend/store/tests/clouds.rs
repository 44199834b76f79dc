//! What Google's and Azure's refusals are called. The answers are theirs, as their documentation has them, from the proxy; the
//! clients are real.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::{StoreBackend, Surroundings, lacks};
use super::{SECRET, Server, Trouble};
use crate::backend::{Backend, Hold, Mode};
use crate::testing::{aligned, writer};
use crate::{Credentials, Direction, FaultKind, Lack, StoreKind, StoreSpec};

/// An account's key that is nobody's, and what must not be shown of it.
const KEY: &str = "YS1zZWNyZXQtdGhhdC1ub2JvZHktbWF5LXNlZQ==";

fn hold() -> Hold {
    Arc::new(())
}

fn spec(server: &Server, kind: StoreKind, credentials: Credentials) -> StoreSpec {
    StoreSpec {
        kind,
        account: (kind == StoreKind::Azure).then(|| "cache".to_owned()),
        credentials,
        ..server.spec()
    }
}

/// A client in an environment of its own.
fn in_environment(spec: &StoreSpec, variables: &[(&str, &str)]) -> StoreBackend {
    let variable = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let surroundings = Surroundings {
        variable: &variable,
        ..Surroundings::real()
    };
    StoreBackend::new(spec, &surroundings, &writer(1)).unwrap()
}

fn lacks_in(spec: &StoreSpec, variables: &[(&str, &str)]) -> Vec<Lack> {
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

fn answer(status: &'static str, headers: &'static str, code: &str) -> Trouble {
    let body = format!("<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>");
    // Leaked: few, and only in tests.
    Trouble::Answer(status, headers, Box::leak(body.into_boxed_str()))
}

/// Statuses and codes of Google, and what they mean.
const OF_GOOGLE: [(&str, &str, FaultKind); 6] = [
    (
        "401 Unauthorized",
        "AuthenticationRequired",
        FaultKind::Credentials,
    ),
    ("403 Forbidden", "AccessDenied", FaultKind::Denied),
    ("403 Forbidden", "UserProjectAccountProblem", FaultKind::Denied),
    ("404 Not Found", "NoSuchBucket", FaultKind::NotThere),
    ("429 Too Many Requests", "Strange", FaultKind::Throttled),
    ("503 Service Unavailable", "SlowDown", FaultKind::Throttled),
];

/// The same of Azure.
const OF_AZURE: [(&str, &str, FaultKind); 8] = [
    ("403 Forbidden", "AuthenticationFailed", FaultKind::Credentials),
    (
        "403 Forbidden",
        "AuthorizationPermissionMismatch",
        FaultKind::Denied,
    ),
    (
        "403 Forbidden",
        "KeyBasedAuthenticationNotPermitted",
        FaultKind::Denied,
    ),
    ("409 Conflict", "PublicAccessNotPermitted", FaultKind::Denied),
    ("409 Conflict", "ContainerBeingDeleted", FaultKind::NotThere),
    ("404 Not Found", "ContainerNotFound", FaultKind::NotThere),
    ("503 Server Busy", "ServerBusy", FaultKind::Throttled),
    (
        "500 Internal Server Error",
        "OperationTimedOut",
        FaultKind::Server,
    ),
];

async fn are_told(server: &Server, store: &StoreBackend, cases: &[(&'static str, &str, FaultKind)]) {
    for &(status, code, kind) in cases {
        server.talk.calm();
        server
            .talk
            .trouble("", "", answer(status, "retry-after: 7\r\n", code));
        let put = store.put("v1/aa/00/x", aligned(&[1; 4096]), Mode::Create, hold());
        let faults = [
            put.await.unwrap_err(),
            store.get("v1/aa/00/x", 0..4096, hold()).await.unwrap_err(),
            store.list("v1", None, 10).await.unwrap_err(),
            store.probe(Direction::Read).await.unwrap_err(),
        ];
        for fault in faults {
            assert_eq!(fault.kind, kind, "{status} {code}: {fault}");
            assert_eq!(fault.retry_after, Some(Duration::from_secs(7)), "{code}");
            assert!(
                !fault.text.contains(SECRET) && !fault.text.contains(KEY),
                "{fault}"
            );
        }
    }
}

#[tokio::test]
async fn every_refusal_of_either_store_has_its_kind_and_shows_nothing() {
    let server = Server::start();
    let google = spec(&server, StoreKind::Gcs, Credentials::Anonymous);
    are_told(&server, &in_environment(&google, &[]), &OF_GOOGLE).await;
    let azure = spec(&server, StoreKind::Azure, Credentials::Environment);
    let azure = in_environment(&azure, &[("AZURE_STORAGE_KEY", KEY)]);
    are_told(&server, &azure, &OF_AZURE).await;
}

#[tokio::test]
async fn azure_takes_the_credentials_that_are_named_and_no_others() {
    let server = Server::start();
    server
        .talk
        .trouble("", "", answer("404 Not Found", "", "BlobNotFound"));
    let all = [
        ("AZURE_STORAGE_KEY", KEY),
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_TENANT_ID", "tenant"),
    ];
    // Signed with the key of the environment, though more is there.
    let environment = spec(&server, StoreKind::Azure, Credentials::Environment);
    let seen = |said: &str| {
        server
            .talk
            .requests("")
            .iter()
            .any(|request| request.contains(said))
    };
    in_environment(&environment, &all)
        .probe(Direction::Read)
        .await
        .unwrap();
    assert!(!seen("sig="), "{:?}", server.talk.requests(""));
    // A token of the file, though the environment has a key.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "?sv=2022-11-02&se=2030-01-01&sig=c2lnbmVk\n").unwrap();
    let of_file = Credentials::File {
        path: file.path().to_owned(),
        profile: None,
    };
    let of_file = spec(&server, StoreKind::Azure, of_file);
    let store = in_environment(&of_file, &all);
    store.probe(Direction::Read).await.unwrap();
    assert!(seen("sig=c2lnbmVk"), "{:?}", server.talk.requests(""));
    // An error does not show the address, in which the token stands.
    server.talk.calm();
    server
        .talk
        .trouble("", "", answer("403 Forbidden", "", "AuthenticationFailed"));
    let fault = store.probe(Direction::Read).await.unwrap_err();
    assert!(!fault.text.contains("sig"), "{fault}");
    assert!(!format!("{of_file:?} {of_file}").contains("c2lnbmVk"));
}

/// A token of Kubernetes is exchanged at the authority that the environment names; what comes of it is sent with the requests.
#[tokio::test]
async fn a_workload_identity_of_azure_asks_its_authority_and_a_refusal_is_one_of_credentials() {
    let (server, authority) = (Server::start(), Server::start());
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "token-of-kubernetes").unwrap();
    let token = token.path().to_str().unwrap();
    let host = format!("{}/", authority.endpoint());
    let variables = [
        ("AZURE_FEDERATED_TOKEN_FILE", token),
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_AUTHORITY_HOST", host.as_str()),
        // Another way, which is not asked for.
        ("AZURE_STORAGE_KEY", KEY),
    ];
    let identity = spec(&server, StoreKind::Azure, Credentials::Identity);
    assert_eq!(lacks_in(&identity, &variables), []);
    let given = r#"{"access_token": "a-token", "expires_in": 3600}"#;
    let json = "content-type: application/json\r\n";
    authority
        .talk
        .trouble("", "", Trouble::Answer("200 OK", json, given));
    server
        .talk
        .trouble("", "", answer("404 Not Found", "", "BlobNotFound"));
    let store = in_environment(&identity, &variables);
    store.probe(Direction::Read).await.unwrap();
    let asked = authority.talk.requests("");
    assert!(asked[0].contains("/tenant/oauth2/v2.0/token"), "{asked:?}");
    assert!(!asked[0].contains("//tenant"), "{asked:?}");

    authority.talk.calm();
    let refused = r#"{"error": "invalid_client", "error_description": "a-secret-that-nobody-may-see"}"#;
    authority
        .talk
        .trouble("", "", Trouble::Answer("401 Unauthorized", json, refused));
    let fault = in_environment(&identity, &variables).probe(Direction::Read).await;
    let fault = fault.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Credentials, "{fault}");
    assert_eq!(
        fault.text,
        "get: asking for a token of the credentials, status 401, no token is given"
    );
}

/// The machine's service is asked where the environment says it is, for the identity that it names, and for no more than that.
#[tokio::test]
async fn a_machine_of_azure_asks_its_own_service() {
    let (server, service) = (Server::start(), Server::start());
    let place = format!("{}/token", service.endpoint());
    let variables = [
        ("IDENTITY_ENDPOINT", place.as_str()),
        ("AZURE_CLIENT_ID", "client"),
        // Another way, which is not asked for.
        ("AZURE_STORAGE_KEY", KEY),
    ];
    let identity = spec(&server, StoreKind::Azure, Credentials::Identity);
    assert_eq!(lacks_in(&identity, &variables), []);
    let given = r#"{"access_token": "a-token", "expires_on": "4102444800"}"#;
    let json = "content-type: application/json\r\n";
    service
        .talk
        .trouble("", "", Trouble::Answer("200 OK", json, given));
    server
        .talk
        .trouble("", "", answer("404 Not Found", "", "BlobNotFound"));
    let store = in_environment(&identity, &variables);
    store.probe(Direction::Read).await.unwrap();
    store.probe(Direction::Read).await.unwrap();
    let asked = service.talk.requests("");
    let is_told = |text: &str| asked[0].contains(text);
    assert!(is_told("/token?") && is_told("client_id=client"), "{asked:?}");
    assert_eq!(asked.len(), 1, "a token is good for more than one request");

    service.talk.calm();
    service.talk.trouble(
        "",
        "",
        Trouble::Answer("503 Service Unavailable", "retry-after: 3\r\n", ""),
    );
    let fault = in_environment(&identity, &variables).probe(Direction::Read).await;
    let fault = fault.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Throttled, "{fault}");
    assert_eq!(fault.retry_after, Some(Duration::from_secs(3)));
}

#[tokio::test]
async fn what_google_needs_is_looked_for_in_the_place_that_is_named_and_no_other() {
    let server = Server::start();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("account.json");
    let file = |path: &Path| Credentials::File {
        path: path.to_owned(),
        profile: None,
    };
    let of_file = spec(&server, StoreKind::Gcs, file(&path));
    let told = format!(
        "credentials file {}: No such file or directory (os error 2)",
        path.display()
    );
    assert_eq!(lacks_in(&of_file, &[]), [Lack::CredentialsFile(told)]);
    let environment = spec(&server, StoreKind::Gcs, Credentials::Environment);
    let not_set = "GOOGLE_APPLICATION_CREDENTIALS is not set".to_owned();
    assert_eq!(lacks_in(&environment, &[]), [Lack::Credentials(not_set)]);
    let named = ("GOOGLE_APPLICATION_CREDENTIALS", path.to_str().unwrap());
    let found = lacks_in(&environment, &[named]);
    assert!(
        matches!(&found[..], [Lack::Credentials(text)] if text.contains("account.json")),
        "{found:?}"
    );
    let user =
        r#"{"type": "authorized_user", "client_id": "a", "client_secret": "hush", "refresh_token": "hush"}"#;
    std::fs::write(&path, user).unwrap();
    for found in [lacks_in(&environment, &[named]), lacks_in(&of_file, &[])] {
        assert_eq!(found, []);
    }
    let account =
        r#"{"type": "service_account", "client_email": "a@b", "private_key": "hush", "private_key_id": "1"}"#;
    let broken = place.path().join("broken.json");
    std::fs::write(&broken, account).unwrap();
    let told = format!(
        "credentials file {}: its private_key is no RSA key in PEM",
        broken.display()
    );
    let broken = spec(&server, StoreKind::Gcs, file(&broken));
    assert_eq!(lacks_in(&broken, &[]), [Lack::CredentialsFile(told)]);
    // A user's own credentials would be taken for the machine's.
    let home = ("HOME", place.path().to_str().unwrap());
    let identity = spec(&server, StoreKind::Gcs, Credentials::Identity);
    assert_eq!(lacks_in(&identity, &[home]), []);
    let gcloud = place.path().join(".config/gcloud");
    std::fs::create_dir_all(&gcloud).unwrap();
    std::fs::write(gcloud.join("application_default_credentials.json"), user).unwrap();
    let found = lacks_in(&identity, &[home]);
    assert!(
        matches!(&found[..], [Lack::Credentials(text)] if text.contains("gcloud")),
        "{found:?}"
    );
}

/// The client used to send an empty token, and to ask the machine's service for one before each write.
#[tokio::test]
async fn nobody_says_nothing_of_who_asks() {
    let server = Server::start();
    server
        .talk
        .trouble("", "", answer("404 Not Found", "", "NoSuchKey"));
    for kind in [StoreKind::Gcs, StoreKind::Azure] {
        let store = in_environment(&spec(&server, kind, Credentials::Anonymous), &[]);
        store.probe(Direction::Read).await.unwrap();
        let fault = store.probe(Direction::Write).await.unwrap_err();
        assert_eq!(
            fault.kind,
            FaultKind::NotThere,
            "it was asked, and said so: {fault}"
        );
    }
}
