//! Images whose layers are archives of files, and the snapshots that are made of them.

use std::io::Write;

use orlop::oci::tar::{self, Entry};
use orlop::oci::tree::{Meta, Mtime};
use orlop::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use super::app::TestApp;
use super::fixture_registry::{CONFIG, FixtureRegistry, LAYER, MANIFEST, descriptor, sha256};
use super::pulling::push;

/// A tar, plain.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn entry(self, path: &str, entry: Entry<'_>, mode: u32, bytes: &[u8]) -> Tar {
        self.owned(path, entry, (mode, 0, 0), bytes)
    }

    /// With a mode, an owner and a group.
    pub fn owned(self, path: &str, entry: Entry<'_>, (mode, uid, gid): (u32, u32, u32), bytes: &[u8]) -> Tar {
        let mtime = Mtime { seconds: 1_700_000_000, nanos: 0 };
        self.described(path, entry, &Meta { mode, uid, gid, mtime, ..Meta::default() }, bytes)
    }

    /// With all that is known of it.
    pub fn described(mut self, path: &str, entry: Entry<'_>, meta: &Meta, bytes: &[u8]) -> Tar {
        self.0.extend(tar::full_header(path.as_bytes(), entry, meta));
        self.0.extend(bytes);
        self.0.resize(self.0.len() + tar::padding(bytes.len() as u64), 0);
        self
    }

    pub fn dir(self, path: &str, mode: u32) -> Tar {
        self.entry(path, Entry::Directory, mode, b"")
    }

    pub fn file(self, path: &str, text: &str) -> Tar {
        self.entry(path, Entry::File { size: text.len() as u64 }, 0o644, text.as_bytes())
    }

    pub fn link(self, path: &str, target: &str) -> Tar {
        self.entry(path, Entry::Link(target.as_bytes()), 0o644, b"")
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend(tar::END);
        self.0
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory takes all bytes");
    encoder.finish().expect("memory takes all bytes")
}

/// An image of these tars under `app:v1`; its reference, and its chain IDs.
pub struct Pushed {
    pub registry: FixtureRegistry,
    pub reference: String,
    pub chain: Vec<String>,
    pub blobs: Vec<Vec<u8>>,
    pub config: String,
}

pub async fn pushed(tars: &[Vec<u8>]) -> Pushed {
    let diff_ids: Vec<String> = tars.iter().map(|tar| sha256(tar)).collect();
    pushed_as(tars, &diff_ids).await
}

pub async fn pushed_as(tars: &[Vec<u8>], diff_ids: &[String]) -> Pushed {
    let registry = FixtureRegistry::start().await;
    let blobs: Vec<Vec<u8>> = tars.iter().map(|tar| gzip(tar)).collect();
    let layers: Vec<Value> = blobs
        .iter()
        .map(|blob| {
            registry.push_blob(blob);
            descriptor(LAYER, blob)
        })
        .collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    registry.push_blob(&config);
    let reference = push(&registry, "v1", descriptor(CONFIG, &config), &layers);
    let parsed: Vec<Digest> = diff_ids.iter().map(|text| text.parse().expect("a digest")).collect();
    let chain = orlop::oci::chain_ids(&parsed).iter().map(ToString::to_string).collect();
    Pushed { registry, reference, chain, blobs, config: Digest::of(Algorithm::Sha256, &config).to_string() }
}

/// An image of two platforms under `app:v1`, which share a layer and have one of their own.
pub async fn pushed_platforms() -> FixtureRegistry {
    let registry = FixtureRegistry::start().await;
    let shared = gzip(&Tar::default().file("shared", "s").end());
    let mut manifests = Vec::new();
    for arch in ["amd64", "arm64"] {
        let own = Tar::default().file("arch", arch).end();
        let base = Tar::default().file("shared", "s").end();
        let layer = gzip(&own);
        let config = json!({"architecture": arch, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha256(&base), sha256(&own)]}}).to_string().into_bytes();
        for blob in [&shared, &layer, &config] {
            registry.push_blob(blob);
        }
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config), "layers": [descriptor(LAYER, &shared), descriptor(LAYER, &layer)]}).to_string().into_bytes();
        registry.push_document("app", None, MANIFEST, &manifest);
        manifests.push((format!("linux/{arch}"), manifest));
    }
    let listed: Vec<(&str, &[u8])> =
        manifests.iter().map(|(platform, manifest)| (platform.as_str(), manifest.as_slice())).collect();
    registry.push_index("app", "v1", &listed);
    registry
}

/// A tar of so many small files: it takes a while to unpack.
pub fn many_files(count: usize) -> Vec<u8> {
    (0..count).fold(Tar::default(), |tar, n| tar.file(&format!("d{}/f{n}", n / 100), "x")).end()
}

pub async fn read(app: &TestApp, key: &str, path: &str) -> String {
    let answer = app.get(format!("/api/v1/snapshots/{key}/files/data?path={path}")).await;
    if answer.status == 200 { answer.text() } else { answer.to_string() }
}

pub async fn keys(app: &TestApp) -> Vec<String> {
    let list = app.get("/api/v1/snapshots?sort=created_at").await.expect(200).json();
    let items = list["items"].as_array().expect("a list");
    items.iter().map(|item| item["key"].as_str().expect("a key").to_owned()).collect()
}

pub fn three_layers() -> Vec<Vec<u8>> {
    vec![
        Tar::default()
            .dir("etc", 0o750)
            .file("etc/motd", "one")
            .file("etc/gone", "x")
            .file("bin/sh", "sh")
            .end(),
        Tar::default().file("etc/motd", "two").file("etc/.wh.gone", "").end(),
        Tar::default().file("etc/new", "three").link("bin/bash", "bin/sh").end(),
    ]
}
