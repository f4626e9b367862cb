//! What orlop promises: the rules that join files and rows. A file here is a noun, a method a verb.
//!
//! Files are written before rows and removed before rows are forgotten, under a gate per digest, so that a row
//! whose blob is `stored` never lacks its file. What changes both runs in a task of its own: a caller that goes
//! away cannot stop it half-way.

mod arrival;
mod body;
mod cache;
mod commit;
mod content;
mod edges;
mod events;
mod files;
mod gate;
mod idempotency;
mod images;
mod index;
mod ingests;
mod layers;
mod leases;
mod live;
mod namespaces;
mod progress;
mod pulls;
mod put;
mod receive;
mod registries;
mod relabel;
mod repair;
mod seal;
mod snapshots;
mod sweep;
mod tell;
mod tokens;
mod unpacks;

pub mod filter;
pub mod labels;
pub mod list;
pub mod lists;

pub use crate::disk::BlobFile as OpenFile;
pub use arrival::{Committed, Put};
pub use body::Placed;
pub use cache::Blob;
pub use commit::CommitIngest;
pub use content::{Content, ContentPatch, Presence, PutBody, WhenHeld};
pub use edges::{Child, ChildPlatform, Children};
pub use events::Follower;
pub use files::{
    ChangeKind, FileChange, FileEntry, FileKind, FileLayer, FilePage, FileQuery, Files, list_changes,
};
pub use idempotency::Keyed;
pub use images::{
    Archive, ArchiveScope, BuildStep, History, Image, ImageCheck, ImageManifest, ImagePatch, ImageSource,
    ImageUsage, NameTaken, NewImage, NewTarget, Piece, PlatformCheck, Sharer, Target, TargetPatch, Wholeness,
    check_image_name,
};
pub use ingests::{Ingest, OpenIngest, Opened, Writer};
pub use labels::{LabelPatch, Labels};
pub use leases::{Expiry, Held, Lease, LeasePatch, NewLease, Resource, ResourceKind};
pub use namespaces::{DEFAULT_NAMESPACE, Namespace, NamespacePatch, check_namespace};
pub use pulls::PullRow;
pub use put::PutStream;
pub use receive::Append;
pub use registries::{Expected, Merge, StoredRegistry};
pub use repair::Repaired;
pub use snapshots::{
    Between, Building, CommitSnapshot, Form, Layer, Mount, NewKind, NewSnapshot, Snapshot, SnapshotKind,
    SnapshotPatch, Staged, UnpackedLayer, View, ViewFile,
};
pub use tokens::{NewToken, SESSION_TIME, Scope, Session, Token, is_same};
pub use unpacks::{UnpackRow, UnpackTurn};

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Time};
use crate::db::Db;
use crate::disk::{Disk, Flush};
use crate::error::{Error, Result};
use crate::oci::tree::Tree;
use crate::shutdown::Shutdown;

/// The store: a cheap clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    disk: Arc<Disk>,
    flush: Flush,
    db: Db,
    clock: Clock,
    settings: Settings,
    shutdown: Shutdown,
    tail: events::Tail,
    gate: gate::Gate,
    keys: gate::Gate,
    snapshots: gate::Gate,
    /// Trees of committed snapshots, by directory.
    trees: Trees,
    /// Whether the files of snapshots are as their layers say; looked at once.
    snapshot_form: tokio::sync::OnceCell<bool>,
    cache: cache::Blobs,
    ingests: live::Ingests,
    index: index::Index,
    seal: seal::Seal,
    unopened: registries::Unopened,
    boot: String,
}

/// Trees that are in use, by directory; one weighs as many as it has files.
type Trees = quick_cache::sync::Cache<String, Arc<Tree>, Weight>;

/// Files whose trees are kept in memory: about 30 MiB.
const TREE_INODES: u64 = 150_000;

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<String, Arc<Tree>> for Weight {
    fn weight(&self, _id: &String, tree: &Arc<Tree>) -> u64 {
        tree.inodes() as u64
    }
}

/// What of the configuration the store goes by.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long the lease lives that the server makes when a caller names none.
    pub grace_lease: Duration,
    /// How long an ingest lives that nobody touches.
    pub ingest_expiry: Duration,
    /// Whether one namespace's content is lent to another that names its digest.
    pub sharing: Sharing,
    /// The largest blob that is taken, in bytes.
    pub max_blob_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    Shared,
    Isolated,
}

/// On whose behalf something is done: its namespace, the lease it named, and where it may look.
#[derive(Debug, Clone)]
pub struct Caller {
    pub namespace: String,
    pub lease: Option<String>,
    pub reach: Reach,
}

/// The namespaces that a caller may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    Everywhere,
    Only(Vec<String>),
}

impl Reach {
    /// As tokens write it: no name at all means everywhere.
    pub fn of<'n>(names: impl Iterator<Item = &'n String>) -> Reach {
        let names: Vec<String> = names.cloned().collect();
        if names.is_empty() { Reach::Everywhere } else { Reach::Only(names) }
    }

    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            Reach::Everywhere => true,
            Reach::Only(names) => names.iter().any(|name| name == namespace),
        }
    }

    /// Whether `other` reaches nothing that this does not.
    pub fn covers(&self, other: &Reach) -> bool {
        match (self, other) {
            (Reach::Everywhere, _) => true,
            (Reach::Only(_), Reach::Everywhere) => false,
            (Reach::Only(_), Reach::Only(names)) => names.iter().all(|name| self.includes(name)),
        }
    }
}

