//! The filter grammar, containerd's: text to selectors as they are written, before any field is looked up.
//!
//! ```text
//! filter    := selector ("," selector)*
//! selector  := fieldpath [ operator value ]        without an operator: the field is present
//! fieldpath := field ("." field)*
//! field     := [A-Za-z0-9_]+ | quoted
//! operator  := "==" | "!=" | "~=" | "<" | "<=" | ">" | ">="
//! value     := quoted | run of characters except "," and white space
//! quoted    := "…" anywhere; also /…/ and |…| as the value of ~=; escapes as in Go
//! ```
//! Whatever containerd takes is taken here too, with the same meaning. Ours are the comparisons (containerd
//! refuses `<` and `>` where an operator stands; both still begin a value after `==`), an unquoted value
//! that begins with a dot (`name~=.*salt`), and white space around commas and dots.

use std::fmt::Write;

use super::Comparison;
use crate::error::{Error, Result};

/// A selector as written, with the position of each part in characters from 0.
pub(super) struct Written {
    pub path: Vec<String>,
    pub at: usize,
    pub condition: Option<Condition>,
}

pub(super) struct Condition {
    pub operator: Operator,
    pub operator_at: usize,
    pub value: String,
    pub value_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Matches,
    Compare(Comparison),
}

/// The selectors of one filter; none for the empty text.
pub(super) fn parse(text: &str) -> Result<Vec<Written>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut parser = Parser { text: text.chars().collect(), at: 0 };
    if let Some(at) = parser.text.iter().position(|c| *c == '\0') {
        return Err(Error::invalid_at(at, "a NUL character is not allowed"));
    }
    let mut selectors = vec![parser.selector()?];
    while let Some(next) = parser.peek() {
        if next != ',' {
            return Err(parser.error(format!("unexpected `{next}`: selectors are separated by a comma")));
        }
        parser.at += 1;
        selectors.push(parser.selector()?);
    }
    Ok(selectors)
}

/// `text` as a quoted value: whatever it holds, a filter reads it back as it is.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c if c.is_ascii_control() => {
                write!(quoted, "\\x{:02x}", u32::from(c)).expect("a String takes all text")
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The field of a label: `labels."example.com/key"`.
pub fn quote_key(key: &str) -> String {
    format!("labels.{}", quote(key))
}

struct Parser {
    text: Vec<char>,
    at: usize,
}

