//! The plan of a pull: what it would take, found out in memory. Nothing is stored, held or remembered.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::error::{Error, Result, UpstreamKind};
use crate::jobs::documents::embedded;
use crate::jobs::fetch::ingest_ref;
use crate::jobs::registries::Own;
use crate::jobs::request::Request;
use crate::jobs::run::Ended;
use crate::jobs::select::{Shelf, Tree, Wanted, upstream_of};
use crate::jobs::taken::Leaf;
use crate::jobs::view::BlobRole;
use crate::jobs::{CredentialUse, Jobs, PullRequest, convert};
use crate::limits;
use crate::oci::config::platform_of;
use crate::oci::schema1::Schema1;
use crate::oci::{Descriptor, Digest, Document, Platform};
use crate::registry::{Fetched, Repository, Resolved, Retries, Trace, Transport};
use crate::store::{Caller, Presence, Target};

/// What a pull would do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    pub kind: &'static str,
    pub namespace: String,
    /// As it was asked for.
    #[serde(rename = "ref")]
    pub reference: String,
    /// What the chosen images run on, as far as they say so.
    pub platforms: Vec<String>,
    pub image_name: String,
    /// What the reference stands for just now.
    pub target: Target,
    /// Whether the image is made anew, of a manifest of schema 1: then `target` is that.
    pub converts: bool,
    #[serde(flatten)]
    pub totals: PlanTotals,
    /// Indexes, manifests, configs, then layers in order.
    pub blobs: Vec<PlanBlob>,
}

/// What the blobs of a plan come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PlanTotals {
    /// Of all blobs that are not skipped.
    pub bytes_total: u64,
    /// Of these, in the namespace; also as the part of a blob that a pull has begun.
    pub bytes_present: u64,
    /// Of these, lent by another namespace.
    pub bytes_shared: u64,
    /// Of these, at the registry alone.
    pub bytes_to_fetch: u64,
    pub blobs_total: u64,
    pub blobs_present: u64,
    pub blobs_shared: u64,
    pub blobs_to_fetch: u64,
    pub blobs_skipped: u64,
}

/// One blob of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanBlob {
    pub digest: Digest,
    pub media_type: String,
    pub role: BlobRole,
    pub size: u64,
    /// Whether the namespace has it.
    pub present: bool,
    /// Whether another namespace would lend it.
    pub shared: bool,
    /// Bytes of one to be fetched that an earlier pull has left: they are not fetched again.
    pub offset: u64,
    /// Whether the pull would leave it where it is.
    pub skipped: bool,
    /// Why it is skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Jobs {
    /// What a pull would take, and how much of it is here. Bounded in time.
    ///
    /// # Errors
    /// `Invalid` with the field; `Refused` by the operator's lists; `NotFound` for the lease that the caller names;
    /// `Upstream`; `Unprocessable` for an image that cannot be pulled; `TooMany` when too many plans are made already; `Unavailable`.
    pub async fn plan_pull(&self, caller: &Caller, asked: &PullRequest) -> Result<Plan> {
        let request = Request::check(caller, asked)?;
        if let Some(lease) = &request.lease {
            self.0.store.find_lease(&caller.namespace, lease).await?;
        }
        let (what, limit, retry_after) = ("plans of pulls", limits::PLANS, Duration::from_secs(5));
        let _place = self.0.plans.try_acquire().map_err(|_| Error::TooMany { what, limit, retry_after })?;
        let transport = if request.insecure { Transport::Insecure } else { Transport::Verified };
        let own = match (&asked.auth, asked.credential) {
            (Some(credential), _) => Own::Given(credential.clone()),
            (None, CredentialUse::Configured) => Own::Configured,
            (None, CredentialUse::None) => Own::Nobody,
        };
        let planning = async {
            // Within the time as well: a credential helper, of each host one, may take its own.
            let endpoints = self.endpoints(&request.reference, transport, own).await?;
            let repository = self.0.registry.repository(&request.reference, endpoints, Trace::nobody());
            let shelf = InMemory { jobs: self, caller, repository, left_out: Mutex::default() };
            shelf.plan(&request, &asked.reference).await
        };
        // On the heap: a handler's own future is small.
        let planning = tokio::time::timeout(limits::PLAN_TIME, Box::pin(planning));
        match self.0.shutdown.soft().run_until_cancelled(planning).await {
            Some(Ok(Ok(plan))) => Ok(plan),
            Some(Ok(Err(Ended::Failed(error)))) => Err(error),
            Some(Ok(Err(Ended::Stopped))) | None => {
                Err(Error::Unavailable { what: "a server that stops", source: None })
            }
            Some(Err(_)) => {
                let reason =
                    format!("it took longer than {} s to look at the image", limits::PLAN_TIME.as_secs());
                Err(upstream_of(&request, UpstreamKind::Unreachable, reason))
            }
        }
    }
}

