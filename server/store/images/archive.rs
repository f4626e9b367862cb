//! An image as one file: its image layout as a tar, every byte of which is known before it is read.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::oci::layout::{
    BLOBS, DOCKER_FILE, DockerImage, INDEX_FILE, LAYOUT_FILE, docker_file, index_file, layout_file, path_of,
};
use crate::oci::manifest::Role;
use crate::oci::media_type::{Kind, is_image_config};
use crate::oci::{Algorithm, Descriptor, Digest, Hasher, Platform, Reference, tar};
use crate::store::images::check::{Wholeness, judge, parts};
use crate::store::images::tree::{Node, Tree, incomplete};
use crate::store::{Blob, Store};

/// How much of an image goes into its archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveScope {
    /// All of it.
    Whole,
    /// The manifest for one platform: the archive is of that alone.
    Platform(Platform),
    /// Its indexes, and of its manifests those that are here with all that they name.
    Present,
}

/// The archive of an image: what it is made of, in order. Nothing of it is in memory but headers and small files.
#[derive(Debug)]
pub struct Archive {
    pub namespace: String,
    /// A name for the file, of plain letters.
    pub file_name: String,
    pub size: u64,
    /// The digest of all that decides its bytes.
    pub tag: String,
    pieces: Vec<(u64, Piece)>,
}

/// Some bytes of an archive.
#[derive(Debug, Clone)]
pub enum Piece {
    Text(Bytes),
    /// From a place in a blob, so many bytes.
    Blob {
        digest: Digest,
        start: u64,
        length: u64,
    },
}

impl Piece {
    pub fn length(&self) -> u64 {
        match self {
            Piece::Text(text) => text.len() as u64,
            Piece::Blob { length, .. } => *length,
        }
    }

    fn cut(&self, from: u64, to: u64) -> Piece {
        match self {
            Piece::Text(text) => Piece::Text(text.slice(from as usize..to as usize)),
            Piece::Blob { digest, start, .. } => {
                Piece::Blob { digest: digest.clone(), start: start + from, length: to - from }
            }
        }
    }
}

impl Archive {
    /// What the bytes from `start` up to `end` are made of. The caller has seen to it that they lie within.
    pub fn pieces(&self, start: u64, end: u64) -> impl Iterator<Item = Piece> {
        let first = self.pieces.partition_point(|(at, piece)| at + piece.length() <= start);
        let touched = self.pieces[first..].iter().take_while(move |(at, _)| *at < end);
        touched.map(move |(at, piece)| piece.cut(start.saturating_sub(*at), piece.length().min(end - at)))
    }
}

impl Store {
    /// # Errors
    /// `NotFound`; `NoPlatform`; `Conflict` (incomplete) when a blob that belongs into it is not here; `Unprocessable`
    /// for what is no image, or one past a limit.
    pub async fn open_archive(&self, namespace: &str, id: &str, scope: ArchiveScope) -> Result<Archive> {
        let image = self.find_image(namespace, id).await?;
        let tree = self.read_tree(&image.namespace, &image.target).await?;
        let chosen = choose(&tree, &scope)?;
        let top = match &scope {
            ArchiveScope::Whole | ArchiveScope::Present => &tree.nodes[0],
            ArchiveScope::Platform(platform) => &tree.nodes[tree.find_place(platform)?],
        };
        let mut target = top.descriptor.clone();
        if top.platform.is_some() && matches!(scope, ArchiveScope::Platform(_)) {
            target.platform.clone_from(&top.platform);
        }
        let mut writer = Writer::default();
        writer.file(LAYOUT_FILE, layout_file());
        writer.file(INDEX_FILE, index_file(&image.name, &target));
        if let Some(listed) = docker_image(&image.name, &chosen) {
            writer.file(DOCKER_FILE, docker_file(&listed));
        }
        writer.directory(BLOBS);
        for algorithm in Algorithm::ALL {
            if chosen.iter().any(|node| node.descriptor.digest.algorithm() == algorithm) {
                writer.directory(&format!("{BLOBS}{algorithm}/"));
            }
        }
        for node in &chosen {
            // The record's own size: a document may say another, and then the archive would be out of step.
            let blob = self.open_blob(namespace, &node.descriptor.digest).await?;
            writer.blob(&blob);
        }
        Ok(writer.finish(namespace, &image.name))
    }
}

/// What goes into the archive: documents first, then configs, then layers, in the order of the documents. Without what
/// a pull skips.
fn choose<'t>(tree: &'t Tree, scope: &ArchiveScope) -> Result<Vec<&'t Node>> {
    let mut chosen: Vec<&Node> = match scope {
        ArchiveScope::Whole => tree.nodes.iter().collect(),
        ArchiveScope::Platform(platform) => parts(tree, tree.find_place(platform)?).collect(),
        ArchiveScope::Present => present(tree)?,
    };
    chosen.retain(|node| !node.is_skipped());
    let missing: Vec<&Node> = chosen.iter().copied().filter(|node| !node.present).collect();
    if !missing.is_empty() {
        return Err(incomplete(&missing));
    }
    chosen.sort_by_key(|node| match node.role {
        Role::Index => 0,
        Role::Manifest => 1,
        Role::Config => 2,
        Role::Layer | Role::Other => 3,
    });
    Ok(chosen)
}

