//! The images of `docker save`, old or new: an OCI manifest is made of each.

use serde_json::json;

use super::{Found, Import, Stored, refuse};
use crate::error::{Conflict, Error, Result};
use crate::limits;
use crate::oci::digest::excerpt;
use crate::oci::layout::DockerImage;
use crate::oci::media_type::{OCI_CONFIG, OCI_MANIFEST};
use crate::oci::{Descriptor, ImageConfig, Reference};
use crate::unpack::Compression;

impl Import<'_> {
    /// The images of `docker save`: a manifest is made for each, of its config and its layers as they are.
    pub(super) async fn read_docker(&mut self, bytes: &[u8]) -> Result<Vec<Found>> {
        let images: Vec<DockerImage> =
            serde_json::from_slice(bytes).map_err(|error| refuse(format!("manifest.json: {error}")))?;
        if images.is_empty() || images.len() > limits::INDEX_ENTRIES {
            let (count, most) = (images.len(), limits::INDEX_ENTRIES);
            return Err(refuse(format!("manifest.json lists {count} images: from 1 to {most} are taken")));
        }
        if self.naming.name.is_some() && images.len() > 1 {
            let reason = format!("the archive has {} images, and a name is for one", images.len());
            return Err(Error::invalid_field("name", reason));
        }
        let mut found = Vec::new();
        for image in images {
            let target = self.build_manifest(&image).await?;
            let names = match &self.naming.name {
                Some(name) => vec![name.clone()],
                None => image.repo_tags.iter().map(|tag| full_name(tag)).collect(),
            };
            found.push(Found { names, target });
        }
        Ok(found)
    }

    async fn build_manifest(&mut self, image: &DockerImage) -> Result<Descriptor> {
        let config = self.find(&image.config).await?;
        let bytes =
            self.store.read_blob(&self.caller.namespace, &config.digest, limits::MANIFEST_BYTES).await?;
        let diff_ids = ImageConfig::parse(&bytes)?.diff_ids;
        if diff_ids.len() != image.layers.len() || diff_ids.len() > limits::MANIFEST_LAYERS {
            let (layers, ids, most) = (image.layers.len(), diff_ids.len(), limits::MANIFEST_LAYERS);
            return Err(refuse(format!(
                "the image has {layers} layers in manifest.json and {ids} in its config; at most {most} are taken"
            )));
        }
        let mut layers = Vec::new();
        for (path, diff_id) in image.layers.iter().zip(&diff_ids) {
            let layer = self.find(path).await?;
            // Only of a layer that is not packed is the digest its diff ID.
            let comparable = layer.digest.algorithm() == diff_id.algorithm();
            if layer.compression == Compression::None && comparable && layer.digest != *diff_id {
                return Err(Error::Conflict(Conflict::DigestMismatch {
                    expected: diff_id.to_string(),
                    actual: layer.digest.to_string(),
                }));
            }
            layers.push(Descriptor::new(layer.compression.layer_type()?, layer.digest, layer.size));
        }
        let config = Descriptor::new(OCI_CONFIG, config.digest, config.size);
        let manifest =
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
        let committed = self.put_bytes(vec![manifest.to_string().into()], None, Some(OCI_MANIFEST)).await?;
        let stored = self.count(&committed, Compression::None)?;
        Ok(Descriptor::new(OCI_MANIFEST, stored.digest, stored.size))
    }

    /// The blob that the archive has at a path, through its own links.
    async fn find(&mut self, path: &str) -> Result<Stored> {
        let mut at = path.to_owned();
        for _ in 0..limits::ARCHIVE_LINKS {
            if let Some(stored) = self.files.get(&at) {
                return Ok(stored.clone());
            }
            if let Some(bytes) = self.shelf.remove(&at) {
                let compression = Compression::of(&bytes);
                let committed = self.put_bytes(vec![bytes], None, None).await?;
                let stored = self.count(&committed, compression)?;
                self.files.insert(at, stored.clone());
                return Ok(stored);
            }
            let Some(next) = self.links.get(&at) else { break };
            at = next.clone();
        }
        let shown = excerpt(path);
        Err(refuse(format!("manifest.json lists `{shown}`, which is not in the archive")))
    }
}

/// A name that Docker wrote, in full, as a pull would have named it.
fn full_name(tag: &str) -> String {
    tag.parse::<Reference>().map_or_else(|_| tag.to_owned(), |reference| reference.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_names_are_written_in_full() {
        assert_eq!(full_name("alpine:3.22"), "docker.io/library/alpine:3.22");
        assert_eq!(full_name("x.example/a:1"), "x.example/a:1");
        assert_eq!(full_name("What Is This"), "What Is This");
    }
}
