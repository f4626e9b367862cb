//! Servers that do not go on in the middle of a blob: what is remembered of them, and what is said.

use std::sync::PoisonError;

use crate::error::{Error, Upstream, UpstreamKind};
use crate::jobs::fetch::Fetch;
use crate::limits;
use crate::oci::Digest;
use crate::registry::Ranges;

impl Fetch<'_> {
    /// Whether nothing is known against it.
    pub fn may_ask_for_ranges(&self) -> bool {
        let Some(host) = self.repository.first_host() else { return true };
        let rangeless = self.job.jobs.0.rangeless.lock().unwrap_or_else(PoisonError::into_inner);
        rangeless.get(host).is_none_or(|until| *until <= self.job.now())
    }

    /// Remembers that the endpoint at `host` answers no ranges: a mirror's answer says nothing of its registry. What a blob's
    /// own `urls` lead to is nobody's endpoint.
    pub fn remember_no_ranges(&self, host: Option<&str>) {
        let Some(host) = host.map(str::to_owned) else { return };
        let now = self.job.now();
        let mut rangeless = self.job.jobs.0.rangeless.lock().unwrap_or_else(PoisonError::into_inner);
        if rangeless.len() >= limits::RANGELESS_REGISTRIES {
            rangeless.clear();
        }
        rangeless.insert(host, now.plus(limits::RANGELESS_TIME));
    }
}

/// What a pull says of a server without ranges, and of what that costs where `here` bytes of the blob are here. One that was
/// asked for the first part, and gives all of it, costs nothing.
pub(super) fn words_of(ranges: Ranges, host: Option<&str>, digest: &Digest, here: u64) -> Option<String> {
    let (what, host) = (deed_of(ranges)?, host.unwrap_or("the place that the image names"));
    let mebibytes = here as f64 / f64::from(1 << 20);
    match (ranges, here) {
        (Ranges::Honoured | Ranges::Ignored, 0) => None,
        (Ranges::Mistaken, 0) => Some(format!("{host} {what}: {digest} is asked for as a whole")),
        (_, _) => Some(format!("{host} {what}: the first {mebibytes:.1} MiB of {digest} come once more")),
    }
}

/// A break of the connection before byte `at`, which says so where there is no way to go on from there.
pub(super) fn cut_short(error: Error, at: u64, ranges: Ranges) -> Error {
    match (error, deed_of(ranges)) {
        (Error::Upstream(told), Some(what)) if told.kind == UpstreamKind::Unreachable => {
            let reason = format!(
                "{}: it breaks off before byte {at} and {what}, so that it cannot be asked to go on from there",
                told.reason
            );
            Error::Upstream(Upstream { kind: UpstreamKind::CutShort, reason, ..told })
        }
        (error, _) => error,
    }
}

/// What a server does in place of honouring ranges.
fn deed_of(ranges: Ranges) -> Option<&'static str> {
    match ranges {
        Ranges::Honoured => None,
        Ranges::Ignored => Some("ignores Range"),
        Ranges::Mistaken => Some("answers parts wrong"),
    }
}
