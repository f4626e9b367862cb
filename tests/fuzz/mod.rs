//! What the fuzz targets look at, for the bytes that are known.

mod checks;

use std::fs;
use std::path::Path;

fn each(corpus: &str, look: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(corpus);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("a corpus") {
        let path = entry.expect("one").path();
        println!("{}", path.display());
        look(&fs::read(&path).expect("read"));
        count += 1;
    }
    assert!(count > 20, "{} holds {count}", folder.display());
}

#[test]
fn every_known_layer_is_a_tree_or_refused() {
    each("layer_tree", checks::layer_tree);
}

#[test]
fn every_known_layer_stays_in_its_directory() {
    each("layer_directory", checks::layer_directory);
}
