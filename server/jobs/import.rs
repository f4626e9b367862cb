//! Imports: an archive of images becomes blobs, as it comes, and at its end names.
//!
//! Entries come in any order, and what they are for is said in one of them, which may be the last. So each file is stored
//! where it is met, under a lease that the import renews; what turns out not to belong to an image goes with the lease.

mod docker;
mod entries;
mod layout;
mod looks;
mod names;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use serde::Serialize;

use crate::clock::Time;
use crate::error::{Error, Result, Unprocessable};
use crate::id::new_id;
use crate::jobs::Jobs;
use crate::limits;
use crate::oci::{Descriptor, Digest};
use crate::store::{Caller, Expiry, Held, Image, Labels, Lease, NewLease, Store, Target, check_image_name};
use crate::unpack::Compression;

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
    /// Of their names those that stood for something else.
    pub moved: Vec<MovedName>,
    /// What has no name in the archive: it is stored, and goes with its lease.
    pub unnamed: Vec<Target>,
    pub stored_blobs: u64,
    pub stored_bytes: u64,
    /// What was in the archive and here before.
    pub existing_blobs: u64,
    pub existing_bytes: u64,
}

/// A name, and the digests that it stood for and stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MovedName {
    pub name: String,
    pub from: String,
    pub to: String,
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
        let Lease { id: lease, expires_at, .. } = self.lease_for_import(caller).await?;
        let known = Mutex::new(expires_at);
        let import = Import {
            store,
            caller: Caller { lease: Some(lease.clone()), ..caller.clone() },
            naming,
            files: HashMap::new(),
            links: HashMap::new(),
            shelf: HashMap::new(),
            shelf_left: limits::ARCHIVE_SHELF_BYTES,
            is_layout: false,
            index: None,
            docker: None,
            done: Imported::default(),
        };
        let own = caller.lease.is_none();
        let done = tokio::select! {
            biased;
            done = import.run(body) => done?,
            ended = self.renew_import(&caller.namespace, &lease, &known), if own => return Err(ended),
        };
        // The grace time begins when the last of it is here.
        let held = match own {
            true => self.extend(&caller.namespace, &lease).await,
            false => store.find_lease(&caller.namespace, &lease).await,
        };
        let expires_at = match held {
            Ok(lease) => lease.expires_at,
            // The names are written: whoever heard of a failure would take what is done for undone.
            Err(Error::Unavailable { .. }) => *known.lock().unwrap_or_else(PoisonError::into_inner),
            Err(error) => return Err(error),
        };
        store.wait_for_index().await;
        Ok((done, Held { lease, expires_at }))
    }

    /// The caller's lease, which must be there, or one of the import's own.
    async fn lease_for_import(&self, caller: &Caller) -> Result<Lease> {
        let store = &self.0.store;
        match &caller.lease {
            Some(lease) => store.find_lease(&caller.namespace, lease).await,
            None => {
                let expiry = Expiry::After(store.settings().grace_lease);
                let id = Some(new_id("grace", self.0.clock.now()));
                let lease = NewLease { id, expiry, labels: Labels::new(), flat: false };
                store.create_lease(&caller.namespace, lease, "grace").await
            }
        }
    }

    async fn extend(&self, namespace: &str, lease: &str) -> Result<Lease> {
        let store = &self.0.store;
        store.renew_lease(namespace, lease, store.settings().grace_lease).await
    }

    /// Renews the lease for as long as the import works, and keeps in mind until when it goes on; the error that ends it
    /// when there is nothing to renew.
    async fn renew_import(&self, namespace: &str, lease: &str, known: &Mutex<Option<Time>>) -> Error {
        let grace = self.0.store.settings().grace_lease;
        let mut pause = grace / 2;
        loop {
            tokio::time::sleep(pause).await;
            match self.extend(namespace, lease).await {
                Ok(lease) => {
                    *known.lock().unwrap_or_else(PoisonError::into_inner) = lease.expires_at;
                    pause = grace / 2;
                }
                Err(error @ Error::NotFound { .. }) => return error,
                // A database that is away has the rest of the time to come back.
                Err(_) => pause = (grace / 16).max(Duration::from_millis(100)),
            }
        }
    }
}

fn refuse(reason: impl Into<String>) -> Error {
    Error::Unprocessable(Unprocessable::ValidationFailed { reason: reason.into() })
}
