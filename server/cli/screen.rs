//! Progress on stderr, in the form that was asked for.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::context::{is_dumb, say, terminal_size, text_of};
use super::failure::Failure;
use super::follow::Step;
use super::picture::{BlobState, Change, Event, Pull, Said};
use super::progress::{blob_change, lines, phase_change, total_line};
use super::text::{escape, to_json};

// Plain comments, for clap would spread doc comments over the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    // A bar on a terminal, plain lines on a dumb one, nothing elsewhere
    Auto,
    // A picture that is drawn over itself
    Bar,
    // A line for each change, and one every 10 s
    Plain,
    // The server's events, one JSON object a line
    Json,
    // Nothing
    None,
}

/// How progress is to be shown.
#[derive(Debug, Clone, Args)]
pub struct Showing {
    /// How to show progress, on stderr; auto is bar on a terminal and else none [env: ORLOP_PROGRESS]
    #[arg(long, value_name = "HOW")]
    progress: Option<Progress>,
}

impl Showing {
    /// The flag before the variable.
    ///
    /// # Errors
    /// `Usage` for a variable that means nothing.
    pub fn screen(&self) -> Result<Screen, Failure> {
        let form = match (self.progress, text_of("ORLOP_PROGRESS")) {
            (Some(form), _) => form,
            (None, None) => Progress::Auto,
            (None, Some(name)) => {
                let name = name?;
                Progress::from_str(&name, true).map_err(|_| {
                    let why = format!("`{name}` is not one of auto, bar, plain, json, none");
                    Failure::usage("read ORLOP_PROGRESS", why)
                })?
            }
        };
        Ok(Screen::new(form))
    }
}

pub struct Screen {
    form: Progress,
    /// Lines of the picture that stands on the terminal now.
    drawn: usize,
    /// When the last line of the log was said that is shown: a picture that comes again repeats none.
    told_until: String,
}

impl Screen {
    /// How often plain mode says where it stands.
    pub const TICK: Duration = Duration::from_secs(10);

    fn new(asked: Progress) -> Screen {
        let form = match asked {
            Progress::Auto if !std::io::stderr().is_terminal() => Progress::None,
            Progress::Auto if is_dumb() => Progress::Plain,
            Progress::Auto => Progress::Bar,
            Progress::Bar | Progress::Plain | Progress::Json | Progress::None => asked,
        };
        Screen { form, drawn: 0, told_until: String::new() }
    }

    /// Takes in what came of an unpack, whose events say the whole of it, and shows what it changed.
    pub fn show_unpack(&mut self, unpack: &mut Pull, step: Step) {
        match step {
            Step::Event(event) if self.form != Progress::Json => {
                for event in unpack.events_of_unpack(&event) {
                    self.show(unpack, Step::Event(event));
                }
            }
            step => self.show(unpack, step),
        }
    }

    /// Takes what came into the picture, and shows it.
    pub fn show(&mut self, pull: &mut Pull, step: Step) {
        match step {
            Step::Event(event) => {
                let change = pull.apply(&event);
                if event.name == "snapshot" {
                    let pull = &*pull;
                    pull.log.iter().for_each(|said| self.tell(said, pull));
                }
                self.show_change(pull, &event, change);
            }
            Step::Lost(why) => self.note(&format!("connection lost ({}), trying again", escape(&why)), pull),
            Step::Over => {}
        }
    }

    fn show_change(&mut self, pull: &Pull, event: &Event, change: Change) {
        match self.form {
            Progress::Json => say(&to_json(&event.value)),
            Progress::None | Progress::Auto => {}
            Progress::Bar => match change {
                Change::Log(said) => self.tell(&said, pull),
                Change::Nothing | Change::Blob(_) | Change::Phase | Change::End => self.draw(pull),
            },
            Progress::Plain => match change {
                Change::Log(said) => self.tell(&said, pull),
                Change::Blob(at) if pull.blobs[at].state != BlobState::Waiting => {
                    say(&blob_change(&pull.blobs[at]))
                }
                Change::Phase | Change::End => say(&phase_change(pull)),
                Change::Nothing | Change::Blob(_) => {}
            },
        }
    }

    /// Says a line of the log, unless it was said.
    fn tell(&mut self, said: &Said, pull: &Pull) {
        if said.at > self.told_until {
            self.told_until.clone_from(&said.at);
            self.note(&log_line(said), pull);
        }
    }

    /// Says where it stands, in plain mode.
    pub fn tick(&self, pull: &Pull) {
        if self.form == Progress::Plain {
            say(&total_line(pull));
        }
    }

    /// Leaves the total behind, and the terminal as it was found.
    pub fn close(&mut self, pull: &Pull) {
        if self.form == Progress::Bar {
            self.replace(&[total_line(pull)]);
            self.drawn = 0;
        }
    }

    /// A line that stays, above the picture.
    fn note(&mut self, line: &str, pull: &Pull) {
        match self.form {
            Progress::Bar => {
                self.replace(&[line.to_owned()]);
                self.drawn = 0;
                self.draw(pull);
            }
            Progress::Plain => say(line),
            Progress::Json | Progress::None | Progress::Auto => {}
        }
    }

    fn draw(&mut self, pull: &Pull) {
        self.replace(&lines(pull, terminal_size()));
    }

    fn replace(&mut self, lines: &[String]) {
        // One write: half a picture would flicker.
        let mut text = match self.drawn {
            0 => String::new(),
            drawn => format!("\x1b[{drawn}A\r\x1b[J"),
        };
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        let mut out = std::io::stderr().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        self.drawn = lines.len();
    }
}

pub fn log_line(said: &Said) -> String {
    format!("{}: {}", escape(&said.level), escape(&said.message))
}
