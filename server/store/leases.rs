//! Leases: what keeps things alive until a time, or until somebody lets go.

use std::time::Duration;

use serde::Serialize;

use super::labels::{self, LabelPatch, Labels};
use super::list::{Cursor, KeyValue, ListQuery};
use super::lists::{Page, text};
use super::namespaces::touch;
use super::tell::{News, tell};
use super::{Caller, IfMatch, Store, tag_of};
use crate::clock::Time;
use crate::db::leases::LeaseRow;
use crate::db::{self, Tx};
use crate::error::{Error, Result};
use crate::events::Topic;
use crate::id::{ImageId, IngestId, LeaseId, SnapshotKey, new_id};
use crate::oci::Digest;

/// A lease as its namespace sees it.
#[derive(Debug, Clone, Serialize)]
pub struct Lease {
    pub id: String,
    pub namespace: String,
    pub kind: String,
    /// `None`: never.
    pub expires_at: Option<Time>,
    pub expires_in_seconds: Option<i64>,
    pub labels: Labels,
    pub flat: bool,
    pub created_at: Time,
    pub updated_at: Time,
}

impl Lease {
    pub fn tag(&self) -> String {
        tag_of(self.updated_at)
    }
}

/// When a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    After(Duration),
    At(Time),
    Never,
}

#[derive(Debug, Clone)]
pub struct NewLease {
    pub id: Option<String>,
    pub expiry: Expiry,
    pub labels: Labels,
    pub flat: bool,
}

#[derive(Debug, Clone)]
pub struct LeasePatch {
    pub expiry: Option<Expiry>,
    pub labels: Option<LabelPatch>,
    pub if_match: IfMatch,
}

/// The lease that holds what a call made: the one it named, or the grace lease made for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub lease: String,
    pub expires_at: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceKind {
    Content,
    Ingest,
    Image,
    Snapshot,
}

impl ResourceKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ResourceKind::Content => "content",
            ResourceKind::Ingest => "ingest",
            ResourceKind::Image => "image",
            ResourceKind::Snapshot => "snapshot",
        }
    }
}

impl std::str::FromStr for ResourceKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<ResourceKind> {
        let all = [ResourceKind::Content, ResourceKind::Ingest, ResourceKind::Image, ResourceKind::Snapshot];
        all.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            Error::invalid(format!("`{text}` is no type of resource: content, ingest, image or snapshot"))
        })
    }
}

/// What a lease holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resource {
    #[serde(rename = "type")]
    pub kind: String,
    pub id: String,
}

/// Puts a resource under the caller's lease, or under a grace lease made for it, in the transaction that makes
/// the resource: a crash leaves something that expires, never something that nobody holds.
pub(super) async fn hold(
    tx: &mut Tx,
    caller: &Caller,
    kind: ResourceKind,
    id: &str,
    grace: Duration,
    now: Time,
) -> Result<Held> {
    let held = match &caller.lease {
        Some(lease) => {
            let row = db::leases::find_lease(tx, &caller.namespace, lease, now.0)
                .await?
                .ok_or_else(|| Error::not_found("lease", lease))?;
            Held { lease: row.id, expires_at: row.expires_at.map(Time) }
        }
        None => {
            let row = LeaseRow {
                namespace: caller.namespace.clone(),
                id: new_id("grace", now),
                kind: "grace".to_owned(),
                flat: 0,
                labels: "{}".to_owned(),
                expires_at: Some(now.plus(grace).0),
                created_at: now.0,
                updated_at: now.0,
            };
            db::leases::insert_lease(tx, &row).await?;
            Held { lease: row.id, expires_at: row.expires_at.map(Time) }
        }
    };
    db::leases::add_resource(tx, &caller.namespace, &held.lease, kind.as_str(), id).await?;
    Ok(held)
}

