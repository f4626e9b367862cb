//! Documents: image indexes and manifests, parsed from bytes that nobody vouches for
//! (OCI image spec, image-index.md and manifest.md; Docker's manifest version 2, schema 2).
//!
//! The bytes are what the digest names, so they are kept as they came: a document is never written back.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result, Unprocessable};
use crate::limits::{INDEX_ENTRIES, JSON_DEPTH, MANIFEST_BYTES, MANIFEST_LAYERS};
use crate::oci::descriptor::{Descriptor, null_is_empty};
use crate::oci::digest::excerpt;
use crate::oci::keys::Keys;
use crate::oci::media_type::{self, Kind};

/// A parsed document: what its bytes say, checked.
#[expect(clippy::large_enum_variant, reason = "few are held at a time, and a manifest is the common one")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Index(Index),
    Manifest(Manifest),
}

/// A list of manifests, one per platform.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// As declared, or OCI's own where the document does not say.
    #[serde(default)]
    pub media_type: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub manifests: Vec<Descriptor>,
    #[serde(default)]
    pub artifact_type: Option<String>,
    /// The manifest that this one says something about: shown, not a child.
    #[serde(default)]
    pub subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A config and the layers that it goes with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// As declared, or OCI's own where the document does not say.
    #[serde(default)]
    pub media_type: String,
    pub config: Descriptor,
    /// The lowest first.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub layers: Vec<Descriptor>,
    #[serde(default)]
    pub artifact_type: Option<String>,
    /// The manifest that this one says something about: shown, not a child.
    #[serde(default)]
    pub subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What a child is to its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Index,
    Manifest,
    Config,
    Layer,
    /// An index entry of a media type that is not a document: kept whole, not looked into.
    Other,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Index => "index",
            Role::Manifest => "manifest",
            Role::Config => "config",
            Role::Layer => "layer",
            Role::Other => "other",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child<'a> {
    pub role: Role,
    pub descriptor: &'a Descriptor,
}

impl Document {
    /// Parses `bytes`, which a descriptor or a `Content-Type` declared to be of the media type `declared`.
    ///
    /// # Errors
    /// `TooLarge` past [`MANIFEST_BYTES`]; `ValidationFailed` for anything that is not clearly one of the
    /// two kinds, or breaks a limit of this file. What two readers could read differently is refused
    /// (CVE-2021-41190).
    pub fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Document> {
        if bytes.len() as u64 > MANIFEST_BYTES {
            return Err(Error::TooLarge { what: "a manifest", limit: MANIFEST_BYTES });
        }
        check_depth(bytes)?;
        let shape: Shape = serde_json::from_slice(bytes).map_err(malformed)?;
        let kind = shape.kind()?;
        let media_type = agreed_media_type(kind, shape.media_type.as_deref(), declared)?;
        let document = match kind {
            Kind::Index => {
                let index: Index = serde_json::from_slice(bytes).map_err(malformed)?;
                within(index.manifests.len(), INDEX_ENTRIES, "entries")?;
                Document::Index(Index { media_type, ..index })
            }
            Kind::Manifest | Kind::Config | Kind::Layer | Kind::Other => {
                let manifest: Manifest = serde_json::from_slice(bytes).map_err(malformed)?;
                within(manifest.layers.len(), MANIFEST_LAYERS, "layers")?;
                Document::Manifest(Manifest { media_type, ..manifest })
            }
        };
        Ok(document)
    }

    pub fn media_type(&self) -> &str {
        match self {
            Document::Index(index) => &index.media_type,
            Document::Manifest(manifest) => &manifest.media_type,
        }
    }

    /// The manifest that it says something about: shown, not a child.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Document::Index(index) => index.subject.as_ref(),
            Document::Manifest(manifest) => manifest.subject.as_ref(),
        }
    }

    /// What it names, in document order; a manifest's config comes first. A blob named twice is there twice.
    pub fn children(&self) -> Vec<Child<'_>> {
        match self {
            Document::Index(index) => {
                index.manifests.iter().map(|d| Child { role: entry_role(d), descriptor: d }).collect()
            }
            Document::Manifest(manifest) => {
                let config = Child { role: Role::Config, descriptor: &manifest.config };
                let layers = manifest.layers.iter().map(|d| Child { role: Role::Layer, descriptor: d });
                std::iter::once(config).chain(layers).collect()
            }
        }
    }
}

