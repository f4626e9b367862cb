//! The key that seals secrets: made once, readable by nobody else, and part of every backup that is to open them.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use super::{Disk, is_absent, sync_dir};
use crate::error::{Doing, Error, Result};
use crate::id::{hex, random_bytes};

pub const SECRET_KEY_BYTES: usize = 32;
const FILE: &str = "secret.key";

impl Disk {
    /// The key of this data directory; a new one where there is none.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`; a file of another length is damaged, and never replaced.
    pub fn secret_key(&self) -> Result<[u8; SECRET_KEY_BYTES]> {
        let path = self.root.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => bytes.try_into().map_err(|_| {
                Error::internal(format!("{} is damaged: it has not {SECRET_KEY_BYTES} bytes", path.display()))
            }),
            Err(error) if is_absent(&error) => {
                let key = random_bytes::<SECRET_KEY_BYTES>();
                let staged = self.root.join("ingests").join(format!("{FILE}.{}", hex(&random_bytes::<8>())));
                let mut file = File::options()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&staged)
                    .doing("make the key for secrets")?;
                file.write_all(&key).and_then(|()| file.sync_all()).doing("write the key for secrets")?;
                fs::rename(&staged, &path).doing("rename the key for secrets into place")?;
                sync_dir(&self.root)?;
                Ok(key)
            }
            Err(error) => Err(error).doing(format!("read {}", path.display())),
        }
    }
}
