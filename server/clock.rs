//! Time: a point in it, a length of it, and the one clock everybody is handed.
//!
//! Times are whole microseconds since the Unix epoch, in memory and in the database, so that
//! what is printed is exactly what is stored: RFC 3339, UTC, six digits, never rounded up.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

/// A point in time: microseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub i64);

impl Time {
    /// This time moved later by `length`; saturates at the end of time.
    pub fn plus(self, length: Duration) -> Time {
        let micros = i64::try_from(length.as_micros()).unwrap_or(i64::MAX);
        Time(self.0.saturating_add(micros))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{shown:.6}")
    }
}

impl FromStr for Time {
    type Err = Error;

    fn from_str(text: &str) -> Result<Time> {
        let parsed = jiff::Timestamp::from_str(text)
            .map_err(|_| Error::invalid(format!("`{text}` is not an RFC 3339 time")))?;
        // Toward the past, also before 1970: a time is never rounded up.
        Ok(Time(parsed.as_nanosecond().div_euclid(1_000) as i64))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A length of time as people write it: `"90s"`, `"24h"`, `"7d"`, `"1h30m"`.
///
/// # Errors
/// `Invalid` when the text is not a length, is negative, or is longer than ten years.
pub fn parse_duration(text: &str) -> Result<Duration> {
    const LONGEST: Duration = Duration::from_secs(3_650 * 86_400);
    let wrong = || {
        Error::invalid(format!(
            "`{text}` is not a length of time: write a number with a unit, as in 90s, 15m, 24h or 7d"
        ))
    };
    // Of what jiff reads only what the contract writes: no blanks, fractions, signs or long unit names.
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"dhms".contains(&byte));
    if !plain || text.contains("ms") || !(2..=24).contains(&text.len()) {
        return Err(wrong());
    }
    let too_long = || Error::invalid(format!("`{text}` is longer than ten years"));
    let span: jiff::Span = match text.parse() {
        Ok(span) => span,
        // More digits than a length of ten years needs are no mistake in the writing.
        Err(_) if is_number_with_unit(text) => return Err(too_long()),
        Err(_) => return Err(wrong()),
    };
    let length = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| too_long())?;
    let length = Duration::try_from(length).map_err(|_| wrong())?;
    if length > LONGEST {
        return Err(too_long());
    }
    Ok(length)
}

fn is_number_with_unit(text: &str) -> bool {
    let number = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    number.len() + 1 == text.len() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// The clock. `app.rs` makes one and hands it on; a test hands in one that it moves.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Time + Send + Sync>);

impl Clock {
    /// The wall clock of this machine.
    pub fn system() -> Clock {
        Clock::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Time(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
        })
    }

    /// A clock that reads whatever `now` says.
    pub fn new(now: impl Fn() -> Time + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    pub fn now(&self) -> Time {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_printed_with_microseconds_and_never_rounded_up() {
        let time: Time = "2026-11-21T10:00:00.123456999Z".parse().expect("a time");
        assert_eq!(time.to_string(), "2026-11-21T10:00:00.123456Z");
        let whole: Time = "2026-11-21T12:00:00+02:00".parse().expect("a time");
        assert_eq!(whole.to_string(), "2026-11-21T10:00:00.000000Z");
    }

    #[test]
    fn lengths_are_written_as_people_write_them() {
        assert_eq!(parse_duration("24h").expect("24h"), Duration::from_secs(86_400));
        assert_eq!(parse_duration("7d").expect("7d"), Duration::from_secs(7 * 86_400));
        assert_eq!(parse_duration("1h30m").expect("1h30m"), Duration::from_secs(5_400));
        for bad in [
            "",
            "5",
            "-1h",
            "soon",
            "90000d",
            "1 fortnight",
            "1h 30m",
            "1.5h",
            "1ms",
            "30m1h",
            "0d00000h000000m000000000s",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        // What is too long is written well.
        for long in ["3651d", "90000d", "99999999999h", "99999999999999999999999s"] {
            let told = parse_duration(long).expect_err(long).to_string();
            assert_eq!(told, format!("`{long}` is longer than ten years"));
        }
    }
}
