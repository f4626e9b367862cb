//! Files as they are listed: of a snapshot, of a layer, of an image that nobody has unpacked.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::limits;
use crate::oci::tree::{DeviceClass, Dir, Found, Inode, Kind, Listed, Merged, Mtime, PATH_BYTES, Tree};

/// One name of a file tree.
#[derive(Debug, Clone, Serialize)]
pub struct FileEntry {
    /// From the root, without a slash before it; empty for the root. Where a name is no UTF-8 text, something stands for
    /// what is not, and `path_base64` is the path.
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    #[serde(rename = "type")]
    pub kind: FileKind,
    /// Permissions, with setuid, setgid and sticky, in octal digits.
    pub mode: String,
    pub uid: u32,
    pub gid: u32,
    /// Of a file, in bytes, with its holes.
    pub size: u64,
    /// RFC 3339, to the nanosecond; none where it is beyond what that can say.
    pub mtime: Option<String>,
    /// Where a symbolic link leads, as it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceNumber>,
    /// How many names the file has in its layer.
    pub links: u32,
    /// Extended attributes, in base 64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
    /// Of a directory in a layer: nothing of lower layers shows through.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub opaque: bool,
    /// A lower layer has it, and `layer` deleted it.
    pub deleted: bool,
    pub layer: FileLayer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Block,
    Character,
    Whiteout,
    /// A further name of a file that a lower layer has.
    Link,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

/// The layer that brought a file, or deleted it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct FileLayer {
    /// Its snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Its blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<String>,
}

/// How a file changed from what is below.
#[derive(Debug, Clone, Serialize)]
pub struct FileChange {
    pub change: ChangeKind,
    #[serde(flatten)]
    pub entry: FileEntry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// Which files of a tree are listed.
#[derive(Debug, Clone)]
pub struct FileQuery {
    pub path: Vec<u8>,
    pub recursive: bool,
    /// Only those behind this one, in the order of the list.
    pub after: Option<Vec<u8>>,
    pub limit: usize,
}

/// A page of files, and the path of its last one where there are more.
#[derive(Debug, Clone)]
pub struct FilePage<T> {
    pub items: Vec<T>,
    pub last: Option<Vec<u8>>,
}

/// Layers on each other, and what they are called.
pub struct Files<'t> {
    pub merged: Merged<'t>,
    pub layers: Vec<FileLayer>,
}

impl Files<'_> {
    /// What is at a path, for a read of it: links are followed, within the root.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn find(&self, path: &[u8]) -> Result<Found<'_>> {
        let found = (path.len() <= PATH_BYTES).then(|| self.merged.find(path, true)).flatten();
        found.ok_or_else(|| Error::not_found("file", String::from_utf8_lossy(path)))
    }

    /// The files at or below a path, in the order of their paths' bytes, part by part: of a directory what it holds, of
    /// anything else itself.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn list(&self, query: &FileQuery) -> Result<FilePage<FileEntry>> {
        let found = self.find_itself(&query.path)?;
        let base = plain(&query.path);
        let mut walk = Walk { files: self, query, items: Vec::new(), more: false };
        match &found.dir {
            Some(dir) => walk.directory(dir, &base),
            None => walk.take(base, &Listed::There(found)),
        }
        Ok(walk.page())
    }

    /// A path that ends in a link is the link, unless a slash says otherwise.
    fn find_itself(&self, path: &[u8]) -> Result<Found<'_>> {
        let found = (path.len() <= PATH_BYTES).then(|| self.merged.find(path, false)).flatten();
        found.ok_or_else(|| Error::not_found("file", String::from_utf8_lossy(path)))
    }

    fn describe(&self, path: &[u8], listed: &Listed<'_>) -> FileEntry {
        let layer_of = |at: usize| self.layers.get(at).cloned().unwrap_or_default();
        match listed {
            Listed::There(found) => {
                let opaque = found.is_opaque_in_itself();
                // The name is of this layer, and the file may be of one below it.
                let file = self.merged.file_of(found);
                let inode = file.map_or(found.inode, |file| file.inode);
                FileEntry { opaque, ..entry_of(path, inode, layer_of(found.layer)) }
            }
            Listed::Deleted { by } => {
                let inode = Inode { meta: Default::default(), kind: Kind::Whiteout, links: 1 };
                FileEntry { deleted: true, ..entry_of(path, &inode, layer_of(*by)) }
            }
        }
    }
}

/// A walk over files, from where a page begins to where it is full.
struct Walk<'f, 't> {
    files: &'f Files<'t>,
    query: &'f FileQuery,
    items: Vec<(Vec<u8>, FileEntry)>,
    more: bool,
}

impl Walk<'_, '_> {
    fn directory(&mut self, dir: &Dir, path: &[u8]) {
        for (name, listed) in self.files.merged.list(dir) {
            if self.more {
                return;
            }
            let path = match path {
                b"" => name.to_vec(),
                path => [path, name].join(&b'/'),
            };
            let below = match &listed {
                Listed::There(Found { dir: Some(below), .. }) if self.query.recursive => Some(below),
                _ => None,
            };
            if self.is_passed(&path, below.is_some()) {
                continue;
            }
            self.take(path.clone(), &listed);
            if let Some(below) = below {
                self.directory(below, &path);
            }
        }
    }

    /// Whether a page before has had this path, and all that is below it.
    fn is_passed(&self, path: &[u8], has_below: bool) -> bool {
        let Some(after) = &self.query.after else { return false };
        let order = parts_of(path).cmp(parts_of(after));
        let leads_there = has_below && after.starts_with(path) && after.get(path.len()) == Some(&b'/');
        order.is_le() && !leads_there && !(has_below && **after == *path)
    }

