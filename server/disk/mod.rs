//! The only code that creates, renames or deletes under the data directory.
//!
//! The directory is a valid OCI image layout (image-spec, *image-layout*): `skopeo copy oci:<data>:<name>` reads it
//! without orlop. Nothing is ever written at a final path: bytes grow under `ingests/`, and a rename names them.
//! Everything here blocks; callers are on blocking threads, or say why they need not be.

mod ahead;
mod blobs;
mod cached_read;
mod direct;
mod flush;
mod ingest;
mod layout;
mod secret_key;
mod snapshots;
mod strays;
mod trees;
mod walk;

pub use blobs::BlobFile;
pub use flush::Flush;
pub use ingest::{IngestFile, Staged};
pub use layout::{IndexEntry, boot_id};
pub use secret_key::SECRET_KEY_BYTES;
pub use snapshots::overlay_parameter;
pub use walk::read_tree;

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Doing, Error, Result};
use crate::id::{hex, new_id, random_bytes};
use crate::oci::Algorithm;

/// The data directory, held for as long as this value lives.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    instance: String,
    /// Open directories of `blobs/`, to sync names in them.
    blobs: Vec<(Algorithm, File)>,
    /// Locked; the kernel lets go of it when the process ends, however it ends.
    _lock: File,
}

/// The version of what stands under the data directory, in the file `format`.
const FORMAT: u32 = 1;

#[derive(serde::Serialize, serde::Deserialize)]
struct Format {
    format: u32,
    instance: String,
}

impl Disk {
    /// Takes the data directory at `root`, making it if it is not there.
    ///
    /// # Errors
    /// `AlreadyExists` when another server has it; `Internal` when a newer orlop wrote it or it cannot be used.
    pub fn open(root: &Path) -> Result<Disk> {
        make_private_dir(root)?;
        let root = root.canonicalize().doing(format!("find the data directory {}", root.display()))?;
        close_to_others(&root)?;
        let lock = take_lock(&root)?;
        let instance = check_format(&root)?;
        for name in ["ingests", "quarantine", "snapshots", "trees", "blobs"] {
            make_private_dir(&root.join(name))?;
        }
        let mut blobs = Vec::new();
        for algorithm in Algorithm::ALL {
            let dir = root.join("blobs").join(algorithm.as_str());
            make_private_dir(&dir)?;
            let open = File::open(&dir).doing(format!("open {}", dir.display()))?;
            blobs.push((algorithm, open));
        }
        let disk = Disk { root, instance, blobs, _lock: lock };
        if !disk.root.join("oci-layout").exists() {
            disk.replace_file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        sync_dir(&disk.root.join("blobs"))?;
        sync_dir(&disk.root)?;
        Ok(disk)
    }

    /// Names this store, across restarts: a database remembers which one it belongs to.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Where the embedded database stands: an empty file if it is not there, and for our eyes only. What SQLite makes
    /// beside it is as open as it is.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`.
    pub fn private_database(&self) -> Result<PathBuf> {
        let path = self.root.join("orlop.db");
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .doing("make the file of the database")?;
        for name in ["orlop.db", "orlop.db-wal", "orlop.db-shm"] {
            match fs::set_permissions(self.root.join(name), fs::Permissions::from_mode(0o600)) {
                Err(error) if !is_absent(&error) => {
                    return Err(error).doing("close the database to others");
                }
                _ => {}
            }
        }
        Ok(path)
    }

    /// Bytes of the file system: `(total, free for us)`.
    ///
    /// # Errors
    /// `Internal` when the file system does not say.
    pub fn space(&self) -> Result<(u64, u64)> {
        let stat = rustix::fs::statvfs(&self.root).doing("ask the file system for its space")?;
        Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
    }

    /// Whether a file can be made, written and synced: what `/readyz` asks.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` (read-only) or `Internal`.
    pub fn check_writable(&self) -> Result<()> {
        let path = self.root.join("ingests").join(format!("probe_{}", hex(&random_bytes::<8>())));
        // Not an empty one, for which there is room on a full disk.
        let written = write_synced(&path, &[0; 4096]).doing("write a file in the data directory");
        match fs::remove_file(&path) {
            Err(error) if !is_absent(&error) => Err(error).doing("remove a file in the data directory"),
            _ => written,
        }
    }

    /// Replaces a small file at the top as a whole: readers see the old one or the new one.
    fn replace_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let staged = self.root.join("ingests").join(format!("{name}.{}", hex(&random_bytes::<8>())));
        let replaced = write_synced(&staged, bytes).doing(format!("write {name}")).and_then(|()| {
            fs::rename(&staged, self.root.join(name)).doing(format!("rename {name} into place"))
        });
        if replaced.is_err() {
            // The next start would find it as well; a full disk needs the room now.
            let _ = fs::remove_file(&staged);
        }
        replaced?;
        sync_dir(&self.root)
    }
}

/// One owner for each data directory: a second server refuses to start.
fn take_lock(root: &Path) -> Result<File> {
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(root.join("lock"))
        .doing("open the lock file of the data directory")?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => {
            Err(Error::already_exists("a running server on the data directory", root.display()))
        }
        Err(fs::TryLockError::Error(error)) => Err(error).doing("lock the data directory"),
    }
}

/// The instance of a directory of our format; a new directory gets both.
fn check_format(root: &Path) -> Result<String> {
    let path = root.join("format");
    match fs::read(&path) {
        Ok(bytes) => {
            let found: Format = serde_json::from_slice(&bytes).doing(format!("read {}", path.display()))?;
            if found.format > FORMAT {
                return Err(Error::internal(format!(
                    "{} was written by a newer orlop (format {}): start that version, or a later one",
                    root.display(),
                    found.format
                )));
            }
            Ok(found.instance)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let instance = new_id("orlop", crate::clock::Time(0));
            let format = Format { format: FORMAT, instance: instance.clone() };
            let bytes = serde_json::to_vec(&format).doing("write the format file")?;
            let staged = root.join("format.new");
            write_synced(&staged, &bytes).doing("write the format file")?;
            fs::rename(&staged, &path).doing("rename the format file into place")?;
            sync_dir(root)?;
            Ok(instance)
        }
        Err(error) => Err(error).doing(format!("read {}", path.display())),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A directory for us alone, whatever the umask: images hold setuid files.
fn make_private_dir(path: &Path) -> Result<()> {
    if !path.is_dir() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .doing(format!("make the directory {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .doing(format!("close the directory {}", path.display()))?;
    }
    Ok(())
}

/// Closes the data directory to other users: it holds the database, and images hold setuid files. One that holds other
/// people's things is left as it is, and refused.
fn close_to_others(root: &Path) -> Result<()> {
    let doing = || format!("look at the data directory {}", root.display());
    let open = fs::metadata(root).doing(doing())?.permissions().mode() & 0o077 != 0;
    if !open {
        return Ok(());
    }
    if is_ours(root).doing(doing())? {
        return fs::set_permissions(root, fs::Permissions::from_mode(0o700)).doing(format!(
            "close the data directory {} to other users, to whom it is open",
            root.display()
        ));
    }
    Err(Error::internal(format!(
        "{} is open to other users and holds other things: give orlop a directory of its own",
        root.display()
    )))
}

/// Whether orlop was here before, or nobody was. A file system brings one directory of its own.
fn is_ours(root: &Path) -> std::io::Result<bool> {
    if root.join("format").exists() {
        return Ok(true);
    }
    for entry in fs::read_dir(root)? {
        if entry?.file_name() != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the names in a directory durable.
fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).doing(format!("sync the directory {}", path.display()))
}

/// Whether the error says that there is no such file.
fn is_absent(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}
