//! Archives that want out, want more than there is, or are not what they say: refused in words, and nothing of them is a
//! name afterwards.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::app::{TestApp, story};
use crate::support::eventually::eventually;
use crate::support::image::{Image, Kind};
use crate::support::stored::{Tar, silent};

const IMPORT: &str = "/api/v1/images/import";

/// A pax record of one key.
fn pax(key: &str, value: &str) -> Vec<u8> {
    let mut length = key.len() + value.len() + 4;
    while length != format!("{length} {key}={value}\n").len() {
        length = format!("{length} {key}={value}\n").len();
    }
    format!("{length} {key}={value}\n").into_bytes()
}

async fn refused(app: &TestApp, what: &str, archive: Vec<u8>) -> String {
    let answer = app.post(IMPORT).body(&archive).await;
    assert!((400..500).contains(&answer.status), "{what}: {answer}");
    assert_eq!(app.get("/api/v1/images").await.json()["items"], json!([]), "{what}");
    let detail = answer.json()["detail"].as_str().expect("a reason").to_owned();
    assert!(detail.len() < 500 && !detail.contains('\u{1b}'), "{what}: {detail}");
    format!("{answer}: {detail}")
}

/// Every file below a directory, with its bytes; the database's own, and the list that is written behind, left out.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("text").to_owned();
            match path.symlink_metadata().expect("it is there") {
                is if is.is_dir() => open.push(path),
                _ if name.starts_with("orlop.db") || name.starts_with("index.json") => {}
                is if is.is_symlink() => drop(found.insert(path, b"a link".to_vec())),
                _ => drop(found.insert(path.clone(), std::fs::read(&path).expect("a file"))),
            }
        }
    }
    found
}

/// Files below a directory, and the bytes that the file system has set aside for them.
fn space(root: &Path) -> (usize, u64) {
    let files = files(root);
    let set_aside = |path: &PathBuf| path.metadata().map_or(0, |is| is.blocks() * 512);
    (files.len(), files.keys().map(set_aside).sum())
}

