//! Imports: an archive of images becomes blobs, as it comes, and at its end names.
//!
//! Entries come in any order, and what they are for is said in one of them, which may be the last. So each file is stored
//! where it is met, under a lease that the import renews; what turns out not to belong to an image goes with the lease.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::Serialize;
use serde_json::json;

use crate::error::{Conflict, Error, Result, Unprocessable};
use crate::id::new_id;
use crate::jobs::Jobs;
use crate::limits;
use crate::oci::digest::excerpt;
use crate::oci::layout::{DOCKER_FILE, DockerImage, IMAGE_NAME, INDEX_FILE, LAYOUT_FILE, REF_NAME, blob_at};
use crate::oci::media_type::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use crate::oci::{Algorithm, Descriptor, Digest, Document, Hasher, ImageConfig, Reference};
use crate::store::{
    Caller, Committed, Expiry, Held, Image, ImageSource, Labels, Lease, NameTaken, NewImage, NewLease,
    NewTarget, Put, PutBody, PutStream, Store, Target, check_image_name,
};
use crate::unpack::{Archive, Compression, Entry, EntryKind};

/// A file up to this many bytes is taken whole and written in one go; a longer one streams to the disk.
const IN_MEMORY: u64 = 1 << 20;
/// What is kept in memory of files that are most likely of no use, together.
const SHELF_BYTES: u64 = 4 << 20;
/// `oci-layout` is one short line.
const LAYOUT_BYTES: u64 = 4 << 10;
/// Links that lead to links.
const HOPS: usize = 8;
/// The first bytes of a file, which tell its compression.
const PREFIX: usize = 6;

/// What images are to be called.
#[derive(Debug, Clone, Default)]
pub struct Naming {
    /// The name of the one image; of a layout with several, the name of its index.
    pub name: Option<String>,
    /// What stands before a tag that is a name by itself.
    pub base_name: Option<String>,
}

/// What came of an archive.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Imported {
    /// In the archive's order.
    pub images: Vec<Image>,
    /// What has no name in the archive: it is stored, and goes with its lease.
    pub unnamed: Vec<Target>,
    pub stored_blobs: u64,
    pub stored_bytes: u64,
    /// What was in the archive and here before.
    pub existing_blobs: u64,
    pub existing_bytes: u64,
}

/// An import at work.
struct Import<'a> {
    store: &'a Store,
    /// With the lease of the import.
    caller: Caller,
    naming: Naming,
    files: HashMap<String, Stored>,
    links: HashMap<String, String>,
    /// Files that are stored only when the archive's list names them.
    shelf: HashMap<String, Bytes>,
    shelf_left: u64,
    is_layout: bool,
    index: Option<Vec<u8>>,
    docker: Option<Vec<u8>>,
    done: Imported,
}

/// A file of the archive that is a blob now.
#[derive(Clone)]
struct Stored {
    digest: Digest,
    size: u64,
    compression: Compression,
}

/// An image that the archive has.
struct Found {
    names: Vec<String>,
    target: Descriptor,
}

