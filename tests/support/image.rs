//! Small images made in memory: real layers, manifests and indexes, the same bytes every time.

use std::fs;
use std::path::Path;

use async_compression::tokio::write::GzipEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;

/// Whose media types the documents carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Oci,
    Docker,
}

/// A descriptor and the bytes it describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub media_type: &'static str,
    pub digest: String,
    pub bytes: Vec<u8>,
    /// `os/architecture[/variant]`, of a manifest in an index.
    pub platform: Option<String>,
}

/// A compressed layer and the digest of its tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub blob: Blob,
    pub diff_id: String,
}

/// Every blob of an image, each after those it refers to: the last is what a name points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub blobs: Vec<Blob>,
}

impl Blob {
    pub fn new(media_type: &'static str, bytes: Vec<u8>) -> Blob {
        Blob { media_type, digest: sha256(&bytes), bytes, platform: None }
    }

    pub fn descriptor(&self) -> Value {
        let mut descriptor =
            json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()});
        if let Some(platform) = &self.platform {
            let mut parts = platform.splitn(3, '/');
            descriptor["platform"] = json!({"os": parts.next(), "architecture": parts.next()});
            if let Some(variant) = parts.next() {
                descriptor["platform"]["variant"] = variant.into();
            }
        }
        descriptor
    }

    fn document(media_type: &'static str, document: &Value) -> Blob {
        Blob::new(media_type, serde_json::to_vec(document).expect("a value is JSON"))
    }
}

impl Layer {
    /// A gzip layer of these files, in this order, all of one owner and one time.
    pub async fn new(kind: Kind, files: &[(&str, &[u8])]) -> Layer {
        let tar = tar(files).await;
        let diff_id = sha256(&tar);
        let mut gzip = GzipEncoder::new(Vec::new());
        gzip.write_all(&tar).await.expect("memory takes all bytes");
        gzip.shutdown().await.expect("memory takes all bytes");
        Layer { blob: Blob::new(kind.layer(), gzip.into_inner()), diff_id }
    }
}

async fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tokio_tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tokio_tar::Header::new_ustar();
        header.set_entry_type(tokio_tar::EntryType::Regular);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        tar.append_data(&mut header, path, *bytes).await.expect("memory takes all bytes");
    }
    tar.into_inner().await.expect("memory takes all bytes")
}

impl Image {
    /// An image for one platform (`os/architecture[/variant]`).
    pub fn new(kind: Kind, platform: &str, layers: Vec<Layer>) -> Image {
        let mut parts = platform.splitn(3, '/');
        let mut config = json!({
            "os": parts.next(),
            "architecture": parts.next(),
            "created": "1970-01-01T00:00:00Z",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| &l.diff_id).collect::<Vec<_>>()},
            "history": layers.iter().map(|_| json!({"created_by": "a test"})).collect::<Vec<_>>(),
        });
        if let Some(variant) = parts.next() {
            config["variant"] = variant.into();
        }
        let config = Blob::document(kind.config(), &config);
        let mut manifest = Blob::document(
            kind.manifest(),
            &json!({
                "schemaVersion": 2,
                "mediaType": kind.manifest(),
                "config": config.descriptor(),
                "layers": layers.iter().map(|layer| layer.blob.descriptor()).collect::<Vec<_>>(),
            }),
        );
        manifest.platform = Some(platform.to_owned());
        let mut blobs: Vec<Blob> = layers.into_iter().map(|layer| layer.blob).collect();
        blobs.extend([config, manifest]);
        Image { blobs }
    }

    /// An index over images, one for each platform.
    pub fn index(kind: Kind, images: Vec<Image>) -> Image {
        let manifests: Vec<Value> = images.iter().map(|image| image.top().descriptor()).collect();
        let document = json!({"schemaVersion": 2, "mediaType": kind.index(), "manifests": manifests});
        let mut blobs: Vec<Blob> = Vec::new();
        for blob in images.into_iter().flat_map(|image| image.blobs) {
            if !blobs.iter().any(|there| there.digest == blob.digest) {
                blobs.push(blob);
            }
        }
        blobs.push(Blob::document(kind.index(), &document));
        Image { blobs }
    }

    /// An index of small images that share their first layer and differ in their second.
    pub async fn multi_platform(kind: Kind, platforms: &[&str]) -> Image {
        let base = Layer::new(kind, &[("etc/os-release", b"ID=test\n")]).await;
        let mut images = Vec::new();
        for platform in platforms {
            let own = Layer::new(kind, &[("platform", platform.as_bytes())]).await;
            images.push(Image::new(kind, platform, vec![base.clone(), own]));
        }
        Image::index(kind, images)
    }

    /// The manifest or index that stands for the whole.
    pub fn top(&self) -> &Blob {
        self.blobs.last().expect("an image has a manifest")
    }

    /// Writes the image as skopeo's `dir:` form, which takes both kinds, and answers its name for skopeo.
    pub fn write_dir(&self, directory: &Path) -> String {
        let write = |name: &str, bytes: &[u8]| {
            fs::write(directory.join(name), bytes).expect("the directory takes an image");
        };
        fs::create_dir_all(directory).expect("the directory is made");
        write("version", b"Directory Transport Version: 1.1\n");
        write("manifest.json", &self.top().bytes);
        for blob in &self.blobs {
            let hex = blob.digest.strip_prefix("sha256:").expect("made by sha256");
            match blob.platform {
                Some(_) => write(&format!("{hex}.manifest.json"), &blob.bytes),
                None => write(hex, &blob.bytes),
            }
        }
        format!("dir:{}", directory.display())
    }
}

impl Kind {
    fn layer(self) -> &'static str {
        match self {
            Kind::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
            Kind::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Kind::Oci => "application/vnd.oci.image.config.v1+json",
            Kind::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn manifest(self) -> &'static str {
        match self {
            Kind::Oci => "application/vnd.oci.image.manifest.v1+json",
            Kind::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Kind::Oci => "application/vnd.oci.image.index.v1+json",
            Kind::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }
}

/// `sha256:<hex>` of bytes, by no code of the server.
pub fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
