//! What form of an answer the caller wants (RFC 9110, section 12.5.1).

use http::HeaderMap;
use http::header::ACCEPT;

/// The media ranges of `Accept`, each with its weight. Parameters of a range other than its weight are not looked at: no
/// answer here comes in two forms that only these tell apart.
#[derive(Debug, Clone)]
pub struct Accept(Vec<Range>);

#[derive(Debug, Clone)]
struct Range {
    /// In lower case: `text/html`, `text/*` or `*/*`.
    name: String,
    weight: Weight,
}

/// From 0, which is refused, to 1000.
pub type Weight = u16;

const MOST: Weight = 1000;

/// How closely a range names a media type: of those that cover it, the closest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Closeness {
    Anything,
    Kind,
    Exact,
}

impl Accept {
    /// A range that cannot be read is as if it were not there, and no range at all accepts everything.
    pub fn of(headers: &HeaderMap) -> Accept {
        let lines = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        Accept(lines.flat_map(|line| line.split(',')).filter_map(Range::parse).collect())
    }

    /// The one of `offered` that weighs most; of equals the one that is named most closely, then the first. `None` when
    /// none is accepted.
    pub fn choose(&self, offered: &[&'static str]) -> Option<&'static str> {
        if self.0.is_empty() {
            return offered.first().copied();
        }
        let judged = offered.iter().filter_map(|offer| {
            let (closeness, weight) = self.judge(offer)?;
            (weight > 0).then_some(((weight, closeness), *offer))
        });
        // The first of the best: `max_by_key` would give the last.
        judged.rev().max_by_key(|(rank, _)| *rank).map(|(_, offer)| offer)
    }

    /// How much the caller wants this very media type; 0 where it is not named, however much else is accepted.
    pub fn names(&self, media_type: &str) -> Weight {
        match self.judge(media_type) {
            Some((Closeness::Exact, weight)) => weight,
            Some((Closeness::Anything | Closeness::Kind, _)) | None => 0,
        }
    }

    fn judge(&self, media_type: &str) -> Option<(Closeness, Weight)> {
        self.0.iter().filter_map(|range| Some((range.covers(media_type)?, range.weight))).max()
    }
}

impl Range {
    fn parse(text: &str) -> Option<Range> {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().filter(|name| name.contains('/'))?.to_ascii_lowercase();
        let weight = parts
            .filter_map(|part| part.split_once('='))
            .find(|(key, _)| key.trim().eq_ignore_ascii_case("q"))
            .map_or(Some(MOST), |(_, value)| parse_weight(value.trim()))?;
        Some(Range { name, weight })
    }

    fn covers(&self, media_type: &str) -> Option<Closeness> {
        let kind = media_type.split('/').next().unwrap_or_default();
        match self.name.as_str() {
            "*/*" => Some(Closeness::Anything),
            name if name == media_type => Some(Closeness::Exact),
            name if name.strip_suffix("/*") == Some(kind) => Some(Closeness::Kind),
            _ => None,
        }
    }
}

/// `0`, `0.5`, `1.000`: at most three digits after the point (section 12.4.2).
fn parse_weight(text: &str) -> Option<Weight> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let fits =
        matches!(whole, "0" | "1") && part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    let weight = format!("{whole}{part:0<3}").parse().ok().filter(|weight| *weight <= MOST);
    weight.filter(|_| fits)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn accept(lines: &[&'static str]) -> Accept {
        Accept::of(&lines.iter().map(|line| (ACCEPT, HeaderValue::from_static(line))).collect())
    }

    #[test]
    fn the_heaviest_that_is_offered_is_chosen() {
        const OFFERED: [&str; 2] = ["application/json", "application/x-ndjson"];
        let (json, lines) = (Some(OFFERED[0]), Some(OFFERED[1]));
        for (accepts, chosen) in [
            (&[][..], json),
            (&[""], json),
            (&["*/*"], json),
            (&["application/json, application/x-ndjson"], json),
            (&["application/x-ndjson"], lines),
            (&["Application/X-NDJSON; Q=0.1"], lines),
            (&["application/x-ndjson, */*"], lines),
            (&["application/json;q=0.5", "application/x-ndjson;q=0.51"], lines),
            (&["application/*;q=0.9, application/json;q=0.1"], lines),
            (&["application/x-ndjson;q=0, */*;q=0.001"], json),
            (&["application/json;version=1;q=0.2, application/*;q=0.1"], json),
            (&["*/*;q=0"], None),
            (&["text/html"], None),
            (&["application/json;q=0"], None),
            // Not readable, so not there.
            (&["application/json;q=2, application/x-ndjson"], lines),
            (&["nonsense;q=0.5"], json),
        ] {
            assert_eq!(accept(accepts).choose(&OFFERED), chosen, "{accepts:?}");
        }
    }

    #[test]
    fn a_weight_has_three_digits_at_most() {
        for (text, weight) in [("0", 0), ("0.", 0), ("0.5", 500), ("0.001", 1), ("1", 1000), ("1.000", 1000)]
        {
            assert_eq!(parse_weight(text), Some(weight), "{text}");
        }
        for wrong in ["", "1.001", "0.0001", "2", "-1", "0.5x", ".5", "00", "1e0"] {
            assert_eq!(parse_weight(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn to_accept_everything_is_not_to_name_it() {
        let accepts = accept(&["text/html;q=0.7, text/*, */*"]);
        assert_eq!((accepts.names("text/html"), accepts.names("application/json")), (700, 0));
    }
}
