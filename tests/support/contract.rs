//! The contract: an answer is held against openapi.yaml (OpenAPI 3.0.3), and what it does not say is refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use http::HeaderMap;
use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};
use url::Url;

/// The document, and the validators made from it so far.
pub struct Contract {
    routes: Vec<Route>,
    /// The document with its schemas in JSON Schema's own words.
    document: Value,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// One operation of the document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Operation {
    /// In capitals.
    pub method: String,
    /// The template, with the server's prefix: `/api/v1/content/{digest}`.
    pub path: String,
    pub id: String,
}

/// An answer as a client saw it.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub method: &'a str,
    /// The path asked for, without the query.
    pub path: &'a str,
    pub status: u16,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

struct Route {
    operation: Operation,
    /// Statuses (`200`, `2XX`, `default`) and what answers with them hold.
    responses: Map<String, Value>,
    /// Where `responses` stands in the document, as a JSON pointer.
    pointer: String,
}

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

impl Contract {
    /// Reads a document; panics when it is not an OpenAPI document with paths.
    pub fn load(document: Value) -> Contract {
        let document = to_json_schema(document);
        let server = document.pointer("/servers/0/url").and_then(Value::as_str).unwrap_or_default();
        // A relative URL is a path; of an absolute one the path counts.
        let prefix = match Url::parse(server) {
            Ok(url) => url.path().to_owned(),
            Err(_) => server.to_owned(),
        };
        let prefix = prefix.trim_end_matches('/');
        let paths = document["paths"].as_object().expect("an OpenAPI document has paths");
        let routes = paths.iter().flat_map(|(path, item)| routes(prefix, path, item)).collect();
        Contract { routes, document, validators: Mutex::default() }
    }

    /// Every operation that the document describes.
    pub fn operations(&self) -> Vec<Operation> {
        self.routes.iter().map(|route| route.operation.clone()).collect()
    }

    /// The operation that a request was for; the template with the most literal segments wins.
    pub fn operation(&self, method: &str, path: &str) -> Option<&Operation> {
        self.route(method, path).map(|route| &route.operation)
    }

    /// Holds an answer against the document.
    ///
    /// # Errors
    /// In words: an unknown path or method, a status, header or content type the document does not give to
    /// this operation, or a body that breaks its schema.
    pub fn check(&self, answer: &Answer<'_>) -> Result<(), String> {
        let Answer { method, path, status, .. } = *answer;
        let said = |reason: String| format!("{method} {path} answered {status}: {reason}");
        let route = self.route(method, path).ok_or_else(|| said("not in the contract".into()))?;
        let (response, pointer) = self.response(route, status).map_err(said)?;
        self.check_headers(response, &pointer, answer.headers).map_err(said)?;
        self.check_content(response, &pointer, answer).map_err(said)
    }

    fn route(&self, method: &str, path: &str) -> Option<&Route> {
        let asked = self.routes.iter().filter(|route| route.operation.method == method);
        let fits = asked.filter_map(|route| Some((literal_segments(&route.operation.path, path)?, route)));
        fits.max_by_key(|(literals, _)| *literals).map(|(_, route)| route)
    }

