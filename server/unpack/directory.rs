//! A layer's tree, kept in a directory in the form of overlay file systems.
//!
//! The tree has decided what goes where; here it is done, with handles of directories and single names, so that no link on
//! the disk is ever followed. What a file is, is set through its own handle. Directories get their times last.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags, chmod, chownat, fchmod,
    fchown, fsetxattr, ftruncate, futimens, linkat, lsetxattr, makedev, mkdirat, mknodat, openat, openat2,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pwrite, write};
use rustix::process::{Gid, Uid};

use super::checkpoints::{Checkpoints, Recorder};
use super::decompress::{Measured, read_and_mark_layer, read_layer};
use super::tar::{Tar, refused};
use crate::error::{Doing, Error, Result};
use crate::limits;
use crate::oci::tree::{DeviceClass, Id, Inode, Kind, Meta, Mtime, ROOT, Step, Tree};

/// How a layer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    pub owners: Owners,
    pub devices: Devices,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// As the layer says: that takes root.
    Real,
    /// Everything is ours; what the layer says stands in `user.containers.override_stat`, which podman and fuse-overlayfs
    /// read as well, and overlay attributes are those of `userxattr` mounts.
    Ours,
}

/// What becomes of a layer's device nodes. The tree has them in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    Recorded,
    Made,
}

/// A layer as it was found and kept.
#[derive(Debug)]
pub struct Unpacked {
    pub tree: Tree,
    pub measured: Measured,
    /// What could not be kept as the layer has it, in words.
    pub warnings: Vec<String>,
}

/// The attributes that make a directory opaque: where root mounts, and where somebody else does.
pub(super) const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];
/// How many directories are held open.
const OPEN: usize = 16;
/// How many warnings are kept.
const WARNINGS: usize = 20;

/// Unpacks a layer into an empty directory. Nothing is synced. Blocks.
///
/// # Errors
/// `ValidationFailed` for a layer that is damaged, or has in it what no layer may have; `TooLarge`; `OutOfSpace`,
/// `Unavailable` or `Internal` where the disk fails. What is in the directory then is of no use.
pub fn unpack_into(directory: BorrowedFd<'_>, layer: impl Read + Send, form: Form) -> Result<Unpacked> {
    let ((tree, warnings), measured) = read_layer(layer, |pieces| {
        let mut kept = Kept::new(directory, form);
        let mut tar = Tar::new(pieces);
        let mut tree = Tree::new();
        let mut steps = Vec::new();
        while let Some(change) = tar.next()? {
            let path = change.path.clone();
            tree.change(change, &mut steps).map_err(|why| refused(&path, why.0))?;
            for step in &steps {
                kept.carry_out(&tree, step, &mut tar)?;
            }
        }
        kept.set_times(&tree)?;
        Ok((tree, kept.warnings))
    })?;
    Ok(Unpacked { tree, measured, warnings })
}

/// Reads a layer's tree, and keeps none of its bytes; with it the places to read it on from, where it has any. Blocks.
///
/// # Errors
/// As [`unpack_into`], the disk apart.
pub fn read_tree(layer: impl Read + Send) -> Result<(Tree, Option<Checkpoints>)> {
    let recorder = Recorder::new(limits::CHECKPOINT_SPACING_BYTES)?;
    read_and_mark_layer(layer, recorder, |pieces| {
        let mut tar = Tar::new(pieces);
        let mut tree = Tree::new();
        let mut steps = Vec::new();
        while let Some(change) = tar.next()? {
            let path = change.path.clone();
            tree.change(change, &mut steps).map_err(|why| refused(&path, why.0))?;
        }
        Ok(tree)
    })
}

pub(super) struct Kept<'d> {
    root: BorrowedFd<'d>,
    form: Form,
    /// Directories in use, the last used one last. One that is removed is not asked for again: ids are not given twice.
    open: Vec<(Id, OwnedFd)>,
    warnings: Vec<String>,
}

impl<'d> Kept<'d> {
    pub fn new(root: BorrowedFd<'d>, form: Form) -> Kept<'d> {
        Kept { root, form, open: Vec::new(), warnings: Vec::new() }
    }

    /// Whether what is of this kind stands in the directory, and not in the tree alone.
    pub fn is_on_disk(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Device(_) => self.makes_devices(),
            Kind::LowerLink(_) => false,
            Kind::Directory(_) | Kind::File(_) | Kind::Symlink(_) | Kind::Fifo | Kind::Whiteout => true,
        }
    }

