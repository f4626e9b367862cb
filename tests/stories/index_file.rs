//! `index.json`, by which other programs read the data directory: what it says when an answer comes.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::app::{TestApp, story};
use crate::support::fixture_registry::FixtureRegistry;
use crate::support::image::{Image, Kind, Layer};
use crate::support::pulling::pulled;

async fn small() -> Image {
    Image::new(Kind::Oci, "linux/amd64", vec![Layer::new(Kind::Oci, &[("rope", b"30 m")]).await])
}

/// The names in the list, in order.
fn listed(app: &TestApp) -> Vec<String> {
    let bytes = std::fs::read(app.data_dir().join("index.json")).expect("the list");
    let index: Value = serde_json::from_slice(&bytes).expect("JSON");
    let entries = index["manifests"].as_array().expect("a list").iter();
    let name =
        |entry: &Value| entry["annotations"]["org.opencontainers.image.ref.name"].as_str().map(str::to_owned);
    let mut names: Vec<String> = entries.map(|entry| name(entry).expect("a name")).collect();
    names.sort();
    names
}

story!(a_name_is_in_the_list_of_the_layout_when_its_change_is_answered, async |app| {
    let image = small().await;
    let first = app.put_image("a:1", &image).await;
    assert_eq!(listed(app), ["a:1"]);
    let copy = app.post("/api/v1/images").json(json!({"name": "a:2", "from_image": "a:1"})).await.expect(201);
    assert_eq!(listed(app), ["a:1", "a:2"]);
    app.delete(copy.place()).await.expect(204);
    assert_eq!(listed(app), ["a:1"]);
    app.delete(first).await.expect(204);
    assert_eq!(listed(app), [""; 0]);
});

/// So many names in a row that the list is written once a second.
async fn flood(app: &TestApp, of: &str) {
    for round in 0..15 {
        let body = json!({"name": format!("{of}-{round}"), "from_image": "a:1"});
        app.post("/api/v1/images").json(body).await.expect(201);
    }
}

story!(what_was_pulled_or_imported_is_in_the_list_when_that_is_told_also_in_a_flood_of_names, async |app| {
    let registry = FixtureRegistry::start().await;
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"rope"]);
    let path = app.put_image("a:1", &small().await).await;
    let archive = app.get(format!("{path}/archive")).await.expect(200).body;
    let reference = format!("{}/app:v1", registry.host());
    for name in ["first", "second"] {
        flood(app, name).await;
        pulled(app, json!({"ref": reference, "image_name": name, "platforms": ["linux/amd64"]})).await;
        assert!(listed(app).contains(&name.to_owned()), "{name}");
    }
    flood(app, "third").await;
    app.post("/api/v1/images/import?name=third").body(&archive).await.expect(201);
    assert!(listed(app).contains(&"third".to_owned()));
});

story!(a_flood_of_names_is_written_once_a_second_and_waits_for_no_writing, async |app| {
    let image = small().await;
    app.put_image("a:1", &image).await;
    let (mut files, begun) = (HashSet::new(), Instant::now());
    for round in 0..150 {
        let body = json!({"name": format!("b:{round}"), "from_image": "a:1"});
        app.post("/api/v1/images").json(body).await.expect(201);
        let file = std::fs::metadata(app.data_dir().join("index.json")).expect("the list");
        files.insert((file.ino(), file.mtime(), file.mtime_nsec()));
    }
    let took = begun.elapsed();
    assert!(files.len() as u64 <= 12 + took.as_secs(), "{} writings in {took:?}", files.len());
    assert!(took < Duration::from_secs(100), "{took:?}: some wait for the gathered writing");
});
