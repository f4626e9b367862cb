//! Labels as a person changes them: of images and of snapshots.

use clap::Args;
use serde_json::{Map, Value};

use super::text::escape;

#[derive(Debug, Clone, Args)]
pub struct LabelChanges {
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_change)]
    labels: Vec<(String, String)>,
    /// Remove all labels that are not named
    #[arg(long)]
    replace_all: bool,
}

impl LabelChanges {
    /// The merge patch of labels that these changes are: an empty value removes a label.
    pub fn patch(&self, standing: Option<&Value>) -> Value {
        let mut patch = Map::new();
        if self.replace_all {
            let known = standing.and_then(Value::as_object).into_iter().flatten();
            patch.extend(known.map(|(key, _)| (key.clone(), Value::Null)));
        }
        let said = |value: &String| if value.is_empty() { Value::Null } else { value.clone().into() };
        patch.extend(self.labels.iter().map(|(key, value)| (key.clone(), said(value))));
        patch.into()
    }
}

/// The labels of a resource, a line each.
pub fn label_lines(resource: &Value) -> String {
    let labels = resource.get("labels").and_then(Value::as_object).into_iter().flatten();
    let line = |(key, value): (&String, &Value)| {
        format!("{}={}\n", escape(key), escape(value.as_str().unwrap_or_default()))
    };
    labels.map(line).collect::<String>().trim_end().to_owned()
}

fn parse_change(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("a change of a label is KEY=VALUE, or KEY= to remove it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_are_changed_one_by_one_or_all_at_once() {
        let standing = json!({"a": "1", "b": "2"});
        let labels: Vec<_> = ["b=", "c=x=y"].map(|text| parse_change(text).expect("a change")).into();
        let patch = |replace_all| LabelChanges { labels: labels.clone(), replace_all }.patch(Some(&standing));
        assert_eq!(patch(false), json!({"b": null, "c": "x=y"}));
        assert_eq!(patch(true), json!({"a": null, "b": null, "c": "x=y"}));
        assert!(parse_change("=x").is_err() && parse_change("x").is_err());
    }
}