    /// Makes a directory that is there what its tree says, but for its time.
    pub fn dress_directory(&mut self, tree: &Tree, id: Id) -> Result<()> {
        let handle = self.handle(tree, id)?;
        self.set_directory(&handle, tree, id)
    }

    /// Makes a file of the tree, with these bytes.
    pub fn copy_in(
        &mut self,
        tree: &Tree,
        directory: Id,
        name: &[u8],
        id: Id,
        bytes: Option<&mut dyn Read>,
    ) -> Result<()> {
        let handle = self.handle(tree, directory)?;
        let mut from = match bytes {
            Some(bytes) => Bytes::Copy(bytes),
            None => Bytes::None,
        };
        self.make(handle.as_fd(), name, tree.inode(id), &mut from)
    }

    fn carry_out(&mut self, tree: &Tree, step: &Step, tar: &mut Tar<'_>) -> Result<()> {
        match step {
            Step::MakeDirectory(id) => self.make_directory(tree, *id),
            Step::SetMeta(id) => {
                let handle = self.handle(tree, *id)?;
                self.set_directory(&handle, tree, *id)
            }
            Step::MakeOpaque(id) => {
                let handle = self.handle(tree, *id)?;
                self.mark_opaque(&handle)
            }
            Step::Remove { directory, name, is_directory } => {
                let handle = self.handle(tree, *directory)?;
                match is_directory {
                    false => unlinkat(&handle, &**name, AtFlags::empty()).doing("replace a file of a layer"),
                    true => remove_tree(handle.as_fd(), name),
                }
            }
            Step::Make { directory, name, id } => {
                let handle = self.handle(tree, *directory)?;
                self.make(handle.as_fd(), name, tree.inode(*id), &mut Bytes::Tar(tar))
            }
            Step::Link { directory, name, of: (holder, of) } => {
                let kind = tree.child(*holder, of).map(|id| &tree.inode(id).kind);
                if kind.is_some_and(|kind| !self.is_on_disk(kind)) {
                    return Ok(());
                }
                let from = self.handle(tree, *holder)?;
                let to = self.handle(tree, *directory)?;
                linkat(&from, &**of, &to, &**name, AtFlags::empty()).doing("link a file of a layer")
            }
        }
    }

    fn makes_devices(&self) -> bool {
        self.form == Form { owners: Owners::Real, devices: Devices::Made }
    }

    /// An open handle of a directory.
    pub fn handle(&mut self, tree: &Tree, id: Id) -> Result<Handle> {
        if id == ROOT {
            return Ok(Handle(self.root.try_clone_to_owned().doing("open a layer")?));
        }
        if let Some(at) = self.open.iter().position(|(known, _)| *known == id) {
            let found = self.open.remove(at);
            self.open.push(found);
        } else {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let path = tree.path_of(id);
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let opened = openat2(self.root, path, flags, Mode::empty(), resolve);
            if self.open.len() >= OPEN {
                self.open.remove(0);
            }
            self.open.push((id, opened.doing("open a directory of a layer")?));
        }
        let (_, found) = self.open.last().expect("it was pushed above");
        Ok(Handle(found.try_clone().doing("open a directory of a layer")?))
    }

    fn make_directory(&mut self, tree: &Tree, id: Id) -> Result<()> {
        let Some(directory) = tree.directory(id) else { return Ok(()) };
        let parent = self.handle(tree, directory.parent())?;
        mkdirat(&parent, directory.name(), Mode::RWXU).doing("make a directory of a layer")?;
        let handle = self.handle(tree, id)?;
        self.set_directory(&handle, tree, id)
    }

