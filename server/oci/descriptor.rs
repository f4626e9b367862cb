//! Descriptors: media type, digest and size of a blob (OCI image spec, descriptor.md).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};

use crate::oci::digest::Digest;
use crate::oci::media_type::{self, Kind};
use crate::oci::platform::Platform;

/// Largest size a descriptor may promise, in bytes: what a signed 64-bit column and every peer can hold.
pub const MAX_SIZE_BYTES: u64 = i64::MAX as u64;

/// What a document says about another blob. Its field names in JSON are the image spec's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct Descriptor {
    #[serde(deserialize_with = "media_type_text")]
    pub media_type: String,
    pub digest: Digest,
    /// In bytes. Zero is a size: an empty blob is a blob.
    #[serde(deserialize_with = "size_in_range")]
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The blob itself in base 64, for small ones; trust only [`Descriptor::embedded`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Where else the blob may be. Kept to be shown; never contacted unless somebody opts in.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

with_checked_keys!(
    Descriptor,
    &["mediaType", "digest", "size", "platform", "annotations", "artifactType", "data", "urls"]
);

impl Descriptor {
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
            artifact_type: None,
            data: None,
            urls: Vec::new(),
        }
    }

    pub fn kind(&self) -> Kind {
        Kind::of(&self.media_type)
    }

    /// The bytes carried in `data`, when they are exactly what digest and size promise.
    pub fn embedded(&self) -> Option<Vec<u8>> {
        let bytes = STANDARD.decode(self.data.as_ref()?).ok()?;
        let true_to_name =
            bytes.len() as u64 == self.size && Digest::of(self.digest.algorithm(), &bytes) == self.digest;
        true_to_name.then_some(bytes)
    }
}

fn media_type_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    media_type::check(&text).map_err(serde::de::Error::custom)?;
    Ok(text)
}

fn size_in_range<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = u64::deserialize(deserializer)?;
    if size > MAX_SIZE_BYTES {
        return Err(serde::de::Error::custom(format!("the size {size} is larger than {MAX_SIZE_BYTES}")));
    }
    Ok(size)
}

/// Go writes a list or map without entries as `null`; it means the same as leaving it out.
pub(super) fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest::Algorithm;

    fn parse(size: &str, digest: &str) -> Result<Descriptor, serde_json::Error> {
        let text = format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":{size}}}"#);
        serde_json::from_str(&text)
    }

    #[test]
    fn a_descriptor_survives_its_own_json() {
        let text = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"platform":{"architecture":"arm64","os":"linux","variant":"v8"},"annotations":{"a":"b"},"urls":["https://example.com/x"]}"#;
        let descriptor: Descriptor = serde_json::from_str(text).expect("a descriptor");
        assert_eq!(descriptor.kind(), Kind::Layer);
        let again = serde_json::to_string(&descriptor).expect("json");
        assert_eq!(descriptor, serde_json::from_str(&again).expect("its own json"));
    }

    #[test]
    fn sizes_that_no_blob_can_have_are_refused() {
        let digest = Digest::of(Algorithm::Sha256, b"x").to_string();
        for bad in ["-1", "1.5", "1e3", "\"1\"", "null", "9223372036854775808", "18446744073709551616"] {
            assert!(parse(bad, &digest).is_err(), "{bad}");
        }
        assert_eq!(parse("9223372036854775807", &digest).expect("the largest").size, MAX_SIZE_BYTES);
    }

    #[test]
    fn a_descriptor_with_a_bad_digest_is_refused() {
        for bad in ["", "sha256:", "sha256:../../etc/passwd", "md5:00", "sha256:AB"] {
            assert!(parse("1", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_written_as_null_are_empty() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let text =
            format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":1,"urls":null,"annotations":null}}"#);
        let descriptor: Descriptor = serde_json::from_str(&text).expect("a descriptor");
        assert_eq!(descriptor, Descriptor::new("a/b", digest, 1));
    }

    #[test]
    fn embedded_bytes_count_only_when_they_are_what_the_digest_names() {
        let mut descriptor = Descriptor::new("a/b", Digest::of(Algorithm::Sha256, b"{}"), 2);
        assert_eq!(descriptor.embedded(), None);
        descriptor.data = Some("e30=".to_owned());
        assert_eq!(descriptor.embedded().as_deref(), Some(&b"{}"[..]));
        descriptor.data = Some("e31=".to_owned());
        assert_eq!(descriptor.embedded(), None);
    }
}
