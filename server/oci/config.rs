//! Configs: what an image runs on and how it was built (OCI image spec, config.md; Docker's own is the same and more).

use serde::Deserialize;

use crate::error::{Error, Result, Unprocessable};
use crate::limits::{HISTORY_STEPS, MANIFEST_BYTES};
use crate::oci::descriptor::null_is_empty;
use crate::oci::digest::excerpt;
use crate::oci::manifest::check_depth;
use crate::oci::{Digest, Platform};

/// Of a config what orlop goes by or shows; all else is left to those who run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// `None` where it names no system.
    pub platform: Option<Platform>,
    /// A time as its author wrote it.
    pub created: Option<String>,
    pub author: Option<String>,
    /// The digests of the layers' tars, the lowest first.
    pub diff_ids: Vec<Digest>,
    /// The oldest first.
    pub history: Vec<Step>,
}

/// One step of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Step {
    #[serde(default)]
    pub created: Option<String>,
    #[serde(default)]
    pub created_by: Option<String>,
    #[serde(default)]
    pub author: Option<String>,
    #[serde(default)]
    pub comment: Option<String>,
    /// It changed no file, so it has no layer.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub empty_layer: bool,
}

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    author: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    rootfs: RootFs,
    #[serde(default, deserialize_with = "null_is_empty")]
    history: Vec<Step>,
}

#[derive(Default, Deserialize)]
struct RootFs {
    #[serde(default, deserialize_with = "null_is_empty")]
    diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// # Errors
    /// `TooLarge` past [`MANIFEST_BYTES`]; `ValidationFailed` for what is no config of an image, or has more than
    /// [`HISTORY_STEPS`] steps.
    pub fn parse(bytes: &[u8]) -> Result<ImageConfig> {
        if bytes.len() as u64 > MANIFEST_BYTES {
            return Err(Error::TooLarge { what: "a config", limit: MANIFEST_BYTES });
        }
        check_depth(bytes)?;
        // A derived struct would take an array of its fields as well.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(invalid("the config of an image is a JSON object".to_owned()));
        }
        let written: Written = serde_json::from_slice(bytes).map_err(|error| {
            invalid(format!("not a well-formed config of an image: {}", excerpt(&error.to_string())))
        })?;
        if written.history.len() > HISTORY_STEPS {
            let count = written.history.len();
            return Err(invalid(format!("the config has {count} steps; at most {HISTORY_STEPS} are taken")));
        }
        Ok(ImageConfig {
            platform: platform_of(bytes),
            created: written.created,
            author: written.author,
            diff_ids: written.rootfs.diff_ids,
            history: written.history,
        })
    }
}

/// The platform that a config names: both its system and its architecture, as the specification demands. It is read by
/// itself, so that what else of a config is written oddly does not matter; a key that parsers read differently does.
pub fn platform_of(bytes: &[u8]) -> Option<Platform> {
    check_depth(bytes).ok()?;
    let platform: Platform = serde_json::from_slice(bytes).ok()?;
    (!platform.os.is_empty() && !platform.architecture.is_empty()).then_some(platform)
}

fn invalid(reason: String) -> Error {
    Error::Unprocessable(Unprocessable::ValidationFailed { reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_tells_its_platform_its_layers_and_its_steps() {
        let diff_id = format!("sha256:{}", "a".repeat(64));
        let text = format!(
            r#"{{"os":"linux","architecture":"arm64","variant":"v8","created":"2026-01-01T00:00:00Z",
                "config":{{"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}},
                "history":[{{"created_by":"ADD x","comment":null}},{{"created_by":"CMD","empty_layer":true}}]}}"#
        );
        let config = ImageConfig::parse(text.as_bytes()).expect("a config");
        assert_eq!(config.platform.expect("a platform").to_string(), "linux/arm64/v8");
        assert_eq!(config.diff_ids, [diff_id.parse().expect("a digest")]);
        let steps: Vec<_> = config.history.iter().map(|s| (s.created_by.as_deref(), s.empty_layer)).collect();
        assert_eq!(steps, [(Some("ADD x"), false), (Some("CMD"), true)]);
    }

    #[test]
    fn what_a_config_leaves_out_is_not_there_and_null_is_left_out() {
        for text in ["{}", r#"{"rootfs":null,"history":null,"os":null,"created":null}"#, r#"{"os":""}"#] {
            let config = ImageConfig::parse(text.as_bytes()).expect(text);
            assert_eq!(
                (config.platform, config.diff_ids.len(), config.history.len()),
                (None, 0, 0),
                "{text}"
            );
        }
    }

    #[test]
    fn a_platform_is_named_whole_and_once_or_not_at_all() {
        let of = |text: &str| platform_of(text.as_bytes()).map(|platform| platform.to_string());
        assert_eq!(of(r#"{"os":"linux","architecture":"s390x","rootfs":3}"#).as_deref(), Some("linux/s390x"));
        for text in [
            r#"{"os":"linux"}"#,
            r#"{"architecture":"amd64"}"#,
            r#"{"os":"","architecture":"amd64"}"#,
            r#"{"os":"linux","OS":"windows","architecture":"amd64"}"#,
            r#"{"os":"linux","os":"windows","architecture":"amd64"}"#,
            r#"["linux","amd64"]"#,
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_config_is_refused() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100));
        let many = format!("{{\"history\":[{}{{}}]}}", "{},".repeat(HISTORY_STEPS));
        for text in ["", "[]", "1", r#"{"history":3}"#, r#"{"rootfs":{"diff_ids":["x"]}}"#, &deep, &many] {
            assert!(ImageConfig::parse(text.as_bytes()).is_err(), "{:.40}", text);
        }
        assert!(ImageConfig::parse(many.replace("{},{},", "").as_bytes()).is_ok());
    }
}
