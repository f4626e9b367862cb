//! Labels of many records at once, by a rule.

use std::collections::HashSet;

use super::Store;
use super::content::set_labels;
use super::images::json_list;
use super::labels::{self, Labels};
use super::tell::{News, tell};
use crate::clock::Time;
use crate::db;
use crate::error::Result;
use crate::events::Topic;
use crate::oci::Digest;

/// Records whose labels are read at once: all that they may have is in memory for as long.
const AT_ONCE: usize = 64;

impl Store {
    /// Changes the labels of those of these records that are here and that `change` makes different; of the others nobody
    /// is told anything.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn relabel_content<F>(&self, namespace: &str, mut digests: Vec<Digest>, change: F) -> Result<()>
    where
        F: Fn(&Labels) -> Labels + Clone + Send + 'static,
    {
        // In one order, so that two who do this never wait for each other.
        digests.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        digests.dedup();
        for some in digests.chunks(AT_ONCE) {
            let list = json_list(some.iter().map(Digest::as_str));
            let standing = {
                let mut conn = self.0.db.read().await?;
                db::content::list_labels(&mut conn, namespace, &list).await?
            };
            let differs = |labels: &str| change(&labels::from_json(labels)) != labels::from_json(labels);
            let lacking: HashSet<String> = standing
                .into_iter()
                .filter(|(_, labels)| differs(labels))
                .map(|(digest, _)| digest)
                .collect();
            let lacking: Vec<Digest> =
                some.iter().filter(|digest| lacking.contains(digest.as_str())).cloned().collect();
            if !lacking.is_empty() {
                self.relabel_now(namespace, lacking, change.clone()).await?;
            }
        }
        Ok(())
    }

    async fn relabel_now<F>(&self, namespace: &str, digests: Vec<Digest>, change: F) -> Result<()>
    where
        F: Fn(&Labels) -> Labels + Send + 'static,
    {
        let (store, owner, now) = (self.clone(), namespace.to_owned(), self.now());
        let written = self.0.db.write(move |tx| {
            Box::pin(async move {
                for digest in &digests {
                    let row = db::content::lock_record(tx, &owner, digest.as_str()).await?;
                    let Some(mut row) = row else { continue };
                    let (before, labels) =
                        (labels::from_json(&row.labels), change(&labels::from_json(&row.labels)));
                    if labels == before {
                        continue;
                    }
                    set_labels(tx, &mut row, &labels).await?;
                    row.updated_at = store.after(Time(row.updated_at)).0;
                    db::content::update_record(tx, &row).await?;
                    tell(tx, now, News::of_content(Topic::ContentUpdate, &row)).await?;
                }
                Ok(digests)
            })
        });
        for digest in written.await? {
            self.0.cache.forget(namespace, &digest);
        }
        Ok(())
    }
}
