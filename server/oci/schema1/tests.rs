use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

use super::*;
use crate::oci::{Algorithm, Document};

fn digest(name: &str) -> Digest {
    Digest::of(Algorithm::Sha256, name.as_bytes())
}

/// A manifest of these layers, the topmost first: the name of the blob, and what is said of it.
fn written(layers: &[(&str, &str)]) -> String {
    let fs_layers: Vec<_> = layers.iter().map(|(name, _)| json!({"blobSum": digest(name)})).collect();
    let history: Vec<_> = layers.iter().map(|(_, text)| json!({"v1Compatibility": text})).collect();
    json!({
        "schemaVersion": 1, "name": "a", "tag": "v1", "architecture": "amd64",
        "fsLayers": fs_layers, "history": history,
    })
    .to_string()
}

/// The same with a signature, as Docker writes it: before the last brace of the payload.
fn signed(payload: &str) -> String {
    let split = payload.rfind('}').expect("an object");
    let (head, tail) = payload.split_at(split);
    let protected =
        json!({"formatLength": head.len(), "formatTail": URL_SAFE_NO_PAD.encode(tail), "time": "t"});
    let protected = URL_SAFE_NO_PAD.encode(protected.to_string());
    format!(r#"{head},"signatures":[{{"header":{{}},"signature":"x","protected":"{protected}"}}]}}"#)
}

fn unpacked(name: &str, empty: bool) -> UnpackedLayer {
    let descriptor = Descriptor::new(media_type::OCI_LAYER_GZIP, digest(name), 7);
    UnpackedLayer { descriptor, diff_id: digest(&format!("tar of {name}")), empty }
}

const TOP: &str = r#"{"id":"3","parent":"2","throwaway":true,"created":"2015-01-03T00:00:00Z","os":"linux",
    "architecture":"amd64","config":{"Cmd":["sh"]},"container_config":{"Cmd":["/bin/sh","-c","nop CMD"]}}"#;
const MIDDLE: &str = r#"{"id":"2","parent":"1","author":"a","comment":"c","created":"2015-01-02T00:00:00Z"}"#;
const BASE: &str = r#"{"id":"1","created":"2015-01-01T00:00:00Z","Size":12}"#;

fn example() -> String {
    written(&[("empty", TOP), ("middle", MIDDLE), ("base", BASE)])
}

#[test]
fn a_manifest_becomes_an_oci_image_of_the_layers_that_are_not_empty() {
    let schema1 = Schema1::parse(example().as_bytes()).expect("a manifest");
    let layers: Vec<_> = schema1.layers.iter().map(|layer| (layer.digest.clone(), layer.empty)).collect();
    assert_eq!(layers, [(digest("base"), false), (digest("middle"), false), (digest("empty"), true)]);
    let converted = schema1.convert(&[unpacked("base", false), unpacked("middle", false)]);
    let config: Value = serde_json::from_slice(&converted.config).expect("JSON");
    assert_eq!(
        config,
        json!({
            "os": "linux", "architecture": "amd64", "created": "2015-01-03T00:00:00Z", "config": {"Cmd": ["sh"]},
            "container_config": {"Cmd": ["/bin/sh", "-c", "nop CMD"]},
            "rootfs": {"type": "layers", "diff_ids": [digest("tar of base"), digest("tar of middle")]},
            "history": [
                {"created": "2015-01-01T00:00:00Z"},
                {"created": "2015-01-02T00:00:00Z", "author": "a", "comment": "c"},
                {"created": "2015-01-03T00:00:00Z", "created_by": "/bin/sh -c nop CMD", "empty_layer": true},
            ],
        })
    );
    let document = Document::parse(&converted.manifest, Some(media_type::OCI_MANIFEST)).expect("a manifest");
    let children: Vec<_> = document.children().iter().map(|child| child.descriptor.digest.clone()).collect();
    let config = Digest::of(Algorithm::Sha256, &converted.config);
    assert_eq!(children, [config, digest("base"), digest("middle")]);
    assert_eq!(converted, schema1.convert(&[unpacked("base", false), unpacked("middle", false)]));
}

