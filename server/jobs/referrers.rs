//! Referrers that were pulled are joined to what they refer to: the subject keeps them, as it keeps its children.

use std::collections::BTreeMap;

use crate::error::{Error, Result, Unprocessable};
use crate::jobs::run::Job;
use crate::limits;
use crate::oci::Digest;
use crate::store::labels::{LabelPatch, Labels};
use crate::store::{ContentPatch, IfMatch};

/// Labels that say what the bytes of a document say as well: our collector reads those.
const REDUNDANT: [&str; 2] = ["containerd.io/gc.ref.content.l.", "containerd.io/gc.ref.content.m."];

/// Writes containerd's labels on each subject, so that its collector and ours follow it to what refers to it.
///
/// # Errors
/// `ValidationFailed` when the client's own labels leave no room; the store's own.
pub(super) async fn join(job: &Job, referrers: &[(Digest, Digest)]) -> Result<()> {
    let mut by_subject: BTreeMap<&Digest, Vec<&Digest>> = BTreeMap::new();
    for (subject, referrer) in referrers {
        by_subject.entry(subject).or_default().push(referrer);
    }
    let (store, namespace) = (&job.jobs.0.store, job.caller.namespace.as_str());
    for (subject, referrers) in by_subject {
        let labels = store.find_content(namespace, subject).await?.labels;
        let Some(changes) = changes(&labels, subject, &referrers)? else { continue };
        let labels = Some(LabelPatch::Merge(changes));
        let patch = ContentPatch { labels, media_type: None, if_match: IfMatch::Absent };
        store.update_content(namespace, subject, patch).await?;
    }
    Ok(())
}

/// What must change on a record with these labels; nothing, where they stand there already.
fn changes(
    labels: &Labels,
    subject: &Digest,
    referrers: &[&Digest],
) -> Result<Option<BTreeMap<String, Option<String>>>> {
    let all: BTreeMap<String, String> =
        referrers.iter().map(|referrer| (label_of(referrer), referrer.to_string())).collect();
    let missing: BTreeMap<_, _> =
        all.into_iter().filter(|(key, value)| labels.get(key) != Some(value)).collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let new = missing.keys().filter(|key| !labels.contains_key(*key)).count();
    let too_many = (labels.len() + new).saturating_sub(limits::LABELS);
    let redundant = labels.keys().rev().filter(|key| REDUNDANT.iter().any(|prefix| key.starts_with(prefix)));
    let removed: Vec<_> = redundant.take(too_many).map(|key| (key.clone(), None)).collect();
    if removed.len() < too_many {
        let reason = format!(
            "the record of {subject} has no room for the labels of its {} referrers",
            referrers.len()
        );
        return Err(Error::Unprocessable(Unprocessable::ValidationFailed { reason }));
    }
    Ok(Some(missing.into_iter().map(|(key, value)| (key, Some(value))).chain(removed).collect()))
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
        let (subject, referrer) = (digest("subject"), digest("referrer"));
        let changed = changes(&Labels::new(), &subject, &[&referrer]).expect("room").expect("a change");
        let key = format!("containerd.io/gc.ref.content.referrer.sha256.{}", &referrer.hex()[..12]);
        assert_eq!(changed, [(key.clone(), Some(referrer.to_string()))].into());
        let there = [(key, referrer.to_string())].into();
        assert_eq!(changes(&there, &subject, &[&referrer]).expect("room"), None);
    }

    #[test]
    fn labels_that_say_nothing_new_make_room_and_others_do_not() {
        let (subject, referrer) = (digest("subject"), digest("referrer"));
        let full =
            labels((0..limits::LABELS).map(|number| format!("containerd.io/gc.ref.content.m.{number}")));
        let changed = changes(&full, &subject, &[&referrer]).expect("room").expect("a change");
        assert_eq!((changed.len(), changed.values().filter(|value| value.is_none()).count()), (2, 1));
        let full = labels((0..limits::LABELS).map(|number| format!("team-{number}")));
        assert!(changes(&full, &subject, &[&referrer]).is_err());
    }
}