impl Jobs {
    /// Stores what is in an archive, and names its images; a name that is taken moves.
    ///
    /// # Errors
    /// `Invalid` for a name, and when the body breaks off; `NotFound` for the lease; `TooMany`; `TooLarge`;
    /// `Unprocessable` for an archive that is damaged, is none of images, or leads out of itself; `Conflict` (digest
    /// mismatch) for a blob that is not what it is named; `OutOfSpace`, `Unavailable`. Blobs stored before go with
    /// their lease.
    pub async fn import_images<S, E>(
        &self,
        caller: &Caller,
        naming: Naming,
        body: S,
    ) -> Result<(Imported, Held)>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let retry_after = limits::UNAVAILABLE_RETRY;
        let busy = |_| Error::TooMany { what: "imports", limit: limits::IMPORTS, retry_after };
        let _turn = self.0.imports.try_acquire().map_err(busy)?;
        if let Some(name) = &naming.name {
            check_image_name(name)?;
        }
        if let Some(base) = &naming.base_name {
            check_image_name(base)
                .map_err(|_| Error::invalid_field("base_name", "it is no name of an image"))?;
        }
        let store = &self.0.store;
        let lease = self.lease_for_import(caller).await?;
        let import = Import {
            store,
            caller: Caller { lease: Some(lease.clone()), ..caller.clone() },
            naming,
            files: HashMap::new(),
            links: HashMap::new(),
            shelf: HashMap::new(),
            shelf_left: SHELF_BYTES,
            is_layout: false,
            index: None,
            docker: None,
            done: Imported::default(),
        };
        let own = caller.lease.is_none();
        let done = tokio::select! {
            biased;
            done = import.run(body) => done?,
            ended = self.renew_import(&caller.namespace, &lease), if own => return Err(ended),
        };
        // The grace time begins when the last of it is here.
        let held = match own {
            true => self.extend(&caller.namespace, &lease).await?,
            false => store.find_lease(&caller.namespace, &lease).await?,
        };
        Ok((done, Held { lease, expires_at: held.expires_at }))
    }

    /// The caller's lease, which must be there, or one of the import's own.
    async fn lease_for_import(&self, caller: &Caller) -> Result<String> {
        let store = &self.0.store;
        match &caller.lease {
            Some(lease) => Ok(store.find_lease(&caller.namespace, lease).await?.id),
            None => {
                let expiry = Expiry::After(store.settings().grace_lease);
                let id = Some(new_id("grace", self.0.clock.now()));
                let lease = NewLease { id, expiry, labels: Labels::new(), flat: false };
                Ok(store.create_lease(&caller.namespace, lease, "grace").await?.id)
            }
        }
    }

    async fn extend(&self, namespace: &str, lease: &str) -> Result<Lease> {
        let store = &self.0.store;
        store.renew_lease(namespace, lease, store.settings().grace_lease).await
    }

    /// Renews the lease for as long as the import works; the error that ends it when there is nothing to renew.
    async fn renew_import(&self, namespace: &str, lease: &str) -> Error {
        let grace = self.0.store.settings().grace_lease;
        let mut pause = grace / 2;
        loop {
            tokio::time::sleep(pause).await;
            match self.extend(namespace, lease).await {
                Ok(_) => pause = grace / 2,
                Err(error @ Error::NotFound { .. }) => return error,
                // A database that is away has the rest of the time to come back.
                Err(_) => pause = (grace / 16).max(Duration::from_millis(100)),
            }
        }
    }
}

