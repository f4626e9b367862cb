use proptest::prelude::*;

use super::*;
use crate::oci::digest::{Algorithm, Digest};
use crate::oci::media_type;

fn platform(text: &str) -> Platform {
    text.parse().expect("a platform")
}

fn index(platforms: &[&str]) -> Vec<Descriptor> {
    let entry = |text: &&str| {
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        let mut descriptor = Descriptor::new(media_type::OCI_MANIFEST, digest, 1);
        descriptor.platform = (*text != "-").then(|| platform(text));
        descriptor
    };
    platforms.iter().map(entry).collect()
}

fn chosen(wanted: &str, offered: &[&str]) -> String {
    let entries = index(offered);
    match platform(wanted).choose(&entries) {
        Ok(entry) => entry.platform.as_ref().map_or("-".to_owned(), Platform::to_string),
        Err(none) => none.to_string(),
    }
}

#[test]
fn platforms_are_normalised_as_containerd_does() {
    for (written, normal) in [
        ("linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("Linux/AMD64/v3", "linux/amd64/v3"),
        ("linux/i386", "linux/386"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/9", "linux/arm64/v9"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm", "linux/arm/v7"),
        ("macos/arm64", "darwin/arm64"),
        ("windows(10.0.17763+win32k)/amd64", "windows(10.0.17763+win32k)/amd64"),
    ] {
        assert_eq!(platform(written).to_string(), normal, "{written}");
    }
}

#[test]
fn one_word_is_a_system_or_an_architecture() {
    let host = Platform::host();
    assert_eq!(platform("windows").to_string(), format!("windows/{}", host.architecture));
    assert_eq!(platform("riscv64").to_string(), format!("{}/riscv64", host.os));
}

#[test]
fn what_is_not_a_platform_is_refused() {
    for bad in
        ["", "/", "linux/", "/amd64", "linux/arm/v7/x", "linux/arm/", "beos", "linux(1/amd64", "linux/a b"]
    {
        assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
    }
}

#[test]
fn the_closest_manifest_is_chosen_and_the_first_among_equals() {
    let all = ["linux/386", "linux/arm/v7", "linux/arm64", "linux/amd64", "linux/amd64/v2"];
    assert_eq!(chosen("linux/amd64", &all), "linux/amd64");
    assert_eq!(chosen("linux/amd64/v3", &all), "linux/amd64/v2");
    assert_eq!(chosen("linux/arm64", &all), "linux/arm64");
    assert_eq!(chosen("linux/arm64", &["linux/arm/v5", "linux/arm/v8", "linux/arm/v6"]), "linux/arm/v8");
    assert_eq!(chosen("linux/amd64", &["linux/386"]), "linux/386");
    assert_eq!(chosen("linux/arm64/v9.1", &["linux/arm64/v8.6", "linux/arm64/v9"]), "linux/arm64/v9");
    assert_eq!(chosen("linux/arm64/v9", &["linux/arm64/v8.6", "linux/arm64/v8.5"]), "linux/arm64/v8.5");
    assert_eq!(chosen("linux/arm/v6", &["linux/arm/v7", "linux/arm/v5"]), "linux/arm/v5");
}

#[test]
fn a_platform_that_is_missing_is_told_with_what_there_is() {
    let told = chosen("linux/s390x", &["linux/amd64", "linux/arm64", "unknown/unknown"]);
    assert_eq!(told, "there is no manifest for linux/s390x; there is linux/amd64, linux/arm64");
    assert_eq!(
        chosen("linux/amd64", &[]),
        "there is no manifest for linux/amd64; the index names no platform at all"
    );
    assert!(chosen("linux/amd64", &["darwin/amd64"]).contains("no manifest"));
}

#[test]
fn an_entry_without_platform_is_the_last_resort() {
    assert_eq!(chosen("linux/amd64", &["-", "linux/amd64"]), "linux/amd64");
    assert_eq!(chosen("linux/amd64", &["-", "linux/arm64"]), "-");
    assert!(chosen("linux/amd64", &["-", "-"]).contains("no manifest"));
}

#[test]
fn windows_runs_images_of_its_own_build_only() {
    let built = ["windows(10.0.17763.1)/amd64", "windows(10.0.20348.9)/amd64"];
    assert_eq!(chosen("windows(10.0.20348.1)/amd64", &built), built[1]);
    assert!(chosen("windows(10.0.1.1)/amd64", &built).contains("no manifest"));
}

#[test]
fn features_of_the_image_must_be_there() {
    assert!(chosen("windows/amd64", &["windows(+win32k)/amd64"]).contains("no manifest"));
    assert_eq!(chosen("windows(+win32k)/amd64", &["windows(+win32k)/amd64"]), "windows(+win32k)/amd64");
}

proptest! {
    #[test]
    fn a_platform_is_the_platform_it_prints(text in "(linux|windows|darwin)(\\([0-9.]{1,9}\\))?/(amd64|arm|arm64|s390x)(/v[1-9](\\.[0-9])?)?") {
        let parsed = platform(&text);
        prop_assert_eq!(&parsed, &platform(&parsed.to_string()));
        prop_assert_eq!(parsed.rank(&parsed), Some(0));
    }

    #[test]
    fn no_text_makes_the_platform_parser_panic(text in "\\PC{0,60}") {
        let _ = text.parse::<Platform>();
    }
}
