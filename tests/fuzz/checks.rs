//! What holds for any bytes that are taken for a layer. The fuzz targets look for bytes for which it does not; those that
//! were found once, and what they began with, stand in `corpus/` and are looked at with every run of the tests.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;

use futures_util::StreamExt;
use orlop::oci::tree::{Inode, Kind, NAME_BYTES, PATH_BYTES, Tree};
use orlop::unpack::{self, Devices, Form, Owners};

/// A layer as a tree: refused, or a whole tree of names that are names.
pub fn layer_tree(layer: &[u8]) {
    let Ok((tree, _)) = unpack::read_tree(layer) else { return };
    assert_eq!(Tree::from_bytes(&tree.to_bytes()).as_ref(), Some(&tree), "it is kept as it is");
    let mut names: HashMap<u32, u32> = HashMap::new();
    for (holder, name, id) in tree.walk() {
        assert!(!name.is_empty() && name.len() <= NAME_BYTES && name != b"." && name != b"..", "{name:?}");
        assert!(!name.contains(&b'/') && !name.contains(&0), "{name:?}");
        assert!(tree.path_of(holder).len() + 1 + name.len() <= PATH_BYTES);
        *names.entry(id).or_default() += 1;
    }
    for (id, count) in names {
        assert_eq!(tree.inode(id).links, count, "a file has as many links as names");
    }
    compare_with_another_reader(layer, &tree);
}

/// Where another reader of tars reads a plain one to its end, it finds the bytes of each file where we do.
fn compare_with_another_reader(tar: &[u8], tree: &Tree) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let found: Option<HashMap<u64, u64>> = runtime.block_on(async {
        let mut archive = tokio_tar::Archive::new(std::io::Cursor::new(tar.to_vec()));
        let mut entries = archive.entries().ok()?;
        let mut found = HashMap::new();
        while let Some(entry) = entries.next().await {
            let entry = entry.ok()?;
            found.insert(entry.raw_file_position(), entry.effective_size());
        }
        Some(found)
    });
    let Some(found) = found else { return };
    for (_, name, id) in tree.walk() {
        let Inode { kind: Kind::File(content), .. } = tree.inode(id) else { continue };
        if content.parts.is_none() && content.size > 0 {
            assert_eq!(
                found.get(&content.offset),
                Some(&content.size),
                "{:?}",
                String::from_utf8_lossy(name)
            );
        }
    }
}

/// A layer in a directory: nothing outside is touched, and what is there is what the tree says.
pub fn layer_directory(layer: &[u8]) {
    let within = tempfile::tempdir().expect("a directory");
    let (fs, canary) = (within.path().join("fs"), within.path().join("canary"));
    std::fs::create_dir(&fs).expect("made");
    std::fs::write(&canary, "nobody may touch this").expect("written");
    let before = look_at(&canary);
    let directory = std::fs::File::open(&fs).expect("open");
    let form = Form { owners: Owners::Ours, devices: Devices::Recorded };
    let unpacked = unpack::unpack_into(directory.as_fd(), layer, form);
    assert_eq!(look_at(&canary), before);
    let beside: Vec<_> = std::fs::read_dir(within.path()).expect("listed").collect();
    assert_eq!(beside.len(), 2, "{beside:?}");
    let Ok(unpacked) = unpacked else { return };
    let (read, _) = orlop::disk::read_tree(directory.as_fd()).expect("read back");
    let on_disk = |tree: &Tree| -> Vec<Vec<u8>> {
        let is_there = |id: u32| !matches!(tree.inode(id).kind, Kind::Device(_) | Kind::LowerLink(_));
        let names = tree.walk().filter(|(_, _, id)| is_there(*id));
        names.map(|(holder, name, _)| [&tree.path_of(holder)[..], name].join(&b'/')).collect()
    };
    assert_eq!(on_disk(&read), on_disk(&unpacked.tree), "the disk is as the tree");
    let (again, _) = unpack::read_tree(layer).expect("it was read before");
    assert_eq!(again, unpacked.tree, "what is read is what is unpacked");
}

fn look_at(canary: &Path) -> (String, std::time::SystemTime, u64) {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(canary).expect("there");
    let text = std::fs::read_to_string(canary).expect("there");
    (text, meta.modified().expect("a time"), meta.nlink())
}
