//! A first look at a JSON text, before the parser spends stack and memory on it.

use crate::error::{Error, Result};

/// Refuses a text nested deeper than `depth`, and the character NUL in a string, which is legal JSON and which
/// Postgres cannot store: better said here than found out at the last step.
///
/// What is not JSON at all is let pass: the parser says it better.
///
/// # Errors
/// `Invalid`, with the position.
pub fn check(text: &[u8], depth: usize) -> Result<()> {
    let mut open = 0usize;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'{' | b'[' => {
                open += 1;
                if open > depth {
                    return Err(Error::invalid_at(
                        at,
                        format!("the JSON is nested deeper than {depth} levels"),
                    ));
                }
            }
            b'}' | b']' => open = open.saturating_sub(1),
            b'"' => at = end_of_string(text, at)?,
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// The position of the quote that ends the string whose first quote is at `start`, or the end of the text.
fn end_of_string(text: &[u8], start: usize) -> Result<usize> {
    let mut at = start + 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => break,
            b'\\' if text[at..].starts_with(b"\\u0000") => {
                return Err(at_byte(text, at, "text must not contain the character NUL"));
            }
            // Whatever is escaped does not end the string.
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Ok(at)
}

/// Positions are told in characters.
fn at_byte(text: &[u8], at: usize, reason: impl Into<String>) -> Error {
    Error::invalid_at(String::from_utf8_lossy(&text[..at]).chars().count(), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_strings_only() {
        assert!(check(b"[[[]]]", 3).is_ok());
        assert!(check(b"[[[[]]]]", 3).is_err());
        assert!(check(br#"["[[[[[[", "\"[[[[[", "\\", "]"]"#, 1).is_ok());
        assert!(check(b"[[],[],[],[]]", 2).is_ok());
        assert!(check(br#"["unfinished \"#, 1).is_ok());
    }

    #[test]
    fn an_escaped_nul_is_found_and_an_escaped_backslash_before_it_is_not_one() {
        assert!(check(br#"{"a":"x\u0000"}"#, 8).is_err());
        assert!(check(br#"{"a\u0000":1}"#, 8).is_err());
        assert!(check(br#"{"a":"\\u0000"}"#, 8).is_ok());
        assert!(check(br#"{"a":"\u00000"}"#, 8).is_err());
    }
}
