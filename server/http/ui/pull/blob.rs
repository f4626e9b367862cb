//! A blob of a pull as a row: what it is, where it stands, how much of it is here.

use super::view::{Bar, amount};
use crate::http::ui::show::{self, NONE};
use crate::jobs::{BlobRole, BlobState, LayerUnpack, PullBlob, PullProgress, UnpackState};

pub struct BlobView {
    pub digest: String,
    pub short_digest: String,
    pub role: &'static str,
    pub media_type: String,
    /// What its media type says, in words.
    pub form: String,
    pub state: &'static str,
    pub icon: &'static str,
    /// Why it failed, waits or was left out; else nothing.
    pub why: String,
    /// How far it is on its way to a snapshot; nothing where nobody asked for one.
    pub unpack: String,
    pub bar: Bar,
    pub percent: String,
    pub amount: String,
}

impl BlobView {
    pub fn new(blob: &PullBlob) -> BlobView {
        let digest = blob.digest.to_string();
        let (state, icon) = in_words(blob.state);
        let bar = bar(blob);
        BlobView {
            short_digest: show::short_digest(&digest),
            digest,
            role: role(blob.role),
            media_type: blob.media_type.clone(),
            form: form(&blob.media_type),
            state,
            icon,
            why: why(blob),
            unpack: blob.unpack.as_ref().map_or(String::new(), |unpack| unpacked(unpack, blob.size)),
            percent: bar.percent.map_or(NONE.to_owned(), |percent| format!("{percent} %")),
            bar,
            amount: amount(blob.offset, blob.size),
        }
    }
}

/// The states' own words, as the API has them, and an icon for each.
fn in_words(state: BlobState) -> (&'static str, &'static str) {
    match state {
        BlobState::Waiting => ("waiting", "○"),
        BlobState::Exists => ("exists", "="),
        BlobState::Downloading => ("downloading", "↓"),
        BlobState::Verifying => ("verifying", "◔"),
        BlobState::Committing => ("committing", "◕"),
        BlobState::Done => ("done", "✓"),
        BlobState::Failed => ("failed", "✗"),
        BlobState::Skipped => ("skipped", "⊘"),
    }
}

fn role(role: BlobRole) -> &'static str {
    match role {
        BlobRole::Index => "index",
        BlobRole::Manifest => "manifest",
        BlobRole::Config => "config",
        BlobRole::Layer => "layer",
    }
}

fn why(blob: &PullBlob) -> String {
    let waits = blob.wait.as_ref().map(|wait| &wait.reason);
    let said = blob.error.as_ref().map(|error| &error.detail).or(waits).or(blob.reason.as_ref());
    said.cloned().unwrap_or_default()
}

/// As `web/static/pull.js` says it.
fn unpacked(unpack: &LayerUnpack, size: u64) -> String {
    match unpack.state {
        UnpackState::Waiting => "to be unpacked".to_owned(),
        UnpackState::Unpacking => {
            let percent = u128::from(unpack.offset) * 100 / u128::from(size.max(1));
            format!("unpacking, {percent} %")
        }
        UnpackState::Committing => "unpacked, going to disk".to_owned(),
        UnpackState::Done => "unpacked".to_owned(),
        UnpackState::Exists => "was unpacked before".to_owned(),
    }
}

fn bar(blob: &PullBlob) -> Bar {
    let reused = if blob.state == BlobState::Exists { blob.size } else { 0 };
    Bar::new(&PullProgress {
        bytes_total: blob.size,
        bytes_done: blob.offset,
        bytes_reused: reused,
        bytes_network: blob.offset.saturating_sub(reused),
        ..PullProgress::default()
    })
}

/// A media type in words. One that nobody here knows is told as it is.
fn form(media_type: &str) -> String {
    let known = match media_type {
        "application/vnd.oci.image.index.v1+json" => "OCI index of manifests",
        "application/vnd.docker.distribution.manifest.list.v2+json" => "Docker list of manifests",
        "application/vnd.oci.image.manifest.v1+json" => "OCI manifest",
        "application/vnd.docker.distribution.manifest.v2+json" => "Docker manifest",
        "application/vnd.oci.image.config.v1+json" => "OCI configuration",
        "application/vnd.docker.container.image.v1+json" => "Docker configuration",
        "application/vnd.oci.empty.v1+json" => "nothing, as JSON",
        "application/vnd.oci.image.layer.v1.tar" => "tar archive",
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => "tar archive, gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => "tar archive, zstd",
        other if other.contains(".nondistributable.") || other.contains(".rootfs.foreign.") => {
            "restricted layer"
        }
        other => other,
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::{JobError, JobErrorCode};
    use crate::oci::{Algorithm, Digest};

    fn blob(state: BlobState, offset: u64) -> PullBlob {
        PullBlob {
            digest: Digest::of(Algorithm::Sha256, b"rope"),
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            role: BlobRole::Layer,
            size: 4096,
            offset,
            state,
            wait: None,
            error: None,
            reason: None,
            unpack: None,
        }
    }

    #[test]
    fn a_blob_says_what_it_is_and_how_much_of_it_is_here() {
        let shown = BlobView::new(&blob(BlobState::Downloading, 1024));
        assert_eq!((shown.role, &*shown.form, shown.state), ("layer", "tar archive, gzip", "downloading"));
        assert_eq!((&*shown.percent, &*shown.amount), ("25 %", "1.0 KiB of 4.0 KiB"));
        assert_eq!((&*shown.bar.reused, &*shown.bar.network), ("0.0%", "25.0%"));
        let here = BlobView::new(&blob(BlobState::Exists, 4096));
        assert_eq!((&*here.bar.reused, &*here.bar.network, &*here.amount), ("100.0%", "0.0%", "4.0 KiB"));
    }

    #[test]
    fn a_layer_says_how_far_its_snapshot_is() {
        let shown = |state: UnpackState, offset: u64| {
            let unpack = Some(LayerUnpack { state, offset, snapshot: None });
            BlobView::new(&PullBlob { unpack, ..blob(BlobState::Done, 4096) }).unpack
        };
        assert_eq!(shown(UnpackState::Waiting, 0), "to be unpacked");
        assert_eq!(shown(UnpackState::Unpacking, 1024), "unpacking, 25 %");
        assert_eq!(shown(UnpackState::Committing, 4096), "unpacked, going to disk");
        assert_eq!(shown(UnpackState::Exists, 4096), "was unpacked before");
        assert_eq!(BlobView::new(&blob(BlobState::Done, 4096)).unpack, "");
    }

    #[test]
    fn a_blob_that_did_not_come_says_why_and_a_type_that_is_not_known_is_told_as_it_is() {
        let error = JobError {
            code: JobErrorCode::UpstreamMismatch,
            detail: "registry.example: its bytes have another digest".to_owned(),
            hint: None,
            host: None,
            status: None,
        };
        let failed = PullBlob { error: Some(error), ..blob(BlobState::Failed, 0) };
        assert_eq!(BlobView::new(&failed).why, "registry.example: its bytes have another digest");
        let reason = Some("its distribution is restricted".to_owned());
        let skipped = PullBlob { reason, ..blob(BlobState::Skipped, 0) };
        assert_eq!(BlobView::new(&skipped).why, "its distribution is restricted");
        assert_eq!(BlobView::new(&blob(BlobState::Done, 4096)).why, "");
        assert_eq!(form("application/vnd.example+json"), "application/vnd.example+json");
        assert_eq!(form("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "restricted layer");
    }
}
