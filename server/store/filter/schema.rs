//! Which fields each resource has, and of what kind: a filter is checked against it before it is used.

use self::Kind::{Number, Text, Time};
use super::Field;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// A count of bytes.
    Number,
    Time,
}

/// A map whose keys the users choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Map {
    Labels,
    Annotations,
    /// Those that an event tells of.
    EventLabels,
}

/// The fields of one resource.
#[derive(Debug)]
pub struct Schema {
    fields: &'static [(&'static str, Kind)],
    /// Other spellings: containerd's, where it differs from ours.
    aliases: &'static [(&'static str, &'static str)],
    maps: &'static [Map],
}

impl Schema {
    pub const CONTENT: Schema = Schema {
        fields: &[
            ("digest", Text),
            ("size", Number),
            ("media_type", Text),
            ("created_at", Time),
            ("updated_at", Time),
        ],
        aliases: &[],
        maps: &[Map::Labels],
    };

    pub const INGESTS: Schema = Schema {
        fields: &[
            ("id", Text),
            ("ref", Text),
            ("offset", Number),
            ("total", Number),
            ("expected_digest", Text),
            ("state", Text),
            ("started_at", Time),
            ("updated_at", Time),
            ("expires_at", Time),
        ],
        aliases: &[],
        maps: &[Map::Labels],
    };

    pub const IMAGES: Schema = Schema {
        fields: &[
            ("id", Text),
            ("name", Text),
            ("target.digest", Text),
            ("target.media_type", Text),
            ("target.size", Number),
            ("created_at", Time),
            ("updated_at", Time),
        ],
        aliases: &[("target.mediatype", "target.media_type")],
        maps: &[Map::Labels, Map::Annotations],
    };

    pub const SNAPSHOTS: Schema = Schema {
        fields: &[
            ("key", Text),
            ("parent", Text),
            ("kind", Text),
            ("diff_id", Text),
            ("size", Number),
            ("inodes", Number),
            ("created_at", Time),
            ("updated_at", Time),
        ],
        aliases: &[("name", "key")],
        maps: &[Map::Labels],
    };

    pub const LEASES: Schema = Schema {
        fields: &[
            ("id", Text),
            ("kind", Text),
            ("expires_at", Time),
            ("created_at", Time),
            ("updated_at", Time),
        ],
        aliases: &[],
        maps: &[Map::Labels],
    };

    pub const EVENTS: Schema = Schema {
        fields: &[
            ("id", Number),
            ("time", Time),
            ("namespace", Text),
            ("topic", Text),
            ("subject", Text),
            ("event.digest", Text),
            ("event.size", Number),
            ("event.media_type", Text),
            ("event.name", Text),
            ("event.id", Text),
            ("event.ref", Text),
            ("event.kind", Text),
            ("event.expires_at", Time),
            ("event.image_name", Text),
            ("event.state", Text),
            ("event.error", Text),
            ("event.key", Text),
            ("event.parent", Text),
        ],
        aliases: &[],
        maps: &[Map::EventLabels],
    };

    /// No filter: what a lease holds has no fields of its own.
    pub const LEASE_RESOURCES: Schema = Schema { fields: &[], aliases: &[], maps: &[] };

    pub const NAMESPACES: Schema = Schema {
        fields: &[("name", Text), ("created_at", Time), ("updated_at", Time)],
        aliases: &[],
        maps: &[Map::Labels],
    };

    pub const PULLS: Schema = Schema {
        fields: &[
            ("id", Text),
            ("ref", Text),
            ("state", Text),
            ("phase", Text),
            ("image_name", Text),
            ("created_at", Time),
            ("started_at", Time),
            ("finished_at", Time),
        ],
        aliases: &[],
        maps: &[Map::Labels],
    };

    pub const UNPACKS: Schema = Schema {
        fields: &[
            ("id", Text),
            ("image", Text),
            ("target", Text),
            ("digest", Text),
            ("platform", Text),
            ("state", Text),
            ("created_at", Time),
            ("started_at", Time),
            ("finished_at", Time),
        ],
        aliases: &[],
        maps: &[Map::Labels],
    };

    pub const TOKENS: Schema = Schema { fields: &[("id", Text), ("name", Text)], aliases: &[], maps: &[] };

    /// A schema of one's own, for tests of the language itself.
    #[cfg(test)]
    pub(super) const fn new(fields: &'static [(&'static str, Kind)], maps: &'static [Map]) -> Schema {
        Schema { fields, aliases: &[], maps }
    }

    /// The field that a path names; in an open map, everything after the first dot is the key.
    ///
    /// # Errors
    /// In words, when the resource has no such field.
    pub(super) fn find(&self, path: &[String]) -> Result<(Field, Kind), String> {
        if let Some((map, key)) = self.find_map(path) {
            return match key {
                [] => Err(format!("`{0}` needs a key, as in {0}.\"example.com/key\"", map.name())),
                key => Ok((map.field(key.join(".")), Text)),
            };
        }
        let given = path.join(".");
        let name = self.aliases.iter().find(|(alias, _)| *alias == given).map_or(&*given, |(_, name)| name);
        match self.fields.iter().find(|(known, _)| *known == name) {
            Some((known, kind)) => Ok((Field::Named(known), *kind)),
            None => Err(self.unknown(&given)),
        }
    }

    fn find_map<'p>(&self, path: &'p [String]) -> Option<(Map, &'p [String])> {
        self.maps.iter().find_map(|map| {
            let (name, key) = path.split_at_checked(map.name().split('.').count())?;
            map.name().split('.').eq(name.iter().map(String::as_str)).then_some((*map, key))
        })
    }

    fn unknown(&self, given: &str) -> String {
        let names =
            || self.fields.iter().map(|(name, _)| *name).chain(self.maps.iter().map(|map| map.name()));
        let nearest = names().max_by(|a, b| {
            let near = |name: &str| strsim::jaro_winkler(given, name);
            near(a).total_cmp(&near(b))
        });
        let shown = super::shorten(given);
        match nearest.filter(|name| strsim::jaro_winkler(given, name) > 0.8) {
            Some(nearest) => format!("there is no field `{shown}`: did you mean `{nearest}`?"),
            None => {
                let known: Vec<&str> = names().collect();
                format!("there is no field `{shown}`: the fields are {}", known.join(", "))
            }
        }
    }
}

impl Map {
    fn name(self) -> &'static str {
        match self {
            Map::Labels => "labels",
            Map::Annotations => "annotations",
            Map::EventLabels => "event.labels",
        }
    }

    fn field(self, key: String) -> Field {
        match self {
            Map::Labels | Map::EventLabels => Field::Label(key),
            Map::Annotations => Field::Annotation(key),
        }
    }
}
