//! Lists: pages of each resource, in an order, behind a cursor, through a filter.
//!
//! A page is read in batches from an index and filtered here: a filter may hold a regular expression, which no
//! database is ever handed.

mod items;

pub use items::Labelled;

use std::future::ready;

use super::content::content_of;
use super::filter::{Fields, Schema};
use super::images::image_of;
use super::leases::lease_of;
use super::list::{Cursor, KeyValue, ListQuery, Resource, Sort};
use super::namespaces::namespace_of;
use super::snapshots::snapshot_of;
use super::tokens::token_of;
use super::{Content, Image, Ingest, Labels, Lease, Namespace, Snapshot, Store, Token};
use crate::db;
use crate::db::ingests::IngestRow;
use crate::db::leases::LeaseRow;
use crate::db::namespaces::NamespaceRow;
use crate::db::pulls::PullRow;
use crate::db::tokens::TokenRow;
use crate::db::unpacks::UnpackRow;
use crate::db::{Batch, ListPage, OrderBy, Rows};
use crate::error::Result;
use crate::limits;
use items::Keyed;

/// Rows that are read at once: few at first, for one page may need no more of them, and more each time, for a filter
/// may drop most of them.
const FIRST_BATCH: usize = 128;
const BATCH: usize = 1000;

/// One page, and where the next one starts.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<Cursor>,
}

/// The plain parameters of a list: conditions on columns, and labels that must be there.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    conditions: Vec<(&'static str, KeyValue)>,
    labels: Vec<(String, Option<String>)>,
}

impl Wanted {
    /// Only items whose `column` (one of ours, with its operator) is `value`.
    fn only(mut self, condition: &'static str, value: Option<&str>) -> Wanted {
        self.conditions.extend(value.map(|value| (condition, KeyValue::Text(value.to_owned()))));
        self
    }

    /// As [`Wanted::only`], of a number.
    pub(super) fn number(mut self, condition: &'static str, value: Option<i64>) -> Wanted {
        self.conditions.extend(value.map(|value| (condition, KeyValue::Number(value))));
        self
    }

    /// Only items that have the label, with the value where one is given.
    pub fn label(mut self, key: &str, value: Option<&str>) -> Wanted {
        self.labels.push((key.to_owned(), value.map(str::to_owned)));
        self
    }

    pub fn digest(self, digest: Option<&str>) -> Wanted {
        self.only("digest =", digest)
    }

    pub fn media_type(self, media_type: Option<&str>) -> Wanted {
        self.only("media_type =", media_type)
    }

    pub fn reference(self, reference: Option<&str>) -> Wanted {
        self.only("ref =", reference)
    }

    pub fn name(self, name: Option<&str>) -> Wanted {
        self.only("name =", name)
    }

    pub fn kind(self, kind: Option<&str>) -> Wanted {
        self.only("kind =", kind)
    }

    pub fn parent(self, parent: Option<&str>) -> Wanted {
        self.only("parent =", parent)
    }

    pub fn state(self, state: Option<&str>) -> Wanted {
        self.only("state =", state)
    }

    pub fn namespace(self, namespace: Option<&str>) -> Wanted {
        self.only("namespace =", namespace)
    }

    /// Only names that begin with `prefix`: those between it and it with the last of all characters behind it.
    pub fn name_prefix(self, prefix: Option<&str>) -> Wanted {
        let end = prefix.map(|prefix| format!("{prefix}\u{10ffff}"));
        self.only("name >=", prefix).only("name <", end.as_deref())
    }

    /// As [`Wanted::name_prefix`], of topics.
    pub fn topic_prefix(self, prefix: Option<&str>) -> Wanted {
        let end = prefix.map(|prefix| format!("{prefix}\u{10ffff}"));
        self.only("topic >=", prefix).only("topic <", end.as_deref())
    }

    fn matches(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(key, wanted)| {
            labels.get(key).is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
        })
    }
}

pub const CONTENT: Resource = Resource {
    schema: Schema::CONTENT,
    sorts: &[
        Sort::text("digest", "digest"),
        Sort::number("size", "size"),
        Sort::text("media_type", "COALESCE(media_type, '')"),
        Sort::number("created_at", "created_at"),
        Sort::number("updated_at", "updated_at"),
    ],
    default_sort: "digest",
    tie_breaker: Sort::text("digest", "digest"),
};

pub const INGESTS: Resource = Resource {
    schema: Schema::INGESTS,
    sorts: &[
        Sort::text("ref", "ref"),
        Sort::number("offset", "durable_offset"),
        Sort::number("started_at", "started_at"),
        Sort::number("updated_at", "updated_at"),
        Sort::number("expires_at", "expires_at"),
    ],
    default_sort: "started_at",
    tie_breaker: Sort::text("id", "id"),
};

