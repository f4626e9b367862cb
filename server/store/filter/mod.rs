//! Filters: which items of a list a caller wants, in containerd's language.
//!
//! Several filters are alternatives, inside one a comma means "and", no filter means everything.
//! Against containerd two things are stricter: an unknown field and a bad pattern are refused, also when
//! the list is empty, so a typing error never reads as "there is nothing". One thing is added: sizes and
//! times can be compared with `<`, `<=`, `>` and `>=`.

mod grammar;
mod schema;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cmp::Ordering;

use regex::{Regex, RegexBuilder};

use self::grammar::{Condition, Operator, Written};
pub use self::grammar::{quote, quote_key};
pub use self::schema::{Kind, Map, Schema};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::limits::{FILTER_BYTES, FILTER_PATTERNS, FILTER_SELECTORS, FILTERS, PATTERN_BYTES};

/// Memory of one compiled pattern, and of the cache that matching fills: `(\w{50}){50}` is refused.
const MAX_PATTERN_MEMORY_BYTES: usize = 1 << 20;

/// Alternatives, each a list of selectors that must all hold. No alternative at all means everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    any: Vec<Vec<Selector>>,
}

/// One test of one field.
#[derive(Debug, Clone)]
pub struct Selector {
    pub field: Field,
    pub test: Test,
}

/// A field that the resource's [`Schema`] knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// By the schema's own spelling of it: aliases are already resolved.
    Named(&'static str),
    Label(String),
    Annotation(String),
}

#[derive(Debug, Clone)]
pub enum Test {
    Present,
    Equal(Literal),
    NotEqual(Literal),
    Matches(Regex),
    Compare(Comparison, Literal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What a filter compares with, already read as the field's kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Literal {
    Text(String),
    Number(i64),
    Time(Time),
}

/// What an item has in a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    Text(Cow<'a, str>),
    Number(i64),
    Time(Time),
}

/// An item that a filter can look into.
pub trait Fields {
    /// The value of the field; `None` where the item has none. An empty text counts as none.
    fn field(&self, field: &Field) -> Option<Value<'_>>;
}

impl Filter {
    /// Reads the filters of one request for a resource.
    ///
    /// # Errors
    /// `Invalid` with the field `filter` and the position in characters, when the text breaks the grammar,
    /// names a field the resource does not have, compares what cannot be compared, holds a pattern that
    /// cannot be compiled, or passes one of the limits named here.
    pub fn parse<S: AsRef<str>>(filters: &[S], schema: &Schema) -> Result<Filter> {
        if filters.len() > FILTERS {
            let reason = format!("{} filters are more than the limit of {FILTERS}", filters.len());
            return Err(Error::invalid_field("filter", reason));
        }
        let mut budget = Budget { selectors: FILTER_SELECTORS, patterns: FILTER_PATTERNS };
        let mut any = Vec::with_capacity(filters.len());
        for text in filters {
            let all = parse_one(text.as_ref(), schema, &mut budget).map_err(|e| e.in_field("filter"))?;
            any.push(all);
        }
        // The empty filter matches everything, and so does anything or everything. The others were still
        // read: an error beside an empty filter is an error.
        if any.iter().any(Vec::is_empty) {
            any.clear();
        }
        Ok(Filter { any })
    }

    pub fn is_everything(&self) -> bool {
        self.any.is_empty()
    }

    pub fn matches(&self, item: &impl Fields) -> bool {
        self.is_everything() || self.any.iter().any(|all| all.iter().all(|selector| selector.matches(item)))
    }
}

/// What a request may still use of the limits that count over all its filters.
struct Budget {
    selectors: usize,
    patterns: usize,
}

fn parse_one(text: &str, schema: &Schema, budget: &mut Budget) -> Result<Vec<Selector>> {
    if text.len() > FILTER_BYTES {
        return Err(Error::invalid_at(
            0,
            format!("the filter is longer than the limit of {FILTER_BYTES} bytes"),
        ));
    }
    // The whole grammar first, then the meaning: a missing quote is a better answer than the unknown
    // field that it made.
    let written = grammar::parse(text)?;
    written.into_iter().map(|selector| resolve(selector, schema, budget)).collect()
}