/// The indexes that are here, and what else is here as a whole.
fn present(tree: &Tree) -> Result<Vec<&Node>> {
    let mut wanted = HashSet::new();
    let mut whole = false;
    for (at, node) in tree.nodes.iter().enumerate() {
        match node.role {
            Role::Index if node.present => drop(wanted.insert(at)),
            Role::Manifest | Role::Other if judge(tree, at).state == Wholeness::Complete => {
                whole = true;
                wanted.insert(at);
                wanted.extend(&node.children);
            }
            Role::Index | Role::Manifest | Role::Config | Role::Layer | Role::Other => {}
        }
    }
    if !whole {
        return Err(incomplete(&tree.nodes.iter().filter(|node| !node.present).collect::<Vec<_>>()));
    }
    Ok(tree.nodes.iter().enumerate().filter(|(at, _)| wanted.contains(at)).map(|(_, node)| node).collect())
}

/// The image as `docker load` reads it: there is one manifest, and it is of something that runs.
fn docker_image(name: &str, chosen: &[&Node]) -> Option<DockerImage> {
    let mut manifests = chosen.iter().filter_map(|node| Some((node, node.manifest.as_ref()?)));
    let (Some((node, manifest)), None) = (manifests.next(), manifests.next()) else { return None };
    let config = &manifest.config;
    // What is of no better type than any bytes is a config if it says what the image runs on.
    let runs =
        config.kind() == Kind::Config || (is_image_config(&config.media_type) && node.platform.is_some());
    // Docker would look for a layer that was skipped, and has another way to get it when it is told nothing.
    let has = |digest: &Digest| chosen.iter().any(|node| node.descriptor.digest == *digest);
    let whole = manifest.layers.iter().all(|layer| has(&layer.digest));
    if !runs || !whole {
        return None;
    }
    let path = |descriptor: &Descriptor| path_of(&descriptor.digest);
    // Docker names images by references with a tag alone.
    let reference = name.parse::<Reference>().ok();
    let reference = reference.filter(|reference| reference.tag().is_some() && reference.digest().is_none());
    Some(DockerImage {
        config: path(&manifest.config),
        repo_tags: reference.iter().map(ToString::to_string).collect(),
        layers: manifest.layers.iter().map(path).collect(),
    })
}

/// An archive that is being put together.
#[derive(Default)]
struct Writer {
    size: u64,
    pieces: Vec<(u64, Piece)>,
    /// Small pieces that are one with the next.
    text: Vec<u8>,
}

impl Writer {
    fn file(&mut self, path: &str, bytes: Vec<u8>) {
        let size = bytes.len() as u64;
        self.text.extend(tar::header(path, tar::Entry::File { size }));
        self.text.extend(bytes);
        self.pad(size);
    }

    fn directory(&mut self, path: &str) {
        self.text.extend(tar::header(path, tar::Entry::Directory));
    }

    fn blob(&mut self, blob: &Arc<Blob>) {
        self.text.extend(tar::header(&path_of(&blob.digest), tar::Entry::File { size: blob.size }));
        self.end_text();
        if blob.size > 0 {
            let piece = Piece::Blob { digest: blob.digest.clone(), start: 0, length: blob.size };
            self.push(piece);
        }
        self.pad(blob.size);
    }

    fn pad(&mut self, size: u64) {
        self.text.resize(self.text.len() + tar::padding(size), 0);
    }

    fn end_text(&mut self) {
        if !self.text.is_empty() {
            let text = std::mem::take(&mut self.text);
            self.push(Piece::Text(text.into()));
        }
    }

    fn push(&mut self, piece: Piece) {
        let at = self.size;
        self.size += piece.length();
        self.pieces.push((at, piece));
    }

    fn finish(mut self, namespace: &str, name: &str) -> Archive {
        self.text.extend(tar::END);
        self.end_text();
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for (_, piece) in &self.pieces {
            match piece {
                Piece::Text(text) => hasher.update(text),
                Piece::Blob { digest, .. } => hasher.update(digest.as_str().as_bytes()),
            }
        }
        Archive {
            namespace: namespace.to_owned(),
            file_name: file_name(name),
            size: self.size,
            tag: hasher.digest().hex().to_owned(),
            pieces: self.pieces,
        }
    }
}

/// `docker.io/library/alpine:3.22` → `alpine-3.22.tar`.
fn file_name(name: &str) -> String {
    const LONGEST: usize = 100;
    let last = name.rsplit('/').next().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' };
    let plain: String = last.chars().take(LONGEST).map(plain).collect();
    match plain.trim_matches(['.', '-']) {
        "" => "image.tar".to_owned(),
        plain => format!("{plain}.tar"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_an_archive_is_the_pieces_that_it_touches() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let mut writer = Writer::default();
        writer.file("a", b"hello".to_vec());
        writer.end_text();
        writer.push(Piece::Blob { digest, start: 0, length: 700 });
        writer.pad(700);
        let archive = writer.finish("default", "docker.io/library/alpine:3.22");
        assert_eq!(archive.size, 2 * 512 + 1024 + 1024);
        assert_eq!(archive.file_name, "alpine-3.22.tar");
        for start in (0..archive.size).step_by(7) {
            for end in (start + 1..=archive.size).step_by(13) {
                let lengths: u64 = archive.pieces(start, end).map(|piece| piece.length()).sum();
                assert_eq!(lengths, end - start);
                assert!(archive.pieces(start, end).all(|piece| piece.length() > 0));
            }
        }
        let [Piece::Text(text), Piece::Blob { start, length, .. }] =
            &archive.pieces(1_023, 1_030).collect::<Vec<_>>()[..]
        else {
            panic!("a text and a blob")
        };
        assert_eq!((text.len(), *start, *length), (1, 0, 6));
    }

    #[test]
    fn a_file_is_named_by_plain_letters() {
        for (name, file) in [
            ("../..", "image.tar"),
            ("a\"b;c/ü", "image.tar"),
            ("app:1.2@sha256:ab", "app-1.2-sha256-ab.tar"),
        ] {
            assert_eq!(file_name(name), file);
        }
    }
}
