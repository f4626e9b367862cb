//! What a directory holds, as the tree of a layer: for snapshots that somebody filled through a mount.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fgetxattr, flistxattr, lgetxattr, llistxattr,
    major, minor, openat, openat2, readlinkat, statat,
};
use rustix::io::Errno;

use crate::error::{Doing, Error, Result, Unprocessable};
use crate::limits;
use crate::oci::tree::{
    Content, DEPTH, Device, DeviceClass, Id, Kind, Meta, Mtime, ROOT, Tree, Usage, Xattrs,
};

/// What the kernel's overlay file system, and we, note in a layer for ourselves.
const NOTES: [&[u8]; 3] = [b"trusted.", b"user.overlay.", b"user.containers."];
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];
/// The owner and mode of a file that could not be given them.
const STAT: &str = "user.containers.override_stat";

const DOING: &str = "read a directory of a snapshot";

/// Reads the tree of a directory in the form of overlay file systems, and what it takes on the disk. Sockets are left
/// out: nobody listens at them.
///
/// # Errors
/// `ValidationFailed` for more files, or deeper directories, than a layer may have; `Internal` where the disk fails.
pub fn read_tree(root: BorrowedFd<'_>) -> Result<(Tree, Usage)> {
    let own = openat(root, c".", directory_flags(), Mode::empty()).doing(DOING)?;
    let (meta, opaque) = describe_directory(own.as_fd())?;
    let mut reading = Reading {
        root,
        tree: Tree::of_root(meta, opaque),
        usage: Usage { bytes: 0, inodes: 1 },
        known: HashMap::new(),
    };
    let mut left = vec![(ROOT, 0)];
    while let Some((id, depth)) = left.pop() {
        reading.read_directory(id, depth, &mut left)?;
    }
    Ok((reading.tree, reading.usage))
}

struct Reading<'r> {
    root: BorrowedFd<'r>,
    tree: Tree,
    usage: Usage,
    /// Files of several names, by their numbers on the disk.
    known: HashMap<(u64, u64), Id>,
}

