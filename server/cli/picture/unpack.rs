//! Unpacks, told as pulls of their layers are: so that one picture serves both.

use serde_json::{Value, json};

use super::{Blob, Event, Pull, state};

impl Pull {
    /// An event of an unpack as those of a pull would be that tell what it changes: of layers in place of blobs.
    pub fn events_of_unpack(&self, event: &Event) -> Vec<Event> {
        let unpack = event.payload();
        let text = |name: &str| unpack.get(name).and_then(Value::as_str);
        let said = |name: &str, value: Value| Event {
            id: event.id.clone(),
            name: name.to_owned(),
            value: json!({ name: value }),
        };
        let layers = unpack.get("layers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let blobs: Vec<Value> = layers.iter().map(layer_as_blob).collect();
        let progress = json!({
            "bytes_total": unpack.get("bytes_total"), "bytes_done": unpack.get("bytes_done"),
            "bytes_total_final": !layers.is_empty(),
        });
        if event.name == "snapshot" {
            let reference = text("image").or(text("target"));
            let state = unpack.get("state");
            let whole = json!({"id": text("id"), "ref": reference, "state": state, "progress": progress, "blobs": blobs});
            return vec![said("snapshot", whole)];
        }
        let is_known = |blob: &Value| {
            serde_json::from_value::<Blob>(blob.clone()).is_ok_and(|blob| self.blobs.contains(&blob))
        };
        let moved = state(&unpack).is_some_and(|state| state != self.state && !event.is_end());
        let mut events = vec![said("progress", progress)];
        events.extend(moved.then(|| said("phase", json!({"state": unpack.get("state")}))));
        events.extend(blobs.into_iter().filter(|blob| !is_known(blob)).map(|blob| said("blob", blob)));
        events.extend(event.is_end().then(|| said("end", unpack.clone())));
        events
    }
}

/// A layer of an unpack, whose blob is here.
fn layer_as_blob(layer: &Value) -> Value {
    json!({"digest": layer.get("digest"), "size": layer.get("size"), "unpack": layer.get("unpack"), "role": "layer",
        "state": "exists"})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::picture::{BlobState, Change, State};

    #[test]
    fn an_unpack_is_told_as_a_pull_of_its_layers_by_what_changed() {
        let told = |id: u64, name: &str, state: &str, offsets: [u64; 2]| {
            let layer = |at: usize| json!({"digest": format!("sha256:a{at}"), "size": 9, "unpack": {"state": "unpacking", "offset": offsets[at]}});
            let unpack = json!({"id": "unpack_1", "image": "app:1", "state": state, "bytes_total": 18,
                "bytes_done": offsets[0] + offsets[1], "layers": [layer(0), layer(1)]});
            Event::parse(json!({"id": id.to_string(), "event": name, (name): unpack}).to_string().as_bytes())
                .expect("an event")
        };
        let mut shown = Pull::default();
        let mut take = |event: &Event| -> Vec<Change> {
            let events = shown.events_of_unpack(event);
            events.iter().map(|event| shown.apply(event)).collect()
        };
        assert_eq!(take(&told(1, "snapshot", "running", [0, 0])), [Change::Phase]);
        // The second layer alone has moved, and not to another state.
        assert_eq!(take(&told(2, "progress", "running", [0, 5])), [Change::Nothing, Change::Nothing]);
        assert_eq!(take(&told(3, "end", "failed", [0, 5])), [Change::Nothing, Change::End]);
        assert_eq!((shown.reference.as_str(), shown.state), ("app:1", State::Failed));
        assert_eq!((shown.blobs[1].state, shown.blobs[1].offset), (BlobState::Unpacking, 5));
        let progress = &shown.progress;
        assert_eq!((progress.bytes_done, progress.bytes_total, progress.rate_bps), (5, 18, None));
    }
}
