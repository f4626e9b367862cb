use proptest::prelude::*;

use super::*;
use crate::oci::digest::{Algorithm, Digest};

fn descriptor(media_type: &str, name: &str) -> String {
    let digest = Digest::of(Algorithm::Sha256, name.as_bytes());
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, name.len())
}

fn manifest(media_type: &str, layers: usize) -> String {
    let config = descriptor(media_type::OCI_CONFIG, "config");
    let layers: Vec<_> =
        (0..layers).map(|at| descriptor(media_type::OCI_LAYER_GZIP, &format!("l{at}"))).collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[{}]}}"#,
        layers.join(",")
    )
}

fn index(entries: &[&str]) -> String {
    let entries: Vec<_> = entries.iter().map(|media_type| descriptor(media_type, media_type)).collect();
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","))
}

fn refused(text: &str, declared: Option<&str>) -> String {
    Document::parse(text.as_bytes(), declared).expect_err(text).to_string()
}

#[test]
fn the_children_of_a_manifest_are_its_config_and_then_its_layers() {
    let text = manifest(media_type::OCI_MANIFEST, 2);
    let document = Document::parse(text.as_bytes(), Some(media_type::OCI_MANIFEST)).expect("a manifest");
    assert_eq!(document.media_type(), media_type::OCI_MANIFEST);
    let roles: Vec<_> = document.children().iter().map(|child| child.role).collect();
    assert_eq!(roles, [Role::Config, Role::Layer, Role::Layer]);
    assert_eq!(document.children()[2].descriptor.digest, Digest::of(Algorithm::Sha256, b"l1"));
}

#[test]
fn the_children_of_an_index_keep_their_order_and_kind() {
    let text = index(&[media_type::DOCKER_MANIFEST, media_type::OCI_INDEX, "application/x"]);
    let document = Document::parse(text.as_bytes(), None).expect("an index");
    assert_eq!(document.media_type(), media_type::OCI_INDEX);
    let roles: Vec<_> = document.children().iter().map(|child| child.role.as_str()).collect();
    assert_eq!(roles, ["manifest", "index", "other"]);
}

