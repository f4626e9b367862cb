//! The map in ARCHITECTURE.md is true: who may import whom, and which door each dependency comes in by.

use std::fs;
use std::path::Path;

/// The words that every room may use; they stand for no I/O of their own.
const COMMON: &str = "error clock id limits oci";

/// A room, and what of ours it may import besides [`COMMON`] and itself.
const IMPORTS: [(&str, &str); 14] = [
    ("main.rs", "app cli"),
    ("oci/", ""),
    ("disk/", ""),
    ("db/", "shutdown"),
    ("registry/", ""),
    ("unpack/", ""),
    ("events.rs", ""),
    ("shutdown.rs", ""),
    ("store/", "disk db events shutdown"),
    ("jobs/", "store registry unpack events shutdown telemetry"),
    ("http/", "store jobs events shutdown config telemetry"),
    ("cli/", "app config store"),
    ("http/api/", "store jobs events shutdown config telemetry http"),
    ("http/ui/", "store jobs events shutdown config telemetry http"),
];

/// A dependency, and the places that may speak of it.
const DOORS: [(&str, &str); 23] = [
    ("axum::", "http/"),
    ("askama", "http/ui/"),
    ("sqlx::", "db/"),
    ("reqwest::", "registry/ cli/"),
    ("tokio_tar", "unpack/"),
    ("async_compression", "unpack/"),
    ("flate2", "unpack/"),
    ("libz_rs_sys", "unpack/inflate.rs"),
    ("allow(unsafe_code)", "disk/cached_read.rs unpack/inflate.rs"),
    ("tar_core", "unpack/"),
    ("zstd::", "unpack/"),
    ("tokio::spawn(", "shutdown.rs"),
    ("task::spawn(", "shutdown.rs"),
    // The stop waits for what these two do in the tasks that wait for it.
    ("task::spawn_blocking(", "shutdown.rs disk/flush.rs http/blob.rs"),
    ("std::fs", "disk/ unpack/ cli/ config.rs config/ registry/hosts.rs"),
    ("tokio::fs", "disk/ unpack/ cli/ config.rs config/ registry/docker_config.rs"),
    ("rustix::fs", "disk/ unpack/"),
    ("os::unix::fs", "disk/ unpack/ cli/ config.rs config/"),
    ("SystemTime::now", "clock.rs app.rs telemetry.rs"),
    (
        "Instant::now",
        "clock.rs app.rs telemetry.rs http/connection.rs http/connection/ http/guard.rs registry/blob.rs \
         registry/transport.rs registry/probe.rs",
    ),
    ("Timestamp::now", "clock.rs app.rs telemetry.rs"),
    ("crate::http::ui", "http/mod.rs http/routes.rs http/error.rs http/ui/"),
    ("crate::http::api", "http/mod.rs http/routes.rs http/error.rs http/api/"),
];

/// What is wrong with one source file, named by its path below `server/`. Its tests are free.
fn complaints(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !text.starts_with("//! ") {
        complaints.push(format!("{path}: says not what it is for: begin with `//! …`"));
    }
    let lines = text.lines().enumerate().take_while(|(_, line)| line.trim() != "#[cfg(test)]");
    for (number, line) in lines.filter(|(_, line)| !line.trim_start().starts_with("//")) {
        let closed = DOORS.iter().filter(|(name, places)| line.contains(name) && !stands_in(path, places));
        let doors = closed.map(|(name, places)| format!("`{name}` belongs in {places}"));
        let imports = imported(line).filter(|name| !may_import(path, name));
        let imports = imports.map(|name| match name {
            "" => "names several modules of ours: one `use crate::…` for each".to_owned(),
            name => format!("may not import `{name}`"),
        });
        complaints.extend(doors.chain(imports).map(|what| format!("{path}:{}: {what}", number + 1)));
    }
    complaints
}

fn stands_in(path: &str, places: &str) -> bool {
    places.split(' ').any(|place| path == place || (place.ends_with('/') && path.starts_with(place)))
}

/// The modules of ours that a line names; the empty name for a group in braces.
fn imported(line: &str) -> impl Iterator<Item = &str> {
    let word = |rest: &'_ str| rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    line.split("crate::").skip(1).chain(line.split("orlop::").skip(1)).map(move |rest| &rest[..word(rest)])
}

