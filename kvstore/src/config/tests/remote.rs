//! The remote tier's settings.

use kvstore_remote::Reserve;

use super::*;

#[test]
fn each_problem_of_the_remote_table_names_its_key() {
    let cases: &[(&str, &str)] = &[
        (
            "[remote]\nkind = \"nfs\"",
            "remote.kind: want \"none\" or \"mount\" or \"s3\" or \"gcs\" or \"azure\", got \"nfs\"",
        ),
        (
            "[remote]\nkind = \"mount\"",
            "remote.directory: want the directory where it is mounted, because remote.kind is \"mount\"",
        ),
        (
            "[remote]\nkind = \"s3\"",
            "remote.bucket: want the name of a bucket, because remote.kind is \"s3\"",
        ),
        (
            "[remote]\nbucket = \"b\"",
            "remote.bucket: want remote.kind = \"s3\", \"gcs\" or \"azure\" with it",
        ),
        (
            "[remote]\ndirectory = \"/d\"",
            "remote.directory: want remote.kind = \"mount\" with it",
        ),
        (
            "[remote]\ndirectory = \"d\"",
            "remote.directory: want \"none\", or an absolute path without \"..\", got \"d\"",
        ),
        (
            "[nvme]\ndirectories = [\"/d/nvme\"]\n[remote]\nkind = \"mount\"\ndirectory = \"/d\"",
            "remote.directory: want a directory beside those of nvme.directories, not the same, inside or around",
        ),
        (
            "[remote]\nprefix = \"a/../b\"",
            "remote.prefix: want names of letters, digits and \"-_.\" with \"/\" between them, or \"\", got \"a/../b\"",
        ),
        (
            "[remote]\nkind = \"s3\"\nbucket = \"b\"\ncredentials = \"file\"",
            "remote.credentials-file: want the file, because remote.credentials is \"file\"",
        ),
        (
            "[remote]\nkind = \"s3\"\nbucket = \"b\"\ncredentials-file = \"/c\"",
            "remote.credentials-file: want remote.credentials = \"file\" with it",
        ),
        (
            "[remote]\ncapacity = \"1KiB\"",
            "remote.capacity: want \"none\", or a size from 1MiB to 1024TiB such as \"64GiB\", got \"1KiB\"",
        ),
        (
            "[remote]\nmount-check = \"on\"",
            "remote.mount-check: want \"auto\" or \"required\" or \"off\", got \"on\"",
        ),
        (
            "[remote]\nreserve = \"95%\"",
            "remote.reserve: want a part from 0.1% to 90%, got \"95%\"",
        ),
        (
            "[remote]\nreserve = \"1KiB\"",
            "remote.reserve: want \"none\", a part such as \"5%\", or a size from 1MiB to 1024TiB such as \"64GiB\", got \"1KiB\"",
        ),
        (
            "[remote]\nage-max = \"1s\"",
            "remote.age-max: want \"none\", or a duration from 1min to 87600h in ms, s, min or h, got \"1s\"",
        ),
    ];
    check_each(cases);
}

#[test]
fn keys_of_one_kind_of_store_are_refused_with_others() {
    let cases: &[(&str, &str)] = &[
        (
            "kind = \"gcs\"",
            "remote.bucket: want the name of a bucket, because remote.kind is \"gcs\"",
        ),
        (
            "kind = \"azure\"\naccount = \"cache\"",
            "remote.bucket: want the name of a container, because remote.kind is \"azure\"",
        ),
        (
            "kind = \"azure\"\nbucket = \"b\"",
            "remote.account: want the storage account that has the container, because remote.kind is \"azure\"",
        ),
        (
            "account = \"a.example\"",
            "remote.account: want \"none\", or 3 to 24 lower-case letters and digits, got \"a.example\"",
        ),
        (
            "kind = \"s3\"\nbucket = \"b\"\naccount = \"cache\"",
            "remote.account: want remote.kind = \"azure\" with it",
        ),
        (
            "kind = \"gcs\"\nbucket = \"b\"\nregion = \"r\"",
            "remote.region: want remote.kind = \"s3\" with it",
        ),
        (
            "kind = \"gcs\"\nbucket = \"b\"\naddressing = \"virtual-host\"",
            "remote.addressing: want remote.kind = \"s3\" with it",
        ),
        (
            "kind = \"gcs\"\nbucket = \"b\"\nsign-payload = \"never\"",
            "remote.sign-payload: want remote.kind = \"s3\" with it",
        ),
        (
            "kind = \"gcs\"\nbucket = \"b\"\ncredentials = \"file\"\ncredentials-file = \"/c\"\ncredentials-profile = \"p\"",
            "remote.credentials-profile: want remote.kind = \"s3\" with it",
        ),
    ];
    let cases: Vec<_> = cases
        .iter()
        .map(|(text, expected)| (format!("[remote]\n{text}"), *expected))
        .collect();
    let cases: Vec<_> = cases
        .iter()
        .map(|(text, expected)| (&**text, *expected))
        .collect();
    check_each(&cases);
}