fn resolve(written: Written, schema: &Schema, budget: &mut Budget) -> Result<Selector> {
    spend(&mut budget.selectors, written.at, "selectors", FILTER_SELECTORS)?;
    let (field, kind) = schema.find(&written.path).map_err(|reason| Error::invalid_at(written.at, reason))?;
    let Some(condition) = written.condition else {
        return Ok(Selector { field, test: Test::Present });
    };
    let test = match condition.operator {
        Operator::Equal => Test::Equal(literal(&condition, kind)?),
        Operator::NotEqual => Test::NotEqual(literal(&condition, kind)?),
        Operator::Matches => {
            spend(&mut budget.patterns, condition.value_at, "patterns", FILTER_PATTERNS)?;
            Test::Matches(compile(&condition)?)
        }
        Operator::Compare(comparison) => {
            if kind == Kind::Text {
                return Err(Error::invalid_at(
                    condition.operator_at,
                    "only sizes and times can be compared with <, <=, > and >=; this field is text",
                ));
            }
            Test::Compare(comparison, literal(&condition, kind)?)
        }
    };
    Ok(Selector { field, test })
}

fn spend(left: &mut usize, at: usize, what: &str, limit: usize) -> Result<()> {
    *left = left.checked_sub(1).ok_or_else(|| {
        Error::invalid_at(at, format!("more than the limit of {limit} {what} in one request"))
    })?;
    Ok(())
}

fn literal(condition: &Condition, kind: Kind) -> Result<Literal> {
    let Condition { value, value_at, .. } = condition;
    match kind {
        Kind::Text => Ok(Literal::Text(value.clone())),
        Kind::Number => value
            .parse()
            .map(Literal::Number)
            .map_err(|_| Error::invalid_at(*value_at, format!("`{}` is not a whole number", shorten(value)))),
        Kind::Time => value.parse().map(Literal::Time).map_err(|_| {
            let reason =
                format!("`{}` is not an RFC 3339 time: write it as in 2026-11-21T10:00:00Z", shorten(value));
            Error::invalid_at(*value_at, reason)
        }),
    }
}

fn compile(condition: &Condition) -> Result<Regex> {
    let Condition { value, value_at, .. } = condition;
    if value.len() > PATTERN_BYTES {
        let reason = format!("the pattern is longer than the limit of {PATTERN_BYTES} bytes");
        return Err(Error::invalid_at(*value_at, reason));
    }
    RegexBuilder::new(value)
        .size_limit(MAX_PATTERN_MEMORY_BYTES)
        .dfa_size_limit(MAX_PATTERN_MEMORY_BYTES)
        .build()
        .map_err(|error| Error::invalid_at(*value_at, pattern_reason(&error)))
}

fn pattern_reason(error: &regex::Error) -> String {
    if let regex::Error::CompiledTooBig(_) = error {
        return "the pattern is too large once its repetitions are written out".into();
    }
    // The library draws the pattern over several lines; what is wrong stands in the last.
    let drawn = error.to_string();
    let last = drawn.lines().last().unwrap_or_default();
    format!("the pattern is not a regular expression: {}", last.trim().trim_start_matches("error: "))
}

/// As much of a caller's text as an error message can hold.
fn shorten(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(64) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

impl Selector {
    /// An absent field is neither present nor equal nor in any order, it is unequal to everything, and a
    /// pattern sees it as the empty text: containerd's rules.
    fn matches(&self, item: &impl Fields) -> bool {
        let value = item.field(&self.field).filter(|value| !value.is_empty());
        let order = |literal: &Literal| value.as_ref().and_then(|value| value.order(literal));
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(literal) => order(literal) == Some(Ordering::Equal),
            Test::NotEqual(literal) => order(literal) != Some(Ordering::Equal),
            Test::Matches(pattern) => pattern.is_match(&value.as_ref().map_or("".into(), Value::text)),
            Test::Compare(comparison, literal) => order(literal).is_some_and(|order| comparison.holds(order)),
        }
    }
}

impl Comparison {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
        }
    }
}

impl Value<'_> {
    fn is_empty(&self) -> bool {
        matches!(self, Value::Text(text) if text.is_empty())
    }

    fn text(&self) -> Cow<'_, str> {
        match self {
            Value::Text(text) => Cow::Borrowed(text),
            Value::Number(number) => Cow::Owned(number.to_string()),
            Value::Time(time) => Cow::Owned(time.to_string()),
        }
    }

    /// How this stands to a literal of the same kind; `None` across kinds, which the schema prevents.
    fn order(&self, literal: &Literal) -> Option<Ordering> {
        match (self, literal) {
            (Value::Text(text), Literal::Text(other)) => Some(text.as_ref().cmp(other)),
            (Value::Number(number), Literal::Number(other)) => Some(number.cmp(other)),
            (Value::Time(time), Literal::Time(other)) => Some(time.cmp(other)),
            (Value::Text(_) | Value::Number(_) | Value::Time(_), _) => None,
        }
    }
}