pub const IMAGES: Resource = Resource {
    schema: Schema::IMAGES,
    sorts: &[
        Sort::text("name", "name"),
        Sort::number("created_at", "created_at"),
        Sort::number("updated_at", "updated_at"),
    ],
    default_sort: "name",
    tie_breaker: Sort::text("id", "id"),
};

pub const NAMESPACES: Resource = Resource {
    schema: Schema::NAMESPACES,
    sorts: &[
        Sort::text("name", "name"),
        Sort::number("created_at", "created_at"),
        Sort::number("updated_at", "updated_at"),
    ],
    default_sort: "name",
    tie_breaker: Sort::text("name", "name"),
};

pub const LEASES: Resource = Resource {
    schema: Schema::LEASES,
    sorts: &[
        Sort::text("id", "id"),
        Sort::number("expires_at", "COALESCE(expires_at, 9223372036854775807)"),
        Sort::number("created_at", "created_at"),
        Sort::number("updated_at", "updated_at"),
    ],
    default_sort: "created_at",
    tie_breaker: Sort::text("id", "id"),
};

/// What one lease holds: it is asked for in this order only.
pub const LEASE_RESOURCES: Resource = Resource {
    schema: Schema::LEASE_RESOURCES,
    sorts: &[Sort::text("type", "type")],
    default_sort: "type",
    tie_breaker: Sort::text("id", "id"),
};

pub const SNAPSHOTS: Resource = Resource {
    schema: Schema::SNAPSHOTS,
    sorts: &[
        Sort::text("key", "key"),
        Sort::number("size", "size"),
        Sort::number("created_at", "created_at"),
        Sort::number("updated_at", "updated_at"),
    ],
    default_sort: "created_at",
    tie_breaker: Sort::text("key", "key"),
};

pub const TOKENS: Resource = Resource {
    schema: Schema::TOKENS,
    sorts: &[
        Sort::text("name", "name"),
        Sort::number("created_at", "created_at"),
        Sort::number("expires_at", "COALESCE(expires_at, 9223372036854775807)"),
    ],
    default_sort: "created_at",
    tie_breaker: Sort::text("id", "id"),
};

/// How jobs of any kind are sorted.
const JOB_SORTS: &[Sort] = &[
    Sort::text("state", "state"),
    Sort::number("created_at", "created_at"),
    Sort::number("started_at", "COALESCE(started_at, 9223372036854775807)"),
    Sort::number("finished_at", "COALESCE(finished_at, 9223372036854775807)"),
];

pub const PULLS: Resource = Resource {
    schema: Schema::PULLS,
    sorts: JOB_SORTS,
    default_sort: "-created_at",
    tie_breaker: Sort::text("id", "id"),
};

pub const UNPACKS: Resource = Resource { schema: Schema::UNPACKS, ..PULLS };

/// In the order of their ids, which is that in which they happened.
pub const EVENTS: Resource = Resource {
    schema: Schema::EVENTS,
    sorts: &[Sort::number("id", "id")],
    default_sort: "id",
    tie_breaker: Sort::number("id", "id"),
};

impl Store {
    /// # Errors
    /// `Unavailable`; so for every list here.
    pub async fn list_content(
        &self,
        namespace: &str,
        query: &ListQuery,
        wanted: Wanted,
    ) -> Result<Page<Content>> {
        let wanted = wanted.only("namespace =", Some(namespace));
        self.page(db::content::SELECT_CONTENT, query, &wanted, |row| ready(Ok(Some(content_of(row))))).await
    }

    /// # Errors
    /// `Unavailable`.
    pub async fn list_ingests(
        &self,
        namespace: &str,
        query: &ListQuery,
        wanted: Wanted,
    ) -> Result<Page<Ingest>> {
        let wanted = wanted.only("namespace =", Some(namespace));
        let view = |row: IngestRow| {
            let store = self.clone();
            async move { store.view(&row, None, None).await.map(Some) }
        };
        self.page(db::ingests::SELECT_INGESTS, query, &wanted, view).await
    }

    /// # Errors
    /// `Unavailable`.
    pub async fn list_images(
        &self,
        namespace: &str,
        query: &ListQuery,
        wanted: Wanted,
    ) -> Result<Page<Image>> {
        let wanted = wanted.only("namespace =", Some(namespace));
        self.page(db::images::SELECT_IMAGES, query, &wanted, |row| ready(Ok(Some(image_of(row))))).await
    }

    /// # Errors
    /// `Unavailable`.
    pub async fn list_snapshots(
        &self,
        namespace: &str,
        query: &ListQuery,
        wanted: Wanted,
    ) -> Result<Page<Snapshot>> {
        let wanted = wanted.only("namespace =", Some(namespace));
        let view = |row| ready(Ok(Some(snapshot_of(row))));
        self.page(db::snapshots::SELECT_SNAPSHOTS, query, &wanted, view).await
    }

