//! `GET /static/{name}`: the files that the pages need, from the binary.
//!
//! A file is asked for again each time, by its tag, and answered with 304: a page never meets the style or the script
//! of another version, and names need no version in them.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};

use crate::error::Error;
use crate::http::error::ApiError;
use crate::http::extract::Path;
use crate::http::tags::{etag, knows, not_modified};
use crate::oci::{Algorithm, Digest};

struct Asset {
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($name:literal $content_type:literal;)*) => {
        const ASSETS: &[Asset] = &[$(Asset {
            name: $name,
            content_type: $content_type,
            bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/web/static/", $name)),
        }),*];
    };
}

assets! {
    "orlop.css" "text/css; charset=utf-8";
    "orlop.js" "text/javascript; charset=utf-8";
    "front.js" "text/javascript; charset=utf-8";
    "pull.js" "text/javascript; charset=utf-8";
    "icon.svg" "image/svg+xml";
}

/// The tag of each, in the order of the table.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tag = |asset: &Asset| Digest::of(Algorithm::Sha256, asset.bytes).hex()[..32].to_owned();
    ASSETS.iter().map(tag).collect()
});

pub async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    let found = ASSETS.iter().zip(TAGS.iter()).find(|(asset, _)| asset.name == name);
    let (asset, tag) = found.ok_or_else(|| Error::not_found("file", &name))?;
    let caching = (CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if knows(&headers, tag) {
        return Ok(([caching], not_modified(tag)).into_response());
    }
    let content_type = (CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    Ok(([etag(tag), caching, content_type], asset.bytes).into_response())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::header::{ETAG, IF_NONE_MATCH};

    use super::*;

    #[test]
    fn the_table_has_every_file_there_is() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("web/static");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .expect("web/static can be read")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        let mut known: Vec<&str> = ASSETS.iter().map(|asset| asset.name).collect();
        there.sort();
        known.sort_unstable();
        assert_eq!(there, known);
    }

    #[tokio::test]
    async fn a_file_that_the_browser_has_is_not_sent_again() {
        let first = file(Path("orlop.css".to_owned()), HeaderMap::new()).await.expect("the style");
        assert_eq!(first.headers()[CONTENT_TYPE], "text/css; charset=utf-8");
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, first.headers()[ETAG].clone());
        let again = file(Path("orlop.css".to_owned()), headers).await.expect("the style");
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert!(file(Path("../Cargo.toml".to_owned()), HeaderMap::new()).await.is_err());
    }

    /// The budget of the pages: small enough to come with the first packets.
    #[test]
    fn the_files_are_small() {
        use std::io::Write;
        for asset in ASSETS {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            packed.write_all(asset.bytes).expect("to memory");
            let packed = packed.finish().expect("to memory").len();
            assert!(packed <= 12 << 10, "{}: {packed} bytes", asset.name);
        }
    }
}
