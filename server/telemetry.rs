//! What the server says of itself: log lines and metrics.

mod metrics;

use std::io::{self, IsTerminal, Write};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

pub use metrics::{HttpMetrics, JobMetrics, Metrics, MetricsForm, StoreMetrics};

use crate::config::LogFormat;
use crate::error::{Error, Result};

/// Starts logging to standard error, for the life of the process.
///
/// `filter` is in the syntax of `RUST_LOG`; [`Config`](crate::config::Config) has checked it.
///
/// # Errors
/// `Invalid` for a filter that is none; `Internal` when logging was started before.
pub fn init(filter: &str, format: LogFormat) -> Result<()> {
    let terminal = io::stderr().is_terminal();
    // https://no-color.org: set and not empty.
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let form = match format {
        LogFormat::Json => Form::Json,
        LogFormat::Text => Form::Text { colour },
        LogFormat::Auto if terminal => Form::Text { colour },
        LogFormat::Auto => Form::Json,
    };
    let subscriber = subscriber(filter, form, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|source| Error::Internal { doing: "start logging".to_owned(), source: Some(source.into()) })
}

enum Form {
    Json,
    Text { colour: bool },
}

fn subscriber<W>(filter: &str, form: Form, writer: W) -> Result<Box<dyn Subscriber + Send + Sync>>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter)
        .map_err(|e| Error::invalid_field("log", format!("not a log filter: {e}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    Ok(match form {
        Form::Json => {
            Box::new(builder.json().flatten_event(true).with_span_list(false).with_writer(writer).finish())
        }
        Form::Text { colour } => Box::new(
            builder.with_ansi(colour).with_target(false).with_writer(Plain { writer, colour }).finish(),
        ),
    })
}

/// Keeps every event of the text form on one line and free of terminal commands. JSON escapes control characters by
/// itself; in text, a line break in a value would let a client write log lines of its own.
struct Plain<W> {
    writer: W,
    colour: bool,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Plain<W> {
    type Writer = Plain<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Plain { writer: self.writer.make_writer(), colour: self.colour }
    }
}

impl<W: Write> Write for Plain<W> {
    /// The subscriber hands over each event whole, in one call, with the one line break that is its end.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let shown = String::from_utf8_lossy(event);
        let line = shown.strip_suffix('\n').unwrap_or(&shown);
        if !line.contains(char::is_control) {
            self.writer.write_all(event)?;
            return Ok(event.len());
        }
        let mut escaped = String::with_capacity(shown.len() + 16);
        for (at, c) in line.char_indices() {
            if c.is_control() && !(self.colour && begins_colour(&line[at..])) {
                escaped.extend(c.escape_default());
            } else {
                escaped.push(c);
            }
        }
        escaped.push('\n');
        self.writer.write_all(escaped.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Whether the text begins with `ESC [ … m`, as the subscriber itself writes: it sets colours and does nothing else.
fn begins_colour(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("\u{1b}[") else { return false };
    rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one thread").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const HOSTILE: &str = "a\r\n{\"level\":\"ERROR\"}\u{1b}[2J\u{0}\u{7f}\u{2028}\"";

    fn logged(form: Form) -> String {
        let written = Written::default();
        let to = written.clone();
        let subscriber = subscriber("info", form, move || to.clone()).expect("a filter");
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("request", id = %HOSTILE).entered();
            tracing::info!(image.reference = %HOSTILE, "Pulled `{HOSTILE}`");
            tracing::debug!("not asked for");
        });
        String::from_utf8(written.0.lock().expect("one thread").clone()).expect("UTF-8")
    }

    #[test]
    fn hostile_values_stay_in_their_json_line() {
        let logged = logged(Form::Json);
        assert_eq!(logged.lines().count(), 1, "{logged}");
        let line: serde_json::Value = serde_json::from_str(&logged).expect("a JSON line");
        assert_eq!(line["image.reference"], HOSTILE);
        assert_eq!(line["span"]["id"], HOSTILE);
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn hostile_values_stay_in_their_text_line_and_command_no_terminal() {
        let logged = logged(Form::Text { colour: false });
        assert_eq!(logged.lines().count(), 1, "{logged}");
        assert!(!logged.trim_end().contains(char::is_control), "{logged:?}");
    }

    #[test]
    fn colours_survive_on_a_terminal_and_nothing_else_does() {
        let logged = logged(Form::Text { colour: true });
        assert!(logged.contains("\u{1b}[32m") && !logged.contains("\u{1b}[2J"), "{logged:?}");
        assert_eq!(logged.lines().count(), 1, "{logged}");
    }
}
