//! Where files are: in an image or a layer, and at a path there, as in `app:1.2:/etc/os-release`.

use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::client::{Call, refused};
use super::context::Context;
use super::failure::Failure;
use super::image::{Named, find_named, id_of};
use super::list::{PAGE, take_page};
use super::reading::answer_once_read;

/// What a person types. No reference has `:/` in it, ports, tags and digests or not: the path begins at the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceArg {
    pub of: String,
    /// From the root, with its slash.
    pub path: Option<String>,
}

/// For clap.
///
/// # Errors
/// What is wrong with it, for clap to print.
pub fn parse_place(text: &str) -> Result<PlaceArg, String> {
    let (of, path) = match text.find(":/") {
        Some(colon) => (&text[..colon], Some(text[colon + 1..].to_owned())),
        None => (text, None),
    };
    match of {
        "" => Err("what has the path is missing: it stands before `:/`".to_owned()),
        of if of.starts_with('/') => Err(format!("`{of}` is a path alone: write REF:{of}")),
        of => Ok(PlaceArg { of: of.to_owned(), path }),
    }
}

impl std::fmt::Display for PlaceArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}:{path}", self.of),
            None => f.write_str(&self.of),
        }
    }
}

/// Something that has files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filed {
    /// By its id, on a platform.
    Image { id: String, platform: Option<String> },
    /// By the digest of its blob.
    Layer(String),
    /// By its key.
    Snapshot(String),
}

impl Filed {
    /// What a reference stands for: an image by its name or id, else content by its digest.
    ///
    /// # Errors
    /// `NotFound`; `Usage` for a platform of something that is for none.
    pub async fn find(
        context: &Context,
        of: &str,
        platform: Option<&String>,
        doing: &str,
    ) -> Result<Filed, Failure> {
        match find_named(context, of, doing).await? {
            Named::Image(image) => Ok(Filed::Image { id: id_of(&image), platform: platform.cloned() }),
            Named::Digest(_) if platform.is_some() => {
                Err(Failure::usage(doing, "a digest is of one layer, and --platform chooses in an image"))
            }
            Named::Digest(digest) => Ok(Filed::Layer(digest)),
        }
    }

    /// Below `/api/v1`: its files, or with `data` the bytes of one.
    pub fn path(&self, what: &[&str]) -> Vec<String> {
        let (collection, name) = match self {
            Filed::Image { id, .. } => ("images", id),
            Filed::Layer(digest) => ("content", digest),
            Filed::Snapshot(key) => ("snapshots", key),
        };
        [collection, name].iter().chain(what).map(|part| (*part).to_owned()).collect()
    }

    pub fn query(&self, path: &str) -> Vec<(&'static str, String)> {
        let platform = match self {
            Filed::Image { platform, .. } => platform.clone(),
            Filed::Layer(_) | Filed::Snapshot(_) => None,
        };
        let platform = platform.map(|platform| ("platform", platform));
        [("path", path.to_owned())].into_iter().chain(platform).collect()
    }

    /// Its files at or below a path, in the order of a tree.
    pub fn pages<'p>(
        &'p self,
        context: &'p Context,
        path: &'p str,
        depth: Depth,
        doing: &'p str,
    ) -> FilePages<'p> {
        FilePages { context, filed: self, path, depth, doing, cursor: None, begun: false }
    }

    /// What the server refused, with what helps here.
    pub fn in_words(&self, failure: Failure) -> Failure {
        let code = failure.problem.as_ref().and_then(|problem| problem.get("code")?.as_str());
        match (self, code) {
            (Filed::Layer(digest), Some("not-an-archive")) => {
                let hint = format!(
                    "the digest of a layer; of an image, `orlop image tag {digest} NAME` gives it a name"
                );
                failure.hint(hint)
            }
            (_, Some("not-found")) => failure.hint(match self {
                Filed::Image { .. } => "orlop tree REF:/DIRECTORY shows what there is",
                Filed::Layer(_) => "orlop ls content for layers, orlop tree DIGEST for what one has",
                Filed::Snapshot(_) => {
                    "orlop ls snapshots for keys, orlop snapshot files KEY for what one has"
                }
            }),
            _ => failure,
        }
    }
}

/// How far down a list goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    One,
    All,
}

/// A list of files, one page after the other.
pub struct FilePages<'p> {
    context: &'p Context,
    filed: &'p Filed,
    path: &'p str,
    depth: Depth,
    doing: &'p str,
    cursor: Option<String>,
    begun: bool,
}

impl FilePages<'_> {
    /// # Errors
    /// The server's refusal; `Unreachable`.
    pub async fn next(&mut self) -> Result<Option<Vec<Value>>, Failure> {
        if self.begun && self.cursor.is_none() {
            return Ok(None);
        }
        self.begun = true;
        let response = answer_once_read(|| self.call(), self.doing).await?;
        if response.status() != StatusCode::OK {
            return Err(self.filed.in_words(refused(response, self.doing.to_owned()).await));
        }
        let page = self.context.client.read_json(response, self.doing.to_owned()).await?;
        let (items, cursor) = take_page(page);
        self.cursor = cursor;
        Ok(Some(items))
    }

    fn call(&self) -> Call<'_> {
        let parts = self.filed.path(&["files"]);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let call = self.context.client.scoped(Method::GET, &parts, self.doing);
        let call =
            self.filed.query(self.path).iter().fold(call, |call, (name, value)| call.query(name, value));
        let call = call.header("accept", "application/json").query("limit", &PAGE.to_string());
        let call = match self.depth {
            Depth::One => call,
            Depth::All => call.query("recursive", "true"),
        };
        call.queries("cursor", &self.cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_begins_where_no_reference_goes_on() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let of_digest = format!("{digest}:/etc/passwd");
        for (text, of, path) in [
            ("app:1.2:/etc/os-release", "app:1.2", Some("/etc/os-release")),
            ("app:/a:/b", "app", Some("/a:/b")),
            ("localhost:5000/app:1.2:/", "localhost:5000/app:1.2", Some("/")),
            ("localhost:5000/app", "localhost:5000/app", None),
            (of_digest.as_str(), digest.as_str(), Some("/etc/passwd")),
            ("2cf24d:/x", "2cf24d", Some("/x")),
        ] {
            let place = PlaceArg { of: of.to_owned(), path: path.map(str::to_owned) };
            assert_eq!(place.to_string(), text);
            assert_eq!(parse_place(text), Ok(place));
        }
        for bad in ["", ":/etc", "/etc/passwd"] {
            assert!(parse_place(bad).is_err(), "{bad}");
        }
    }
}