#[test]
fn a_layer_without_files_is_left_out_though_nobody_said_so() {
    let schema1 =
        Schema1::parse(written(&[("none", MIDDLE), ("base", BASE)]).as_bytes()).expect("a manifest");
    assert!(schema1.layers.iter().all(|layer| !layer.empty));
    let converted = schema1.convert(&[unpacked("base", false), unpacked("none", true)]);
    let config: Value = serde_json::from_slice(&converted.config).expect("JSON");
    assert_eq!(config["rootfs"]["diff_ids"], json!([digest("tar of base")]));
    assert_eq!(config["history"][1]["empty_layer"], json!(true));
}

#[test]
fn emptiness_is_said_in_two_ways() {
    for (text, empty) in [
        ("{}", false),
        (r#"{"throwaway":true}"#, true),
        (r#"{"throwaway":false,"Size":0}"#, false),
        (r#"{"Size":0}"#, true),
        (r#"{"Size":1}"#, false),
    ] {
        let schema1 = Schema1::parse(written(&[("a", text)]).as_bytes()).expect("a manifest");
        assert_eq!(schema1.layers[0].empty, empty, "{text}");
    }
}

#[test]
fn the_payload_is_what_was_there_before_it_was_signed() {
    let plain = example();
    let signed = signed(&plain);
    assert_eq!(payload(signed.as_bytes()).expect("a payload").as_ref(), plain.as_bytes());
    assert_eq!(payload(plain.as_bytes()).expect("itself").as_ref(), plain.as_bytes());
    for broken in [
        signed.replace(r#""protected":""#, r#""protected":"!"#),
        plain.replacen('{', r#"{"signatures":[{"protected":"e30"}],"#, 1),
        plain.replacen(
            '{',
            r#"{"signatures":[{"protected":"eyJmb3JtYXRMZW5ndGgiOjk5OTk5OSwiZm9ybWF0VGFpbCI6IiJ9"}],"#,
            1,
        ),
    ] {
        assert!(payload(broken.as_bytes()).is_err(), "{broken}");
    }
}

#[test]
fn it_is_known_by_its_type_or_by_its_version() {
    assert!(is_schema1(example().as_bytes(), None));
    assert!(is_schema1(
        b"",
        Some("application/vnd.docker.distribution.manifest.v1+prettyjws; charset=utf-8")
    ));
    assert!(!is_schema1(br#"{"schemaVersion":2,"manifests":[]}"#, Some("text/plain")));
    assert!(!is_schema1(b"{", None));
}

#[test]
fn what_is_not_one_or_not_one_alone_is_refused() {
    let many: Vec<_> = (0..=MANIFEST_LAYERS).map(|_| ("a", "{}")).collect();
    for bad in [
        "{}".to_owned(),
        written(&[]),
        written(&many),
        written(&[("a", "[]")]),
        written(&[("a", "{")]),
        written(&[("a", &"[".repeat(200))]),
        example().replace(r#""schemaVersion":1"#, r#""schemaVersion":2"#),
        example().replacen('{', r#"{"layers":[],"#, 1),
        example().replacen('{', r#"{"manifests":[],"#, 1),
        example().replacen('{', r#"{"config":{},"#, 1),
        example().replacen("sha256:", "sha256:../", 1),
        example().replacen(
            r#""fsLayers":["#,
            &format!(r#""fsLayers":[{{"blobSum":"{}"}},"#, digest("more")),
            1,
        ),
    ] {
        assert!(Schema1::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_damage_to_a_manifest_makes_the_reader_panic(at in 0..2_000usize, byte in any::<u8>()) {
        let mut bytes = signed(&example()).into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(payload) = payload(&bytes) {
            let _ = Schema1::parse(&payload);
        }
    }
}
