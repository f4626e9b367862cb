//! How far a pull is, as its row on the front page and its own page show it. The modules in `web/static/` fill the same
//! cells when they change.

use crate::clock::Time;
use crate::http::ui::show::{self, Moment, NONE, Name};
use crate::jobs::{JobState, Pull, PullProgress};

pub struct PullView {
    pub id: String,
    /// Its page.
    pub href: String,
    pub name: Name,
    pub state: &'static str,
    pub icon: &'static str,
    pub is_final: bool,
    pub phase: &'static str,
    /// Platforms and blobs, or why it failed.
    pub note: String,
    pub failure: Option<String>,
    pub bar: Bar,
    pub percent: String,
    pub amount: String,
    pub rate: String,
    pub eta: String,
    pub created: Option<Moment>,
}

/// The parts of a progress bar, in percent of its width.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Bar {
    pub reused: String,
    pub resumed_at: String,
    pub resumed: String,
    pub network_at: String,
    pub network: String,
    /// For assistive technology: whole percents; `None` while the total is not known.
    pub percent: Option<u64>,
}

impl PullView {
    pub fn new(pull: &Pull, now: Time) -> PullView {
        let progress = &pull.progress;
        // Of what may still grow, and of what nobody will know, there is no share.
        let is_known = progress.bytes_total_final;
        let bar = if is_known { Bar::new(progress) } else { Bar::new(&PullProgress::default()) };
        let runs = pull.state == JobState::Running;
        PullView {
            id: pull.id.clone(),
            href: format!("/pulls/{}?namespace={}", pull.id, pull.namespace),
            name: Name::new(&pull.reference),
            state: pull.state.as_str(),
            icon: icon(pull.state),
            is_final: pull.state.is_final(),
            phase: pull.phase.filter(|_| runs).map_or("", |phase| phase.as_str()),
            note: note(pull),
            failure: pull.error.as_ref().map(|error| error.detail.clone()),
            percent: bar.percent.map_or(NONE.to_owned(), |percent| format!("{percent} %")),
            bar,
            amount: match (is_known, pull.state.is_final()) {
                (true, _) => amount(progress.bytes_done, progress.bytes_total),
                (false, true) => format!("{} of unknown", show::bytes(progress.bytes_done)),
                (false, false) if progress.bytes_total == 0 => NONE.to_owned(),
                (false, false) => {
                    format!("{} of ≥ {}", show::bytes(progress.bytes_done), show::bytes(progress.bytes_total))
                }
            },
            rate: if runs { format!("{}/s", show::bytes(progress.rate_bps)) } else { NONE.to_owned() },
            eta: match progress.waiting_until.filter(|_| runs) {
                Some(_) => "waits".to_owned(),
                None => progress.eta_seconds.filter(|_| runs).map_or(NONE.to_owned(), show::watch),
            },
            created: Some(Moment::new(pull.created_at, now)),
        }
    }

    /// A row that the module copies and fills.
    pub fn blank() -> PullView {
        PullView {
            id: String::new(),
            href: String::new(),
            name: Name::new(""),
            state: JobState::Queued.as_str(),
            icon: icon(JobState::Queued),
            is_final: false,
            phase: "",
            note: String::new(),
            failure: None,
            bar: Bar::new(&PullProgress::default()),
            percent: NONE.to_owned(),
            amount: NONE.to_owned(),
            rate: NONE.to_owned(),
            eta: NONE.to_owned(),
            created: None,
        }
    }
}

fn icon(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "○",
        JobState::Running => "↓",
        JobState::Cancelling | JobState::Cancelled => "⊘",
        JobState::Succeeded => "✓",
        JobState::Failed => "✗",
    }
}

fn note(pull: &Pull) -> String {
    let platforms = platforms_in_words(pull);
    match pull.progress.blobs_total {
        0 => platforms,
        total => format!("{platforms} · {} of {total} blobs", pull.progress.blobs_done),
    }
}

pub fn platforms_in_words(pull: &Pull) -> String {
    match pull.platforms.as_slice() {
        _ if pull.selection.all_platforms => "every platform".to_owned(),
        [] => "this server's platform".to_owned(),
        some => some.join(", "),
    }
}

pub fn amount(done: u64, total: u64) -> String {
    match total {
        0 => NONE.to_owned(),
        total if done >= total => show::bytes(total),
        total => format!("{} of {}", show::bytes(done), show::bytes(total)),
    }
}

impl Bar {
    pub fn new(progress: &PullProgress) -> Bar {
        let total = progress.bytes_total;
        let tenths = |bytes: u64| (u128::from(bytes) * 1000).checked_div(total.into()).unwrap_or(0).min(1000);
        let reused = tenths(progress.bytes_reused);
        let resumed = tenths(progress.bytes_resumed).min(1000 - reused);
        let network = tenths(progress.bytes_network).min(1000 - reused - resumed);
        let width = |tenths: u128| format!("{}.{}%", tenths / 10, tenths % 10);
        Bar {
            reused: width(reused),
            resumed_at: width(reused),
            resumed: width(resumed),
            network_at: width(reused + resumed),
            network: width(network),
            percent: (total > 0).then(|| tenths(progress.bytes_done) as u64 / 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_its_parts_side_by_side_and_never_overflows() {
        let progress = PullProgress {
            bytes_total: 1000,
            bytes_done: 730,
            bytes_reused: 320,
            bytes_resumed: 105,
            bytes_network: 305,
            ..PullProgress::default()
        };
        let bar = Bar::new(&progress);
        assert_eq!([&*bar.reused, &*bar.resumed_at, &*bar.resumed], ["32.0%", "32.0%", "10.5%"]);
        assert_eq!([&*bar.network_at, &*bar.network], ["42.5%", "30.5%"]);
        assert_eq!(bar.percent, Some(73));
        // A blob that is fetched a second time counts twice on the network.
        let twice = Bar::new(&PullProgress { bytes_network: 900, ..progress });
        assert_eq!(twice.network, "57.5%");
        assert_eq!(Bar::new(&PullProgress::default()).percent, None);
    }

    #[test]
    fn an_amount_says_how_much_of_what() {
        assert_eq!(
            [amount(0, 0), amount(512, 2048), amount(2048, 2048)],
            ["–", "512 B of 2.0 KiB", "2.0 KiB"]
        );
    }
}