impl Store {
    /// # Errors
    /// `Invalid` for a bad id, label or time; `AlreadyExists` when an unexpired lease has the id.
    pub async fn create_lease(&self, namespace: &str, new: NewLease, kind: &'static str) -> Result<Lease> {
        let now = self.now();
        let labels = labels::new_labels(new.labels)?;
        let id = match new.id {
            Some(id) => check_lease_id(id)?,
            None => new_id("lease", now),
        };
        let expires_at = end_of(new.expiry, now)?;
        let row = LeaseRow {
            namespace: namespace.to_owned(),
            id,
            kind: kind.to_owned(),
            flat: i64::from(new.flat),
            labels: labels::to_json(&labels),
            expires_at: expires_at.map(|time| time.0),
            created_at: now.0,
            updated_at: now.0,
        };
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    touch(tx, &row.namespace, now).await?;
                    let expired = db::leases::delete_if_expired(tx, &row.namespace, &row.id, now.0).await?;
                    tell_expired(tx, now, expired.as_slice()).await?;
                    if !db::leases::insert_lease(tx, &row).await? {
                        return Err(Error::already_exists("lease", &row.id));
                    }
                    if row.kind != "grace" {
                        tell(tx, now, News::of_lease(Topic::LeaseCreate, &row)).await?;
                    }
                    Ok(lease_of(row, now))
                })
            })
            .await
    }

    /// # Errors
    /// `NotFound` when there is no such lease, or it has expired.
    pub async fn find_lease(&self, namespace: &str, id: &str) -> Result<Lease> {
        let now = self.now();
        let mut conn = self.0.db.read().await?;
        let row = db::leases::find_lease(&mut conn, namespace, id, now.0).await?;
        row.map(|row| lease_of(row, now)).ok_or_else(|| Error::not_found("lease", id))
    }

    /// Extends a lease from now on, or changes its labels.
    ///
    /// # Errors
    /// `NotFound` also when it has expired: what it held may be gone, so it does not come back;
    /// `PreconditionFailed`, `Invalid`.
    pub async fn update_lease(&self, namespace: &str, id: &str, patch: LeasePatch) -> Result<Lease> {
        let now = self.now();
        let expiry = patch.expiry.map(|expiry| end_of(expiry, now)).transpose()?;
        let (namespace, id) = (namespace.to_owned(), id.to_owned());
        let store = self.clone();
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let mut row = db::leases::lock_lease(tx, &namespace, &id, now.0)
                        .await?
                        .ok_or_else(|| Error::not_found("lease", &id))?;
                    patch.if_match.check(&tag_of(Time(row.updated_at)))?;
                    if let Some(expires_at) = expiry {
                        row.expires_at = expires_at.map(|time| time.0);
                    }
                    if let Some(change) = patch.labels {
                        let mut labels = labels::from_json(&row.labels);
                        labels::apply_patch(&mut labels, change)?;
                        row.labels = labels::to_json(&labels);
                    }
                    row.updated_at = store.after(Time(row.updated_at)).0;
                    db::leases::update_lease(tx, &row).await?;
                    tell(tx, now, News::of_lease(Topic::LeaseUpdate, &row)).await?;
                    Ok(lease_of(row, now))
                })
            })
            .await
    }

    /// Extends a lease that the server made and that its own work needs. Nobody is told of it, however often.
    ///
    /// # Errors
    /// `NotFound` as [`Store::update_lease`].
    pub async fn renew_lease(&self, namespace: &str, id: &str, length: Duration) -> Result<Lease> {
        let now = self.now();
        let (store, namespace, id) = (self.clone(), namespace.to_owned(), id.to_owned());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let found = db::leases::lock_lease(tx, &namespace, &id, now.0).await?;
                    let mut row = found.ok_or_else(|| Error::not_found("lease", &id))?;
                    row.expires_at = Some(now.plus(length).0);
                    row.updated_at = store.after(Time(row.updated_at)).0;
                    db::leases::update_lease(tx, &row).await?;
                    Ok(lease_of(row, now))
                })
            })
            .await
    }

    /// Lets go of everything the lease holds.
    ///
    /// # Errors
    /// `NotFound` when there is no such lease, or it has expired.
    pub async fn delete_lease(&self, namespace: &str, id: &str, if_match: IfMatch) -> Result<()> {
        let now = self.now();
        let (owner, lease) = (namespace.to_owned(), id.to_owned());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let row = db::leases::lock_lease(tx, &owner, &lease, now.0)
                        .await?
                        .ok_or_else(|| Error::not_found("lease", &lease))?;
                    if_match.check(&tag_of(Time(row.updated_at)))?;
                    db::leases::delete_lease(tx, &owner, &lease).await?;
                    tell(tx, now, News::of_lease(Topic::LeaseDelete, &row)).await
                })
            })
            .await
    }

    /// A page of what a lease holds, in order of type and id.
    ///
    /// # Errors
    /// `NotFound` when there is no such lease, or it has expired.
    pub async fn list_lease_resources(
        &self,
        namespace: &str,
        id: &str,
        query: &ListQuery,
    ) -> Result<Page<Resource>> {
        let mut conn = self.0.db.read().await?;
        let found = db::leases::find_lease(&mut conn, namespace, id, self.now().0).await?;
        found.ok_or_else(|| Error::not_found("lease", id))?;
        let after = query.cursor.as_ref().map(|cursor| cursor.after.as_slice());
        let after = match after {
            Some([KeyValue::Text(kind), KeyValue::Text(id)]) => (kind.as_str(), id.as_str()),
            // No type is so short, so this is before all.
            Some(_) | None => ("", ""),
        };
        // One more than the page tells whether there is another.
        let limit = i64::try_from(query.limit + 1).unwrap_or(i64::MAX);
        let mut rows = db::leases::list_resources(&mut conn, namespace, id, after, limit).await?;
        let has_more = rows.len() > query.limit;
        rows.truncate(query.limit);
        let next =
            rows.last().filter(|_| has_more).map(|(kind, id)| Cursor { after: vec![text(kind), text(id)] });
        Ok(Page { items: rows.into_iter().map(|(kind, id)| Resource { kind, id }).collect(), next })
    }

    /// Puts something under a lease. It need not exist yet, as with containerd; twice is as good as once.
    ///
    /// # Errors
    /// `NotFound` for the lease; `Invalid` for a malformed digest or id.
    pub async fn add_lease_resource(
        &self,
        namespace: &str,
        lease: &str,
        kind: ResourceKind,
        id: &str,
    ) -> Result<()> {
        check_resource(kind, id)?;
        let now = self.now();
        let (namespace, lease, id) = (namespace.to_owned(), lease.to_owned(), id.to_owned());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    db::leases::find_lease(tx, &namespace, &lease, now.0)
                        .await?
                        .ok_or_else(|| Error::not_found("lease", &lease))?;
                    db::leases::add_resource(tx, &namespace, &lease, kind.as_str(), &id).await
                })
            })
            .await
    }

    /// Takes something out of a lease. That it was not in it is not an error.
    ///
    /// # Errors
    /// `NotFound` for the lease; `Invalid` for a malformed digest or id.
    pub async fn remove_lease_resource(
        &self,
        namespace: &str,
        lease: &str,
        kind: ResourceKind,
        id: &str,
    ) -> Result<()> {
        check_resource(kind, id)?;
        let now = self.now();
        let (namespace, lease, id) = (namespace.to_owned(), lease.to_owned(), id.to_owned());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    db::leases::find_lease(tx, &namespace, &lease, now.0)
                        .await?
                        .ok_or_else(|| Error::not_found("lease", &lease))?;
                    db::leases::remove_resource(tx, &namespace, &lease, kind.as_str(), &id).await
                })
            })
            .await
    }
}

