//! Images: a name and what it stands for.

mod archive;
mod check;
mod history;
mod manifest;
mod target;
mod tree;
mod usage;

pub use archive::{Archive, ArchiveScope, Piece};
pub use check::{ImageCheck, PlatformCheck, Wholeness};
pub use history::{BuildStep, History};
pub use manifest::ImageManifest;
pub use target::{NewTarget, Target, TargetPatch};
pub(super) use tree::json_list;
pub use usage::{ImageUsage, Sharer};

use serde::Serialize;

use super::labels::{self, LabelPatch, Labels};
use super::leases::{Held, ResourceKind, hold};
use super::namespaces::touch;
use super::tell::{News, tell};
use super::{Caller, IfMatch, Store, tag_of};
use crate::clock::Time;
use crate::db;
use crate::db::images::ImageRow;
use crate::error::{Error, Result};
use crate::events::Topic;
use crate::id::new_id;
use crate::limits;
use target::{change_target, complete_target};

/// An image as its namespace sees it.
#[derive(Debug, Clone, Serialize)]
pub struct Image {
    pub id: String,
    pub namespace: String,
    pub name: String,
    pub target: Target,
    pub labels: Labels,
    pub created_at: Time,
    pub updated_at: Time,
}

impl Image {
    pub fn tag(&self) -> String {
        tag_of(self.updated_at)
    }
}

#[derive(Debug, Clone)]
pub enum ImageSource {
    Target(NewTarget),
    /// The id or the name of another image of the namespace.
    Image(String),
}

#[derive(Debug, Clone)]
pub struct NewImage {
    pub name: String,
    pub source: ImageSource,
    pub labels: Labels,
}

#[derive(Debug, Clone)]
pub struct ImagePatch {
    pub labels: Option<LabelPatch>,
    pub target: Option<TargetPatch>,
    pub if_match: IfMatch,
}

/// An image that was given its name.
#[derive(Debug, Clone)]
pub struct NamedImage {
    pub image: Image,
    pub held: Held,
    /// The digest that the name stood for before, where that is another one.
    pub moved_from: Option<String>,
}

/// What becomes of an image that has the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameTaken {
    Refuse,
    /// The name moves to the new target, as a pull of a moved tag does.
    Move,
}

impl Store {
    /// # Errors
    /// `Invalid`; `AlreadyExists`; `NotFound` for the lease or the image to copy; `Unprocessable` when the target
    /// disagrees with what is stored, or leaves out what nobody knows.
    pub async fn create_image(&self, caller: &Caller, new: NewImage, taken: NameTaken) -> Result<NamedImage> {
        check_image_name(&new.name)?;
        let labels = labels::new_labels(new.labels)?;
        let target = match new.source {
            ImageSource::Target(target) => {
                let mut conn = self.0.db.read().await?;
                complete_target(&mut conn, &caller.namespace, target).await?
            }
            ImageSource::Image(other) => self.find_image_by(&caller.namespace, &other).await?.target,
        };
        let now = self.now();
        let row = ImageRow {
            id: new_id("img", now),
            namespace: caller.namespace.clone(),
            name: new.name,
            media_type: target.media_type,
            digest: target.digest,
            size: super::ingests::signed(target.size),
            annotations: labels::to_json(&target.annotations),
            labels: labels::to_json(&labels),
            created_at: now.0,
            updated_at: now.0,
        };
        let (store, owner, grace) = (self.clone(), caller.clone(), self.0.settings.grace_lease);
        self.change_image(move |tx| {
            Box::pin(async move {
                touch(tx, &owner.namespace, now).await?;
                let (row, topic, stood_for) = if db::images::insert_image(tx, &row).await? {
                    (row, Topic::ImageCreate, None)
                } else {
                    let (row, stood_for) = move_name(tx, row, taken, &store).await?;
                    (row, Topic::ImageUpdate, Some(stood_for))
                };
                tell(tx, now, News::of_image(topic, &row)).await?;
                let held = hold(tx, &owner, ResourceKind::Image, &row.id, grace, now).await?;
                let moved_from = stood_for.filter(|digest| *digest != row.digest);
                Ok(NamedImage { image: image_of(row), held, moved_from })
            })
        })
        .await
    }

    /// # Errors
    /// `NotFound`.
    pub async fn find_image(&self, namespace: &str, id: &str) -> Result<Image> {
        let mut conn = self.0.db.read().await?;
        let row = db::images::find_image(&mut conn, namespace, id).await?;
        row.map(image_of).ok_or_else(|| Error::not_found("image", id))
    }