impl Parser {
    /// The next character that is not white space, and stands on it.
    fn peek(&mut self) -> Option<char> {
        while self.text.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    /// The run of characters from here on that are `wanted`, and stands behind it.
    fn run(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let run: String = self.text[self.at..].iter().copied().take_while(|c| wanted(*c)).collect();
        self.at += run.chars().count();
        run
    }

    fn error(&self, reason: impl Into<String>) -> Error {
        Error::invalid_at(self.at, reason)
    }

    fn selector(&mut self) -> Result<Written> {
        self.peek();
        let at = self.at;
        let path = self.field_path()?;
        let condition = match self.peek() {
            None | Some(',') => None,
            Some(_) => Some(self.condition()?),
        };
        Ok(Written { path, at, condition })
    }

    fn field_path(&mut self) -> Result<Vec<String>> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.at += 1;
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<String> {
        match self.peek() {
            Some(quote) if is_quote(quote) => {
                let at = self.at;
                let field = self.quoted(quote)?;
                only_double(quote, at)?;
                Ok(field)
            }
            Some(c) if is_field(c) => Ok(self.run(is_field)),
            _ => Err(self.error("expected a field, or one in double quotes")),
        }
    }

    fn condition(&mut self) -> Result<Condition> {
        let operator_at = self.at;
        let operator = self.operator()?;
        let first = self.peek();
        let value_at = self.at;
        let value = match first {
            Some(quote) if is_quote(quote) => {
                let value = self.quoted(quote)?;
                if operator != Operator::Matches {
                    only_double(quote, value_at)?;
                }
                value
            }
            Some(c) if is_value(c) && !is_operator(c) => self.run(is_value),
            _ => return Err(self.error("expected a value, or one in double quotes")),
        };
        Ok(Condition { operator, operator_at, value, value_at })
    }

    fn operator(&mut self) -> Result<Operator> {
        let at = self.at;
        let written = match self.text.get(self.at) {
            Some(&c @ ('<' | '>')) => {
                self.at += 1;
                let equal = self.text.get(self.at) == Some(&'=');
                self.at += usize::from(equal);
                if equal { format!("{c}=") } else { c.to_string() }
            }
            // An unterminated quote is the likelier mistake: an unquoted `/` in a label key.
            Some(&quote) if is_quote(quote) => {
                self.quoted(quote)?;
                String::new()
            }
            _ => self.run(is_operator),
        };
        match written.as_str() {
            "==" => Ok(Operator::Equal),
            "!=" => Ok(Operator::NotEqual),
            "~=" => Ok(Operator::Matches),
            "<" => Ok(Operator::Compare(Comparison::Less)),
            "<=" => Ok(Operator::Compare(Comparison::LessOrEqual)),
            ">" => Ok(Operator::Compare(Comparison::Greater)),
            ">=" => Ok(Operator::Compare(Comparison::GreaterOrEqual)),
            "=" => Err(Error::invalid_at(at, "`=` is not an operator: write `==`")),
            "" => Err(Error::invalid_at(
                at,
                "expected an operator (==, !=, ~=, <, <=, >, >=); a field with other characters than \
                 letters, digits and _ is written in double quotes",
            )),
            other => Err(Error::invalid_at(at, format!("`{other}` is not an operator"))),
        }
    }

    /// The text inside the quotes that begin here, and stands behind them.
    fn quoted(&mut self, quote: char) -> Result<String> {
        let start = self.at;
        self.at += 1;
        // Octal and \x escapes are bytes, so the text is gathered as bytes and checked at the end.
        let mut bytes = Vec::new();
        loop {
            let here = self.text.get(self.at).copied();
            self.at += 1;
            match here {
                None | Some('\n') => return Err(Error::invalid_at(start, "the quoted text does not end")),
                Some(c) if c == quote => break,
                Some('\\') => self.escape(quote, &mut bytes)?,
                Some(c) => push(&mut bytes, c),
            }
        }
        String::from_utf8(bytes).map_err(|_| Error::invalid_at(start, "the quoted text is not UTF-8"))
    }

    /// One escape of a Go string literal, standing behind its backslash.
    fn escape(&mut self, quote: char, bytes: &mut Vec<u8>) -> Result<()> {
        let at = self.at - 1;
        let wrong = |reason: &str| Err(Error::invalid_at(at, reason));
        let here = self.text.get(self.at).copied();
        self.at += 1;
        match here {
            Some('a') => bytes.push(0x07),
            Some('b') => bytes.push(0x08),
            Some('f') => bytes.push(0x0c),
            Some('n') => bytes.push(b'\n'),
            Some('r') => bytes.push(b'\r'),
            Some('t') => bytes.push(b'\t'),
            Some('v') => bytes.push(0x0b),
            Some('\\') => bytes.push(b'\\'),
            Some(c) if c == quote => push(bytes, c),
            Some('0'..='7') => {
                self.at -= 1;
                match self.digits(8, 3).map(u8::try_from) {
                    Some(Ok(byte)) => bytes.push(byte),
                    _ => return wrong("an octal escape has three digits, at most \\377"),
                }
            }
            Some('x') => match self.digits(16, 2).map(u8::try_from) {
                Some(Ok(byte)) => bytes.push(byte),
                _ => return wrong("a \\x escape has two hexadecimal digits"),
            },
            Some(form @ ('u' | 'U')) => {
                let count = if form == 'u' { 4 } else { 8 };
                match self.digits(16, count).and_then(char::from_u32) {
                    Some(c) => push(bytes, c),
                    None => return wrong("the escape does not name a Unicode character"),
                }
            }
            _ => return wrong("unknown escape: a backslash itself is written \\\\"),
        }
        Ok(())
    }

    fn digits(&mut self, radix: u32, count: usize) -> Option<u32> {
        let digits: String = self.text.get(self.at..self.at + count)?.iter().collect();
        self.at += count;
        // The radix functions take a sign; an escape does not.
        digits.chars().all(|c| c.is_digit(radix)).then(|| u32::from_str_radix(&digits, radix).ok())?
    }
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn only_double(quote: char, at: usize) -> Result<()> {
    match quote {
        '"' => Ok(()),
        _ => Err(Error::invalid_at(at, format!("`{quote}` quotes only the value of ~=: use double quotes"))),
    }
}

fn is_field(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_quote(c: char) -> bool {
    matches!(c, '"' | '/' | '|')
}

fn is_operator(c: char) -> bool {
    matches!(c, '=' | '!' | '~')
}

fn is_value(c: char) -> bool {
    c != ',' && !c.is_whitespace() && !c.is_control()
}
