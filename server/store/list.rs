//! List requests as values: which items, in which order, from where on, and how many.
//!
//! A list is read page by page with a keyset: the cursor holds the sort values of the last item seen, so
//! a page costs the same wherever it is, and items that come or go meanwhile neither repeat nor hide others.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::filter::{Filter, Schema};
pub use crate::db::KeyValue;
use crate::error::{Error, Result};
use crate::limits::{CURSOR_BYTES, LIST_PAGE, LIST_PAGE_DEFAULT};

const CURSOR_VERSION: u8 = 1;

/// What one resource's lists can be asked.
#[derive(Debug)]
pub struct Resource {
    pub schema: Schema,
    pub sorts: &'static [Sort],
    /// The order when the caller asks for none, in the words of the `sort` parameter.
    pub default_sort: &'static str,
    /// The last word between equal items: unique among the items of one list.
    pub tie_breaker: Sort,
}

/// A documented sort key and the column (or expression) behind it, which is never null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    pub name: &'static str,
    pub column: &'static str,
    pub kind: KeyKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    Text,
    /// Sizes in bytes and times in microseconds.
    Number,
}

/// One key of the order asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SortKey {
    pub name: &'static str,
    pub column: &'static str,
    pub kind: KeyKind,
    pub descending: bool,
}

/// Where the page before ended: one value for each of the query's sort keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub after: Vec<KeyValue>,
}

/// The list parameters as they came, already taken out of the query string.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListRequest<'a> {
    pub filters: &'a [String],
    pub sort: Option<&'a str>,
    pub cursor: Option<&'a str>,
    pub limit: Option<&'a str>,
    /// Every other parameter that chooses items (`namespace`, `media_type`, `label`, …). A cursor is only
    /// good for the same ones.
    pub plain: &'a [(&'a str, &'a str)],
}

/// A list request that can be answered.
#[derive(Debug, Clone)]
pub struct ListQuery {
    pub filter: Filter,
    /// Ends with the tie-breaker: no two items are equal in this order.
    pub sort: Vec<SortKey>,
    pub cursor: Option<Cursor>,
    /// Items on the page, 1 to [`LIST_PAGE`].
    pub limit: usize,
    fingerprint: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CursorText {
    #[serde(rename = "v")]
    version: u8,
    #[serde(rename = "f")]
    fingerprint: String,
    #[serde(rename = "k")]
    after: Vec<KeyValue>,
}

impl ListQuery {
    /// Reads a list request for a resource.
    ///
    /// # Errors
    /// `Invalid` with the field `filter`, `sort`, `limit` or `cursor`; the last also when the cursor was
    /// made for another filter, order or parameter.
    pub fn parse(resource: &Resource, request: ListRequest<'_>) -> Result<ListQuery> {
        let filter = Filter::parse(request.filters, &resource.schema)?;
        let sort = parse_sort(resource, request.sort.unwrap_or(resource.default_sort))?;
        let fingerprint = fingerprint(&sort, request.filters, request.plain);
        let cursor = request.cursor.map(|text| parse_cursor(text, &fingerprint, &sort)).transpose()?;
        let limit = request.limit.map_or(Ok(LIST_PAGE_DEFAULT), parse_limit)?;
        Ok(ListQuery { filter, sort, cursor, limit, fingerprint })
    }

    /// The cursor that goes on behind an item, given its value for each key of `sort`, in that order.
    pub fn cursor_after(&self, after: Vec<KeyValue>) -> String {
        debug_assert_eq!(after.len(), self.sort.len());
        let text = CursorText { version: CURSOR_VERSION, fingerprint: self.fingerprint.clone(), after };
        let json = serde_json::to_vec(&text).expect("numbers and texts are JSON");
        URL_SAFE_NO_PAD.encode(json)
    }
}

fn parse_limit(text: &str) -> Result<usize> {
    match text.parse() {
        Ok(limit @ 1..=LIST_PAGE) => Ok(limit),
        _ => Err(Error::invalid_field("limit", format!("limit is a whole number from 1 to {LIST_PAGE}"))),
    }
}

/// `-size,created_at`: keys in order of weight, a minus for the largest first.
fn parse_sort(resource: &Resource, text: &str) -> Result<Vec<SortKey>> {
    let mut keys: Vec<SortKey> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (name, descending) = part.strip_prefix('-').map_or((part, false), |name| (name, true));
        let sort = find_sort(resource, name)?;
        if keys.iter().any(|key| key.name == sort.name) {
            return Err(Error::invalid_field("sort", format!("`{}` is named twice", sort.name)));
        }
        keys.push(sort.key(descending));
    }
    if !keys.iter().any(|key| key.column == resource.tie_breaker.column) {
        // Equal items follow the direction of the first key, so that `-created_at` is exactly
        // `created_at` read backwards.
        let descending = keys.first().is_some_and(|key| key.descending);
        keys.push(resource.tie_breaker.key(descending));
    }
    Ok(keys)
}