/// Tells of leases whose time has come; of grace leases nothing is told.
pub(super) async fn tell_expired(tx: &mut Tx, now: Time, expired: &[LeaseRow]) -> Result<()> {
    for row in expired.iter().filter(|row| row.kind != "grace") {
        tell(tx, now, News::of_lease(Topic::LeaseExpire, row)).await?;
    }
    Ok(())
}

pub(super) fn lease_of(row: LeaseRow, now: Time) -> Lease {
    Lease {
        id: row.id,
        namespace: row.namespace,
        kind: row.kind,
        expires_at: row.expires_at.map(Time),
        expires_in_seconds: row.expires_at.map(|at| (at - now.0).max(0) / 1_000_000),
        labels: labels::from_json(&row.labels),
        flat: row.flat != 0,
        created_at: Time(row.created_at),
        updated_at: Time(row.updated_at),
    }
}

pub(super) fn end_of(expiry: Expiry, now: Time) -> Result<Option<Time>> {
    match expiry {
        Expiry::Never => Ok(None),
        Expiry::After(length) if length.is_zero() => {
            Err(Error::invalid_field("ttl", "a length of time longer than none"))
        }
        Expiry::After(length) => Ok(Some(now.plus(length))),
        Expiry::At(time) if time <= now => {
            Err(Error::invalid_field("expires_at", format!("{time} has passed")))
        }
        Expiry::At(time) => Ok(Some(time)),
    }
}

fn check_lease_id(id: String) -> Result<String> {
    id.parse::<LeaseId>().map(|_| id).map_err(|error| error.in_field("id"))
}

fn check_resource(kind: ResourceKind, id: &str) -> Result<()> {
    let fits = match kind {
        ResourceKind::Content => id.parse::<Digest>().map(drop),
        ResourceKind::Ingest => id.parse::<IngestId>().map(drop),
        ResourceKind::Image => id.parse::<ImageId>().map(drop),
        ResourceKind::Snapshot => id.parse::<SnapshotKey>().map(drop),
    };
    fits.map_err(|error| error.in_field("rid"))
}
