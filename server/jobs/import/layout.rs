//! The images of an OCI image layout: what its index lists.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Found, Import, refuse};
use crate::error::{Error, Result, Unprocessable};
use crate::limits;
use crate::oci::layout::{IMAGE_NAME, REF_NAME};
use crate::oci::media_type::OCI_INDEX;
use crate::oci::{Descriptor, Document};
use crate::unpack::Compression;

impl Import<'_> {
    /// The images of a layout: what its index lists.
    pub(super) async fn read_layout(&mut self, bytes: &[u8]) -> Result<Vec<Found>> {
        let index = match Document::parse(bytes, Some(OCI_INDEX)) {
            Ok(Document::Index(index)) => index,
            Ok(Document::Manifest(_)) => {
                return Err(refuse("index.json is a manifest, and should be an index"));
            }
            Err(error) => return Err(refuse(format!("index.json: {error}"))),
        };
        let entries: Vec<&Descriptor> =
            index.manifests.iter().filter(|entry| entry.kind().is_document()).collect();
        let mut found = Vec::new();
        match (self.naming.name.clone(), entries.as_slice()) {
            (_, []) => return Err(refuse("index.json lists no image")),
            (Some(name), [only]) => found.push(Found { names: vec![name], target: (*only).clone() }),
            (Some(name), _) => {
                let chunks = vec![Bytes::copy_from_slice(bytes)];
                let committed = self.put_bytes(chunks, None, Some(OCI_INDEX)).await?;
                let stored = self.count(&committed, Compression::None)?;
                let target = Descriptor::new(OCI_INDEX, stored.digest, stored.size);
                found.push(Found { names: vec![name], target });
            }
            (None, entries) => found.extend(entries.iter().map(|entry| Found {
                names:
                    layout_name(&entry.annotations, self.naming.base_name.as_deref()).into_iter().collect(),
                target: (*entry).clone(),
            })),
        }
        for entry in entries {
            self.check_document(entry).await?;
        }
        Ok(found)
    }

    /// What an index lists is stored, is as long as it says, and is a document.
    async fn check_document(&self, entry: &Descriptor) -> Result<()> {
        let digest = &entry.digest;
        if self.store.put_existing(&self.caller, digest).await?.is_none() {
            return Err(refuse(format!(
                "index.json lists {digest}, which is neither in the archive nor stored"
            )));
        }
        let not = |reason: String| {
            Error::Unprocessable(Unprocessable::NotAManifest { digest: digest.to_string(), reason })
        };
        let read = self.store.read_blob(&self.caller.namespace, digest, limits::MANIFEST_BYTES).await;
        let bytes = match read {
            Err(Error::TooLarge { limit, .. }) => {
                return Err(not(format!("it is longer than {limit} bytes")));
            }
            read => read?,
        };
        if bytes.len() as u64 != entry.size {
            let (actual, size) = (bytes.len(), entry.size);
            return Err(not(format!("it has {actual} bytes, and index.json says {size}")));
        }
        Document::parse(&bytes, Some(&entry.media_type)).map(drop).map_err(|error| not(error.to_string()))
    }
}

/// # Errors
/// `Unprocessable` unless it says a version of the layout that is known.
pub(super) fn check_layout(bytes: &[u8]) -> Result<()> {
    let said: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| refuse(format!("oci-layout: {error}")))?;
    match said["imageLayoutVersion"].as_str() {
        Some(version) if version.starts_with("1.") => Ok(()),
        _ => Err(refuse("oci-layout does not say a version 1 of the image layout")),
    }
}

/// An image's name in a layout. What is only a tag gets the base in front.
fn layout_name(annotations: &BTreeMap<String, String>, base: Option<&str>) -> Option<String> {
    let said = |key| annotations.get(key).filter(|name| !name.is_empty());
    if let Some(name) = said(IMAGE_NAME) {
        return Some(name.clone());
    }
    let name = said(REF_NAME)?;
    Some(match base {
        Some(base) if !name.contains(['/', ':', '@']) => format!("{base}:{name}"),
        Some(_) | None => name.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_alone_gets_the_base_in_front() {
        let of = |pairs: &[(&str, &str)], base| {
            let annotations =
                pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            layout_name(&annotations, base)
        };
        let base = Some("docker.io/library/a");
        assert_eq!(of(&[(REF_NAME, "1.2")], base).as_deref(), Some("docker.io/library/a:1.2"));
        assert_eq!(of(&[(REF_NAME, "1.2")], None).as_deref(), Some("1.2"));
        assert_eq!(of(&[(REF_NAME, "x.example/b:1")], base).as_deref(), Some("x.example/b:1"));
        assert_eq!(of(&[(REF_NAME, "1.2"), (IMAGE_NAME, "c:1")], base).as_deref(), Some("c:1"));
        assert_eq!(of(&[(REF_NAME, "")], base), None);
    }
}