    fn response<'a>(&'a self, route: &'a Route, status: u16) -> Result<(&'a Value, String), String> {
        let range = format!("{}XX", status / 100);
        let keys = [status.to_string(), range, "default".into()];
        let key = keys.iter().find(|key| route.responses.contains_key(*key));
        let key = key.ok_or_else(|| "the status is not in the contract".to_owned())?;
        self.resolve(&route.responses[key], format!("{}/{key}", route.pointer))
    }

    /// Follows `$ref`s between components (not inside schemas, which follow their own).
    fn resolve<'a>(&'a self, value: &'a Value, pointer: String) -> Result<(&'a Value, String), String> {
        let Some(target) = value.get("$ref").and_then(Value::as_str) else { return Ok((value, pointer)) };
        let pointer = target.strip_prefix('#').ok_or_else(|| format!("`{target}` leaves the document"))?;
        let value = self.document.pointer(pointer).ok_or_else(|| format!("`{target}` is not there"))?;
        self.resolve(value, pointer.to_owned())
    }

    fn check_headers(&self, response: &Value, pointer: &str, headers: &HeaderMap) -> Result<(), String> {
        for (name, documented) in response["headers"].as_object().into_iter().flatten() {
            let at = format!("{pointer}/headers/{}", escape(name));
            let (documented, at) = self.resolve(documented, at)?;
            match headers.get(name) {
                None if documented["required"] == true => {
                    return Err(format!("the header {name} is missing"));
                }
                None => {}
                Some(value) => {
                    let text = value.to_str().map_err(|_| format!("the header {name} is not text"))?;
                    let at = format!("{at}/schema");
                    self.check_value(&at, &header_value(&documented["schema"], text))
                        .map_err(|reason| format!("the header {name}: {reason}"))?;
                }
            }
        }
        Ok(())
    }

    fn check_content(&self, response: &Value, pointer: &str, answer: &Answer<'_>) -> Result<(), String> {
        let none = Map::new();
        let content = response["content"].as_object().unwrap_or(&none);
        if answer.method == "HEAD" || content.is_empty() {
            return if answer.body.is_empty() {
                Ok(())
            } else {
                Err("a body where none is documented".into())
            };
        }
        let given = answer.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let given = given.ok_or("a body without a content type")?;
        let media_type = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let range = media_type.split_once('/').map(|(kind, _)| format!("{kind}/*")).unwrap_or_default();
        let keys = [media_type.as_str(), &range, "*/*"];
        let key = keys.into_iter().find(|key| content.contains_key(*key));
        let key = key.ok_or_else(|| format!("the content type {given} is not in the contract"))?;
        if content[key].get("schema").is_none() {
            return Ok(());
        }
        let at = format!("{pointer}/content/{}/schema", escape(key));
        for document in documents(&media_type, answer.body)? {
            self.check_value(&at, &document)?;
        }
        Ok(())
    }

    fn check_value(&self, pointer: &str, value: &Value) -> Result<(), String> {
        let validator = self.validator(pointer)?;
        let wrong: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("at `{}`: {error}", error.instance_path()))
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    fn validator(&self, pointer: &str) -> Result<Arc<Validator>, String> {
        let mut validators = self.validators.lock().expect("nobody panics with the lock");
        if let Some(validator) = validators.get(pointer) {
            return Ok(validator.clone());
        }
        let Some(schema) = self.document.pointer(pointer) else {
            return Err(format!("no schema at {pointer}"));
        };
        // The schema and, beside it, the components that its references name.
        let schema = json!({"allOf": [schema], "components": self.document["components"]});
        let validator = jsonschema::options()
            .with_draft(Draft::Draft4)
            .should_validate_formats(true)
            .build(&schema)
            .map_err(|error| format!("the schema at {pointer} is wrong: {error}"))?;
        let validator = Arc::new(validator);
        validators.insert(pointer.to_owned(), validator.clone());
        Ok(validator)
    }
}

fn routes(prefix: &str, path: &str, item: &Value) -> Vec<Route> {
    let described = METHODS.into_iter().filter_map(|method| Some((method, item.get(method)?)));
    let route = |(method, operation): (&str, &Value)| Route {
        operation: Operation {
            method: method.to_ascii_uppercase(),
            path: format!("{prefix}{path}"),
            id: operation["operationId"].as_str().unwrap_or_default().to_owned(),
        },
        responses: operation["responses"].as_object().cloned().unwrap_or_default(),
        pointer: format!("/paths/{}/{method}/responses", escape(path)),
    };
    described.map(route).collect()
}

/// How many segments of the template stand in the path word for word; `None` when it does not fit.
fn literal_segments(template: &str, path: &str) -> Option<usize> {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    if template.len() != path.len() {
        return None;
    }
    let mut literals = 0;
    for (wanted, given) in template.into_iter().zip(path) {
        match wanted.starts_with('{') {
            true if given.is_empty() => return None,
            true => {}
            false if wanted != given => return None,
            false => literals += 1,
        }
    }
    Some(literals)
}

/// A header's text as the type its schema asks for.
fn header_value(schema: &Value, text: &str) -> Value {
    match schema["type"].as_str() {
        Some("integer" | "number" | "boolean") => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        _ => text.into(),
    }
}

/// What of a body the schema speaks about: the document, each line of an NDJSON stream, or nothing of
/// bytes and text.
fn documents(media_type: &str, body: &[u8]) -> Result<Vec<Value>, String> {
    let read = |bytes: &[u8]| serde_json::from_slice(bytes).map_err(|error| format!("not JSON: {error}"));
    if media_type == "application/x-ndjson" {
        return body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(read).collect();
    }
    if media_type == "application/json" || media_type.ends_with("+json") {
        return Ok(vec![read(body)?]);
    }
    Ok(Vec::new())
}

/// OpenAPI 3.0 says `nullable` where JSON Schema says that null is one of the types.
fn to_json_schema(value: Value) -> Value {
    match value {
        Value::Object(mut object) => {
            let nullable = matches!(object.get("nullable"), Some(Value::Bool(true)));
            if let Some(Value::Bool(_)) = object.get("nullable") {
                object.remove("nullable");
            }
            let converted: Map<String, Value> =
                object.into_iter().map(|(key, value)| (key, to_json_schema(value))).collect();
            match nullable {
                true => json!({"anyOf": [converted, {"type": "null"}]}),
                false => converted.into(),
            }
        }
        Value::Array(items) => items.into_iter().map(to_json_schema).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

/// A key as a part of a JSON pointer (RFC 6901).
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
