//! The schemas of the contract: what a value is, in words, and where its definition stands.

use serde_norway::Value;

use super::contract::{example_text, text_of};
use crate::http::ui::prose::{self, Line};

/// What a value is: words, and the schema that they end in.
pub struct Kind {
    pub words: String,
    /// The name of a schema of the contract.
    pub link: Option<String>,
    /// What holds beside that: lengths, bounds, the default.
    pub limits: String,
    pub pattern: Option<String>,
    /// The words that it can be, if those are all.
    pub values: Vec<String>,
}

pub struct SchemaDoc {
    pub name: String,
    pub about: Line,
    pub kind: Kind,
    pub fields: Vec<Field>,
    pub example: Option<String>,
}

pub struct Field {
    pub name: String,
    pub required: bool,
    pub kind: Kind,
    pub about: Line,
}

impl SchemaDoc {
    pub fn new(name: &str, schema: &Value) -> SchemaDoc {
        let required: Vec<String> =
            schema["required"].as_sequence().into_iter().flatten().map(text_of).collect();
        let fields = schema["properties"].as_mapping().into_iter().flatten();
        let fields = fields.map(|(name, field)| Field {
            required: required.contains(&text_of(name)),
            name: text_of(name),
            kind: Kind::of(field),
            about: prose::line(&text_of(&field["description"])),
        });
        SchemaDoc {
            name: name.to_owned(),
            about: prose::line(&text_of(&schema["description"])),
            kind: Kind::of(schema),
            fields: fields.collect(),
            example: schema.get("example").map(example_text),
        }
    }
}

impl Kind {
    pub fn of(schema: &Value) -> Kind {
        // A reference with something beside it is written as `allOf` with one member; what may be several things, or
        // null, as `anyOf`, the usual one first.
        let several = schema["anyOf"].as_sequence().into_iter().flatten();
        let whole = schema["allOf"].get(0).or(schema["anyOf"].get(0)).unwrap_or(schema);
        let (mut words, link) = words(whole);
        let is_nullable = |schema: &Value| schema["nullable"].as_bool() == Some(true);
        if is_nullable(schema) || several.into_iter().any(is_nullable) {
            words = if link.is_some() { format!("null or {words}") } else { format!("{words} or null") };
        }
        let values = schema["enum"].as_sequence().into_iter().flatten().map(text_of).collect();
        let pattern = schema["pattern"].as_str().map(str::to_owned);
        Kind { words, link, limits: limits(schema), pattern, values }
    }
}

fn words(schema: &Value) -> (String, Option<String>) {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return (String::new(), Some(name.to_owned()));
    }
    let inside = |prefix: &str, part: &Value| {
        let (words, link) = words(part);
        (format!("{prefix} {words}"), link)
    };
    match schema["type"].as_str() {
        Some("array") => inside("array of", &schema["items"]),
        Some("object") if schema["additionalProperties"].is_mapping() => {
            inside("map of", &schema["additionalProperties"])
        }
        Some(kind) => match schema["format"].as_str() {
            Some(format) => (format!("{kind}, {format}"), None),
            None => (kind.to_owned(), None),
        },
        None => ("any".to_owned(), None),
    }
}

/// Bounds in words; the unit of a length follows from the type.
fn limits(schema: &Value) -> String {
    const BOUNDS: [(&str, &str, &str); 4] = [
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
        ("minProperties", "maxProperties", " entries"),
    ];
    let mut limits: Vec<String> = Vec::new();
    for (least, most, unit) in BOUNDS {
        let (least, most) = (text_of(&schema[least]), text_of(&schema[most]));
        match (least.is_empty(), most.is_empty()) {
            (true, true) => {}
            (false, true) => limits.push(format!("at least {least}{unit}")),
            (true, false) => limits.push(format!("at most {most}{unit}")),
            (false, false) => limits.push(format!("{least} to {most}{unit}")),
        }
    }
    let default = text_of(&schema["default"]);
    if !default.is_empty() {
        limits.push(format!("default {default}"));
    }
    limits.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(yaml: &str) -> Kind {
        Kind::of(&serde_norway::from_str(yaml).expect("YAML"))
    }

    #[test]
    fn a_kind_is_told_in_words_and_a_link() {
        let list = kind("{type: array, maxItems: 3, items: {$ref: '#/components/schemas/Pull'}}");
        assert_eq!((&*list.words, list.link.as_deref()), ("array of ", Some("Pull")));
        assert_eq!(list.limits, "at most 3 items");
        let labels = kind("{type: object, additionalProperties: {type: string}}");
        assert_eq!(labels.words, "map of string");
        let page = kind("{type: integer, format: int32, minimum: 1, maximum: 1000, default: 100}");
        assert_eq!((&*page.words, &*page.limits), ("integer, int32", "1 to 1000, default 100"));
        let time = kind("{type: string, format: date-time, nullable: true}");
        assert_eq!(time.words, "string, date-time or null");
        let scope = kind("{type: string, enum: [read, write]}");
        assert_eq!(scope.values, ["read", "write"]);
    }
}
