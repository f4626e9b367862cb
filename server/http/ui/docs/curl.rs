//! A line for the shell that makes a call, with the contract's own examples in it.

use serde_norway::Value;

use super::contract::{example_text, examples, text_of};

const SERVER: &str = "http://127.0.0.1:7070";

/// The line; longer ones are broken with a backslash.
pub fn line(method: &str, path: &str, parameters: &[&Value], operation: &Value) -> String {
    let mut parts = vec!["curl".to_owned()];
    let body = body(operation);
    match (method, body.is_some()) {
        ("head", _) => parts[0] += " -I",
        ("get", _) if streams(operation) => parts[0] += " -N",
        // What has a body is a POST to curl, unless it is told otherwise.
        ("get", _) | ("post", true) => {}
        (other, _) => parts[0] += &format!(" -X {}", other.to_uppercase()),
    }
    let (mut path, mut query) = (path.to_owned(), Vec::new());
    for parameter in parameters {
        let (name, value) = (text_of(&parameter["name"]), example_of(parameter));
        let required = parameter["required"].as_bool() == Some(true);
        match parameter["in"].as_str() {
            Some("path") => path = path.replace(&format!("{{{name}}}"), &value),
            Some("query") if required => query.push(format!("{name}={value}")),
            Some("header") if required => parts.push(format!("-H {}", quote(&format!("{name}: {value}")))),
            _ => {}
        }
    }
    parts.extend(body.into_iter().flatten());
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    parts.push(quote(&format!("{SERVER}{path}{query}")));
    if parts.iter().map(String::len).sum::<usize>() < 90 { parts.join(" ") } else { parts.join(" \\\n  ") }
}

/// The options that send an example of the body.
fn body(operation: &Value) -> Option<Vec<String>> {
    let (media, form) = operation["requestBody"]["content"].as_mapping()?.iter().next()?;
    let (media, example) = (text_of(media), examples(form).into_iter().next().unwrap_or_default());
    let typed = |data: String| vec![format!("-H {}", quote(&format!("Content-Type: {media}"))), data];
    Some(match media.as_str() {
        "application/x-www-form-urlencoded" => {
            let fields = form["example"].as_mapping().into_iter().flatten();
            let option = |(name, value)| {
                format!("--data-urlencode {}", quote(&format!("{}={}", text_of(name), text_of(value))))
            };
            fields.map(option).collect()
        }
        json if json.ends_with("json") => {
            let value: serde_json::Value = serde_json::from_str(&example).unwrap_or_default();
            typed(format!("-d {}", quote(&value.to_string())))
        }
        _ => typed("--data-binary @FILE".to_owned()),
    })
}

fn streams(operation: &Value) -> bool {
    operation["responses"]["200"]["content"].get("text/event-stream").is_some()
}

fn example_of(parameter: &Value) -> String {
    let given = parameter.get("example").or_else(|| parameter["schema"].get("example"));
    given.map_or_else(|| text_of(&parameter["name"]).to_uppercase(), example_text)
}

/// Quoted for a POSIX shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> Value {
        serde_norway::from_str(text).expect("YAML")
    }

    #[test]
    fn a_line_carries_what_the_call_needs_and_no_more() {
        let id = yaml("{name: id, in: path, required: true, example: ing_1}");
        let offset = yaml("{name: Upload-Offset, in: header, required: true, example: 3}");
        let namespace = yaml("{name: namespace, in: query, example: default}");
        let operation = yaml("{requestBody: {content: {application/json: {example: {ref: \"it's\"}}}}}");
        let made = line("post", "/x/{id}", &[&id, &namespace], &operation);
        let expected = [
            "curl",
            "-H 'Content-Type: application/json'",
            r#"-d '{"ref":"it'\''s"}'"#,
            "'http://127.0.0.1:7070/x/ing_1'",
        ];
        assert_eq!(made, expected.join(" \\\n  "));
        let head = line("head", "/x/{id}", &[&id, &offset], &Value::Null);
        assert_eq!(head, "curl -I -H 'Upload-Offset: 3' 'http://127.0.0.1:7070/x/ing_1'");
    }
}