fn may_import(path: &str, name: &str) -> bool {
    // The last fitting room is the innermost. A file in no room (app.rs, main.rs) holds the rooms together.
    let room = IMPORTS.iter().rfind(|(room, _)| stands_in(path, room));
    room.is_none_or(|(room, allowed)| {
        let own = room.split(['/', '.']).next();
        own == Some(name) || COMMON.split(' ').chain(allowed.split_whitespace()).any(|word| word == name)
    })
}

fn sources(directory: &Path, found: &mut Vec<(String, String)>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("server");
    for entry in fs::read_dir(directory).expect("server/ can be read") {
        let path = entry.expect("server/ can be read").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            let name = path.strip_prefix(&root).expect("below server/").display().to_string();
            found.push((name, fs::read_to_string(&path).expect("a source is UTF-8")));
        }
    }
}

#[test]
fn every_source_keeps_to_its_room_and_its_doors() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("server"), &mut found);
    assert!(found.len() > 5, "the sources are where this test looks");
    let wrong: Vec<String> = found.iter().flat_map(|(path, text)| complaints(path, text)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Limits that are the defaults of settings: a test of the settings holds the two together.
const DEFAULTS: [&str; 3] = ["BLOB_BYTES", "PULLS", "PULL_LAYERS"];

/// `/api/v1/system/info` prints them all: one that nothing keeps to would be a false promise.
#[test]
fn every_limit_is_kept_somewhere() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("server"), &mut found);
    let (table, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|(path, _)| path == "limits.rs");
    let names = table[0].1.lines().filter_map(|line| line.split_once(" \"")).map(|(name, _)| name.trim());
    let names: Vec<&str> =
        names.filter(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_' || b == b'2')).collect();
    assert!(names.len() > 30, "{names:?}");
    // A name stands for the limit where the file imports it, be it alone or in braces.
    let stands_for_it = |text: &str, name: &str| {
        text.contains(&format!("limits::{name}"))
            || text.split("use crate::limits::{").nth(1).is_some_and(|rest| {
                rest.split('}').next().unwrap_or_default().split(',').any(|word| word.trim() == name)
            })
    };
    let is_kept =
        |name: &&str| others.iter().any(|(path, text)| !path.contains("/tests") && stands_for_it(text, name));
    let idle: Vec<&str> =
        names.into_iter().filter(|name| !DEFAULTS.contains(name) && !is_kept(name)).collect();
    assert_eq!(idle, [""; 0]);
}

#[test]
fn a_line_in_the_wrong_room_is_found() {
    let bad = [
        ("oci/digest.rs", "use crate::store::Store;"),
        ("store/content.rs", "let row = sqlx::query(SQL);"),
        ("store/gc.rs", "use crate::jobs::Jobs;"),
        ("http/api/content.rs", "use crate::db::blobs;"),
        ("http/api/content.rs", "use crate::http::ui::page;"),
        ("http/ui/front.rs", "use crate::http::api::content;"),
        ("jobs/pull.rs", "tokio::spawn(async move { run().await });"),
        ("jobs/convert.rs", "let read = tokio::task::spawn_blocking(work).await;"),
        ("store/content.rs", "std::fs::rename(from, to)?;"),
        ("unpack/tar.rs", "#![allow(unsafe_code)]"),
        ("unpack/gzip.rs", "use libz_rs_sys::inflate;"),
        ("db/leases.rs", "let now = SystemTime::now();"),
        ("events.rs", "use crate::store::Store;"),
        ("events.rs", "use crate::{error::Error, store::Store};"),
        ("main.rs", "use orlop::db::Db;"),
    ];
    for (path, line) in bad {
        let found = complaints(path, &format!("//! A file.\n{line}\n"));
        assert!(found.len() == 1 && found[0].starts_with(&format!("{path}:2: ")), "{line}: {found:?}");
    }
    assert_eq!(complaints("id.rs", "use std::fmt;").len(), 1, "a file that does not say what it is for");
}

#[test]
fn a_line_in_its_room_a_comment_and_a_test_are_left_alone() {
    let good =
        "//! A file.\n// sqlx::query\nuse crate::error::Error;\n#[cfg(test)]\nuse crate::jobs::Jobs;\n";
    assert_eq!(complaints("store/gc.rs", good), [""; 0]);
    assert_eq!(complaints("db/mod.rs", "//! SQL.\nuse sqlx::Row;\nuse crate::db::pool;"), [""; 0]);
    assert_eq!(complaints("app.rs", "//! All.\nuse crate::http::routes; use crate::db::Db;"), [""; 0]);
}