    /// An image, held for the caller as if it had just been made.
    ///
    /// # Errors
    /// `NotFound`, for the lease as well.
    pub async fn hold_image(&self, caller: &Caller, id: &str) -> Result<(Image, Held)> {
        let (owner, id, now) = (caller.clone(), id.to_owned(), self.now());
        let grace = self.0.settings.grace_lease;
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let row = db::images::find_image(tx, &owner.namespace, &id).await?;
                    let row = row.ok_or_else(|| Error::not_found("image", &id))?;
                    let held = hold(tx, &owner, ResourceKind::Image, &row.id, grace, now).await?;
                    Ok((image_of(row), held))
                })
            })
            .await
    }

    /// By id, or by name.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn find_image_by(&self, namespace: &str, id_or_name: &str) -> Result<Image> {
        let mut conn = self.0.db.read().await?;
        if let Some(row) = db::images::find_by_name(&mut conn, namespace, id_or_name).await? {
            return Ok(image_of(row));
        }
        let row = db::images::find_image(&mut conn, namespace, id_or_name).await?;
        row.map(image_of).ok_or_else(|| Error::not_found("image", id_or_name))
    }

    /// # Errors
    /// `NotFound`, `PreconditionFailed`, `Invalid`, `Unprocessable` as [`Store::create_image`].
    pub async fn update_image(&self, namespace: &str, id: &str, patch: ImagePatch) -> Result<Image> {
        let (store, owner, id, now) = (self.clone(), namespace.to_owned(), id.to_owned(), self.now());
        self.change_image(move |tx| {
            Box::pin(async move {
                let mut row = db::images::lock_image(tx, &owner, &id)
                    .await?
                    .ok_or_else(|| Error::not_found("image", &id))?;
                patch.if_match.check(&tag_of(Time(row.updated_at)))?;
                if let Some(change) = patch.labels {
                    let mut labels = labels::from_json(&row.labels);
                    labels::apply_patch(&mut labels, change)?;
                    row.labels = labels::to_json(&labels);
                }
                if let Some(change) = patch.target {
                    let target = complete_target(tx, &owner, change_target(&row, change)?).await?;
                    row.media_type = target.media_type;
                    row.digest = target.digest;
                    row.size = super::ingests::signed(target.size);
                    row.annotations = labels::to_json(&target.annotations);
                }
                row.updated_at = store.after(Time(row.updated_at)).0;
                db::images::update_image(tx, &row).await?;
                tell(tx, now, News::of_image(Topic::ImageUpdate, &row)).await?;
                Ok(image_of(row))
            })
        })
        .await
    }

    /// Removes the name. What it stood for stays for as long as something else keeps it.
    ///
    /// # Errors
    /// `NotFound`, `PreconditionFailed`.
    pub async fn delete_image(&self, namespace: &str, id: &str, if_match: IfMatch) -> Result<()> {
        let (owner, name, now) = (namespace.to_owned(), id.to_owned(), self.now());
        self.change_image(move |tx| {
            Box::pin(async move {
                let row = db::images::lock_image(tx, &owner, &name)
                    .await?
                    .ok_or_else(|| Error::not_found("image", &name))?;
                if_match.check(&tag_of(Time(row.updated_at)))?;
                db::leases::forget_resource(tx, &owner, "image", &name).await?;
                db::images::delete_image(tx, &owner, &name).await?;
                tell(tx, now, News::of_image(Topic::ImageDelete, &row)).await
            })
        })
        .await
    }

    /// Changes an image, and waits for `index.json` where that is written at once. To the end, whether or not the caller
    /// stays: the file must hear of it.
    async fn change_image<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut db::Tx) -> db::BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let store = self.clone();
        self.to_the_end("change an image", async move {
            let changed = store.0.db.write(work).await?;
            let change = store.0.index.name_changed();
            store.0.index.wait_unless_gathered(change).await;
            Ok(changed)
        })
        .await
    }
}

/// Points a name that is taken to the new target, if that is what is wanted; also the digest that it stood for.
async fn move_name(
    tx: &mut db::Tx,
    new: ImageRow,
    taken: NameTaken,
    store: &Store,
) -> Result<(ImageRow, String)> {
    let stands = db::images::lock_by_name(tx, &new.namespace, &new.name).await?;
    let Some(stands) = stands.filter(|_| taken == NameTaken::Move) else {
        return Err(Error::already_exists("image", &new.name));
    };
    let mut labels = labels::from_json(&stands.labels);
    labels.extend(labels::from_json(&new.labels));
    let row = ImageRow {
        id: stands.id,
        created_at: stands.created_at,
        updated_at: store.after(Time(stands.updated_at)).0,
        labels: labels::to_json(&labels),
        ..new
    };
    db::images::update_image(tx, &row).await?;
    Ok((row, stands.digest))
}

/// # Errors
/// `Invalid` for a name that is empty or blank, longer than [`limits::REFERENCE_BYTES`] or unprintable.
pub fn check_image_name(name: &str) -> Result<()> {
    if name.trim().is_empty()
        || name.len() > limits::REFERENCE_BYTES
        || name.contains(|c: char| c.is_ascii_control())
    {
        return Err(Error::invalid_field(
            "name",
            format!(
                "an image name has 1 to {} bytes, no control characters, and more than blanks",
                limits::REFERENCE_BYTES
            ),
        ));
    }
    Ok(())
}

pub(super) fn image_of(row: ImageRow) -> Image {
    Image {
        id: row.id,
        namespace: row.namespace,
        name: row.name,
        target: Target {
            media_type: row.media_type,
            digest: row.digest,
            size: row.size.unsigned_abs(),
            annotations: labels::from_json(&row.annotations),
        },
        labels: labels::from_json(&row.labels),
        created_at: Time(row.created_at),
        updated_at: Time(row.updated_at),
    }
}
