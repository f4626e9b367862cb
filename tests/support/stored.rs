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
