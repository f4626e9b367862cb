//! A file deep in a gzip layer is read from a place before it, and not from the layer's start.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::app::{TestApp, sha256, story};
use crate::support::unpacking::Tar;

/// A layer whose last file stands behind some MiB of another, and where things are on the disk.
struct Layer {
    digest: String,
    packed: Vec<u8>,
    blob: PathBuf,
    checkpoints: PathBuf,
}

const DEEP: &str = "a file deep in the layer";

impl Layer {
    /// Stores it, and lists what is in it: that is when it is read as a whole.
    async fn listed(app: &TestApp) -> Layer {
        let mut state = 1_u64;
        let words = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            format!("cargo {} ", state >> 52)
        });
        let long: String = words.take(600_000).collect();
        let tar = Tar::default().file("first", &long).file("deep", DEEP).end();
        // At its fastest this encoder makes one block of it all, which has no place in its middle.
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&tar).expect("memory takes all bytes");
        let packed = encoder.finish().expect("memory takes all bytes");
        let digest = sha256(&packed);
        app.put_blob(&packed).await;
        let list = app.get(format!("/api/v1/content/{digest}/files")).await.expect(200).json();
        assert_eq!(list["items"].as_array().map(Vec::len), Some(2));
        let hex = digest.trim_start_matches("sha256:");
        let blob = app.data_dir().join("blobs/sha256").join(hex);
        let checkpoints = app.data_dir().join("trees").join(format!("sha256-{hex}.checkpoints"));
        Layer { digest, packed, blob, checkpoints }
    }

    /// The text of a file of it; `None` when the answer breaks off.
    async fn read(&self, app: &TestApp, path: &str) -> Option<String> {
        let data = format!("/api/v1/content/{}/files/data?path={path}", self.digest);
        let answer = app.get(data).try_send().await.ok()?;
        Some(answer.expect(200).text())
    }

    /// Writes these bytes over what the blob has from `offset` on, as a failing disk might.
    fn overwrite(&self, offset: usize, bytes: &[u8]) {
        let blob = OpenOptions::new().write(true).open(&self.blob).expect("the blob");
        blob.write_all_at(bytes, offset as u64).expect("written");
    }

    /// Takes its beginning away, but for what says that it is gzip.
    fn lose_the_beginning(&self) {
        self.overwrite(1_000, &vec![0xff; self.packed.len() / 3]);
    }

    fn heal(&self) {
        self.overwrite(0, &self.packed);
    }
}

story!(a_file_deep_in_a_layer_is_read_without_what_comes_before_it, async |app| {
    let layer = Layer::listed(app).await;
    layer.lose_the_beginning();
    assert_eq!(layer.read(app, "first").await, None, "the beginning is lost");
    assert_eq!(layer.read(app, "deep").await.as_deref(), Some(DEEP));
    let data = format!("/api/v1/content/{}/files/data?path=deep", layer.digest);
    let part = app.get(data).range("bytes=2-5").await.expect(206);
    assert_eq!((part.text().as_str(), part.header("content-range")), ("file", "bytes 2-5/24"));
});

story!(what_is_damaged_behind_a_checkpoint_is_not_handed_on, async |app| {
    let layer = Layer::listed(app).await;
    assert_eq!(layer.read(app, "deep").await.as_deref(), Some(DEEP));
    let end = layer.packed.len();
    let mut refused = 0;
    for at in (end - 18_000..end - 60).step_by(3_000) {
        layer.overwrite(at, &[!layer.packed[at]]);
        match layer.read(app, "deep").await {
            None => refused += 1,
            Some(text) => assert_eq!(text, DEEP, "damage at {at}"),
        }
        layer.heal();
    }
    assert!(refused > 3, "{refused}");
});

story!(without_its_checkpoints_a_layer_is_read_from_its_start, async |app| {
    let layer = Layer::listed(app).await;
    let kept = std::fs::read(&layer.checkpoints).expect("kept");
    let file = OpenOptions::new().write(true).open(&layer.checkpoints).expect("kept");
    file.write_all_at(&[!kept[100]], 100).expect("damaged");
    assert_eq!(layer.read(app, "deep").await.as_deref(), Some(DEEP));
    layer.lose_the_beginning();
    assert_ne!(layer.read(app, "deep").await.as_deref(), Some(DEEP), "damaged checkpoints are no use");
    layer.heal();
    std::fs::remove_file(&layer.checkpoints).expect("removed");
    assert_eq!(layer.read(app, "deep").await.as_deref(), Some(DEEP));
});

story!(a_layer_that_goes_takes_its_checkpoints_along, async |app| {
    let layer = Layer::listed(app).await;
    assert!(layer.checkpoints.exists());
    app.delete(format!("/api/v1/content/{}?force=true", layer.digest)).await.expect(204);
    assert!(!layer.checkpoints.exists());
});
