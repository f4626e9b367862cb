//! Docker's manifest version 2, schema 1, signed or not: read only to be turned into an OCI manifest.
//!
//! It lists layers from the top downward, with a text of JSON for each that holds what is a config today. Of a signed
//! one the digest is that of the payload, which is the document without its signatures.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result, Unprocessable};
use crate::limits::{MANIFEST_BYTES, MANIFEST_LAYERS};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::{Digest, excerpt};
use crate::oci::manifest::check_depth;
use crate::oci::media_type;

/// A manifest of schema 1: what its bytes say, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema1 {
    /// The lowest first.
    pub layers: Vec<Schema1Layer>,
    /// What the topmost layer says of the whole image.
    config: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Schema1Layer {
    pub digest: Digest,
    /// Whether its own text says that it changes no file. It is not fetched then.
    pub empty: bool,
    history: History,
}

/// A layer as the OCI image knows it, once its bytes are here.
#[derive(Debug, Clone)]
pub struct UnpackedLayer {
    pub descriptor: Descriptor,
    pub diff_id: Digest,
    /// Whether there is no file in it after all.
    pub empty: bool,
}

/// The two documents of a converted image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

/// An entry of an OCI config's history.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct History {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<Value>,
    #[serde(skip_serializing_if = "String::is_empty")]
    created_by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    author: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    comment: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    schema_version: u64,
    fs_layers: Vec<WrittenLayer>,
    history: Vec<WrittenHistory>,
    #[serde(default)]
    signatures: Vec<Signature>,
    manifests: Option<Value>,
    layers: Option<Value>,
    config: Option<Value>,
}

#[derive(Deserialize)]
struct WrittenLayer {
    #[serde(rename = "blobSum")]
    blob_sum: Digest,
}

#[derive(Deserialize)]
struct WrittenHistory {
    #[serde(rename = "v1Compatibility")]
    v1_compatibility: String,
}

#[derive(Deserialize)]
struct Signature {
    protected: String,
}

/// What a signature says of the bytes that it signs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Protected {
    format_length: usize,
    format_tail: String,
}

/// What `v1Compatibility` says of one layer.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Layer {
    created: Option<Value>,
    author: Option<String>,
    comment: Option<String>,
    throwaway: Option<bool>,
    /// In bytes; told before there was `throwaway`.
    #[serde(rename = "Size")]
    size: Option<i64>,
    container_config: Option<ContainerConfig>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerConfig {
    #[serde(rename = "Cmd")]
    command: Option<Vec<String>>,
}

/// Keys of `v1Compatibility` that are about the layer, and have no meaning in a config.
const OF_THE_LAYER: [&str; 6] = ["id", "parent", "parent_id", "layer_id", "Size", "throwaway"];

/// Whether the bytes are, or are declared to be, a manifest of schema 1.
pub fn is_schema1(bytes: &[u8], declared: Option<&str>) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: u64,
    }
    let declared = declared.map(media_type::essence);
    matches!(declared, Some(media_type::DOCKER_SCHEMA1 | media_type::DOCKER_SCHEMA1_SIGNED))
        || check_depth(bytes).is_ok()
            && serde_json::from_slice::<Version>(bytes).is_ok_and(|read| read.schema_version == 1)
}

/// What the digest of a manifest of schema 1 is the digest of: its bytes, without the signatures where it has some.
///
/// # Errors
/// `ValidationFailed` when a signature does not say what it signs.
pub fn payload(bytes: &[u8]) -> Result<Cow<'_, [u8]>> {
    let written = read(bytes)?;
    let Some(signature) = written.signatures.first() else { return Ok(Cow::Borrowed(bytes)) };
    let broken = || invalid("its signature does not say what it signs");
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| broken());
    let protected = decode(&signature.protected)?;
    check_depth(&protected)?;
    let protected: Protected = serde_json::from_slice(&protected).map_err(|_| broken())?;
    let mut signed = bytes.get(..protected.format_length).ok_or_else(broken)?.to_vec();
    signed.extend(decode(&protected.format_tail)?);
    Ok(Cow::Owned(signed))
}

