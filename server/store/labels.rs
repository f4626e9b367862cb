//! Labels: what users write on things. An empty value is no label, so that it can mean "remove".

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{Error, Result, Unprocessable};
use crate::limits::{LABEL_BYTES, LABELS, MEDIA_TYPE_BYTES};

/// Labels by key; no value is ever empty.
pub type Labels = BTreeMap<String, String>;

/// A merge patch of labels (RFC 7396).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Option<Changes>")]
pub enum LabelPatch {
    /// Label by label: a null or empty value removes it.
    Merge(Changes),
    /// A null for the whole.
    RemoveAll,
}

type Changes = BTreeMap<String, Option<String>>;

impl From<Option<Changes>> for LabelPatch {
    fn from(changes: Option<Changes>) -> LabelPatch {
        changes.map_or(LabelPatch::RemoveAll, LabelPatch::Merge)
    }
}

/// The labels of a new thing: checked, and without those that are empty.
///
/// # Errors
/// `Invalid` naming the label, as [`apply_patch`] says; or naming `labels` when there are more than [`LABELS`].
pub fn new_labels(given: Labels) -> Result<Labels> {
    if let Some(reason) = too_many(&given) {
        return Err(Error::invalid_field("labels", reason));
    }
    merge(Labels::new(), given.into_iter().map(|(key, value)| (key, Some(value))).collect())
}

/// Changes `labels` as a merge patch says; on an error they stay as they were.
///
/// # Errors
/// `Invalid` with the field `labels.<first 64 characters of the key>`: the key is empty, key and value
/// are more than [`LABEL_BYTES`], or one of them holds a NUL, which Postgres cannot store.
/// `Unprocessable`: there would be more than [`LABELS`].
pub fn apply_patch(labels: &mut Labels, patch: LabelPatch) -> Result<()> {
    let changed = match patch {
        LabelPatch::Merge(changes) => merge(labels.clone(), changes)?,
        LabelPatch::RemoveAll => Labels::new(),
    };
    if let Some(reason) = too_many(&changed) {
        return Err(Error::Unprocessable(Unprocessable::ValidationFailed { reason }));
    }
    *labels = changed;
    Ok(())
}

fn merge(mut labels: Labels, changes: Changes) -> Result<Labels> {
    for (key, value) in changes {
        // Also of a label to remove: a key that no label can have is a mistake worth hearing of.
        check_label(&key, value.as_deref().unwrap_or_default())?;
        match value.filter(|value| !value.is_empty()) {
            Some(value) => labels.insert(key, value),
            None => labels.remove(&key),
        };
    }
    Ok(labels)
}

fn too_many(labels: &Labels) -> Option<String> {
    (labels.len() > LABELS).then(|| format!("{} labels are more than the limit of {LABELS}", labels.len()))
}

/// Labels as the database keeps them.
pub fn to_json(labels: &Labels) -> String {
    serde_json::to_string(labels).expect("texts by text are JSON")
}

/// Labels as the database kept them. A row that somebody else damaged counts as having none.
pub fn from_json(text: &str) -> Labels {
    serde_json::from_str(text).unwrap_or_default()
}

/// A media type (RFC 6838, section 4.2): two names of visible characters around one slash.
///
/// # Errors
/// `Invalid` for anything else; parameters are no part of it.
pub fn check_media_type(text: &str) -> Result<()> {
    let name = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c))
    };
    let fine = text.len() <= MEDIA_TYPE_BYTES
        && text.split_once('/').is_some_and(|(kind, subtype)| name(kind) && name(subtype));
    if fine {
        return Ok(());
    }
    Err(Error::invalid_field("media_type", format!("`{text}` is not a media type such as `text/plain`")))
}

fn check_label(key: &str, value: &str) -> Result<()> {
    let refuse = |reason: String| {
        let shown: String = key.chars().take(64).collect();
        Err(Error::invalid_field(format!("labels.{shown}"), reason))
    };
    if key.is_empty() {
        return refuse("a label needs a key".into());
    }
    let bytes = key.len() + value.len();
    if bytes > LABEL_BYTES {
        return refuse(format!("key and value are {bytes} bytes, more than the limit of {LABEL_BYTES}"));
    }
    if key.contains('\0') || value.contains('\0') {
        return refuse("a label cannot hold a NUL character".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn refused(given: Labels) -> (String, String) {
        match new_labels(given) {
            Err(Error::Invalid(invalid)) => (invalid.field.expect("the label at fault"), invalid.reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_null_or_empty_value_removes_the_label_and_the_rest_stays() {
        let mut on = labels(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let patch: LabelPatch =
            serde_json::from_str(r#"{"a": null, "b": "", "d": "4", "none": null}"#).expect("a patch");
        apply_patch(&mut on, patch).expect("a good patch");
        assert_eq!(on, labels(&[("c", "3"), ("d", "4")]));
    }

    #[test]
    fn a_new_thing_never_has_an_empty_label() {
        assert_eq!(new_labels(labels(&[("a", ""), ("b", "2")])).expect("good"), labels(&[("b", "2")]));
    }

    #[test]
    fn a_label_of_4096_bytes_is_taken_and_one_more_is_refused_by_its_first_64_characters() {
        let (key, value) = ("ö".repeat(100), "v".repeat(LABEL_BYTES - 200));
        assert!(new_labels(labels(&[(&key, &value)])).is_ok());
        let (field, reason) = refused(labels(&[(&key, &format!("{value}v"))]));
        assert_eq!(field, format!("labels.{}", "ö".repeat(64)));
        assert_eq!(reason, "key and value are 4097 bytes, more than the limit of 4096");
    }

    #[test]
    fn an_empty_key_a_nul_and_a_65th_label_are_refused_and_change_nothing() {
        assert_eq!(refused(labels(&[("", "v")])).0, "labels.");
        assert_eq!(refused(labels(&[("k", "a\0b")])).0, "labels.k");
        let many: Labels = (0..65).map(|n| (n.to_string(), "v".to_owned())).collect();
        assert_eq!(refused(many).0, "labels");
        let mut on = labels(&[("a", "1")]);
        let bad = LabelPatch::Merge([("a".into(), None), (String::new(), None)].into());
        assert!(apply_patch(&mut on, bad).is_err());
        let more = LabelPatch::Merge((0..64).map(|n| (n.to_string(), Some("v".to_owned()))).collect());
        assert!(matches!(apply_patch(&mut on, more), Err(Error::Unprocessable(_))));
        assert_eq!(on, labels(&[("a", "1")]));
    }

    #[test]
    fn a_null_for_the_whole_removes_every_label() {
        let mut on = labels(&[("a", "1"), ("b", "2")]);
        apply_patch(&mut on, serde_json::from_str("null").expect("a patch")).expect("a good patch");
        assert_eq!(on, Labels::new());
    }
}