/// Places outside of the data directory that the archives below want to reach, as they are.
fn outside() -> [bool; 3] {
    ["/etc/cron.d/x", "/x", "/blobs"].map(|path| Path::new(path).symlink_metadata().is_ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_leads_out_is_refused() {
    // Deep enough that no path below leads out of what is looked at; and with something to write over.
    let root = tempfile::tempdir().expect("a directory");
    let data = root.path().join("a/b/c/data");
    std::fs::create_dir_all(&data).expect("a directory");
    for above in data.ancestors().skip(1).take(4) {
        std::fs::write(above.join("x"), "canary").expect("a file");
    }
    let app = &TestApp::in_directory(&data, &[]).await;
    let before = (files(root.path()), outside());
    assert!(before.0.len() > 4);
    for path in [
        "../x",
        "a/../../x",
        "/etc/cron.d/x",
        "..",
        "a/..",
        "blobs/sha256/../../../x",
        "blobs/sha256/x",
        "blobs/x",
    ] {
        let said = refused(app, path, Tar::default().file(path, b"x").end()).await;
        assert!(said.starts_with("422 validation-failed"), "{path}: {said}");
    }
    for (path, target) in [("a", "/etc/passwd"), ("a", "../x"), ("a/b", "../../x"), ("a/b/c", "../../../etc")]
    {
        let said = refused(app, target, Tar::default().link(path, target).end()).await;
        assert!(said.starts_with("422 validation-failed"), "{target}: {said}");
    }
    // A hard link's target is a path of the archive.
    for target in ["/etc/passwd", "../x"] {
        refused(app, target, Tar::default().entry(b'1', "a", target, b"").end()).await;
    }
    refused(
        app,
        "pax path",
        Tar::default().entry(b'x', "p", "", &pax("path", "../../x")).file("a", b"x").end(),
    )
    .await;
    refused(
        app,
        "long name",
        Tar::default().entry(b'L', "././@LongLink", "", b"../../x\0").file("a", b"x").end(),
    )
    .await;
    assert_eq!((files(root.path()), outside()), before);
    app.stop().await;
}

story!(an_archive_of_things_that_no_image_has_is_refused, async |app| {
    for kind in [b'3', b'4', b'6', b'S', b'g', b'V', b'M', b'Z'] {
        let said =
            refused(app, &char::from(kind).to_string(), Tar::default().entry(kind, "a", "", b"").end()).await;
        assert!(said.starts_with("422 "), "{kind}: {said}");
    }
    // A hole of a terabyte, of which nothing was sent.
    let sparse = [
        pax("GNU.sparse.major", "1"),
        pax("GNU.sparse.minor", "0"),
        pax("GNU.sparse.realsize", "1099511627776"),
    ];
    let tar = Tar::default().entry(b'x', "p", "", &sparse.concat()).file("a", b"1\n0\n0\n");
    refused(app, "sparse", tar.end()).await;
    let twice = Tar::default().file("a.tar", b"one").file("./a.tar", b"two").end();
    assert!(refused(app, "twice", twice).await.contains("twice"));
});

story!(an_archive_that_is_cut_or_damaged_is_refused, async |app| {
    let image = Image::multi_platform(Kind::Oci, &["linux/amd64"]).await;
    let mut listed = silent(image.top());
    listed["annotations"] = json!({"io.containerd.image.name": "a"});
    // The list last, as some write it, and first, as most do: then all that is missing is at the end.
    let last = Tar::default().blobs(&image.blobs).layout(&[listed.clone()]).end();
    let whole = Tar::default().layout(&[listed]).blobs(&image.blobs).end();
    for archive in [&last, &whole] {
        for cut in (0..=archive.len() - 1024).step_by(512).flat_map(|at| [at, at + 100]) {
            refused(app, &format!("cut at {cut}"), archive[..cut].to_vec()).await;
        }
    }
    // What ends it is one block of zeros; that there are two is a custom. Behind the first nothing may go on.
    let said = refused(app, "no end", whole[..whole.len() - 1024].to_vec()).await;
    assert!(said.starts_with("422 validation-failed") && said.contains("cut short"), "{said}");
    let mut hole = whole.clone();
    hole[1024..1536].fill(0);
    assert!(refused(app, "hole", hole).await.contains("after its end"));
    let mut gzip = async_compression::tokio::write::GzipEncoder::new(Vec::new());
    gzip.write_all(&whole[..whole.len() - 1024]).await.expect("memory");
    gzip.shutdown().await.expect("memory");
    assert!(refused(app, "packed", gzip.into_inner()).await.contains("cut short"));
    app.post(IMPORT).namespace("other").body(&whole[..whole.len() - 512]).await.expect(201);
    let mut flipped = whole.clone();
    flipped[3] ^= 1;
    assert!(refused(app, "checksum", flipped).await.contains("damaged"));
    for (what, bytes) in
        [("nothing", &b""[..]), ("text", b"hello"), ("xz", b"\xfd7zXZ\0more"), ("bzip2", b"BZh9more")]
    {
        refused(app, what, bytes.to_vec()).await;
    }
    for (what, bytes) in
        [("gzip", &b"\x1f\x8b\x08\0\0\0\0\0\0\0garbage garbage"[..]), ("zstd", b"\x28\xb5\x2f\xfdgarbage")]
    {
        refused(app, what, bytes.to_vec()).await;
    }
});

story!(what_is_no_archive_is_told_by_what_it_looks_like, async |app| {
    let mut gzip = async_compression::tokio::write::GzipEncoder::new(Vec::new());
    gzip.write_all(b"<!DOCTYPE html><title>Sign in</title>").await.expect("memory");
    gzip.shutdown().await.expect("memory");
    let image = json!({"schemaVersion": 2, "config": {}, "layers": []}).to_string();
    let long = "words and words\n".repeat(100);
    for (bytes, words) in [
        (&b""[..], "it is empty"),
        (b"<!DOCTYPE html>\n<html>", "an HTML page"),
        (b"\xef\xbb\xbf <html lang=en>", "an HTML page"),
        (b"<?xml version=\"1.0\"?>", "XML"),
        (image.as_bytes(), "JSON"),
        (b"PK\x03\x04and more", "a zip file"),
        (b"\x7fELF\x02\x01\x01", "a program"),
        (b"hsqs and more", "a squashfs"),
        (long.as_bytes(), "text, which begins with `words and words"),
        (&[7; 4096], "bytes that begin with 07 07 07 07"),
        (&[7; 20], "bytes that begin with 07 07 07 07"),
        (&gzip.into_inner(), "a gzip of an HTML page"),
    ] {
        let said = refused(app, words, bytes.to_vec()).await;
        let expected = format!("422 validation-failed: this is no archive of images: {}", words);
        assert!(said.starts_with(expected.trim_end()) || said.contains(words), "{said}");
        assert!(said.starts_with("422 validation-failed: this is no archive of images: "), "{said}");
    }
});

story!(sizes_that_are_only_said_cost_nothing, async |app| {
    let before = files(app.data_dir());
    for size in [1 << 40, 1 << 62, u64::MAX >> 1, u64::MAX] {
        for (kind, path) in [
            (b'0', "blobs/sha256/aa"),
            (b'0', "index.json"),
            (b'0', "manifest.json"),
            (b'0', "oci-layout"),
            (b'0', "a/layer.tar"),
            (b'L', "././@LongLink"),
            (b'x', "pax"),
            (b'5', "folder"),
        ] {
            let tar = Tar::default().header(kind, path, "", size).bytes(b"little").cut();
            refused(app, &format!("{path} of {size}"), tar).await;
            assert!(files(app.data_dir()) == before, "{path} of {size} left something behind");
        }
    }
    // The size in pax is what counts, and it is not believed either.
    let tar =
        Tar::default().entry(b'x', "p", "", &pax("size", "9223372036854775807")).file("a/layer.tar", b"x");
    refused(app, "pax size", tar.end()).await;
    refused(app, "broken pax", Tar::default().entry(b'x', "p", "", b"7 size\n").file("a", b"x").end()).await;
    assert!(files(app.data_dir()) == before);
    // Nor is anything set aside while the rest may still come.
    let size: u64 = 1 << 40;
    let tar = Tar::default().header(b'0', "a/layer.tar", "", size).bytes(&[7; 512 << 10]).cut();
    let mut sending = app.raw().await.begin("POST", IMPORT, &[], size).await;
    sending.send(&tar).await;
    let ingests = app.data_dir().join("ingests");
    let written = async || Some(space(&ingests)).filter(|(files, bytes)| *files > 0 && *bytes > 0);
    let (count, bytes) = eventually("some of it is on the disk", written).await;
    assert!(count <= 2 && bytes <= 2 << 20, "{count} files with {bytes} bytes");
    sending.hang_up();
    eventually("it is gone again", async || (files(app.data_dir()) == before).then_some(())).await;
});

story!(headers_and_entries_have_an_end, async |app| {
    let long = vec![b'a'; 2 << 20];
    for kind in [b'L', b'K', b'x'] {
        let said =
            refused(app, "long", Tar::default().entry(kind, "l", "", &long).file("a", b"x").end()).await;
        assert!(said.starts_with("413 too-large"), "{said}");
    }
    let path = "p/".repeat(600) + "x";
    let said =
        refused(app, "path", Tar::default().entry(b'L', "l", "", path.as_bytes()).file("a", b"x").end())
            .await;
    assert!(said.contains("1024 bytes"), "{said}");
    let many = (0..20_001).fold(Tar::default(), |tar, at| tar.entry(b'5', &format!("d{at}/"), "", b""));
    assert!(refused(app, "many", many.end()).await.contains("20000 entries"));
    let giant = format!("[{}]", "{\"Config\":\"x\"},".repeat(400_000));
    assert!(
        refused(app, "list", Tar::default().file("manifest.json", giant.as_bytes()).end())
            .await
            .starts_with("413")
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for path in ["manifest.json", "oci-layout", "index.json"] {
        refused(app, path, Tar::default().file(path, deep.as_bytes()).end()).await;
    }
});

story!(who_still_sends_an_archive_that_is_refused_hears_why, async |app| {
    let archive = Tar::default().file("../x", b"x").file("a/layer.tar", &vec![7; 32 << 20]).end();
    for _ in 0..3 {
        assert!(refused(app, "early", archive.clone()).await.contains("leads up"));
    }
});

story!(an_archive_that_unpacks_without_an_end_is_refused, async |app| {
    // Zstd packs a run of zeros to nearly nothing; gzip reaches a thousand only nearly.
    let mut zstd = async_compression::tokio::write::ZstdEncoder::new(Vec::new());
    let size: u64 = 1 << 30;
    zstd.write_all(&Tar::default().header(b'0', "a/layer.tar", "", size).cut()).await.expect("memory");
    let zeros = vec![0; 1 << 20];
    for _ in 0..128 {
        zstd.write_all(&zeros).await.expect("memory");
    }
    zstd.shutdown().await.expect("memory");
    let said = refused(app, "bomb", zstd.into_inner()).await;
    assert!(said.contains("1000 times"), "{said}");
    assert!(std::fs::read_dir(app.data_dir().join("ingests")).expect("the ingests").next().is_none());
});

story!(a_document_that_is_not_what_the_list_says_gets_no_name, async |app| {
    let image = Image::multi_platform(Kind::Oci, &["linux/amd64"]).await;
    let mut longer = silent(image.top());
    longer["size"] = json!(image.top().bytes.len() + 1);
    let mut other = silent(image.top());
    other["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
    let layer = silent(&image.blobs[0]);
    let mut as_manifest = layer.clone();
    as_manifest["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
    for (what, entry) in
        [("longer", longer), ("other kind", other), ("layer", layer), ("layer as manifest", as_manifest)]
    {
        let mut entry = entry;
        entry["annotations"] = json!({"io.containerd.image.name": "a"});
        refused(app, what, Tar::default().blobs(&image.blobs).layout(&[entry]).end()).await;
    }
    // Of a refused archive the blobs are here, for a while: this image was in none.
    let other_image = Image::multi_platform(Kind::Oci, &["linux/arm64"]).await;
    refused(app, "missing", Tar::default().layout(&[silent(other_image.top())]).end()).await;
    let newer = Tar::default().file("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#).end();
    assert!(refused(app, "version", newer).await.contains("version 1"));
    refused(app, "no index", Tar::default().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).end())
        .await;
});
