//! Query strings into typed parameters.
//!
//! Ours rather than axum's `Query`, which knows no repeated parameters and repairs what is wrongly escaped.

use std::collections::BTreeMap;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::at_field;
use crate::error::{Error, Result};

/// Parses `a=1&b=x&b=y`.
///
/// # Errors
/// `Invalid`, naming the parameter at fault.
pub fn parse<T: DeserializeOwned>(query: &str) -> Result<T> {
    let mut given: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name)?;
        let value = decode(value).map_err(|error| error.in_field(&name))?;
        given.entry(name).or_default().push(value);
    }
    let given = given.into_iter().map(|(name, values)| (name, Given(values)));
    serde_path_to_error::deserialize(MapDeserializer::<_, serde::de::value::Error>::new(given))
        .map_err(|failed| at_field(&failed.path().to_string(), failed.inner()))
}

/// Undoes the escapes of a form: `+` and `%41`.
fn decode(text: &str) -> Result<String> {
    let wrong = || Error::invalid(format!("`{text}` is not escaped as a query parameter must be"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    if bytes.contains(&0) {
        return Err(Error::invalid("text must not contain the character NUL"));
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// The values given for one parameter, in order.
struct Given(Vec<String>);

type Failure = serde::de::value::Error;

impl Given {
    fn one(self) -> Result<String, Failure> {
        let mut values = self.0;
        match (values.pop(), values.is_empty()) {
            (Some(value), true) => Ok(value),
            (_, _) => Err(Failure::custom("given more than once")),
        }
    }

    fn parse<T: std::str::FromStr>(self, wanted: &str) -> Result<T, Failure> {
        let value = self.one()?;
        value.parse().map_err(|_| Failure::custom(format!("`{value}` is not {wanted}")))
    }
}

impl IntoDeserializer<'_> for Given {
    type Deserializer = Given;

    fn into_deserializer(self) -> Given {
        self
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            visitor.$visit(self.parse("a whole number in range")?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Given {
    type Error = Failure;

    numbers! {
        deserialize_u8 visit_u8 deserialize_u16 visit_u16 deserialize_u32 visit_u32 deserialize_u64 visit_u64
        deserialize_i8 visit_i8 deserialize_i16 visit_i16 deserialize_i32 visit_i32 deserialize_i64 visit_i64
    }

    /// A bare `?force` says true.
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.one()?.as_str() {
            "" | "true" | "1" => visitor.visit_bool(true),
            "false" | "0" => visitor.visit_bool(false),
            other => Err(Failure::custom(format!("`{other}` is not true or false"))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_seq(SeqDeserializer::new(self.0.into_iter()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.one()?.into_deserializer().deserialize_enum(name, variants, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_string(self.one()?)
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct
        identifier ignored_any
    }
}
