//! The contract as values for the page: its operations by tag, and its schemas.

use serde_norway::Value;

use super::curl;
use super::schema::{Kind, SchemaDoc};
use crate::error::{Error, Result};
use crate::http::problems;
use crate::http::ui::prose::{self, Block, Line};

pub struct Contract {
    pub title: String,
    pub version: String,
    pub intro: Vec<Block>,
    pub sections: Vec<Section>,
    pub schemas: Vec<SchemaDoc>,
}

/// The operations of one tag.
pub struct Section {
    pub name: String,
    pub about: Line,
    pub operations: Vec<Operation>,
}

pub struct Operation {
    pub id: String,
    pub method: String,
    pub path: String,
    pub summary: String,
    pub about: Vec<Block>,
    /// The scope that a credential needs: `none`, `read`, `write` or `admin`.
    pub scope: String,
    pub parameters: Vec<Parameter>,
    pub body: Option<Body>,
    pub answers: Vec<Answer>,
    pub failures: Vec<Failure>,
    pub curl: String,
}

pub struct Parameter {
    pub name: String,
    /// `path`, `query` or `header`.
    pub place: String,
    pub required: bool,
    pub kind: Kind,
    pub about: Line,
}

pub struct Body {
    pub required: bool,
    pub media: Vec<Media>,
}

/// One form of a body.
pub struct Media {
    pub name: String,
    pub kind: Option<Kind>,
    pub examples: Vec<String>,
}

/// What a call answers when it succeeds.
pub struct Answer {
    pub status: String,
    pub about: Line,
    pub headers: Vec<String>,
    pub media: Vec<Media>,
}

/// What a call answers when it does not.
pub struct Failure {
    pub status: String,
    pub about: Line,
    /// Those of its problem codes that have a page.
    pub codes: Vec<&'static str>,
}

/// The methods of OpenAPI, in the order in which a path's operations are shown.
const METHODS: [&str; 6] = ["get", "head", "post", "put", "patch", "delete"];

impl Contract {
    /// # Errors
    /// `Internal` when the text is not YAML, or lacks a part that every contract has.
    pub fn parse(text: &str) -> Result<Contract> {
        let root: Value = serde_norway::from_str(text)
            .map_err(|error| Error::internal(format!("read the contract: {error}")))?;
        let document = Document { root: &root };
        let info = &root["info"];
        let lacking = |what: &str| Error::internal(format!("the contract lacks {what}"));
        let tags = root["tags"].as_sequence().ok_or_else(|| lacking("tags"))?;
        let schemas = root["components"]["schemas"].as_mapping().ok_or_else(|| lacking("schemas"))?;
        Ok(Contract {
            title: text_of(&info["title"]),
            version: text_of(&info["version"]),
            intro: prose::blocks(&text_of(&info["description"])),
            sections: tags.iter().map(|tag| document.section(tag)).collect(),
            schemas: schemas.iter().map(|(name, schema)| SchemaDoc::new(&text_of(name), schema)).collect(),
        })
    }
}

/// The document, where references lead.
pub struct Document<'d> {
    root: &'d Value,
}

impl<'d> Document<'d> {
    /// What a value says itself, or what its reference points to.
    pub fn resolve(&self, value: &'d Value) -> &'d Value {
        match value["$ref"].as_str().and_then(|path| path.strip_prefix("#/")) {
            Some(path) => path.split('/').fold(self.root, |found, step| &found[step]),
            None => value,
        }
    }

    fn section(&self, tag: &Value) -> Section {
        let name = text_of(&tag["name"]);
        let mut operations = Vec::new();
        for (path, item) in self.root["paths"].as_mapping().into_iter().flatten() {
            let found = METHODS.iter().map(|method| (*method, &item[*method])).filter(|(_, found)| {
                found["tags"].as_sequence().is_some_and(|tags| tags.iter().any(|tag| text_of(tag) == name))
            });
            operations.extend(found.map(|(method, found)| self.operation(method, &text_of(path), found)));
        }
        Section { about: prose::line(&text_of(&tag["description"])), name, operations }
    }

    fn operation(&self, method: &str, path: &str, found: &'d Value) -> Operation {
        let parameters = found["parameters"].as_sequence().map(Vec::as_slice).unwrap_or_default();
        let parameters: Vec<&Value> = parameters.iter().map(|parameter| self.resolve(parameter)).collect();
        let mut answers = Vec::new();
        let mut failures = Vec::new();
        for (status, response) in found["responses"].as_mapping().into_iter().flatten() {
            let (status, response) = (text_of(status), self.resolve(response));
            if status.starts_with(['1', '2', '3']) {
                answers.push(self.answer(status, response));
            } else {
                failures.push(failure(status, response));
            }
        }
        Operation {
            id: text_of(&found["operationId"]),
            method: method.to_uppercase(),
            path: path.to_owned(),
            summary: text_of(&found["summary"]),
            about: prose::blocks(&text_of(&found["description"])),
            scope: text_of(&found["x-orlop-scope"]),
            curl: curl::line(method, path, &parameters, found),
            parameters: parameters.into_iter().map(parameter).collect(),
            body: body(&found["requestBody"]),
            answers,
            failures,
        }
    }

    fn answer(&self, status: String, response: &'d Value) -> Answer {
        let headers = response["headers"].as_mapping().into_iter().flatten().map(|(name, _)| text_of(name));
        Answer {
            status,
            about: prose::line(&text_of(&response["description"])),
            // Every answer has this one; the introduction says so.
            headers: headers.filter(|name| name != "X-Request-Id").collect(),
            media: media(&response["content"]),
        }
    }
}

fn parameter(found: &Value) -> Parameter {
    Parameter {
        name: text_of(&found["name"]),
        place: text_of(&found["in"]),
        required: found["required"].as_bool().unwrap_or(false),
        kind: Kind::of(&found["schema"]),
        about: prose::line(&text_of(&found["description"])),
    }
}

fn body(found: &Value) -> Option<Body> {
    found.as_mapping()?;
    Some(Body { required: found["required"].as_bool().unwrap_or(false), media: media(&found["content"]) })
}

fn media(content: &Value) -> Vec<Media> {
    let forms = content.as_mapping().into_iter().flatten();
    let media = forms.map(|(name, form)| Media {
        name: text_of(name),
        kind: form.get("schema").map(Kind::of),
        examples: examples(form),
    });
    media.collect()
}

/// The examples of one form of a body, as text.
pub fn examples(form: &Value) -> Vec<String> {
    let named = form["examples"].as_mapping().into_iter().flatten().map(|(_, example)| &example["value"]);
    form.get("example").into_iter().chain(named).map(example_text).collect()
}

/// An example as it would be sent: text as it is, anything else as JSON.
pub fn example_text(example: &Value) -> String {
    match example.as_str() {
        Some(text) => text.trim_end().to_owned(),
        None => serde_json::to_string_pretty(example).unwrap_or_default(),
    }
}

fn failure(status: String, response: &Value) -> Failure {
    let examples = response["content"]["application/problem+json"]["examples"].as_mapping();
    let codes = examples.into_iter().flatten().filter_map(|(name, _)| problems::find(name.as_str()?));
    let about = text_of(&response["description"]);
    // The codes stand beside it, with links.
    let about =
        about.split(" Code: ").next().unwrap_or_default().split(" Codes: ").next().unwrap_or_default();
    Failure { status, about: prose::line(about), codes: codes.map(|doc| doc.code).collect() }
}

/// A scalar as text; nothing for what is not there.
pub fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.trim_end().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => String::new(),
    }
}