impl Reading<'_> {
    fn read_directory(&mut self, id: Id, depth: u16, left: &mut Vec<(Id, u16)>) -> Result<()> {
        if depth > DEPTH {
            return Err(too_much("has directories inside each other deeper than a layer may"));
        }
        let handle = self.open(id)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&handle).doing(DOING)? {
            let entry = entry.doing(DOING)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort();
        for name in names {
            let stat = statat(&handle, &*name, AtFlags::SYMLINK_NOFOLLOW).doing(DOING)?;
            if let Some(child) = self.add(id, &handle, &name, &stat)? {
                left.push((child, depth + 1));
            }
            if self.usage.inodes > limits::LAYER_ENTRIES as u64 {
                return Err(too_much("has more files than a layer may"));
            }
        }
        Ok(())
    }

    fn open(&self, id: Id) -> Result<OwnedFd> {
        if id == ROOT {
            return openat(self.root, c".", directory_flags(), Mode::empty()).doing(DOING);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        openat2(self.root, self.tree.path_of(id), directory_flags(), Mode::empty(), resolve).doing(DOING)
    }

    /// Adds one name; the id of a directory, to be read in its turn.
    fn add(&mut self, parent: Id, handle: &OwnedFd, name: &[u8], stat: &Stat) -> Result<Option<Id>> {
        let number = (stat.st_dev, stat.st_ino);
        let kind = FileType::from_raw_mode(stat.st_mode);
        if let Some(id) = self.known.get(&number).filter(|_| kind != FileType::Directory) {
            self.tree.add_name(parent, name, *id);
            return Ok(None);
        }
        let plain = |kind| (kind, read_links_meta(handle, name, stat));
        let (kind, meta) = match kind {
            FileType::Directory => {
                let opened = openat(handle, name, directory_flags(), Mode::empty()).doing(DOING)?;
                let (meta, opaque) = describe_directory(opened.as_fd())?;
                self.usage.inodes += 1;
                return Ok(Some(self.tree.add_directory(parent, name, meta, opaque)));
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = openat(handle, name, flags, Mode::empty()).doing(DOING)?;
                let size = stat.st_size.unsigned_abs();
                let stored = size.min(stat.st_blocks.unsigned_abs().saturating_mul(512));
                self.usage.bytes = self.usage.bytes.saturating_add(stored);
                (
                    Kind::File(Content { size, offset: 0, parts: None }),
                    meta_of(stat, read_xattrs(file.as_fd())?),
                )
            }
            FileType::Symlink => {
                let target = readlinkat(handle, name, Vec::new()).doing(DOING)?;
                plain(Kind::Symlink(target.into_bytes().into()))
            }
            FileType::Fifo => plain(Kind::Fifo),
            FileType::CharacterDevice if stat.st_rdev == 0 => (Kind::Whiteout, Meta::default()),
            FileType::CharacterDevice => plain(device(DeviceClass::Character, stat)),
            FileType::BlockDevice => plain(device(DeviceClass::Block, stat)),
            FileType::Socket | FileType::Unknown => return Ok(None),
        };
        self.usage.inodes += 1;
        let id = self.tree.add_file(parent, name, kind, meta);
        if stat.st_nlink > 1 {
            self.known.insert(number, id);
        }
        Ok(None)
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn too_much(what: &str) -> Error {
    let reason = format!("the snapshot {what}");
    Error::Unprocessable(Unprocessable::ValidationFailed { reason })
}

fn device(class: DeviceClass, stat: &Stat) -> Kind {
    Kind::Device(Device { class, major: major(stat.st_rdev), minor: minor(stat.st_rdev) })
}

/// What a directory is, and whether it is opaque.
fn describe_directory(handle: BorrowedFd<'_>) -> Result<(Meta, bool)> {
    let stat = rustix::fs::fstat(handle).doing(DOING)?;
    let xattrs = read_xattrs(handle)?;
    let opaque = xattrs
        .iter()
        .any(|(name, value)| OPAQUE.iter().any(|opaque| **name == *opaque.as_bytes()) && **value == *b"y");
    Ok((meta_of(&stat, xattrs), opaque))
}

/// The metadata of a file with these attributes, notes among them.
fn meta_of(stat: &Stat, xattrs: Xattrs) -> Meta {
    let noted = xattrs.iter().find(|(name, _)| **name == *STAT.as_bytes());
    let noted = noted.and_then(|(_, value)| read_stat(value));
    let (uid, gid, mode) = noted.unwrap_or((stat.st_uid, stat.st_gid, stat.st_mode & 0o7777));
    let is_note = |name: &[u8]| NOTES.iter().any(|note| name.starts_with(note));
    let xattrs = xattrs.into_iter().filter(|(name, _)| !is_note(name)).collect();
    let mtime = Mtime { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    Meta { mode, uid, gid, mtime, xattrs }
}

/// `UID:GID:MODE`, the mode in octal digits, and maybe more that is not read.
fn read_stat(value: &[u8]) -> Option<(u32, u32, u32)> {
    let mut parts = std::str::from_utf8(value).ok()?.split(':');
    let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((uid, gid, u32::from_str_radix(parts.next()?, 8).ok()? & 0o7777))
}

fn read_xattrs(file: BorrowedFd<'_>) -> Result<Xattrs> {
    collect_xattrs(|list| flistxattr(file, list), |name, value| fgetxattr(file, name, value)).doing(DOING)
}

/// Of what cannot be opened without consequences. Where its attributes cannot be read, it has none.
fn read_links_meta(handle: &OwnedFd, name: &[u8], stat: &Stat) -> Meta {
    use std::os::fd::AsRawFd;
    let path = [format!("/proc/self/fd/{}/", handle.as_raw_fd()).as_bytes(), name].concat();
    let read = collect_xattrs(|list| llistxattr(&*path, list), |name, value| lgetxattr(&*path, name, value));
    meta_of(stat, read.unwrap_or_default())
}

/// Lists with room that grows as far as it must; an attribute that goes meanwhile is not there.
fn collect_xattrs(
    mut list: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
    mut get: impl FnMut(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Xattrs, Errno> {
    const MOST: usize = 64 << 10;
    let mut names = vec![0; 256];
    let length = match list(&mut names) {
        Err(Errno::RANGE) => {
            names.resize(MOST, 0);
            list(&mut names)?
        }
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut found: Xattrs = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 256];
        let length = match get(name, &mut value) {
            Err(Errno::RANGE) => {
                value.resize(MOST, 0);
                get(name, &mut value)
            }
            got => got,
        };
        match length {
            Ok(length) => found.push((name.into(), value[..length].into())),
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort();
    Ok(found)
}