#[test]
fn lists_that_go_writes_as_null_are_empty() {
    let config = descriptor(media_type::OCI_CONFIG, "c");
    let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":null,"annotations":null}}"#);
    assert_eq!(Document::parse(text.as_bytes(), None).expect("a manifest").children().len(), 1);
    let empty = Document::parse(br#"{"schemaVersion":2,"manifests":null}"#, None).expect("an index");
    assert!(empty.children().is_empty());
}

#[test]
fn what_can_be_read_as_index_and_as_manifest_is_refused() {
    let both = manifest(media_type::OCI_MANIFEST, 1).replacen('{', r#"{"manifests":[],"#, 1);
    assert!(refused(&both, None).contains("as an index or as a manifest"));
    let layers_only = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
    assert!(refused(layers_only, None).contains("as an index or as a manifest"));
    // Go reads keys in any case of letters, and takes the last of two.
    assert!(refused(r#"{"schemaVersion":2,"manifests":[],"Layers":[]}"#, None).contains("other case"));
    assert!(refused(r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#, None).contains("twice"));
}

#[test]
fn what_two_parsers_could_read_differently_inside_is_refused() {
    let text = manifest(media_type::OCI_MANIFEST, 1);
    let other = Digest::of(Algorithm::Sha256, b"other");
    for field in ["digest", "Digest", "DIGEST"] {
        let again = text.replacen(r#""size""#, &format!(r#""{field}":"{other}","size""#), 1);
        assert!(refused(&again, None).contains("twice or in other case"), "{again}");
    }
    for (written, also) in [("mediaType", "MediaType"), ("size", "Size"), ("size", "\u{17f}ize")] {
        let key = format!(r#""{written}":"#);
        let at = text.rfind(&key).expect("a descriptor has it");
        let again = format!(r#"{}"{also}":1,{}"#, &text[..at], &text[at..]);
        assert!(refused(&again, None).contains("twice or in other case"), "{again}");
    }
    // What stands alone is read as nobody's, or by everybody the same; what users write may be in any case.
    let annotated = text.replacen('{', r#"{"annotations":{"a":"1","A":"2"},"#, 1);
    Document::parse(annotated.as_bytes(), None).expect("keys of annotations are told apart by everybody");
}
#[test]
fn body_descriptor_and_header_must_agree_on_the_media_type() {
    let text = manifest(media_type::OCI_MANIFEST, 1);
    assert!(refused(&text, Some(media_type::OCI_INDEX)).contains("declared as"));
    assert!(refused(&text, Some(media_type::DOCKER_MANIFEST)).contains("declared as"));
    assert!(refused(&text, Some("application/vnd.example")).contains("declared as"));
    assert!(refused(&manifest(media_type::OCI_INDEX, 1), None).contains("is a manifest"));
    assert!(refused(&manifest(media_type::OCI_CONFIG, 1), None).contains("is a manifest"));
    for silent in ["application/json", "text/plain; charset=utf-8", "application/octet-stream"] {
        Document::parse(text.as_bytes(), Some(silent)).expect(silent);
    }
    let docker = index(&[]);
    let document = Document::parse(docker.as_bytes(), Some(media_type::DOCKER_INDEX)).expect("an index");
    assert_eq!(document.media_type(), media_type::DOCKER_INDEX);
}

#[test]
fn schema_1_is_refused_by_its_name() {
    for old in [r#"{"schemaVersion":1,"fsLayers":[]}"#, r#"{"schemaVersion":2,"fsLayers":[],"config":{}}"#] {
        assert!(refused(old, None).contains("schema 1"), "{old}");
    }
}

#[test]
fn documents_have_limits_of_size_depth_and_length() {
    let large = " ".repeat(MANIFEST_BYTES as usize + 1);
    assert!(matches!(Document::parse(large.as_bytes(), None), Err(Error::TooLarge { .. })));
    let deep = format!(r#"{{"schemaVersion":2,"manifests":[],"x":{}1{}}}"#, "[".repeat(64), "]".repeat(64));
    assert!(refused(&deep, None).contains("deeper than 64"));
    let shallow =
        format!(r#"{{"schemaVersion":2,"manifests":[],"x":{}1{}}}"#, "[".repeat(63), "]".repeat(63));
    Document::parse(shallow.as_bytes(), None).expect("just deep enough");
    let strings = format!(r#"{{"schemaVersion":2,"manifests":[],"x":"\"{}"}}"#, "[".repeat(100));
    Document::parse(strings.as_bytes(), None).expect("brackets in a text nest nothing");
    assert!(refused(&manifest(media_type::OCI_MANIFEST, MANIFEST_LAYERS + 1), None).contains("513 layers"));
    Document::parse(manifest(media_type::OCI_MANIFEST, MANIFEST_LAYERS).as_bytes(), None)
        .expect("as many as taken");
    let entries = vec![media_type::OCI_MANIFEST; INDEX_ENTRIES + 1];
    assert!(refused(&index(&entries), None).contains("1001 entries"));
}

#[test]
fn what_is_not_a_document_is_refused() {
    for bad in [
        "",
        "null",
        "[]",
        "{}",
        "{",
        r#"{"schemaVersion":2}"#,
        r#"{"manifests":[]}"#,
        r#"{"schemaVersion":3,"manifests":[]}"#,
        r#"{"schemaVersion":"2","manifests":[]}"#,
        r#"{"schemaVersion":2,"layers":[]}"#,
        r#"{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"sha256:00","size":1}]}"#,
        r#"{"schemaVersion":2,"manifests":[]} trailing"#,
    ] {
        assert!(Document::parse(bad.as_bytes(), None).is_err(), "{bad}");
    }
    let negative = manifest(media_type::OCI_MANIFEST, 1).replace(r#""size":2"#, r#""size":-2"#);
    assert!(refused(&negative, None).contains("well-formed"));
}

proptest! {
    #[test]
    fn no_bytes_make_the_document_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Document::parse(&bytes, None);
    }

    #[test]
    fn no_damage_to_a_manifest_makes_the_parser_panic(at in 0..600usize, byte in any::<u8>()) {
        let mut bytes = manifest(media_type::OCI_MANIFEST, 2).into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = Document::parse(&bytes, Some(media_type::OCI_MANIFEST));
    }
}
