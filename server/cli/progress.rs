//! How a running pull looks: pure functions from what is known of it to lines of text.

use serde_json::{Value, from_value};

use super::picture::{Blob, BlobState, Pull, State, Wait};
use super::text::{clock_time, escape, human_bytes, human_part, short_digest};

/// Lines of the terminal that are not a layer's: the total, the folded ones, the prompt, and one of air.
const OTHER_LINES: usize = 4;
/// Silence is mentioned from here on, in seconds.
const STALLED_FROM: u64 = 10;
const BAR: usize = 24;

/// The terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub rows: usize,
    pub columns: usize,
}

/// The whole picture: the total first, always; then the layers at work, as many as fit; then the folded rest.
pub fn lines(pull: &Pull, size: Size) -> Vec<String> {
    let mut lines = vec![total_line(pull)];
    let mut open: Vec<&Blob> = pull.blobs.iter().filter(|blob| rank(blob.state).is_some()).collect();
    open.sort_by_key(|blob| rank(blob.state));
    let room = size.rows.saturating_sub(OTHER_LINES);
    lines.extend(open.iter().take(room).map(|blob| blob_line(blob)));
    lines.extend(folded_line(pull, open.len().saturating_sub(room)));
    lines.iter().map(|line| fit(line, size.columns)).collect()
}

/// The order on the screen: what moves, what failed, what waits. `None` for what is finished.
fn rank(state: BlobState) -> Option<u8> {
    match state {
        BlobState::Downloading
        | BlobState::Verifying
        | BlobState::Unpacking
        | BlobState::Committing
        | BlobState::Unknown => Some(0),
        BlobState::Failed => Some(1),
        BlobState::Waiting => Some(2),
        BlobState::Exists | BlobState::Done | BlobState::Skipped => None,
    }
}

/// `total  412.3/980.1 MiB  42 %  62.0 MiB/s  ETA 0:09   reused 318.0 MiB  resumed 20.0 MiB`
pub fn total_line(pull: &Pull) -> String {
    let progress = &pull.progress;
    let waiting = progress.waiting_until.as_deref().map(|until| format!("  waiting {}", until_words(until)));
    if pull.state.is_final() && !progress.bytes_total_final {
        // A share of what nobody knows would be one of the documents alone.
        return format!("total  {}/unknown  {}", human_bytes(progress.bytes_done), pull.state.as_str());
    }
    if progress.bytes_total == 0 {
        let phase = pull.phase.as_deref().filter(|_| !pull.state.is_final()).unwrap_or(pull.state.as_str());
        return format!("total  {}{}", escape(phase), waiting.unwrap_or_default());
    }
    let lower_bound = if progress.bytes_total_final { "" } else { "≥" };
    let part =
        human_part(progress.bytes_done, progress.bytes_total).replacen('/', &format!("/{lower_bound}"), 1);
    let mut line = format!("total  {part}  {} %", percent(progress.bytes_done, progress.bytes_total));
    match pull.state {
        State::Queued | State::Cancelling => line.push_str(&format!("  {}", pull.state.as_str())),
        State::Running if waiting.is_some() => line.push_str(&waiting.unwrap_or_default()),
        State::Running if progress.stalled_seconds >= STALLED_FROM => {
            line.push_str(&format!("  stalled {} s", progress.stalled_seconds));
        }
        State::Running => {
            if let Some(rate) = progress.rate_bps {
                line.push_str(&format!("  {}/s", human_bytes(rate)));
            }
            if let Some(eta) = progress.eta_seconds {
                line.push_str(&format!("  ETA {}", clock_time(eta)));
            }
        }
        State::Succeeded | State::Failed | State::Cancelled => {
            line.push_str(&format!("  {}", pull.state.as_str()));
        }
    }
    let extras = [("reused", progress.bytes_reused), ("resumed", progress.bytes_resumed)];
    let extras: Vec<String> = extras
        .iter()
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(name, bytes)| format!("{name} {}", human_bytes(*bytes)))
        .collect();
    if !extras.is_empty() {
        line.push_str(&format!("   {}", extras.join("  ")));
    }
    line
}

/// How much of a pull of the API's is here, in a cell of a table: `412.3/980.1 MiB`, with `≥` before a total that may
/// grow, and `unknown` for one that nobody will know.
pub fn done_part(job: &Value) -> String {
    let count = |name: &str| job.pointer(&format!("/progress/{name}")).and_then(Value::as_u64).unwrap_or(0);
    let state: State = job.get("state").cloned().and_then(|state| from_value(state).ok()).unwrap_or_default();
    let is_known = job.pointer("/progress/bytes_total_final") == Some(&Value::Bool(true));
    part_words(count("bytes_done"), count("bytes_total"), is_known, state).unwrap_or_else(|| "-".to_owned())
}

