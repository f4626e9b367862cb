//! What stands under `ingests/`, and what of it no ingest can use.

use std::fs;
use std::io;
use std::path::Path;

use super::{Disk, is_absent};
use crate::error::{Doing, Result};

impl Disk {
    /// The names under `ingests/`: ids of ingests, and strays that a killed process left.
    ///
    /// # Errors
    /// `Internal` when the directory cannot be read.
    pub fn walk_ingests(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join("ingests")).doing("walk the ingests")? {
            let entry = entry.doing("walk the ingests")?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    /// Takes away what stands in the place of an ingest's directory or of its files, and is none: all writing would fail by
    /// it. How many there were.
    ///
    /// # Errors
    /// `Unavailable` or `Internal`.
    pub fn clear_ingest(&self, id: &str) -> Result<u64> {
        let mut taken = 0;
        let dir = self.ingest_dir(id);
        if !fs::symlink_metadata(&dir).doing("look at the directory of an ingest")?.is_dir() {
            remove_entry(&dir).doing("remove what is no directory of an ingest")?;
            return Ok(1);
        }
        for entry in fs::read_dir(&dir).doing("look into the directory of an ingest")? {
            let entry = entry.doing("look into the directory of an ingest")?;
            if !entry.file_type().doing("look into the directory of an ingest")?.is_file() {
                remove_entry(&entry.path()).doing("remove what is no file of an ingest")?;
                taken += 1;
            }
        }
        Ok(taken)
    }
}

/// Removes a file, or a directory of files.
pub(super) fn remove_entry(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if is_absent(&error) => Ok(()),
        done => done,
    }
}
