//! The lease of a job: it comes first, is renewed while the job works, and goes when something else holds what it held.

use std::time::Duration;

use crate::clock::Time;
use crate::error::{Error, Result, with_causes};
use crate::jobs::Jobs;
use crate::jobs::run::{Ended, Job, unless};
use crate::jobs::view::JobState;
use crate::store::{Expiry, IfMatch, LeasePatch, NewLease};

/// A lease that a job makes for itself.
pub(super) struct OwnLease<'l> {
    pub jobs: &'l Jobs,
    pub namespace: &'l str,
    pub id: &'l str,
}

impl OwnLease<'_> {
    /// Makes it, or holds it for longer. After a long pause it may have to be made anew.
    pub async fn hold(&self) -> Result<()> {
        let store = &self.jobs.0.store;
        let expiry = Expiry::After(self.jobs.0.settings.lease);
        let patch = LeasePatch { expiry: Some(expiry), labels: None, if_match: IfMatch::Absent };
        match store.update_lease(self.namespace, self.id, patch).await {
            Err(Error::NotFound { .. }) => {
                let id = Some(self.id.to_owned());
                let lease = NewLease { id, expiry, labels: Default::default(), flat: false };
                store.create_lease(self.namespace, lease, "pull").await.map(drop)
            }
            settled => settled.map(drop),
        }
    }

    /// Renews it for as long as it is asked to; the error that ends the work when there is nothing to renew.
    pub async fn renew(&self) -> Error {
        let length = self.jobs.0.settings.lease;
        loop {
            tokio::time::sleep(length / 2).await;
            let patch = || LeasePatch {
                expiry: Some(Expiry::After(length)),
                labels: None,
                if_match: IfMatch::Absent,
            };
            // A database that is away has a quarter of the time to come back, and then another.
            for pause in [length / 8, length / 8, Duration::ZERO] {
                match self.jobs.0.store.update_lease(self.namespace, self.id, patch()).await {
                    Ok(_) => break,
                    Err(error @ Error::NotFound { .. }) => return error,
                    Err(error) if pause.is_zero() => return error,
                    Err(_) => tokio::time::sleep(pause).await,
                }
            }
        }
    }

    /// Lets go of what it holds.
    pub async fn end(&self) {
        let deleted = self.jobs.0.store.delete_lease(self.namespace, self.id, IfMatch::Absent).await;
        if let Err(error) = deleted {
            // It expires by itself.
            tracing::debug!(lease.id = %self.id, "Could not delete a lease: {}", with_causes(&error));
        }
    }
}

impl Job {
    fn own_lease(&self) -> OwnLease<'_> {
        OwnLease { jobs: &self.jobs, namespace: &self.caller.namespace, id: &self.lease }
    }

    /// The pull's lease comes first: everything after is held by it.
    pub async fn hold_lease(&self) -> Result<()> {
        match self.request.lease {
            // The caller's own, whose time is the caller's business.
            Some(_) => self.jobs.0.store.find_lease(&self.caller.namespace, &self.lease).await.map(drop),
            None => self.own_lease().hold().await,
        }
    }

    /// Whether the pull's own lease has expired under its work.
    pub async fn has_lost_lease(&self) -> bool {
        let held = self.request.lease.is_none() && self.live.read(|record| record.row.started_at.is_some());
        held && self.jobs.0.store.find_lease(&self.caller.namespace, &self.lease).await.is_err()
    }

    /// Renews the lease for as long as the job works; the error that ends the work when there is nothing to renew.
    pub async fn renew_lease(&self) -> Error {
        match self.request.lease {
            Some(_) => std::future::pending().await,
            None => self.own_lease().renew().await,
        }
    }

    /// Hands the lease over to the user who asked for one. That is a part of the pull: a database that is away is
    /// waited for until the pull is cancelled, or the server stops; then the next start goes on here.
    pub async fn keep_lease(&self) -> Result<(), Ended> {
        let (None, Some(keep)) = (&self.request.lease, self.request.keep()) else { return Ok(()) };
        let (store, namespace) = (&self.jobs.0.store, self.caller.namespace.as_str());
        for failures in 1.. {
            let error = match store.hand_over_lease(namespace, &self.lease, Expiry::After(keep)).await {
                Ok(lease) => {
                    self.live.change(|record| record.detail.lease_until = lease.expires_at);
                    break;
                }
                Err(error @ Error::NotFound { .. }) => return Err(error.into()),
                Err(error) => error,
            };
            self.warn(format!("the lease that was asked for: {error}; trying again"));
            tracing::warn!(pull.id = %self.id, "Could not hand over a lease: {}", with_causes(&error));
            unless(&self.live.stop, tokio::time::sleep(self.jobs.wait_after_failures(failures))).await?;
        }
        Ok(())
    }

    /// Lets go of what the image now holds; or leaves what is here to whoever tries again soon. Until when.
    pub async fn end_lease(&self, state: JobState) -> Option<Time> {
        let (store, namespace) = (&self.jobs.0.store, self.caller.namespace.as_str());
        if self.request.lease.is_some() {
            return store.find_lease(namespace, &self.lease).await.ok()?.expires_at.or(Some(Time(i64::MAX)));
        }
        // What its reference stands for was never told: nothing came that could be held.
        let is_empty = self.live.read(|record| !record.detail.is_resolved());
        let left = match (state, self.request.keep()) {
            (JobState::Succeeded, Some(_)) => return self.live.read(|record| record.detail.lease_until),
            (state, _) if state == JobState::Succeeded || is_empty => {
                self.own_lease().end().await;
                return None;
            }
            (_, _) => {
                let expiry = Some(Expiry::After(store.settings().grace_lease));
                let patch = LeasePatch { expiry, labels: None, if_match: IfMatch::Absent };
                store.update_lease(namespace, &self.lease, patch).await
            }
        };
        left.ok()?.expires_at
    }
}