/// `None` while nothing is known at all.
fn part_words(done: u64, total: u64, is_known: bool, state: State) -> Option<String> {
    match (is_known, state.is_final()) {
        (true, _) => Some(human_part(done, total)),
        // A share of what nobody knows would be one of the documents alone.
        (false, true) => Some(format!("{}/unknown", human_bytes(done))),
        (false, false) if total == 0 => None,
        (false, false) => Some(human_part(done, total).replacen('/', "/≥", 1)),
    }
}

fn blob_line(blob: &Blob) -> String {
    let name = blob_name(blob);
    match blob.state {
        BlobState::Downloading | BlobState::Unpacking => {
            let filled = (percent(blob.offset, blob.size) as usize * BAR / 100).min(BAR);
            let bar = format!("{}{}", "=".repeat(filled), " ".repeat(BAR - filled));
            format!("  {name}  [{bar}]  {}", human_part(blob.offset, blob.size))
        }
        BlobState::Waiting if blob.wait.is_some() => {
            let part = human_part(blob.offset, blob.size);
            format!("  {name}  {:<width$}  {part}{}", "waiting", wait_words(blob), width = BAR + 2)
        }
        BlobState::Waiting
        | BlobState::Exists
        | BlobState::Verifying
        | BlobState::Committing
        | BlobState::Done
        | BlobState::Failed
        | BlobState::Skipped
        | BlobState::Unknown => {
            format!("  {name}  {:<width$}  {}", blob.state.as_str(), human_bytes(blob.size), width = BAR + 2)
        }
    }
}

fn blob_name(blob: &Blob) -> String {
    let digest = short_digest(&blob.digest);
    let hex = digest.split_once(':').map_or(digest.as_str(), |(_, hex)| hex);
    format!("{}  {:<8}", escape(hex), escape(&blob.role))
}

/// `12 done, 3 reused, 7 more at work or waiting`
fn folded_line(pull: &Pull, hidden: usize) -> Option<String> {
    let count = |state: BlobState| pull.blobs.iter().filter(|blob| blob.state == state).count();
    let counts = [
        (count(BlobState::Done), "done"),
        (count(BlobState::Exists), "reused"),
        (count(BlobState::Skipped), "skipped"),
        (hidden, "more at work or waiting"),
    ];
    let told: Vec<String> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    (!told.is_empty()).then(|| format!("  {}", told.join(", ")))
}

/// A line for plain mode, for a blob that changed its state.
pub fn blob_change(blob: &Blob) -> String {
    let (digest, state) = (short_digest(&blob.digest), blob.state.as_str());
    format!("{digest}  {}  {state}{}", escape(&blob.role), wait_words(blob))
}

/// `  until 10:05:00 UTC: registry.example: the registry limits our requests`, or why it is skipped.
fn wait_words(blob: &Blob) -> String {
    if let Some(reason) = &blob.reason {
        return format!("  {}", escape(reason));
    }
    match &blob.wait {
        Some(Wait { until: Some(until), reason }) => format!("  {}: {}", until_words(until), escape(reason)),
        Some(Wait { until: None, reason }) => format!("  {}", escape(reason)),
        None => String::new(),
    }
}

/// The time of day of a time in RFC 3339 and UTC, as the server writes it.
fn until_words(until: &str) -> String {
    let time = until.split_once('T').map_or(until, |(_, time)| time);
    let seconds = time.split_once('.').map_or(time.trim_end_matches('Z'), |(seconds, _)| seconds);
    format!("until {} UTC", escape(seconds))
}

/// A line for plain mode, for a job that moved on.
pub fn phase_change(pull: &Pull) -> String {
    let phase = match (&pull.phase, pull.state.is_final()) {
        (Some(phase), false) => format!(", {}", escape(phase)),
        (Some(_), true) | (None, _) => String::new(),
    };
    format!("{}  {}{phase}", escape(&pull.reference), pull.state.as_str())
}

fn percent(part: u64, whole: u64) -> u64 {
    match whole {
        0 => 100,
        // 100 % means all of it: nothing is rounded up.
        whole => (u128::from(part.min(whole)) * 100 / u128::from(whole)) as u64,
    }
}

