//! Keys of JSON objects: what one parser reads, every parser must read the same (CVE-2021-41190).

use serde::de::{DeserializeSeed, Error, IntoDeserializer, MapAccess};

/// The keys that an object is read by: each at most once, and in its own letters. Go's parser takes any case of letters
/// and the last of two; others take the first.
pub(super) struct Keys {
    known: &'static [&'static str],
    seen: Vec<&'static str>,
}

impl Keys {
    pub fn new(known: &'static [&'static str]) -> Keys {
        Keys { known, seen: Vec::new() }
    }

    /// # Errors
    /// For a key that is read and was seen before, or that another parser could take for one that is read.
    pub fn check<E: Error>(&mut self, key: &str) -> Result<(), E> {
        let Some(known) = self.known.iter().copied().find(|known| is_same_to_go(known, key)) else {
            return Ok(());
        };
        if known != key || self.seen.contains(&known) {
            return Err(E::custom(format!("`{known}` is written twice or in other case")));
        }
        self.seen.push(known);
        Ok(())
    }
}

/// As Go compares keys: in any case of letters, and two letters that are not ASCII count as the ones they look like.
fn is_same_to_go(known: &str, key: &str) -> bool {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    known.chars().map(fold).eq(key.chars().map(fold))
}

/// An object whose keys are checked while it is read.
pub(super) struct CheckedKeys<A> {
    map: A,
    keys: Keys,
}

impl<A> CheckedKeys<A> {
    pub fn new(map: A, known: &'static [&'static str]) -> CheckedKeys<A> {
        CheckedKeys { map, keys: Keys::new(known) }
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for CheckedKeys<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some(key) = self.map.next_key::<String>()? else { return Ok(None) };
        self.keys.check(&key)?;
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// Reads a type with checked keys, and only from an object. The type derives both traits under
/// `#[serde(remote = "Self")]`, which makes functions of its own of them.
macro_rules! with_checked_keys {
    ($type:ident, $known:expr) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                struct Object;

                impl<'de> serde::de::Visitor<'de> for Object {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<$type, A::Error> {
                        let checked = $crate::oci::keys::CheckedKeys::new(map, $known);
                        $type::deserialize(serde::de::value::MapAccessDeserializer::new(checked))
                    }
                }

                deserializer.deserialize_map(Object)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $type::serialize(self, serializer)
            }
        }
    };
}
