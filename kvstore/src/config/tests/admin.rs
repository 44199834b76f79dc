//! The admin API and metrics: where they are served.

use super::*;

#[test]
fn each_problem_of_the_admin_and_metrics_tables_names_its_key() {
    check_each(&[
        (
            "[admin]\nsocket = \"relative\"",
            "admin.socket: want an absolute path of a file, got \"relative\"",
        ),
        (
            "socket = \"/x/s\"\n[admin]\nsocket = \"/x/s\"",
            "admin.socket: want another path than that of socket",
        ),
        (
            "[admin]\nreader-uids = [\"root\"]",
            "admin.reader-uids: want a list of numeric ids, got [\"root\"]",
        ),
        ("[admin]\nport = 1", "admin.port: no such key"),
        (
            "[admin]\nlisten = \"127.0.0.1:1\"\ntls-key = \"/k\"\ntls-client-ca = \"/c\"",
            "admin.tls-certificate: want a PEM file, because admin.listen is set",
        ),
        (
            "[admin]\nlisten = \"127.0.0.1:1\"\ntls-certificate = \"/k\"\ntls-client-ca = \"/c\"",
            "admin.tls-key: want a PEM file, because admin.listen is set",
        ),
        (
            "[admin]\nlisten = \"127.0.0.1:1\"\ntls-certificate = \"/k\"\ntls-key = \"/c\"",
            "admin.tls-client-ca: want a PEM file, because admin.listen is set",
        ),
        (
            "[admin]\ntls-key = \"/k\"",
            "admin.tls-key: want admin.listen with it",
        ),
        (
            "[admin]\ntls-administrators = [\"ops\"]",
            "admin.tls-administrators: want admin.listen with it",
        ),
        (
            "[admin]\ntls-administrators = \"ops\"",
            "admin.tls-administrators: want a list of names (comma-separated in the environment)",
        ),
        (
            "[admin]\nlisten = \"127.0.0.1:1\"\ntls-certificate = \"/k\"\ntls-key = \"/c\"\ntls-client-ca = \"/c\"\n\
             [metrics]\nlisten = \"127.0.0.1:1\"",
            "admin.listen: want another address or port than that of metrics.listen",
        ),
        (
            "[metrics]\nlisten = \"9470\"",
            "metrics.listen: want \"none\", or an address and a port such as \"127.0.0.1:9470\" or \"[::]:9470\", got \
             \"9470\"",
        ),
        (
            "[metrics]\nlisten = \"localhost:9470\"",
            "metrics.listen: want \"none\", or an address and a port such as \"127.0.0.1:9470\" or \"[::]:9470\", got \
             \"localhost:9470\"",
        ),
    ]);
}

#[test]
fn the_admin_socket_is_beside_the_other_and_must_fit_an_address() {
    let config = |text: &str| load(text, &environment(&[])).map(|loaded| loaded.config);
    let of = |text: &str| config(text).unwrap().admin_socket();
    assert_eq!(of("socket = \"/x/a.sock\""), Path::new("/x/a-admin.sock"));
    assert_eq!(of("socket = \"/x/a\""), Path::new("/x/a-admin.sock"));
    assert_eq!(of("[admin]\nsocket = \"/y/b\""), Path::new("/y/b"));
    assert_eq!(of("[admin]\nsocket = \"auto\""), of(""));
    let long = format!("socket = \"/{}.sock\"", "x".repeat(100));
    let found = config(&long).unwrap_err().to_string();
    assert!(found.contains("admin.socket: want at most 107 bytes"), "{found}");
    let listen = config("[metrics]\nlisten = \"[::1]:9470\"")
        .unwrap()
        .metrics
        .listen;
    assert_eq!(listen, Some("[::1]:9470".parse().unwrap()));
}
