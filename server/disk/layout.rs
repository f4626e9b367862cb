//! What makes the data directory an OCI image layout: `index.json`, and what a start needs to know.

use std::collections::HashMap;
use std::fs;

use oci_spec::image::{
    ANNOTATION_REF_NAME, Descriptor, DescriptorBuilder, ImageIndexBuilder, MediaType, SCHEMA_VERSION,
};

use super::Disk;
use crate::error::{Doing, Error, Result};
use crate::id::{hex, random_bytes};

/// An image as `index.json` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    pub name: String,
    pub media_type: String,
    pub digest: String,
    pub size: u64,
}

impl Disk {
    /// Writes `index.json` (image-spec, *image-layout*): every name, as `org.opencontainers.image.ref.name`.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`; the file that was there stays.
    pub fn write_index(&self, entries: &[IndexEntry]) -> Result<()> {
        let manifests = entries.iter().map(describe).collect::<Result<Vec<_>>>()?;
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests(manifests)
            .build()
            .map_err(unbuilt)?;
        let bytes = serde_json::to_vec_pretty(&index).doing("write index.json")?;
        self.replace_file("index.json", &bytes)
    }
}

fn describe(entry: &IndexEntry) -> Result<Descriptor> {
    DescriptorBuilder::default()
        .media_type(entry.media_type.as_str())
        .digest(entry.digest.parse::<oci_spec::image::Digest>().map_err(unbuilt)?)
        .size(entry.size)
        .annotations(HashMap::from([
            ("io.containerd.image.name".to_owned(), entry.name.clone()),
            (ANNOTATION_REF_NAME.to_owned(), entry.name.clone()),
        ]))
        .build()
        .map_err(unbuilt)
}

fn unbuilt(error: oci_spec::OciSpecError) -> Error {
    Error::Internal { doing: "write index.json".to_owned(), source: Some(error.into()) }
}

/// Names this boot of the machine: what a former boot left in the page cache is gone.
pub fn boot_id() -> String {
    let read = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    // Where the kernel does not say, every start counts as a boot, which trusts the least.
    read.map_or_else(|_| hex(&random_bytes::<16>()), |id| id.trim().to_owned())
}
