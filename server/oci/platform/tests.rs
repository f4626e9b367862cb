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
        ("linux/arm/5", "linux/arm/v5"),
        ("linux/arm/8", "linux/arm/v8"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v8.0", "linux/arm64"),
        ("linux/arm64/v9.0", "linux/arm64/v9"),
        ("linux/arm64/v8.2", "linux/arm64/v8.2"),
        ("linux/x86-64", "linux/amd64"),
        ("linux/riscv64", "linux/riscv64"),
        ("beos/itanium", "beos/itanium"),
        ("macos/arm64", "darwin/arm64"),
        ("MacOS/aarch64", "darwin/arm64"),
        ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ("windows(+win32k)/amd64", "windows(+win32k)/amd64"),
        ("windows(10.0+b+a+b)/amd64", "windows(10.0+a+b)/amd64"),
        ("windows(1%2B2+a%2fb)/amd64", "windows(1%2B2+a%2Fb)/amd64"),
        ("windows()/amd64", "windows/amd64"),
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
    assert_eq!(platform("macos").to_string(), format!("darwin/{}", host.architecture));
    assert_eq!(platform("armel").to_string(), format!("{}/arm/v6", host.os));
    assert_eq!(
        platform("windows(10.0.20348)").to_string(),
        format!("windows(10.0.20348)/{}", host.architecture)
    );
}

#[test]
fn a_machine_runs_what_containerd_says_it_runs_in_that_order() {
    for (machine, runs) in [
        ("amd64", "amd64 386"),
        ("amd64/v1", "amd64 386"),
        ("amd64/v2", "amd64/v2 amd64 386"),
        ("amd64/v4", "amd64/v4 amd64/v3 amd64/v2 amd64 386"),
        ("386", "386"),
        ("arm/v8", "arm/v8 arm/v7 arm/v6 arm/v5"),
        ("arm", "arm/v7 arm/v6 arm/v5"),
        ("arm/v6", "arm/v6 arm/v5"),
        ("arm/v5", "arm/v5"),
        ("arm/v4", "arm/v4"),
        ("arm64", "arm64 arm/v8 arm/v7 arm/v6 arm/v5"),
        ("arm64/v8", "arm64 arm/v8 arm/v7 arm/v6 arm/v5"),
        ("arm64/v8.2", "arm64/v8.2 arm64/v8.1 arm64 arm/v8 arm/v7 arm/v6 arm/v5"),
        (
            "arm64/v9",
            "arm64/v9 arm64/v8.5 arm64/v8.4 arm64/v8.3 arm64/v8.2 arm64/v8.1 arm64 arm/v8 arm/v7 arm/v6 arm/v5",
        ),
        (
            "arm64/v9.6",
            "arm64/v9.6 arm64/v9.5 arm64/v9.4 arm64/v9.3 arm64/v9.2 arm64/v9.1 arm64/v9 arm64/v8.9 arm64/v8.8 \
             arm64/v8.7 arm64/v8.6 arm64/v8.5 arm64/v8.4 arm64/v8.3 arm64/v8.2 arm64/v8.1 arm64 arm/v8 arm/v7 \
             arm/v6 arm/v5",
        ),
        ("s390x", "s390x"),
        ("itanium", "itanium"),
    ] {
        let machine = platform(&format!("linux/{machine}"));
        let kind = |(arch, variant): &(&str, String)| match variant.as_str() {
            "" => (*arch).to_owned(),
            variant => format!("{arch}/{variant}"),
        };
        let found: Vec<String> = kinds_run_by(&machine).iter().map(kind).collect();
        assert_eq!(found.join(" "), runs, "{machine}");
    }
}

#[test]
fn what_is_not_a_platform_is_refused() {
    for bad in [
        "",
        "/",
        "linux/",
        "/amd64",
        "linux/arm/v7/x",
        "linux/arm/",
        "beos",
        "linux(1/amd64",
        "linux/a b",
        "linux(1)x/a",
        "linux(a b)/amd64",
        "linux(%zz)/amd64",
        "linux(%2)/amd64",
        "linux(%00)/amd64",
        "linux(1+)/amd64",
        "linux(+)/a",
    ] {
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
fn windows_runs_its_own_build_and_from_2022_on_also_earlier_ones() {
    let runs = |ours: &str, theirs: &str| {
        let version = |version: &str| platform(&format!("windows({version})/amd64"));
        version(ours).rank(&version(theirs)).is_some()
    };
    for (ours, theirs, expected) in [
        ("10.0.17763.1", "10.0.17763.1935", true),
        ("10.0.17763.1", "10.0.17762.1", false),
        ("10.0.17763", "10.0.20348", false),
        ("10.0.20348.1", "10.0.20348.9", true),
        ("10.0.20348", "10.0.17763", false),
        ("10.0.26100", "10.0.20348", true),
        ("10.0.26100", "10.0.22621", true),
        ("10.0.26100", "10.0.26101", false),
        ("10.0.26100", "6.3.20348", false),
        ("10.0.26100", "next", false),
        ("next", "10.0.17763", true),
    ] {
        assert_eq!(runs(ours, theirs), expected, "{ours} runs {theirs}");
    }
    let built = ["windows(10.0.17763.1)/amd64", "windows(10.0.20348.9)/amd64"];
    assert_eq!(chosen("windows(10.0.20348.1)/amd64", &built), built[1]);
    assert!(chosen("windows(10.0.1.1)/amd64", &built).contains("no manifest"));
    assert_eq!(chosen("windows/amd64", &built), built[0], "who names no version takes the first");
    assert!(
        platform("linux(5)/amd64").rank(&platform("linux(6)/amd64")).is_some(),
        "elsewhere versions are words"
    );
}

#[test]
fn an_attestation_is_chosen_by_nobody() {
    assert!(chosen("unknown/unknown", &["linux/amd64", "unknown/unknown"]).contains("no manifest"));
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