/// What a conditional request says of the state it expects (RFC 9110, section 13.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// No condition.
    Absent,
    /// `*`: it exists.
    Any,
    /// One of these tags, without their quotes.
    Tags(Vec<String>),
}

impl IfMatch {
    /// # Errors
    /// `PreconditionFailed` when `tag` is not what was expected.
    pub fn check(&self, tag: &str) -> Result<()> {
        match self {
            IfMatch::Absent | IfMatch::Any => Ok(()),
            IfMatch::Tags(tags) if tags.iter().any(|expected| expected == tag) => Ok(()),
            IfMatch::Tags(_) => Err(Error::PreconditionFailed {
                reason: format!("it has changed: its ETag is now \"{tag}\""),
            }),
        }
    }
}

/// The tag of a record in a state: it changes with `updated_at`, which moves with every change.
pub fn tag_of(updated_at: Time) -> String {
    format!("{:x}", updated_at.0)
}

impl Store {
    /// A store over an open disk and database. Call [`Store::claim_database`] before anything else, and before serving
    /// [`Store::repair`] and then [`Store::start_tasks`]. It reads the key for secrets, which blocks for a moment.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal` when there is no key for secrets, and none can be made.
    pub fn new(disk: Disk, db: Db, clock: Clock, settings: Settings, shutdown: Shutdown) -> Result<Store> {
        let seal = seal::Seal::new(&disk.secret_key()?);
        let disk = Arc::new(disk);
        Ok(Store(Arc::new(Inner {
            flush: Flush::new(disk.clone()),
            disk,
            db,
            clock,
            settings,
            shutdown,
            tail: events::Tail::default(),
            gate: gate::Gate::new(),
            keys: gate::Gate::new(),
            snapshots: gate::Gate::new(),
            trees: Trees::with_weighter(64, TREE_INODES, Weight),
            snapshot_form: tokio::sync::OnceCell::new(),
            cache: cache::Blobs::new(),
            ingests: live::Ingests::default(),
            index: index::Index::default(),
            seal,
            unopened: registries::Unopened::default(),
            boot: crate::disk::boot_id(),
        })))
    }

    /// Starts what goes on for as long as the server does: `index.json` is kept up, what has expired goes.
    pub fn start_tasks(&self) {
        self.0.shutdown.spawn("index-writer", index::write_behind(self.clone()));
        self.0.shutdown.spawn("sweeper", sweep::sweep_expired(self.clone()));
    }

    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub fn database_kind(&self) -> &'static str {
        self.0.db.kind()
    }

    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn check_database(&self) -> Result<()> {
        self.0.db.ping().await
    }

    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal` when nothing can be written.
    pub async fn check_disk(&self) -> Result<()> {
        self.on_disk(|disk| disk.check_writable()).await
    }

    /// What is stored, over all namespaces: on disk once, and as the sum of all records.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn measure_usage(&self) -> Result<Usage> {
        let measured_at = self.now();
        let totals = {
            let mut conn = self.0.db.read().await?;
            crate::db::content::count_everything(&mut conn, measured_at.0).await?
        };
        let (capacity_bytes, free_bytes) = self.on_disk(Disk::space).await?;
        let count = i64::unsigned_abs;
        Ok(Usage {
            blobs: count(totals.blobs),
            damaged_blobs: count(totals.damaged_blobs),
            records: count(totals.records),
            images: count(totals.images),
            ingests: count(totals.ingests),
            leases: count(totals.leases),
            namespaces: count(totals.namespaces),
            on_disk_bytes: count(totals.stored_bytes),
            ingest_bytes: count(totals.ingest_bytes),
            logical_bytes: count(totals.logical_bytes),
            saved_bytes: count((totals.logical_bytes - totals.stored_bytes).max(0)),
            free_bytes,
            capacity_bytes,
            measured_at,
        })
    }

    fn now(&self) -> Time {
        self.0.clock.now()
    }

    /// A time for a change of something last changed at `before`: later, even if the clock stands.
    fn after(&self, before: Time) -> Time {
        self.now().max(Time(before.0 + 1))
    }

    /// Runs file work on a thread that may block.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let disk = self.0.disk.clone();
        self.0.shutdown.spawn_blocking("work on files", move || work(&disk)).await?
    }

    /// Runs `work` to its end, whether or not the caller stays to hear of it.
    async fn to_the_end<T, F>(&self, name: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.0.shutdown.spawn(name, async move {
            // A caller that went away no longer wants to know.
            let _ = reply.send(work.await);
        });
        answer.await.map_err(|_| Error::internal(format!("{name} ended before it was done")))?
    }
}

/// Bytes on disk and bytes as the namespaces see them.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Usage {
    pub blobs: u64,
    /// Recorded, and missing or not what they are named.
    pub damaged_blobs: u64,
    pub records: u64,
    pub images: u64,
    pub ingests: u64,
    pub leases: u64,
    pub namespaces: u64,
    pub on_disk_bytes: u64,
    pub ingest_bytes: u64,
    pub logical_bytes: u64,
    pub saved_bytes: u64,
    pub free_bytes: u64,
    pub capacity_bytes: u64,
    pub measured_at: Time,
}
