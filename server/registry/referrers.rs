//! Referrers: the manifests that say something about another one (OCI distribution spec, "Listing Referrers", and
//! "Unavailable Referrers API" for registries that only know them by a tag).

use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, LINK};

use crate::error::{Error, Result};
use crate::limits;
use crate::oci::{Descriptor, Digest, Document, media_type};
use crate::registry::blob::{is_encoded, read_bounded};
use crate::registry::documents::content_type;
use crate::registry::failure::bad_answer;
use crate::registry::repository::{Repository, identity};
use crate::registry::transport::{Answer, Wire};
use crate::registry::{Ask, Capability};

impl Repository {
    /// The manifests that refer to `subject`, of any type or of these: none is an empty list.
    ///
    /// # Errors
    /// `Upstream`, with `BadAnswer` for what is not a list, for a next page that is somewhere else, and for more pages
    /// than [`limits::REFERRER_PAGES`].
    pub async fn list_referrers(&self, subject: &Digest, types: &[String]) -> Result<Vec<Descriptor>> {
        let mut found = match self.list_by_api(subject, types).await? {
            Some(found) => found,
            None => self.list_by_tag(subject).await?,
        };
        // A registry may not know the filter, and a tag never does.
        found.retain(|referrer| {
            types.is_empty() || referrer.artifact_type.as_ref().is_some_and(|t| types.contains(t))
        });
        Ok(found)
    }

    /// `None` where the registry has no such API.
    async fn list_by_api(&self, subject: &Digest, types: &[String]) -> Result<Option<Vec<Descriptor>>> {
        let place = format!("referrers/{subject}");
        let mut path = place.clone();
        // The filter takes one type; of several it would hide what is asked for.
        if let [only] = types {
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("artifactType", only)
                .finish();
            path = format!("{place}?{query}");
        }
        let mut found = Vec::new();
        let _place = self.enter().await;
        for page in 0..limits::REFERRER_PAGES {
            let (wire, method, capability) = (Wire::Any, Method::GET, Capability::Referrers);
            let ask = Ask { wire, method, capability, path, headers: index_headers() };
            let (next, listed) = match self.ask_for(ask, |answer| self.read_page(answer, &place)).await {
                Err(error) if page == 0 && knows_no_referrers(&error) => return Ok(None),
                settled => settled?,
            };
            found.extend(listed);
            match next {
                Some(next) => path = next,
                None => return Ok(Some(found)),
            }
        }
        let reason = format!("its list of referrers has more than {} pages", limits::REFERRER_PAGES);
        Err(self.failed(crate::error::UpstreamKind::BadAnswer, reason))
    }

    /// What a page lists, and where the list goes on.
    async fn read_page(&self, answer: Answer, place: &str) -> Result<(Option<String>, Vec<Descriptor>)> {
        let next = next_page(&answer, place)?;
        if is_encoded(answer.response.headers()) {
            return Err(bad_answer(
                &answer.url,
                "it encodes its list of referrers, though it was asked not to",
            ));
        }
        let said = content_type(&answer).map(str::to_owned);
        let stall = self.registry.patience().stall;
        let (bytes, url) = read_bounded(answer, limits::MANIFEST_BYTES as usize, stall).await?;
        match Document::parse(&bytes, said.as_deref()) {
            Ok(Document::Index(index)) => Ok((next, index.manifests)),
            Ok(Document::Manifest(_)) => Err(bad_answer(&url, "its list of referrers is a manifest")),
            Err(error) => Err(bad_answer(&url, format!("its list of referrers cannot be used: {error}"))),
        }
    }

    async fn list_by_tag(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        Ok(match self.find_tagged(&tag_of(subject)).await? {
            Some(Document::Index(index)) => index.manifests,
            // Somebody else's tag of that name lists nothing.
            Some(Document::Manifest(_)) | None => Vec::new(),
        })
    }
}

/// The tag that lists the referrers of `subject` ("Referrers Tag Schema"). A tag has room for 64 characters of the hash,
/// and for every name of an algorithm that is known here.
fn tag_of(subject: &Digest) -> String {
    format!("{}-{:.64}", subject.algorithm().as_str(), subject.hex())
}

/// Where the list goes on: of what the registry names, only the query is used.
fn next_page(answer: &Answer, place: &str) -> Result<Option<String>> {
    let mut links = answer.response.headers().get_all(LINK).iter().filter_map(|line| line.to_str().ok());
    let Some(target) = links.find_map(next_link) else { return Ok(None) };
    let elsewhere = || bad_answer(&answer.url, "the next page of its list of referrers is somewhere else");
    let next = answer.url.join(target).map_err(|_| elsewhere())?;
    let here = next.origin() == answer.url.origin() && next.path() == answer.url.path();
    // Whom a mirror speaks for it is told anew with each request.
    let own = next.query().unwrap_or_default().split('&').filter(|pair| !pair.starts_with("ns="));
    let query = own.collect::<Vec<_>>().join("&");
    if !here || query.is_empty() {
        return Err(elsewhere());
    }
    Ok(Some(format!("{place}?{query}")))
}

fn index_headers() -> HeaderMap {
    let mut headers = identity();
    headers.insert(ACCEPT, HeaderValue::from_static(media_type::OCI_INDEX));
    headers
}

/// What registries answer that were made before there was such an API.
fn knows_no_referrers(error: &Error) -> bool {
    matches!(error, Error::Upstream(upstream) if matches!(upstream.status, Some(400 | 404 | 405 | 501)))
}

/// The target of `rel="next"` in one line of `Link` (RFC 8288).
fn next_link(line: &str) -> Option<&str> {
    let mut rest = line;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        let (parameters, others) =
            after.split_once('<').map_or((after, ""), |(own, _)| (own, &after[own.len()..]));
        let is_next = parameters.split([';', ',']).any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            name.trim().eq_ignore_ascii_case("rel")
                && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        });
        if is_next {
            return Some(target);
        }
        rest = others;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_other_links() {
        for (line, target) in [
            (r#"</v2/a/referrers/x?n=1>; rel="next""#, Some("/v2/a/referrers/x?n=1")),
            (r#"</a>; rel=prev, </b,c>; title="x"; rel=Next"#, Some("/b,c")),
            (r#"</a>; rel="prev""#, None),
            ("</a", None),
            ("", None),
            ("rel=next", None),
        ] {
            assert_eq!(next_link(line), target, "{line}");
        }
    }
}