/// A line that wraps would be two, and the picture would climb up the screen.
fn fit(line: &str, columns: usize) -> String {
    match line.chars().count() {
        length if length < columns => line.to_owned(),
        _ => line.chars().take(columns.saturating_sub(2)).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::picture::Progress;

    const WIDE: Size = Size { rows: 24, columns: 120 };
    const MIB: u64 = 1 << 20;

    fn blob(at: usize, state: BlobState) -> Blob {
        let digest = format!("sha256:{at:064x}");
        Blob { digest, role: "layer".to_owned(), size: 4 * MIB, offset: MIB, state, wait: None, reason: None }
    }

    fn running(states: &[BlobState]) -> Pull {
        let progress = Progress {
            bytes_total: 1_027_708_518,
            bytes_total_final: true,
            bytes_done: 432_327_884,
            bytes_network: 0,
            bytes_resumed: 20 * MIB,
            bytes_reused: 318 * MIB,
            rate_bps: Some(62 * MIB),
            eta_seconds: Some(9),
            stalled_seconds: 0,
            waiting_until: None,
        };
        let blobs = states.iter().enumerate().map(|(at, state)| blob(at, *state)).collect();
        Pull { state: State::Running, progress, blobs, ..Pull::default() }
    }

    #[test]
    fn the_total_line_says_how_much_how_fast_and_how_long() {
        assert_eq!(
            total_line(&running(&[])),
            "total  412.3/980.1 MiB  42 %  62.0 MiB/s  ETA 0:09   reused 318.0 MiB  resumed 20.0 MiB"
        );
        let mut pull = running(&[]);
        pull.progress.bytes_total_final = false;
        pull.progress.eta_seconds = None;
        pull.progress.stalled_seconds = 12;
        let line = total_line(&pull);
        assert!(line.starts_with("total  412.3/≥980.1 MiB  42 %  stalled 12 s   reused"), "{line}");
    }

    #[test]
    fn a_pull_that_ended_before_its_blobs_were_known_has_no_share_of_them() {
        let mut pull = Pull { state: State::Failed, ..running(&[]) };
        (pull.progress.bytes_total_final, pull.progress.bytes_total) = (false, pull.progress.bytes_done);
        assert_eq!(total_line(&pull), "total  412.3 MiB/unknown  failed");
        pull.progress = Progress::default();
        pull.phase = Some("resolving".to_owned());
        assert_eq!(total_line(&pull), "total  0 B/unknown  failed", "what it was at last is not told");
    }

    #[test]
    fn a_cell_says_what_is_sure_of_a_total() {
        let job = |state: &str, total: u64, is_known: bool| {
            done_part(&serde_json::json!({"state": state, "progress":
                {"bytes_done": 1024, "bytes_total": total, "bytes_total_final": is_known}}))
        };
        assert_eq!(job("running", 2048, true), "1.0/2.0 KiB");
        assert_eq!(job("running", 2048, false), "1.0/≥2.0 KiB");
        assert_eq!(job("failed", 1024, false), "1.0 KiB/unknown");
        assert_eq!(job("queued", 0, false), "-");
    }

    #[test]
    fn a_wait_is_told_with_its_end_and_its_reason() {
        let mut pull = running(&[BlobState::Waiting, BlobState::Waiting]);
        let until = Some("2026-11-21T10:05:00.000000Z".to_owned());
        pull.progress.waiting_until = until.clone();
        pull.blobs[0].wait =
            Some(Wait { until, reason: "r.io: the registry limits our requests".to_owned() });
        pull.blobs[1].wait = Some(Wait { until: None, reason: "another pull fetches it".to_owned() });
        let shown = lines(&pull, Size { rows: 24, columns: 200 });
        assert!(shown[0].contains("42 %  waiting until 10:05:00 UTC   reused"), "{shown:?}");
        assert!(
            shown[1].ends_with("1.0/4.0 MiB  until 10:05:00 UTC: r.io: the registry limits our requests")
        );
        assert!(shown[2].ends_with("1.0/4.0 MiB  another pull fetches it"), "{shown:?}");
        assert!(blob_change(&pull.blobs[1]).ends_with("layer  waiting  another pull fetches it"));
        pull.progress.bytes_total = 0;
        pull.phase = Some("resolving".to_owned());
        assert_eq!(total_line(&pull), "total  resolving  waiting until 10:05:00 UTC");
    }

    #[test]
    fn before_anything_is_known_the_total_line_names_the_phase() {
        let pull = Pull { phase: Some("resolving".to_owned()), ..Pull::default() };
        assert_eq!(lines(&pull, WIDE), ["total  resolving"]);
    }

    #[test]
    fn finished_layers_are_folded_and_moving_ones_come_first() {
        use BlobState::*;
        let shown = lines(&running(&[Waiting, Done, Exists, Downloading, Done]), WIDE);
        assert_eq!(shown.len(), 4);
        assert_eq!(shown[1], "  000000000000  layer     [======                  ]  1.0/4.0 MiB");
        assert!(shown[2].contains("waiting"), "{shown:?}");
        assert_eq!(shown[3], "  2 done, 1 reused");
    }

    #[test]
    fn a_low_terminal_keeps_the_total_and_folds_the_rest() {
        let pull = running(&[BlobState::Downloading; 40]);
        let shown = lines(&pull, Size { rows: 10, columns: 40 });
        assert_eq!(shown.len(), 1 + 6 + 1);
        assert_eq!(shown[7], "  34 more at work or waiting");
        assert!(shown.iter().all(|line| line.chars().count() < 40), "{shown:?}");
        assert_eq!(lines(&pull, Size { rows: 2, columns: 20 }).len(), 2, "the total and the fold");
    }

    #[test]
    fn a_hundred_percent_is_all_of_it() {
        assert_eq!(percent(999, 1000), 99);
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(5, 3), 100);
    }
}
