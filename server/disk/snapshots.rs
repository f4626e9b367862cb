//! Directories of snapshots: `snapshots/<id>` with the files in `fs`, what overlay file systems need in `work`, what the files
//! are in `tree`, and until there is one, what `fs` cannot hold in `records`.
//!
//! Nobody finds a directory before there is a row for it: one without is what a start removes.

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{BlobFile, Disk, is_absent, sync_dir, write_synced};
use crate::error::{Doing, Error, Result};
use crate::id::random_bytes;
use crate::oci::tree::{Meta, Tree, Usage};

/// Short, because a mount names many of them, and its options have 4,096 bytes on older kernels.
const ID_BYTES: usize = 8;
/// No letter that reads as a digit, and none that a mount's options would want to have quoted.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl Disk {
    /// Makes the directory of a new snapshot, with a name that nobody has: `fs` of this mode, and `work` beside it.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`.
    pub fn make_snapshot(&self) -> Result<String> {
        loop {
            let id: String = random_bytes::<ID_BYTES>()
                .map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]))
                .iter()
                .collect();
            let path = self.snapshot_path(&id);
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.doing("make the directory of a snapshot")?,
            }
            for (name, mode) in [("fs", 0o755), ("work", 0o711)] {
                DirBuilder::new().create(path.join(name)).doing("make the directory of a snapshot")?;
                fs::set_permissions(path.join(name), Permissions::from_mode(mode))
                    .doing("set the mode of a snapshot's directory")?;
            }
            sync_dir(&path)?;
            sync_dir(&self.root.join("snapshots"))?;
            return Ok(id);
        }
    }

    fn snapshot_path(&self, id: &str) -> PathBuf {
        self.root.join("snapshots").join(id)
    }

    /// Where the files of a snapshot are, for mounts.
    pub fn snapshot_fs(&self, id: &str) -> PathBuf {
        self.snapshot_path(id).join("fs")
    }

    /// Where an overlay mount over a snapshot works.
    pub fn snapshot_work(&self, id: &str) -> PathBuf {
        self.snapshot_path(id).join("work")
    }

    /// The open directory of a snapshot's files.
    ///
    /// # Errors
    /// `Internal` when it is not there.
    pub fn open_snapshot(&self, id: &str) -> Result<OwnedFd> {
        let opened = File::open(self.snapshot_fs(id)).doing("open the directory of a snapshot")?;
        Ok(opened.into())
    }

    /// Opens a file of a snapshot, by the path that it really has there: no link is followed.
    ///
    /// # Errors
    /// `Internal` when it is not there, or no longer a file.
    pub fn open_snapshot_file(&self, id: &str, path: &[u8]) -> Result<BlobFile> {
        let doing = "open a file of a snapshot";
        let directory = self.open_snapshot(id)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let opened = rustix::fs::openat2(&directory, path, flags, Mode::empty(), resolve).doing(doing)?;
        let file = File::from(opened);
        match file.metadata().doing(doing)?.is_file() {
            true => BlobFile::of(file),
            false => Err(Error::internal(doing)),
        }
    }

    /// What the files of a snapshot are now, and what they take.
    ///
    /// # Errors
    /// As [`super::read_tree`].
    pub fn read_snapshot(&self, id: &str) -> Result<(Tree, Usage)> {
        let directory = self.open_snapshot(id)?;
        let (mut tree, mut usage) = super::read_tree(directory.as_fd())?;
        if let Some(records) = self.read_records(id)? {
            usage.inodes += tree.add_records(&records);
        }
        Ok((tree, usage))
    }

    /// What a snapshot's directory cannot hold of the layers that were applied to it.
    ///
    /// # Errors
    /// `Internal` when they cannot be read.
    pub fn read_records(&self, id: &str) -> Result<Option<Tree>> {
        read_tree_file(&self.snapshot_path(id).join("records"))
    }

    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`: those from before stand.
    pub fn write_records(&self, id: &str, records: &Tree) -> Result<()> {
        let doing = "write the records of a snapshot";
        let path = self.snapshot_path(id);
        let staged = path.join("records.new");
        write_synced(&staged, &records.to_bytes()).doing(doing)?;
        fs::rename(staged, path.join("records")).doing(doing)
    }

    /// Brings all that is in a snapshot to the disk, with what its files are. One `syncfs` costs less than a sync of each
    /// file as soon as there are some.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`: nothing of it is certain then.
    pub fn seal_snapshot(&self, id: &str, tree: &Tree) -> Result<()> {
        let path = self.snapshot_path(id);
        write_synced(&path.join("tree"), &tree.to_bytes()).doing("write the tree of a snapshot")?;
        let directory = self.open_snapshot(id)?;
        rustix::fs::syncfs(&directory).doing("sync a snapshot")?;
        sync_dir(&path)
    }

    /// What the files of a committed snapshot are; `None` where that is not known, or was written by another version.
    ///
    /// # Errors
    /// `Internal` when it cannot be read.
    pub fn read_snapshot_tree(&self, id: &str) -> Result<Option<Tree>> {
        read_tree_file(&self.snapshot_path(id).join("tree"))
    }

    /// Removes a snapshot's directory with all that is in it. That it is not there is not an error. It is out of the way
    /// at once; how long the rest takes depends on how much there is.
    ///
    /// # Errors
    /// `Unavailable` or `Internal`; the next start tries again.
    pub fn remove_snapshot(&self, id: &str) -> Result<()> {
        match fs::remove_dir_all(self.snapshot_path(id)) {
            Err(error) if !is_absent(&error) => Err(error).doing("remove the directory of a snapshot"),
            _ => Ok(()),
        }
    }

    /// The ids of all directories of snapshots.
    ///
    /// # Errors
    /// `Internal` when they cannot be listed.
    pub fn walk_snapshots(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(self.root.join("snapshots")).doing("list snapshots")?;
        let mut found = Vec::new();
        for entry in entries {
            found.extend(entry.doing("list snapshots")?.file_name().into_string());
        }
        Ok(found)
    }

    /// Makes the root of a new snapshot as this says, as far as that is possible.
    ///
    /// # Errors
    /// `Internal` when the directory is not there.
    pub fn dress_root(&self, id: &str, meta: &Meta, real: bool) -> Result<()> {
        let doing = "dress the root of a snapshot";
        let directory = self.open_snapshot(id)?;
        if real {
            let (uid, gid) =
                (rustix::process::Uid::from_raw(meta.uid), rustix::process::Gid::from_raw(meta.gid));
            rustix::fs::fchown(&directory, Some(uid), Some(gid)).doing(doing)?;
        }
        let mode = if real { meta.mode } else { (meta.mode & 0o777) | 0o700 };
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode)).doing(doing)?;
        let time = rustix::fs::Timespec { tv_sec: meta.mtime.seconds, tv_nsec: meta.mtime.nanos.into() };
        rustix::fs::futimens(
            &directory,
            &rustix::fs::Timestamps { last_access: time, last_modification: time },
        )
        .doing(doing)
    }

    /// Whether this server may give files to others, make devices, and set attributes that only root may: then snapshots
    /// are as their layers say.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`.
    pub fn can_keep_owners(&self) -> Result<bool> {
        let id = self.make_snapshot()?;
        let tried = self.open_snapshot(&id).map(|directory| {
            let fd = directory.as_fd();
            let flags = rustix::fs::XattrFlags::empty();
            let (uid, gid) = (rustix::process::Uid::from_raw(1), rustix::process::Gid::from_raw(1));
            let kind = rustix::fs::FileType::CharacterDevice;
            rustix::fs::fsetxattr(fd, "trusted.overlay.opaque", b"y", flags).is_ok()
                && rustix::fs::mknodat(fd, "whiteout", kind, Mode::empty(), 0).is_ok()
                && rustix::fs::fchown(fd, Some(uid), Some(gid)).is_ok()
                && rustix::fs::openat(fd, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).is_ok()
        });
        self.remove_snapshot(&id)?;
        tried
    }
}

/// `None` where there is none, or not all of it.
fn read_tree_file(path: &Path) -> Result<Option<Tree>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Tree::from_bytes(&bytes)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error).doing("read the tree of a snapshot"),
    }
}

/// Whether the kernel's overlay file system knows a parameter, which a mount may set then.
pub fn overlay_parameter(name: &str) -> bool {
    fs::exists(format!("/sys/module/overlay/parameters/{name}")).unwrap_or(false)
}
