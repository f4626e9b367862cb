//! Referrers that were pulled are joined to what they refer to: the subject keeps them, as it keeps its children.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::jobs::run::Job;
use crate::limits;
use crate::oci::Digest;
use crate::store::labels::{LabelPatch, Labels};
use crate::store::{ContentPatch, IfMatch};

/// Labels that say what the bytes of a document say as well: our collector reads those.
const REDUNDANT: [&str; 2] = ["containerd.io/gc.ref.content.l.", "containerd.io/gc.ref.content.m."];

/// Writes containerd's labels on each subject, so that its collector and ours follow it to what refers to it. Where the
/// client's own labels leave no room the rest is not kept: that is no reason to fail a pull that has everything.
///
/// # Errors
/// The store's own.
pub(super) async fn join(job: &Job, referrers: &[(Digest, Digest)]) -> Result<()> {
    let mut by_subject: BTreeMap<&Digest, Vec<&Digest>> = BTreeMap::new();
    for (subject, referrer) in referrers {
        by_subject.entry(subject).or_default().push(referrer);
    }
    let (store, namespace) = (&job.jobs.0.store, job.caller.namespace.as_str());
    for (subject, referrers) in by_subject {
        let labels = store.find_content(namespace, subject).await?.labels;
        let (changes, left_out) = changes(&labels, &referrers);
        if left_out > 0 {
            let all = referrers.len();
            job.warn(format!(
                "{subject} has no room for the labels that keep {left_out} of its {all} referrers"
            ));
            tracing::warn!(pull.id = %job.id, blob.digest = %subject, "Left out {left_out} of {all} referrers");
        }
        if changes.is_empty() {
            continue;
        }
        let labels = Some(LabelPatch::Merge(changes));
        let patch = ContentPatch { labels, media_type: None, if_match: IfMatch::Absent };
        store.update_content(namespace, subject, patch).await?;
    }
    Ok(())
}

/// What must change on a record with these labels, where they do not stand there already; and how many of them find no
/// room.
fn changes(labels: &Labels, referrers: &[&Digest]) -> (BTreeMap<String, Option<String>>, usize) {
    let all: BTreeMap<String, String> =
        referrers.iter().map(|referrer| (label_of(referrer), referrer.to_string())).collect();
    let (other, new): (Vec<_>, Vec<_>) = all
        .into_iter()
        .filter(|(key, value)| labels.get(key) != Some(value))
        .partition(|(key, _)| labels.contains_key(key));
    let redundant: Vec<_> =
        labels.keys().rev().filter(|key| REDUNDANT.iter().any(|prefix| key.starts_with(prefix))).collect();
    let free = limits::LABELS.saturating_sub(labels.len());
    let fitting = new.len().min(free + redundant.len());
    let left_out = new.len() - fitting;
    let removed = redundant.into_iter().take(fitting.saturating_sub(free)).map(|key| (key.clone(), None));
    let written = other.into_iter().chain(new.into_iter().take(fitting));
    (written.map(|(key, value)| (key, Some(value))).chain(removed).collect(), left_out)
}

/// As containerd names it.
fn label_of(referrer: &Digest) -> String {
    const DIGITS: usize = 12;
    let (algorithm, hex) = (referrer.algorithm().as_str(), &referrer.hex()[..DIGITS]);
    format!("containerd.io/gc.ref.content.referrer.{algorithm}.{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn digest(name: &str) -> Digest {
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    fn labels(names: impl Iterator<Item = String>) -> Labels {
        names.map(|name| (name, "x".to_owned())).collect()
    }

    #[test]
    fn a_referrer_has_containerds_label() {
        let referrer = digest("referrer");
        let key = format!("containerd.io/gc.ref.content.referrer.sha256.{}", &referrer.hex()[..12]);
        let changed = [(key.clone(), Some(referrer.to_string()))].into();
        assert_eq!(changes(&Labels::new(), &[&referrer]), (changed, 0));
        let there = [(key, referrer.to_string())].into();
        assert_eq!(changes(&there, &[&referrer]), (BTreeMap::new(), 0));
    }

    #[test]
    fn labels_that_say_nothing_new_make_room_and_others_do_not() {
        let referrers = [digest("one"), digest("two"), digest("three")];
        let referrers: Vec<_> = referrers.iter().collect();
        let redundant = (0..2).map(|number| format!("containerd.io/gc.ref.content.m.{number}"));
        let full = labels((2..limits::LABELS).map(|number| format!("team-{number}")).chain(redundant));
        let (changed, left_out) = changes(&full, &referrers);
        assert_eq!((changed.len(), changed.values().filter(|value| value.is_none()).count()), (4, 2));
        assert_eq!(left_out, 1);
        let full = labels((0..limits::LABELS).map(|number| format!("team-{number}")));
        assert_eq!(changes(&full, &referrers), (BTreeMap::new(), 3));
    }
}