    fn take(&mut self, path: Vec<u8>, listed: &Listed<'_>) {
        let is_before =
            self.query.after.as_ref().is_some_and(|after| parts_of(&path).cmp(parts_of(after)).is_le());
        if is_before || self.more {
            return;
        }
        if self.items.len() == self.query.limit {
            self.more = true;
            return;
        }
        let entry = self.files.describe(&path, listed);
        self.items.push((path, entry));
    }

    fn page(self) -> FilePage<FileEntry> {
        let last = self.more.then(|| self.items.last().map(|(path, _)| path.clone())).flatten();
        FilePage { items: self.items.into_iter().map(|(_, entry)| entry).collect(), last }
    }
}

fn parts_of(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
}

/// A path as entries have it: without slashes at its ends, and without parts that are nothing.
fn plain(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in parts_of(path) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

fn entry_of(path: &[u8], inode: &Inode, layer: FileLayer) -> FileEntry {
    let text = std::str::from_utf8(path).ok();
    let kind = match &inode.kind {
        Kind::Directory(_) => FileKind::Directory,
        Kind::File(_) => FileKind::File,
        Kind::Symlink(_) => FileKind::Symlink,
        Kind::Fifo => FileKind::Fifo,
        Kind::Device(device) => match device.class {
            DeviceClass::Block => FileKind::Block,
            DeviceClass::Character => FileKind::Character,
        },
        Kind::Whiteout => FileKind::Whiteout,
        Kind::LowerLink(_) => FileKind::Link,
    };
    let size = match &inode.kind {
        Kind::File(content) => content.size,
        _ => 0,
    };
    let target = match &inode.kind {
        Kind::Symlink(target) | Kind::LowerLink(target) => Some(String::from_utf8_lossy(target).into_owned()),
        _ => None,
    };
    let device = match &inode.kind {
        Kind::Device(device) => Some(DeviceNumber { major: device.major, minor: device.minor }),
        _ => None,
    };
    let meta = &inode.meta;
    let xattrs = meta.xattrs.iter();
    FileEntry {
        path: String::from_utf8_lossy(path).into_owned(),
        path_base64: text.is_none().then(|| STANDARD.encode(path)),
        kind,
        mode: format!("{:04o}", meta.mode),
        uid: meta.uid,
        gid: meta.gid,
        size,
        mtime: time_text(meta.mtime),
        target,
        device,
        links: inode.links,
        xattrs: xattrs
            .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), STANDARD.encode(value)))
            .collect(),
        opaque: false,
        deleted: false,
        layer,
    }
}

fn time_text(time: Mtime) -> Option<String> {
    let nanos = i32::try_from(time.nanos).ok()?;
    jiff::Timestamp::new(time.seconds, nanos).ok().map(|time| format!("{time:.9}"))
}

/// What the top layer changed of what is below it.
///
/// # Errors
/// `TooLarge` for more changes than a layer may have entries.
pub fn list_changes(top: &Tree, below: &Merged<'_>, layer: &FileLayer) -> Vec<FileChange> {
    let mut changes = Changes { top, layer, found: Vec::new() };
    let root = below.root();
    changes.directory(crate::oci::tree::ROOT, Some((below, root.dir.as_ref())), b"");
    changes.found.truncate(limits::LAYER_ENTRIES);
    changes.found
}

struct Changes<'c> {
    top: &'c Tree,
    layer: &'c FileLayer,
    found: Vec<FileChange>,
}

type Below<'b, 't> = Option<(&'b Merged<'t>, Option<&'b Dir>)>;

impl Changes<'_> {
    fn directory(&mut self, id: crate::oci::tree::Id, below: Below<'_, '_>, path: &[u8]) {
        let Some(directory) = self.top.directory(id) else { return };
        let lower = |name: &[u8]| {
            let (merged, dir) = below?;
            merged.child(dir?, name)
        };
        if let Some((merged, Some(dir))) = below.filter(|_| directory.opaque) {
            for (name, listed) in merged.list(dir) {
                if let Listed::There(found) = listed
                    && self.top.child(id, name).is_none()
                {
                    self.add(ChangeKind::Deleted, &join(path, name), found.inode);
                }
            }
        }
        for (name, child) in directory.iter() {
            let path = join(path, name);
            let (inode, lower) = (self.top.inode(child), lower(name));
            match (&inode.kind, &lower) {
                (Kind::Whiteout, Some(lower)) => self.add(ChangeKind::Deleted, &path, lower.inode),
                (Kind::Whiteout, None) => {}
                (Kind::Directory(own), Some(Found { dir: Some(dir), inode: before, .. })) => {
                    if !own.implied && (inode.meta != before.meta || own.opaque) {
                        self.add(ChangeKind::Modified, &path, inode);
                    }
                    let merged = below.map(|(merged, _)| merged);
                    self.directory(child, merged.map(|merged| (merged, Some(dir))), &path);
                }
                (Kind::Directory(_), _) => {
                    let change = if lower.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
                    self.add(change, &path, inode);
                    self.directory(child, None, &path);
                }
                (_, lower) => {
                    let change = if lower.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
                    self.add(change, &path, inode);
                }
            }
        }
    }

    fn add(&mut self, change: ChangeKind, path: &[u8], inode: &Inode) {
        let deleted = change == ChangeKind::Deleted;
        let entry = FileEntry { deleted, ..entry_of(path, inode, self.layer.clone()) };
        self.found.push(FileChange { change, entry });
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path {
        b"" => name.to_vec(),
        path => [path, name].join(&b'/'),
    }
}