fn entry_role(descriptor: &Descriptor) -> Role {
    match descriptor.kind() {
        Kind::Index => Role::Index,
        Kind::Manifest => Role::Manifest,
        Kind::Config | Kind::Layer | Kind::Other => Role::Other,
    }
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::Unprocessable(Unprocessable::ValidationFailed { reason: reason.into() })
}

fn malformed(error: serde_json::Error) -> Error {
    invalid(format!("not a well-formed manifest: {}", excerpt(&error.to_string())))
}

fn within(count: usize, limit: usize, what: &str) -> Result<()> {
    if count > limit {
        return Err(invalid(format!("the document has {count} {what}; at most {limit} are taken")));
    }
    Ok(())
}

/// One pass over the bytes, before any parser that recurses sees them.
pub(super) fn check_depth(bytes: &[u8]) -> Result<()> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in bytes {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (true, _) => {}
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            (false, _) => {}
        }
        if depth > JSON_DEPTH {
            return Err(invalid(format!("the document is nested deeper than {JSON_DEPTH} levels")));
        }
    }
    Ok(())
}

/// The body, the descriptor and the header must say one thing, parameters apart. A `Content-Type` that says nothing is
/// no objection. What is answered is one of the few types that documents have, however long the body's text is.
fn agreed_media_type(kind: Kind, in_body: Option<&str>, declared: Option<&str>) -> Result<String> {
    let in_body = in_body.map(media_type::essence);
    let declared = declared.filter(|text| !media_type::is_generic(text)).map(media_type::essence);
    for said in in_body.into_iter().chain(declared) {
        if Kind::of(said) != kind {
            let is = if kind == Kind::Index { "an index" } else { "a manifest" };
            return Err(invalid(format!("the document is {is} and was declared as `{}`", excerpt(said))));
        }
    }
    match (in_body, declared) {
        (Some(body), Some(declared)) if body != declared => Err(invalid(format!(
            "the document says it is `{}` and was declared as `{}`",
            excerpt(body),
            excerpt(declared)
        ))),
        (Some(said), Some(_) | None) | (None, Some(said)) => Ok(said.to_owned()),
        (None, None) if kind == Kind::Index => Ok(media_type::OCI_INDEX.to_owned()),
        (None, None) => Ok(media_type::OCI_MANIFEST.to_owned()),
    }
}

/// The keys that decide what a document is, and no more.
#[derive(Default)]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: bool,
    config_or_layers: bool,
    fs_layers: bool,
}

impl Shape {
    fn kind(&self) -> Result<Kind> {
        if self.fs_layers || self.schema_version == Some(1) {
            return Err(invalid(
                "this is a Docker manifest of schema 1, which nothing of today reads: push the image again with a current \
                 tool, or pull it with `convert_schema1`",
            ));
        }
        if self.schema_version != Some(2) {
            return Err(invalid("the document does not say `\"schemaVersion\": 2`"));
        }
        match (self.manifests, self.config_or_layers) {
            (true, false) => Ok(Kind::Index),
            (false, true) => Ok(Kind::Manifest),
            (true, true) => Err(invalid(
                "the document has `manifests` and also `config` or `layers`: it can be read as an index or as a manifest",
            )),
            (false, false) => Err(invalid("the document has neither `manifests` nor `config`")),
        }
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        deserializer.deserialize_map(ShapeVisitor)
    }
}

struct ShapeVisitor;

/// The keys that somebody reads at the top of a document.
const KEYS: &[&str] = &[
    "schemaVersion",
    "mediaType",
    "manifests",
    "config",
    "layers",
    "fsLayers",
    "artifactType",
    "subject",
    "annotations",
];

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut shape = Shape::default();
        let mut keys = Keys::new(KEYS);
        while let Some(key) = map.next_key::<String>()? {
            keys.check(&key)?;
            match key.as_str() {
                "schemaVersion" => shape.schema_version = Some(map.next_value()?),
                "mediaType" => {
                    let said: Option<String> = map.next_value()?;
                    shape.media_type = said.filter(|text| !text.is_empty());
                }
                other => {
                    map.next_value::<IgnoredAny>()?;
                    shape.manifests |= other == "manifests";
                    shape.config_or_layers |= other == "config" || other == "layers";
                    shape.fs_layers |= other == "fsLayers";
                }
            }
        }
        Ok(shape)
    }
}

#[cfg(test)]
mod tests;