    /// Leases that have expired are not there, whether or not their rows still are.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_leases(
        &self,
        namespace: &str,
        query: &ListQuery,
        wanted: Wanted,
    ) -> Result<Page<Lease>> {
        let now = self.now();
        let wanted = wanted.only("namespace =", Some(namespace));
        let view = |row: LeaseRow| {
            let lives = row.expires_at.is_none_or(|at| at > now.0);
            ready(Ok(lives.then(|| lease_of(row, now))))
        };
        self.page(db::leases::SELECT_LEASES, query, &wanted, view).await
    }

    /// The namespaces that the caller may read.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_namespaces(
        &self,
        reach: &super::Reach,
        query: &ListQuery,
        wanted: Wanted,
    ) -> Result<Page<Namespace>> {
        let view = |row: NamespaceRow| {
            let visible = reach.includes(&row.name);
            ready(Ok(visible.then(|| namespace_of(row))))
        };
        self.page(db::namespaces::SELECT_NAMESPACES, query, &wanted, view).await
    }

    /// The tokens that reach no further than `reach`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_tokens(&self, reach: &super::Reach, query: &ListQuery) -> Result<Page<Token>> {
        let view =
            |row: TokenRow| ready(Ok(Some(token_of(row)).filter(|token| reach.covers(&token.reach()))));
        self.page(db::tokens::SELECT_TOKENS, query, &Wanted::default(), view).await
    }

    /// Pulls, each shown by `view`, which knows its current picture.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_pulls<T: Fields + Labelled>(
        &self,
        namespace: &str,
        query: &ListQuery,
        wanted: Wanted,
        view: impl Fn(PullRow) -> T,
    ) -> Result<Page<T>> {
        let wanted = wanted.only("namespace =", Some(namespace));
        self.page(db::pulls::SELECT_PULLS, query, &wanted, |row| ready(Ok(Some(view(row))))).await
    }

    pub async fn list_unpacks<T: Fields + Labelled>(
        &self,
        namespace: &str,
        query: &ListQuery,
        wanted: Wanted,
        view: impl Fn(UnpackRow) -> Option<T>,
    ) -> Result<Page<T>> {
        let wanted = wanted.only("namespace =", Some(namespace));
        self.page(db::unpacks::SELECT_UNPACKS, query, &wanted, |row| ready(Ok(view(row)))).await
    }

    /// Reads batches until the page is full, or large ([`limits::LIST_BYTES`]). `view` makes an item of a row, or nothing of one that is not to be seen.
    pub(super) async fn page<R, T, V, F>(
        &self,
        select: &'static str,
        query: &ListQuery,
        wanted: &Wanted,
        view: V,
    ) -> Result<Page<T>>
    where
        R: Rows + Keyed,
        T: Fields + Labelled,
        V: Fn(R) -> F,
        F: Future<Output = Result<Option<T>>>,
    {
        let sort = query
            .sort
            .iter()
            .map(|key| OrderBy { column: key.column, descending: key.descending })
            .collect::<Vec<_>>();
        let everything = query.filter.is_everything() && wanted.labels.is_empty();
        let mut after = query.cursor.as_ref().map(|cursor| cursor.after.clone());
        let (mut items, mut held_bytes) = (Vec::new(), 0);
        let mut last = None;
        let mut batch = FIRST_BATCH;
        loop {
            // One more than the page takes tells whether there is another.
            let wanted_rows = if everything { query.limit + 1 - items.len() } else { BATCH };
            let page = ListPage {
                select,
                conditions: wanted.conditions.clone(),
                sort: sort.clone(),
                after: after.clone(),
                limit: batch.min(wanted_rows),
                limit_bytes: limits::LIST_BYTES,
            };
            let Batch { rows, ended } = self.0.db.list_rows::<R>(&page).await?;
            for row in rows {
                let size_bytes = row.size_bytes();
                let key: Vec<_> = query.sort.iter().map(|sort| row.key(sort.name)).collect();
                after = Some(key.clone());
                let Some(item) = view(row).await? else { continue };
                if !query.filter.matches(&item) || !wanted.matches(item.labels()) {
                    continue;
                }
                if items.len() == query.limit || held_bytes >= limits::LIST_BYTES {
                    return Ok(Page { items, next: last.map(|after| Cursor { after }) });
                }
                items.push(item);
                held_bytes += size_bytes;
                last = Some(key);
            }
            if ended {
                return Ok(Page { items, next: None });
            }
            batch = (batch * 4).min(BATCH);
        }
    }
}

pub(super) fn text(value: &str) -> KeyValue {
    KeyValue::Text(value.to_owned())
}
