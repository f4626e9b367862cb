//! Settings of registries, and credentials of pulls: text of `jobs/`, which is sealed here and never looked into.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::{IfMatch, Store, tag_of};
use crate::clock::Time;
use crate::db;
use crate::db::registries::RegistryRow;
use crate::error::{Conflict, Error, Result};
use crate::limits;

/// How a registry is reached, as it was written down.
#[derive(Debug, Clone)]
pub struct StoredRegistry {
    pub host: String,
    /// JSON with secrets in it; `None` when it was sealed in another data directory, and cannot be opened.
    pub settings: Option<String>,
    pub created_at: Time,
    pub updated_at: Time,
}

impl StoredRegistry {
    pub fn tag(&self) -> String {
        tag_of(self.updated_at)
    }
}

/// What a PUT expects to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// `If-None-Match: *`.
    Nothing,
    Match(IfMatch),
}

/// Makes the new settings from those that stand, if there are any.
pub type Merge = Box<dyn FnOnce(Option<StoredRegistry>) -> Result<String> + Send>;

impl Store {
    /// # Errors
    /// `Unavailable`.
    pub async fn find_registry(&self, host: &str) -> Result<Option<StoredRegistry>> {
        let mut conn = self.0.db.read().await?;
        let row = db::registries::find_registry(&mut conn, host).await?;
        Ok(row.map(|row| self.unsealed(row)))
    }

    /// All of them, in the order of their hosts.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_registries(&self) -> Result<Vec<StoredRegistry>> {
        let mut conn = self.0.db.read().await?;
        let rows = db::registries::list_registries(&mut conn).await?;
        Ok(rows.into_iter().map(|row| self.unsealed(row)).collect())
    }

    /// Writes the settings that `merge` makes; whether they are the first for that host.
    ///
    /// # Errors
    /// `PreconditionFailed`; `Conflict` (state) with as many registries as there may be; those of `merge`.
    pub async fn put_registry(
        &self,
        host: &str,
        expected: Expected,
        merge: Merge,
    ) -> Result<(StoredRegistry, bool)> {
        let (store, host) = (self.clone(), host.to_owned());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    db::registries::lock_registries(tx).await?;
                    let before = db::registries::find_registry(tx, &host).await?;
                    let before = before.map(|row| store.unsealed(row));
                    check(&expected, before.as_ref())?;
                    if before.is_none()
                        && db::registries::count_registries(tx).await? >= limits::REGISTRIES as i64
                    {
                        let reason =
                            format!("{} registries have settings: no more are taken", limits::REGISTRIES);
                        return Err(Error::Conflict(Conflict::State { reason }));
                    }
                    let is_new = before.is_none();
                    let created_at = before.as_ref().map_or_else(|| store.now(), |before| before.created_at);
                    let updated_at = before.as_ref().map_or(created_at, |row| store.after(row.updated_at));
                    let settings = merge(before)?;
                    let row = RegistryRow {
                        sealed: store.0.seal.close(&purpose(&host), &settings),
                        host: host.clone(),
                        created_at: created_at.0,
                        updated_at: updated_at.0,
                    };
                    db::registries::upsert_registry(tx, &row).await?;
                    Ok((StoredRegistry { host, settings: Some(settings), created_at, updated_at }, is_new))
                })
            })
            .await
    }

    /// # Errors
    /// `NotFound`; `PreconditionFailed`.
    pub async fn delete_registry(&self, host: &str, if_match: IfMatch) -> Result<()> {
        let (store, host) = (self.clone(), host.to_owned());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    db::registries::lock_registries(tx).await?;
                    let before = db::registries::find_registry(tx, &host).await?;
                    let before = before.ok_or_else(|| Error::not_found("registry", &host))?;
                    if_match.check(&store.unsealed(before).tag())?;
                    db::registries::delete_registry(tx, &host).await
                })
            })
            .await
    }

    /// The same for equal credentials, and tells nothing of them.
    pub fn mark_secret(&self, secret: &str) -> String {
        self.0.seal.mark(secret)
    }

    /// The credential that came with a pull, if it is still kept; `None` as well when it was sealed in another data
    /// directory, and cannot be opened.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn find_pull_credential(&self, pull: &str) -> Result<Option<String>> {
        let mut conn = self.0.db.read().await?;
        let sealed = db::registries::find_pull_credential(&mut conn, pull).await?;
        Ok(sealed.and_then(|sealed| self.open_secrets(pull, &sealed)))
    }

    /// # Errors
    /// `Unavailable`.
    pub async fn forget_pull_credential(&self, pull: &str) -> Result<()> {
        let pull = pull.to_owned();
        self.0
            .db
            .write(move |tx| Box::pin(async move { db::registries::delete_pull_credential(tx, &pull).await }))
            .await
    }

    /// A pull's credential as its row keeps it.
    pub(super) fn sealed_for_pull(&self, pull: &str, credential: &str) -> String {
        self.0.seal.close(&purpose(pull), credential)
    }

    fn unsealed(&self, row: RegistryRow) -> StoredRegistry {
        StoredRegistry {
            settings: self.open_secrets(&row.host, &row.sealed),
            host: row.host,
            created_at: Time(row.created_at),
            updated_at: Time(row.updated_at),
        }
    }

    /// What was sealed for `name`. That it cannot be opened is told of once, and not with every read.
    fn open_secrets(&self, name: &str, sealed: &str) -> Option<String> {
        let opened = self.0.seal.open(&purpose(name), sealed);
        if opened.is_none() && self.0.unopened.is_new(name) {
            tracing::warn!(
                "The secrets of {name} were sealed in another data directory, and cannot be opened"
            );
        }
        opened
    }
}

/// Whose secrets could not be opened since the start.
#[derive(Default)]
pub(super) struct Unopened(Mutex<HashSet<String>>);

impl Unopened {
    /// More names are told of again.
    const MOST: usize = 1024;

    /// Whether `name` was not among them, where it is from now on.
    fn is_new(&self, name: &str) -> bool {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= Unopened::MOST && !names.contains(name) {
            names.clear();
        }
        names.insert(name.to_owned())
    }
}

/// What something is sealed for: hosts and ids of pulls never look alike.
fn purpose(name: &str) -> String {
    format!("orlop {name}")
}

fn check(expected: &Expected, before: Option<&StoredRegistry>) -> Result<()> {
    let failed = |reason: &str| Err(Error::PreconditionFailed { reason: reason.to_owned() });
    match (expected, before) {
        (Expected::Nothing, Some(_)) => failed("it exists already"),
        (Expected::Match(IfMatch::Any | IfMatch::Tags(_)), None) => failed("it does not exist"),
        (Expected::Match(if_match), Some(before)) => if_match.check(&before.tag()),
        (Expected::Nothing | Expected::Match(IfMatch::Absent), None) => Ok(()),
    }
}