/// The shelf of a plan: what is taken from it is forgotten again.
struct InMemory<'a> {
    jobs: &'a Jobs,
    caller: &'a Caller,
    repository: Repository,
    left_out: Mutex<HashMap<Digest, String>>,
}

impl InMemory<'_> {
    async fn plan(&self, request: &Request, reference: &str) -> Result<Plan, Ended> {
        let resolved = self.ask(|| self.repository.resolve(&request.reference)).await?;
        let target = resolved.descriptor.clone();
        let (tree, converts) = match resolved {
            Resolved { schema1: Some(schema1), .. } => (self.look_at_layers(request, &schema1).await?, true),
            Resolved { descriptor, document, schema1: None } => {
                (Box::pin(Tree::grow(self, request, descriptor, document)).await?, false)
            }
        };
        let mut plan = Plan {
            kind: "plan",
            namespace: self.caller.namespace.clone(),
            reference: reference.to_owned(),
            platforms: tree.platforms.iter().map(Platform::to_string).collect(),
            image_name: request.image_name.clone(),
            target: Target {
                media_type: target.media_type,
                digest: target.digest.to_string(),
                size: target.size,
                annotations: BTreeMap::new(),
            },
            converts,
            totals: PlanTotals::default(),
            blobs: Vec::new(),
        };
        for (role, descriptor) in &tree.documents {
            let reason = self.left_out().remove(&descriptor.digest);
            plan.add(self.look_up(*role, descriptor, reason).await?);
        }
        for Leaf { descriptor, role, skipped } in &tree.leaves {
            plan.add(self.look_up(*role, descriptor, skipped.map(str::to_owned)).await?);
        }
        plan.blobs.sort_by_key(|blob| blob.role);
        Ok(plan)
    }

    async fn look_at_layers(&self, request: &Request, schema1: &Schema1) -> Result<Tree, Ended> {
        convert::check_asked(request)?;
        let platform = convert::check_platform(request, schema1)?;
        let mut leaves = Vec::new();
        for digest in convert::layers_to_fetch(schema1) {
            let size = self.ask(|| self.repository.find_size(&digest)).await?;
            leaves.push(convert::leaf_of(digest, size));
        }
        Ok(Tree { leaves, platforms: platform.into_iter().collect(), ..Tree::default() })
    }

    async fn look_up(
        &self,
        role: BlobRole,
        descriptor: &Descriptor,
        reason: Option<String>,
    ) -> Result<PlanBlob> {
        let (digest, size) = (&descriptor.digest, descriptor.size);
        let store = &self.jobs.0.store;
        let presence = store.find_presence(self.caller, digest, size).await?;
        let offset = match presence {
            Presence::Nowhere => {
                store.count_begun(&self.caller.namespace, &ingest_ref(digest)).await?.min(size)
            }
            Presence::Here | Presence::Lent => 0,
        };
        Ok(PlanBlob {
            digest: digest.clone(),
            media_type: descriptor.media_type.clone(),
            role,
            size,
            present: presence == Presence::Here,
            shared: presence == Presence::Lent,
            offset,
            skipped: reason.is_some(),
            reason,
        })
    }

    /// Asks the registry until it answers, has failed as often as is reasonable, or wants to be left alone for longer
    /// than a client waits.
    async fn ask<T, F: Future<Output = Result<T>>>(&self, ask: impl Fn() -> F) -> Result<T, Ended> {
        let mut retries = Retries::new(self.jobs.0.settings.retry);
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let random = u64::from_le_bytes(crate::id::random_bytes());
            match retries.failed(&error, random) {
                Some(wait) if wait <= limits::PLAN_WAIT => tokio::time::sleep(wait).await,
                Some(_) | None => return Err(retries.give_up(error).into()),
            }
        }
    }

    /// What is here already need not be fetched to be read.
    async fn read_stored(&self, descriptor: &Descriptor) -> Result<Option<Vec<u8>>> {
        let store = &self.jobs.0.store;
        match store.read_blob(&self.caller.namespace, &descriptor.digest, limits::MANIFEST_BYTES).await {
            Ok(bytes) if bytes.len() as u64 == descriptor.size => Ok(Some(bytes)),
            Ok(_) | Err(Error::NotFound { .. } | Error::Corrupt { .. } | Error::TooLarge { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn left_out(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, String>> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf for InMemory<'_> {
    async fn document(&self, wanted: Wanted<'_>, fetched: Option<Fetched>) -> Result<Document, Ended> {
        let descriptor = wanted.descriptor;
        if let Some(fetched) = fetched {
            return Ok(fetched.document);
        }
        if let Some((_, document)) = embedded(descriptor) {
            return Ok(document);
        }
        let stored = self.read_stored(descriptor).await?;
        let parsed = stored.and_then(|bytes| Document::parse(&bytes, Some(&descriptor.media_type)).ok());
        match parsed {
            Some(document) => Ok(document),
            None => {
                let ask = || async {
                    self.repository.fetch_document(descriptor).await.map_err(|error| wanted.explain(error))
                };
                Ok(Box::pin(self.ask(ask)).await?.document)
            }
        }
    }

    async fn platform(&self, config: &Descriptor) -> Result<Option<Platform>, Ended> {
        if config.size > limits::PULL_CONFIG_BYTES {
            return Ok(None);
        }
        let bytes: Bytes = match (config.embedded(), self.read_stored(config).await?) {
            (Some(bytes), _) | (None, Some(bytes)) => bytes.into(),
            (None, None) => {
                self.ask(|| self.repository.fetch_small(config, limits::PULL_CONFIG_BYTES)).await?
            }
        };
        Ok(platform_of(&bytes))
    }

    async fn referrers(&self, subject: &Digest, types: &[String]) -> Result<Vec<Descriptor>, Ended> {
        self.ask(|| self.repository.list_referrers(subject, types)).await
    }

    fn leave_out(&self, referrer: &Descriptor, why: String) {
        self.left_out().insert(referrer.digest.clone(), why);
    }
}

impl Plan {
    fn add(&mut self, blob: PlanBlob) {
        self.totals.add(&blob);
        self.blobs.push(blob);
    }
}

impl PlanTotals {
    fn add(&mut self, blob: &PlanBlob) {
        if blob.skipped {
            self.blobs_skipped += 1;
            return;
        }
        let (bytes, blobs) = match (blob.present, blob.shared) {
            (true, _) => (&mut self.bytes_present, &mut self.blobs_present),
            (false, true) => (&mut self.bytes_shared, &mut self.blobs_shared),
            (false, false) => (&mut self.bytes_to_fetch, &mut self.blobs_to_fetch),
        };
        // Sizes are promises of a peer.
        *bytes = bytes.saturating_add(blob.size - blob.offset);
        *blobs += 1;
        self.bytes_present = self.bytes_present.saturating_add(blob.offset);
        self.bytes_total = self.bytes_total.saturating_add(blob.size);
        self.blobs_total += 1;
    }
}
