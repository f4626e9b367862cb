//! Images of a test, as they come into the server: blob by blob, then the name.

use serde_json::{Value, json};

use super::app::{TestApp, sha256};
use super::image::{Blob, Image};

impl TestApp {
    /// Stores these blobs, each with its media type.
    pub async fn put_blobs<'b>(&self, blobs: impl IntoIterator<Item = &'b Blob>) {
        for blob in blobs {
            let path = format!("/api/v1/content/{}/data", blob.digest);
            let answer = self.put(path).body(&blob.bytes).await;
            assert!(matches!(answer.status, 200 | 201), "{answer}");
        }
    }

    /// Names what a blob holds; the path of the image.
    pub async fn name_blob(&self, name: &str, top: &Blob) -> String {
        let target = json!({"digest": top.digest, "media_type": top.media_type, "size": top.bytes.len()});
        let made = self.post("/api/v1/images").json(json!({"name": name, "target": target})).await;
        made.expect(201).place().to_owned()
    }

    /// Stores a whole image and names it; its path.
    pub async fn put_image(&self, name: &str, image: &Image) -> String {
        self.put_blobs(&image.blobs).await;
        self.name_blob(name, image.top()).await
    }
}

/// A document of a test's own making.
pub fn document(media_type: &'static str, document: &Value) -> Blob {
    let bytes = serde_json::to_vec(document).expect("a value is JSON");
    Blob { media_type, digest: sha256(&bytes), bytes, platform: None }
}

/// As [`Blob::descriptor`], of a blob whose descriptor says nothing of its platform.
pub fn silent(blob: &Blob) -> Value {
    let mut descriptor = blob.descriptor();
    descriptor.as_object_mut().expect("an object").remove("platform");
    descriptor
}

/// A tar that a test puts together, entry by entry: also one that no tool would write.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn file(self, path: &str, bytes: &[u8]) -> Tar {
        self.entry(b'0', path, "", bytes)
    }

    pub fn link(self, path: &str, target: &str) -> Tar {
        self.entry(b'2', path, target, b"")
    }

    /// A blob where a layout has it.
    pub fn blob(self, blob: &Blob) -> Tar {
        self.file(&blob.digest.replacen("sha256:", "blobs/sha256/", 1), &blob.bytes)
    }

    pub fn blobs<'b>(self, blobs: impl IntoIterator<Item = &'b Blob>) -> Tar {
        blobs.into_iter().fold(self, Tar::blob)
    }

    /// What makes it a layout: the version, and what it lists.
    pub fn layout(self, manifests: &[Value]) -> Tar {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        self.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", index.to_string().as_bytes())
    }

    pub fn entry(self, kind: u8, path: &str, target: &str, bytes: &[u8]) -> Tar {
        self.header(kind, path, target, bytes.len() as u64).bytes(bytes)
    }

    /// A header alone, whatever follows it.
    pub fn header(mut self, kind: u8, path: &str, target: &str, size: u64) -> Tar {
        let mut block = [0u8; 512];
        block[..path.len()].copy_from_slice(path.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[108..115].copy_from_slice(b"0000000");
        block[116..123].copy_from_slice(b"0000000");
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
        block[136..147].copy_from_slice(b"00000000000");
        block[156] = kind;
        block[157..157 + target.len()].copy_from_slice(target.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend(block);
        self
    }

    /// Bytes, up to a whole block.
    pub fn bytes(mut self, bytes: &[u8]) -> Tar {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// The archive with its end.
    pub fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }

    /// The archive without its end.
    pub fn cut(self) -> Vec<u8> {
        self.0
    }
}
