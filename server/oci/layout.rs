//! The image layout as files (OCI image spec, image-layout.md), and the index that `docker load` reads beside it.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::Result;
use crate::oci::descriptor::null_is_empty;
use crate::oci::media_type::OCI_INDEX;
use crate::oci::{Descriptor, Digest};

pub const LAYOUT_FILE: &str = "oci-layout";
pub const INDEX_FILE: &str = "index.json";
pub const DOCKER_FILE: &str = "manifest.json";
pub const BLOBS: &str = "blobs/";

/// An image's name, whole, as containerd writes it.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// An image's name within its layout: the whole again, or its tag alone.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What `oci-layout` says.
pub fn layout_file() -> Vec<u8> {
    br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()
}

/// The `index.json` of a layout with one image.
pub fn index_file(name: &str, target: &Descriptor) -> Vec<u8> {
    let mut target = target.clone();
    for key in [IMAGE_NAME, REF_NAME] {
        target.annotations.insert(key.to_owned(), name.to_owned());
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [target]});
    serde_json::to_vec(&index).expect("descriptors are JSON")
}

/// An image as `docker save` lists it: names of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerImage {
    pub config: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub layers: Vec<String>,
}

/// The `manifest.json` of an archive with one image.
pub fn docker_file(image: &DockerImage) -> Vec<u8> {
    serde_json::to_vec(&[image]).expect("texts are JSON")
}

/// Where a layout has a blob.
pub fn path_of(digest: &Digest) -> String {
    format!("{BLOBS}{}/{}", digest.algorithm(), digest.hex())
}

/// The blob that a layout has at this path. `Some(Err)` for a path below `blobs/` that no blob has.
pub fn blob_at(path: &str) -> Option<Result<Digest>> {
    let below = path.strip_prefix(BLOBS)?;
    Some(below.replacen('/', ":", 1).parse())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_blob_is_found_where_it_is_put_and_nowhere_else() {
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, b"x");
            let found = blob_at(&path_of(&digest)).expect("a blob's path").expect("a digest");
            assert_eq!(found, digest);
        }
        assert!(blob_at("index.json").is_none() && blob_at("x/blobs/sha256/aa").is_none());
        for bad in ["blobs/x", "blobs/", "blobs/sha256/aa", "blobs/sha256/../../etc", "blobs/md5/aa"] {
            assert!(blob_at(bad).is_some_and(|found| found.is_err()), "{bad}");
        }
    }
}
