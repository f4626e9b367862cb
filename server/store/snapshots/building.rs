//! An active snapshot in the hands of whoever applies a layer to it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::MutexGuard;

use super::{Form, Store, View, check_active};
use crate::error::{Conflict, Doing, Error, Result};
use crate::oci::tree::{Kind, Tree};

/// An active snapshot that nobody commits or removes meanwhile.
pub struct Building<'s> {
    store: &'s Store,
    id: String,
    directory: OwnedFd,
    form: Form,
    /// What it shows now, with what it stands on.
    pub view: View,
    _turn: MutexGuard<'s, ()>,
}

impl Store {
    /// # Errors
    /// `NotFound`; `Conflict` (state) for what is not active, or was made by a server of other rights than this one has;
    /// `ValidationFailed` for more files than a layer may have.
    pub async fn build_snapshot(&self, namespace: &str, key: &str) -> Result<Building<'_>> {
        let turn = self.0.snapshots.enter(&(namespace, key)).await;
        let row = self.find_snapshot_row(namespace, key).await?;
        check_active(&row)?;
        let form = self.snapshot_form().await?;
        if row.form != form.as_str() {
            let reason =
                format!("the snapshot `{key}` was prepared by a server with other rights: prepare it anew");
            return Err(Error::Conflict(Conflict::State { reason }));
        }
        let id = row.id;
        let opening = id.clone();
        let directory = self.on_disk(move |disk| disk.open_snapshot(&opening)).await?;
        let view = self.view_snapshot(namespace, key).await?;
        Ok(Building { store: self, id, directory, form, view, _turn: turn })
    }
}

impl Building<'_> {
    /// A handle of its directory, for whoever changes it.
    ///
    /// # Errors
    /// `Internal`.
    pub fn directory(&self) -> Result<OwnedFd> {
        self.directory.try_clone().doing("open the directory of a snapshot")
    }

    /// What it stands on, without itself.
    pub fn below(&self) -> View {
        View { layers: self.view.layers[1..].to_vec() }
    }

    /// Keeps in mind what a layer has and no directory holds, and forgets of it what the layer takes away.
    ///
    /// # Errors
    /// `OutOfSpace`, `Unavailable` or `Internal`.
    pub async fn keep_records(&self, layer: &Arc<Tree>) -> Result<()> {
        let (id, layer, form) = (self.id.clone(), layer.clone(), self.form);
        self.store
            .on_disk(move |disk| {
                let known = disk.read_records(&id)?;
                let mut records = known.clone().unwrap_or_default();
                records.update_records(&layer, |kind| match form {
                    Form::Real => matches!(kind, Kind::Device(_)),
                    Form::Ours => matches!(kind, Kind::Device(_) | Kind::Symlink(_) | Kind::Fifo),
                });
                match known.is_none() && records == Tree::new() {
                    true => Ok(()),
                    false => disk.write_records(&id, &records),
                }
            })
            .await
    }
}