fn find_sort<'r>(resource: &'r Resource, name: &str) -> Result<&'r Sort> {
    resource.sorts.iter().find(|sort| sort.name == name).ok_or_else(|| {
        let known: Vec<&str> = resource.sorts.iter().map(|sort| sort.name).collect();
        let shown: String = name.chars().take(64).collect();
        Error::invalid_field("sort", format!("cannot sort by `{shown}`: the keys are {}", known.join(", ")))
    })
}

impl Sort {
    pub const fn text(name: &'static str, column: &'static str) -> Sort {
        Sort { name, column, kind: KeyKind::Text }
    }

    pub const fn number(name: &'static str, column: &'static str) -> Sort {
        Sort { name, column, kind: KeyKind::Number }
    }

    fn key(&self, descending: bool) -> SortKey {
        SortKey { name: self.name, column: self.column, kind: self.kind, descending }
    }
}

/// What a cursor is bound to, in 16 characters. It keeps mistakes out, not attackers: a forged cursor
/// shows nothing that the same request without one would not.
fn fingerprint(sort: &[SortKey], filters: &[String], plain: &[(&str, &str)]) -> String {
    let mut filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    filters.sort_unstable();
    let mut plain = plain.to_vec();
    plain.sort_unstable();
    let sort: Vec<(&str, bool)> = sort.iter().map(|key| (key.name, key.descending)).collect();
    let bound = serde_json::to_vec(&(filters, plain, sort)).expect("texts are JSON");
    URL_SAFE_NO_PAD.encode(&Sha256::digest(bound)[..12])
}

fn parse_cursor(text: &str, fingerprint: &str, sort: &[SortKey]) -> Result<Cursor> {
    let refuse = |reason: &str| Error::invalid_field("cursor", reason);
    let unreadable = || refuse("the cursor is not one that this server gave");
    if text.len() > CURSOR_BYTES {
        return Err(unreadable());
    }
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| unreadable())?;
    let cursor: CursorText = serde_json::from_slice(&json).map_err(|_| unreadable())?;
    if cursor.version != CURSOR_VERSION {
        return Err(refuse("the cursor is of another version of this server: start from the first page"));
    }
    if cursor.fingerprint != fingerprint {
        return Err(refuse(
            "the cursor belongs to another filter, sort or parameter: start from the first page",
        ));
    }
    // A forged value of the wrong kind must not reach the database.
    let fits = cursor.after.len() == sort.len()
        && cursor.after.iter().zip(sort).all(|(value, key)| value.fits(key.kind));
    if fits { Ok(Cursor { after: cursor.after }) } else { Err(unreadable()) }
}