impl Import<'_> {
    async fn run<S, E>(mut self, body: S) -> Result<Imported>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut archive = Archive::open(body).await?;
        while let Some(entry) = archive.next().await? {
            self.take(entry).await?;
        }
        archive.finish().await?;
        let found = match (self.is_layout, self.index.take(), self.docker.take()) {
            (true, Some(index), _) => self.read_layout(&index).await?,
            (_, _, Some(docker)) => self.read_docker(&docker).await?,
            (true, None, None) => return Err(refuse("the layout has no index.json")),
            (false, _, None) => {
                return Err(refuse(
                    "this is no archive of images: it has neither oci-layout and index.json nor manifest.json",
                ));
            }
        };
        check_names(&found)?;
        // Names come last: one that is there stands for something that is stored.
        for Found { names, target } in found {
            if names.is_empty() {
                self.done.unnamed.push(target_of(&target));
            }
            for name in names {
                self.name(name, &target).await?;
            }
        }
        Ok(self.done)
    }

    async fn take(&mut self, entry: Entry) -> Result<()> {
        let path = entry.path.clone();
        match (&entry.kind, path.as_str()) {
            (EntryKind::Directory, _) => {}
            (EntryKind::Link(target), _) => {
                self.links.insert(path, target.clone());
            }
            (EntryKind::File, LAYOUT_FILE) => {
                check_layout(&entry.read("oci-layout", LAYOUT_BYTES).await?)?;
                self.is_layout = true;
            }
            (EntryKind::File, INDEX_FILE) => {
                self.index = Some(entry.read("index.json", limits::MANIFEST_BYTES).await?);
            }
            (EntryKind::File, DOCKER_FILE) => {
                self.docker = Some(entry.read("manifest.json", limits::MANIFEST_BYTES).await?);
            }
            // Of older forms, which say less than the files that they are beside: unless the list names them after all.
            (EntryKind::File, "repositories") => {}
            (EntryKind::File, other)
                if (other.ends_with("/VERSION") || other.ends_with("/json"))
                    && entry.size <= self.shelf_left =>
            {
                self.shelf_left -= entry.size;
                let bytes = entry.read("a file of the archive", SHELF_BYTES).await?;
                self.shelf.insert(path, bytes.into());
            }
            (EntryKind::File, other) => {
                let expected = blob_at(other).transpose().map_err(|error| {
                    refuse(format!("the archive has a file below blobs/ that no blob is named by: {error}"))
                })?;
                let stored = self.store_file(entry, expected).await?;
                self.files.insert(path, stored);
            }
        }
        Ok(())
    }

    async fn store_file(&mut self, mut entry: Entry, expected: Option<Digest>) -> Result<Stored> {
        let mut first = Vec::new();
        let mut prefix = Vec::new();
        while prefix.len() < PREFIX
            && let Some(bytes) = entry.next_bytes().await?
        {
            prefix.extend_from_slice(&bytes[..bytes.len().min(PREFIX)]);
            first.push(bytes);
        }
        let compression = Compression::of(&prefix);
        if let Some(digest) = &expected
            && let Some(existing) = self.store.put_existing(&self.caller, digest).await?
        {
            // The bytes are not needed; that they are what they are named is still the archive's promise.
            check_bytes(&mut entry, first, digest).await?;
            return self.count(&existing, compression);
        }
        let committed = match entry.size <= IN_MEMORY {
            true => {
                while let Some(bytes) = entry.next_bytes().await? {
                    first.push(bytes);
                }
                self.put_bytes(first, expected, None).await?
            }
            false => self.put_stream(entry, first, expected).await?,
        };
        self.count(&committed, compression)
    }

    async fn put_bytes(
        &self,
        chunks: Vec<Bytes>,
        expected: Option<Digest>,
        media_type: Option<&str>,
    ) -> Result<Committed> {
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let media_type = media_type.map(str::to_owned);
        let body = PutBody { chunks, expected, algorithm, media_type, labels: Labels::new() };
        self.store.put_bytes(&self.caller, body).await
    }

    async fn put_stream(
        &self,
        entry: Entry,
        first: Vec<Bytes>,
        expected: Option<Digest>,
    ) -> Result<Committed> {
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let length = Some(entry.size);
        let put = PutStream { expected, algorithm, media_type: None, labels: Labels::new(), length };
        // The store only hears that the bytes broke off; why they did is known here.
        let mut failed = None;
        let state = (first.into_iter(), entry, &mut failed);
        let bytes = unfold(state, async |(mut first, mut entry, failed)| {
            if let Some(bytes) = first.next() {
                return Some((Ok(bytes), (first, entry, failed)));
            }
            match entry.next_bytes().await {
                Ok(Some(bytes)) => Some((Ok(bytes), (first, entry, failed))),
                Ok(None) => None,
                Err(error) => {
                    *failed = Some(error);
                    Some((Err(()), (first, entry, failed)))
                }
            }
        });
        let committed = self.store.put_stream(&self.caller, put, Box::pin(bytes)).await;
        match failed {
            Some(error) => Err(error),
            None => committed,
        }
    }

    fn count(&mut self, committed: &Committed, compression: Compression) -> Result<Stored> {
        let size = committed.content.size;
        let (blobs, bytes) = match committed.put {
            Put::New => (&mut self.done.stored_blobs, &mut self.done.stored_bytes),
            Put::Existed => (&mut self.done.existing_blobs, &mut self.done.existing_bytes),
        };
        *blobs += 1;
        *bytes += size;
        Ok(Stored { digest: committed.content.digest.parse()?, size, compression })
    }

    /// The images of a layout: what its index lists.
    async fn read_layout(&mut self, bytes: &[u8]) -> Result<Vec<Found>> {
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

    /// The images of `docker save`: a manifest is made for each, of its config and its layers as they are.
    async fn read_docker(&mut self, bytes: &[u8]) -> Result<Vec<Found>> {
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
        for _ in 0..HOPS {
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

    async fn name(&mut self, name: String, target: &Descriptor) -> Result<()> {
        let source = ImageSource::Target(NewTarget {
            digest: target.digest.clone(),
            media_type: Some(target.media_type.clone()),
            size: Some(target.size),
            annotations: BTreeMap::new(),
        });
        let new = NewImage { name, source, labels: Labels::new() };
        let (image, _) = self.store.create_image(&self.caller, new, NameTaken::Move).await?;
        self.store.hint_media_types(&image).await?;
        self.done.images.push(image);
        Ok(())
    }
}

/// # Errors
/// `Unprocessable` unless it says a version of the layout that is known.
fn check_layout(bytes: &[u8]) -> Result<()> {
    let said: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| refuse(format!("oci-layout: {error}")))?;
    match said["imageLayoutVersion"].as_str() {
        Some(version) if version.starts_with("1.") => Ok(()),
        _ => Err(refuse("oci-layout does not say a version 1 of the image layout")),
    }
}

/// # Errors
/// `Conflict` (digest mismatch) when the rest of a file, after what was read of it, is not what it is named.
async fn check_bytes(entry: &mut Entry, first: Vec<Bytes>, digest: &Digest) -> Result<()> {
    let mut hasher = Hasher::new(digest.algorithm());
    first.iter().for_each(|bytes| hasher.update(bytes));
    while let Some(bytes) = entry.next_bytes().await? {
        hasher.update(&bytes);
    }
    let actual = hasher.digest();
    if actual == *digest {
        return Ok(());
    }
    let (expected, actual) = (digest.to_string(), actual.to_string());
    Err(Error::Conflict(Conflict::DigestMismatch { expected, actual }))
}

/// One name is for one image.
fn check_names(found: &[Found]) -> Result<()> {
    let mut known: HashMap<&str, &Digest> = HashMap::new();
    for Found { names, target } in found {
        for name in names {
            check_image_name(name).map_err(|error| refuse(format!("a name in the archive: {error}")))?;
            if known.insert(name, &target.digest).is_some_and(|other| *other != target.digest) {
                return Err(refuse(format!(
                    "the archive has two images of the name `{name}`: `name` imports its index as one"
                )));
            }
        }
    }
    Ok(())
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

/// A name that Docker wrote, in full, as a pull would have named it.
fn full_name(tag: &str) -> String {
    tag.parse::<Reference>().map_or_else(|_| tag.to_owned(), |reference| reference.to_string())
}

fn target_of(descriptor: &Descriptor) -> Target {
    Target {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: descriptor.size,
        annotations: descriptor.annotations.clone(),
    }
}

fn refuse(reason: impl Into<String>) -> Error {
    Error::Unprocessable(Unprocessable::ValidationFailed { reason: reason.into() })
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

    #[test]
    fn dockers_names_are_written_in_full() {
        assert_eq!(full_name("alpine:3.22"), "docker.io/library/alpine:3.22");
        assert_eq!(full_name("x.example/a:1"), "x.example/a:1");
        assert_eq!(full_name("What Is This"), "What Is This");
    }
}