    /// All but its time, which changes with each name in it.
    fn set_directory(&mut self, handle: &Handle, tree: &Tree, id: Id) -> Result<()> {
        let inode = tree.inode(id);
        self.set_owner_and_xattrs(handle.as_fd(), &inode.meta, "dir", b"")?;
        let mode = match self.form.owners {
            Owners::Real => inode.meta.mode,
            // We must get into it ourselves.
            Owners::Ours => (inode.meta.mode & 0o777) | 0o700,
        };
        fchmod(handle, Mode::from_raw_mode(mode)).doing("set the mode of a directory of a layer")?;
        match tree.directory(id).is_some_and(|directory| directory.opaque) {
            true => self.mark_opaque(handle),
            false => Ok(()),
        }
    }

    pub fn mark_opaque(&self, handle: &Handle) -> Result<()> {
        let [real, ours] = OPAQUE;
        let name = match self.form.owners {
            Owners::Real => real,
            Owners::Ours => ours,
        };
        fsetxattr(handle, name, b"y", XattrFlags::empty()).doing("mark a directory of a layer as opaque")
    }

    fn make(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        inode: &Inode,
        bytes: &mut Bytes<'_, '_>,
    ) -> Result<()> {
        let meta = &inode.meta;
        match &inode.kind {
            Kind::File(content) => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                // Never open to others before its owner is known.
                let made = openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
                let file = made.doing("make a file of a layer")?;
                match bytes {
                    Bytes::Tar(tar) => write_content(&file, content.parts.as_deref(), content.size, tar)?,
                    Bytes::Copy(from) => copy(*from, &file)?,
                    Bytes::None => {}
                }
                self.set_owner_and_xattrs(file.as_fd(), meta, "file", name)?;
                let mode = match self.form.owners {
                    Owners::Real => meta.mode,
                    Owners::Ours => (meta.mode & 0o777) | 0o600,
                };
                // After the owner: a change of it takes setuid and setgid away.
                if mode != 0o600 {
                    fchmod(&file, Mode::from_raw_mode(mode)).doing("set the mode of a file of a layer")?;
                }
                futimens(&file, &times(meta.mtime)).doing("set the time of a file of a layer")
            }
            Kind::Symlink(target) => {
                symlinkat(&**target, parent, name).doing("make a link of a layer")?;
                self.set_by_name(parent, name, meta)
            }
            Kind::Fifo => {
                let made = mknodat(parent, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0);
                made.doing("make a fifo of a layer")?;
                self.set_by_name(parent, name, meta)?;
                self.set_mode_of_node(parent, name, meta)
            }
            Kind::Device(device) if self.makes_devices() => {
                let kind = match device.class {
                    DeviceClass::Block => FileType::BlockDevice,
                    DeviceClass::Character => FileType::CharacterDevice,
                };
                let number = makedev(device.major, device.minor);
                mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, number)
                    .doing("make a device of a layer")?;
                self.set_by_name(parent, name, meta)?;
                self.set_mode_of_node(parent, name, meta)
            }
            Kind::Whiteout => {
                let made = mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0);
                made.doing("make a whiteout of a layer")
            }
            Kind::Device(_) | Kind::LowerLink(_) | Kind::Directory(_) => Ok(()),
        }
    }

    /// Through the file's own handle.
    fn set_owner_and_xattrs(
        &mut self,
        file: BorrowedFd<'_>,
        meta: &Meta,
        kind: &str,
        name: &[u8],
    ) -> Result<()> {
        match self.form.owners {
            Owners::Real => {
                if (meta.uid, meta.gid) != (0, 0) {
                    fchown(file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
                        .doing("set the owner of a file of a layer")?;
                }
            }
            Owners::Ours => {
                let stat = format!("{}:{}:0{:o}:{kind}", meta.uid, meta.gid, meta.mode);
                let set =
                    fsetxattr(file, "user.containers.override_stat", stat.as_bytes(), XattrFlags::empty());
                set.doing("note the owner of a file of a layer")?;
            }
        }
        for (key, value) in &meta.xattrs {
            let set = fsetxattr(file, &**key, value, XattrFlags::empty());
            self.forgive(set, key, name)?;
        }
        Ok(())
    }

    /// Of what has no handle that its owner and time could be set through. The name is one of a directory that nobody
    /// else has, and is not followed.
    fn set_by_name(&mut self, parent: BorrowedFd<'_>, name: &[u8], meta: &Meta) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if self.form.owners == Owners::Real && (meta.uid, meta.gid) != (0, 0) {
            let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
            chownat(parent, name, Some(uid), Some(gid), flags).doing("set the owner of a link of a layer")?;
        }
        for (key, value) in &meta.xattrs {
            let path = through_proc(parent, name);
            let set = lsetxattr(path, &**key, value, XattrFlags::empty());
            self.forgive(set, key, name)?;
        }
        utimensat(parent, name, &times(meta.mtime), flags).doing("set the time of a link of a layer")
    }

    fn set_mode_of_node(&self, parent: BorrowedFd<'_>, name: &[u8], meta: &Meta) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let doing = "set the mode of a fifo or device of a layer";
        let node = openat(parent, name, flags, Mode::empty()).doing(doing)?;
        chmod(through_proc(node.as_fd(), b""), Mode::from_raw_mode(meta.mode)).doing(doing)
    }

    /// An attribute that the file system does not take, or not from us, is missing, and the tree has it still.
    fn forgive(&mut self, set: rustix::io::Result<()>, key: &[u8], name: &[u8]) -> Result<()> {
        match set {
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL | Errno::ACCESS) => {
                if self.warnings.len() < WARNINGS {
                    let (key, name) = (String::from_utf8_lossy(key), String::from_utf8_lossy(name));
                    self.warnings.push(format!("the attribute {key} of {name} cannot be set here"));
                }
                Ok(())
            }
            set => set.doing("set an attribute of a file of a layer"),
        }
    }

    pub fn set_times(&mut self, tree: &Tree) -> Result<()> {
        let below = tree.walk().map(|(_, _, id)| id).filter(|id| tree.directory(*id).is_some());
        for id in std::iter::once(ROOT).chain(below) {
            let handle = self.handle(tree, id)?;
            futimens(&handle, &times(tree.inode(id).meta.mtime))
                .doing("set the time of a directory of a layer")?;
        }
        Ok(())
    }
}