impl KeyValue {
    fn fits(&self, kind: KeyKind) -> bool {
        match (self, kind) {
            (KeyValue::Number(_), KeyKind::Number) => true,
            (KeyValue::Text(text), KeyKind::Text) => !text.contains('\0'),
            (KeyValue::Number(_), KeyKind::Text) | (KeyValue::Text(_), KeyKind::Number) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: Resource = Resource {
        schema: Schema::CONTENT,
        sorts: &[Sort::text("digest", "digest"), Sort::number("size", "size_bytes")],
        default_sort: "digest",
        tie_breaker: Sort::text("digest", "digest"),
    };

    fn query(request: ListRequest<'_>) -> Result<ListQuery> {
        ListQuery::parse(&CONTENT, request)
    }

    fn order(sort: Option<&str>) -> String {
        let keys = query(ListRequest { sort, ..ListRequest::default() }).expect("a good sort").sort;
        let words = keys.iter().map(|key| format!("{}{}", if key.descending { "-" } else { "" }, key.column));
        words.collect::<Vec<_>>().join(",")
    }

    fn refused(request: ListRequest<'_>) -> (String, String) {
        match query(request) {
            Err(Error::Invalid(invalid)) => (invalid.field.expect("a field"), invalid.reason),
            other => panic!("{other:?}"),
        }
    }

    fn largest_first() -> ListRequest<'static> {
        ListRequest { sort: Some("-size"), ..ListRequest::default() }
    }

    #[test]
    fn every_order_ends_with_the_tie_breaker_once() {
        assert_eq!(order(None), "digest");
        assert_eq!(order(Some("size")), "size_bytes,digest");
        assert_eq!(order(Some("-size")), "-size_bytes,-digest");
        assert_eq!(order(Some(" -digest , size ")), "-digest,size_bytes");
    }

    #[test]
    fn an_undocumented_or_repeated_sort_key_is_refused_with_the_keys_there_are() {
        let ask = |sort| refused(ListRequest { sort: Some(sort), ..ListRequest::default() });
        let reason = "cannot sort by `labels`: the keys are digest, size".to_owned();
        assert_eq!(ask("labels"), ("sort".into(), reason));
        assert_eq!(ask("size,-size"), ("sort".into(), "`size` is named twice".into()));
    }

    #[test]
    fn a_page_has_1_to_1000_items() {
        let ask = |limit| query(ListRequest { limit: Some(limit), ..ListRequest::default() });
        assert_eq!(ask("1").expect("one").limit, 1);
        assert_eq!(ask("1000").expect("a thousand").limit, LIST_PAGE);
        for bad in ["0", "1001", "-1", "", "1e3", "1000000000000", "99999999999999999999999"] {
            assert!(ask(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cursor_goes_on_where_the_page_before_ended() {
        let first = query(largest_first()).expect("the first page");
        let after = vec![KeyValue::Number(i64::MAX), KeyValue::Text("sha256:ab".into())];
        let cursor = first.cursor_after(after.clone());
        let next = query(ListRequest { cursor: Some(&cursor), ..largest_first() }).expect("the next page");
        assert_eq!(next.cursor, Some(Cursor { after }));
    }

    #[test]
    fn a_cursor_of_another_filter_sort_or_parameter_is_refused() {
        let first = query(largest_first()).expect("the first page");
        let cursor = first.cursor_after(vec![KeyValue::Number(1), KeyValue::Text("a".into())]);
        let same = ListRequest { cursor: Some(&cursor), ..largest_first() };
        let filters = ["size>1".to_owned()];
        for other in [
            ListRequest { sort: Some("size"), ..same },
            ListRequest { filters: &filters, ..same },
            ListRequest { plain: &[("namespace", "other")], ..same },
        ] {
            let (field, reason) = refused(other);
            assert!(field == "cursor" && reason.contains("another filter"), "{reason}");
        }
    }

    #[test]
    fn a_forged_cursor_never_reaches_the_database() {
        let first = query(largest_first()).expect("the first page");
        let text = |text: &str| KeyValue::Text(text.into());
        let forged = [
            "".to_owned(),
            "!".to_owned(),
            URL_SAFE_NO_PAD.encode("{}"),
            URL_SAFE_NO_PAD.encode(r#"{"v":9,"f":"","k":[]}"#),
            URL_SAFE_NO_PAD.encode(r#"{"v":1,"f":"","k":[1.5]}"#),
            first.cursor_after(vec![text("x"), text("a")]),
            first.cursor_after(vec![KeyValue::Number(1), text("\0")]),
            "A".repeat(CURSOR_BYTES + 1),
        ];
        for cursor in &forged {
            let (field, _) = refused(ListRequest { cursor: Some(cursor), ..largest_first() });
            assert_eq!(field, "cursor", "{cursor}");
        }
    }
}
