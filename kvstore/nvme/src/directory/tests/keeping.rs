//! Namespaces are kept beside the segments.

use super::*;

#[test]
fn namespaces_are_kept_and_dropped() {
    let place = with_segments(&[]);
    let (directory, _) = open(place.path());
    let (descriptor, geometry) = namespace();
    for _ in 0..2 {
        directory.keep_namespace(&descriptor, &geometry).unwrap();
    }
    let found = directory.namespaces().unwrap();
    assert_eq!(found.good, [(descriptor.clone(), geometry.clone())]);
    assert!(found.damaged.is_empty());
    directory.drop_namespace(descriptor.id()).unwrap();
    assert!(directory.namespaces().unwrap().good.is_empty());
}

#[test]
fn a_damaged_namespace_is_named_and_made_good_by_keeping_it_again() {
    let place = with_segments(&[]);
    let (directory, _) = open(place.path());
    let (descriptor, geometry) = namespace();
    directory.keep_namespace(&descriptor, &geometry).unwrap();
    let name = names::namespace_name(descriptor.id());
    let good = fs::read(place.path().join(&name)).unwrap();
    flip(&place.path().join(&name), 30);
    let found = directory.namespaces().unwrap();
    assert_eq!(found.damaged, [(name.clone(), "wrong checksum".to_owned())]);
    directory.keep_namespace(&descriptor, &geometry).unwrap();
    assert_eq!(directory.namespaces().unwrap().good.len(), 1);

    let other = names::namespace_name(kvstore_types::NamespaceId([1; 16]));
    fs::write(place.path().join(&other), good).unwrap();
    let found = directory.namespaces().unwrap();
    assert_eq!(found.damaged.len(), 1);
    assert!(
        found.damaged[0].1.contains("it describes namespace"),
        "{:?}",
        found.damaged
    );
}