/// Where the bytes of a file come from.
enum Bytes<'b, 'p> {
    Tar(&'b mut Tar<'p>),
    Copy(&'b mut dyn Read),
    None,
}

/// Holes become zeros: what is copied from one layer to another is seldom and small.
fn copy(from: &mut dyn Read, to: &OwnedFd) -> Result<()> {
    let doing = "copy a file of a lower layer";
    let mut to = File::from(to.try_clone().doing(doing)?);
    std::io::copy(from, &mut to).doing(doing).map(drop)
}

/// A directory that is open.
pub(super) struct Handle(OwnedFd);

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A name below a handle, for calls that take only paths.
fn through_proc(handle: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    use std::os::fd::AsRawFd;
    let mut path = format!("/proc/self/fd/{}", handle.as_raw_fd()).into_bytes();
    if !name.is_empty() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

fn times(mtime: Mtime) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Writes the bytes of the file in hand; holes stay holes.
fn write_content(file: &OwnedFd, parts: Option<&[(u64, u64)]>, size: u64, tar: &mut Tar<'_>) -> Result<()> {
    let doing = "write a file of a layer";
    let Some(parts) = parts else {
        while let Some(mut bytes) = tar.bytes()? {
            while !bytes.is_empty() {
                let written = again(|| write(file, bytes)).doing(doing)?;
                bytes = &bytes[written..];
            }
        }
        return Ok(());
    };
    let mut parts = parts.iter().copied();
    let (mut at, mut left) = (0, 0);
    while let Some(mut bytes) = tar.bytes()? {
        while !bytes.is_empty() {
            if left == 0 {
                let next =
                    parts.next().ok_or_else(|| Error::internal("find the place of a part of a file"))?;
                (at, left) = next;
            }
            let piece = &bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
            let written = again(|| pwrite(file, piece, at)).doing(doing)?;
            at += written as u64;
            left -= written as u64;
            bytes = &bytes[written..];
        }
    }
    ftruncate(file, size).doing(doing)
}

fn again<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            settled => return settled,
        }
    }
}

/// Removes a directory with all that is below. It follows no link (`std::fs::remove_dir_all`), and is no deeper than
/// trees are.
pub(super) fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let path = through_proc(parent, name);
    std::fs::remove_dir_all(OsStr::from_bytes(&path)).doing("replace a directory of a layer")
}

#[cfg(test)]
mod tests;