impl Schema1 {
    /// Reads the payload of a manifest: what its digest has been compared with.
    ///
    /// # Errors
    /// `TooLarge` past [`MANIFEST_BYTES`]; `ValidationFailed` for what is not such a manifest, or could be read as
    /// another document as well, or has more layers than [`MANIFEST_LAYERS`].
    pub fn parse(payload: &[u8]) -> Result<Schema1> {
        let written = read(payload)?;
        if written.schema_version != 1 {
            return Err(invalid("it does not say `\"schemaVersion\": 1`"));
        }
        if written.manifests.is_some() || written.layers.is_some() || written.config.is_some() {
            return Err(invalid("it can be read as another kind of document as well"));
        }
        let count = written.fs_layers.len();
        if count == 0 || count != written.history.len() {
            return Err(invalid("its layers and its history are not as many as each other"));
        }
        if count > MANIFEST_LAYERS {
            return Err(invalid(format!("it has {count} layers; at most {MANIFEST_LAYERS} are taken")));
        }
        let mut layers = Vec::with_capacity(count);
        for (layer, history) in written.fs_layers.into_iter().zip(&written.history).rev() {
            layers.push(layer_of(layer.blob_sum, &history.v1_compatibility)?);
        }
        let mut config: Map<String, Value> = from_text(&written.history[0].v1_compatibility)?;
        config.retain(|key, _| !OF_THE_LAYER.contains(&key.as_str()));
        Ok(Schema1 { layers, config })
    }

    /// The image in today's form. `unpacked` are the layers that are not empty by their own word, the lowest first, each
    /// as often as it is there. The same layers always give the same bytes.
    pub fn convert(&self, unpacked: &[UnpackedLayer]) -> Converted {
        let mut unpacked = unpacked.iter();
        let (mut history, mut layers, mut diff_ids) = (Vec::new(), Vec::new(), Vec::new());
        for layer in &self.layers {
            let mut entry = serde_json::to_value(&layer.history).expect("texts are JSON");
            let bytes = if layer.empty { None } else { unpacked.next() };
            match bytes {
                Some(bytes) if !bytes.empty => {
                    layers.push(&bytes.descriptor);
                    diff_ids.push(&bytes.diff_id);
                }
                Some(_) | None => entry["empty_layer"] = true.into(),
            }
            history.push(entry);
        }
        let mut config = self.config.clone();
        config.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids}));
        config.insert("history".to_owned(), history.into());
        let config = serde_json::to_vec(&config).expect("a value is JSON");
        let digest = Digest::of(crate::oci::Algorithm::Sha256, &config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": Descriptor::new(media_type::OCI_CONFIG, digest, config.len() as u64),
            "layers": layers,
        });
        Converted { config, manifest: serde_json::to_vec(&manifest).expect("a value is JSON") }
    }
}

fn layer_of(digest: Digest, text: &str) -> Result<Schema1Layer> {
    let layer: Layer = from_text(text)?;
    let command = layer.container_config.and_then(|config| config.command).unwrap_or_default();
    Ok(Schema1Layer {
        digest,
        empty: layer.throwaway.unwrap_or(layer.size == Some(0)),
        history: History {
            created: layer.created,
            created_by: command.join(" "),
            author: layer.author.unwrap_or_default(),
            comment: layer.comment.unwrap_or_default(),
        },
    })
}

fn read(bytes: &[u8]) -> Result<Written> {
    if bytes.len() as u64 > MANIFEST_BYTES {
        return Err(Error::TooLarge { what: "a manifest", limit: MANIFEST_BYTES });
    }
    check_depth(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| invalid(excerpt(&error.to_string())))
}

/// JSON inside a text of JSON.
fn from_text<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T> {
    check_depth(text.as_bytes())?;
    serde_json::from_str(text)
        .map_err(|error| invalid(format!("its history: {}", excerpt(&error.to_string()))))
}

fn invalid(reason: impl std::fmt::Display) -> Error {
    let reason = format!("not a well-formed Docker manifest of schema 1: {reason}");
    Error::Unprocessable(Unprocessable::ValidationFailed { reason })
}

#[cfg(test)]
mod tests;