#[test]
fn each_kind_of_store_is_a_configuration() {
    for (text, kind) in [
        ("kind = \"gcs\"\ncredentials = \"identity\"", RemoteKind::Gcs),
        (
            "kind = \"azure\"\naccount = \"cache\"\nendpoint = \"https://cache.blob.core.usgovcloudapi.net\"",
            RemoteKind::Azure,
        ),
    ] {
        let text = format!("[remote]\nbucket = \"kv-cache\"\n{text}");
        let remote = load(&text, &environment(&[])).unwrap().config.remote;
        assert_eq!((remote.kind, remote.bucket.as_deref()), (kind, Some("kv-cache")));
        assert_eq!(remote.account.is_some(), kind == RemoteKind::Azure);
    }
}

#[test]
fn names_that_cannot_be_used_say_what_is_wrong_with_them() {
    let long = "a".repeat(256);
    let (bucket, prefix) = (
        format!("[remote]\nbucket = \"{long}\""),
        format!("[remote]\nprefix = \"{long}\""),
    );
    let cases: &[(&str, &str)] = &[
        (
            "[remote]\nbucket = \"..\"",
            "remote.bucket: want the name of a bucket, got \"..\", which would be taken for a directory",
        ),
        (
            "[remote]\nbucket = \".\"",
            "remote.bucket: want the name of a bucket, got \".\", which would be taken for a directory",
        ),
        (&bucket, "remote.bucket: want at most 255 bytes, got 256"),
        (&prefix, "remote.prefix: want at most 255 bytes, got 256"),
        (
            "[remote]\nprefix = \"a/../b\"",
            "remote.prefix: want names of letters, digits and \"-_.\" with \"/\" between them, or \"\", got \"a/../b\"",
        ),
    ];
    check_each(cases);
}

#[test]
fn an_endpoint_that_cannot_be_used_is_named() {
    let cases: &[(&str, &str)] = &[
        (
            "[remote]\nkind = \"s3\"\nbucket = \"b\"\nendpoint = \"http://127.0.0.1:9000\"\naddressing = \"virtual-host\"",
            "remote.endpoint: want a host with a name, not an address, because remote.addressing is \"virtual-host\"",
        ),
        (
            "[remote]\nkind = \"s3\"\nbucket = \"b\"\nendpoint = \"http://host:99999\"",
            "remote.endpoint: want \"none\", or http:// or https:// and a host, without user, password or query: invalid port number",
        ),
        (
            "[remote]\nkind = \"s3\"\nbucket = \"b\"\nendpoint = \"http://host name\"",
            "remote.endpoint: want \"none\", or http:// or https:// and a host, without user, password or query",
        ),
        (
            "[remote]\nkind = \"s3\"\nbucket = \"b\"\nendpoint = \"http://[::1\"",
            "remote.endpoint: want \"none\", or http:// or https:// and a host, without user, password or query: invalid IPv6 address",
        ),
    ];
    check_each(cases);
}

#[test]
fn an_endpoint_with_a_password_is_refused_and_not_shown() {
    let found = problems("[remote]\nendpoint = \"https://me:secret@host\"", &[]);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("remote.endpoint: want") && !found[0].contains("secret"),
        "{found:?}"
    );
}

#[test]
fn a_bucket_with_credentials_from_a_file_is_a_configuration() {
    let text = "[remote]\nkind = \"s3\"\nbucket = \"cache\"\nendpoint = \"https://store:9000\"\nprefix = \"\"\n\
                credentials = \"file\"\ncredentials-file = \"/run/secrets/store\"\nage-max = \"720h\"\n\
                capacity = \"10TiB\"\nadmission = \"on-eviction\"";
    let remote = load(text, &environment(&[])).unwrap().config.remote;
    assert_eq!(remote.kind, RemoteKind::S3);
    assert_eq!(remote.bucket.as_deref(), Some("cache"));
    assert_eq!(remote.capacity_bytes, Some(10 << 40));
    assert_eq!(remote.age_max, Some(Duration::from_hours(720)));
    assert_eq!(remote.credentials_file, Some(PathBuf::from("/run/secrets/store")));
}

#[test]
fn a_reserve_is_a_size_or_a_part() {
    let reserve = |text: &str| {
        let loaded = load(&format!("[remote]\nreserve = \"{text}\""), &environment(&[])).unwrap();
        let shown = effective(&loaded.config)
            .into_iter()
            .find(|(key, _)| key == "remote.reserve");
        (loaded.config.remote.reserve, shown.unwrap().1)
    };
    for (text, expected) in [
        ("none", Reserve::Bytes(0)),
        ("5GiB", Reserve::Bytes(5 << 30)),
        ("1%", Reserve::Permille(10)),
        ("2.5%", Reserve::Permille(25)),
        ("90%", Reserve::Permille(900)),
    ] {
        assert_eq!(reserve(text), (expected, format!("\"{text}\"")));
    }
    for bad in ["0%", "1.25%", "%", "-1%", "9999999%"] {
        assert_eq!(
            problems(&format!("[remote]\nreserve = \"{bad}\""), &[]).len(),
            1,
            "{bad}"
        );
    }
}
