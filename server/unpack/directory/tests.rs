use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::oci::tar::{self, Entry};
use crate::oci::tree::Device;

mod breakouts;
mod by_name;

/// A tar of entries, each with its bytes.
struct Layer(Vec<u8>);

fn layer() -> Layer {
    Layer(Vec::new())
}

fn owned(mode: u32) -> Meta {
    Meta { mode, uid: 0, gid: 0, mtime: Mtime { seconds: 1_700_000_000, nanos: 0 }, xattrs: Vec::new() }
}

impl Layer {
    fn entry(mut self, path: &str, entry: Entry<'_>, meta: &Meta, bytes: &[u8]) -> Layer {
        self.0.extend(tar::full_header(path.as_bytes(), entry, meta));
        self.0.extend(bytes);
        self.0.resize(self.0.len() + tar::padding(bytes.len() as u64), 0);
        self
    }

    fn dir(self, path: &str) -> Layer {
        self.entry(path, Entry::Directory, &owned(0o755), b"")
    }

    fn file(self, path: &str, text: &str) -> Layer {
        self.entry(path, Entry::File { size: text.len() as u64 }, &owned(0o644), text.as_bytes())
    }

    fn symlink(self, path: &str, target: &str) -> Layer {
        self.entry(path, Entry::Symlink(target.as_bytes()), &owned(0o777), b"")
    }

    fn link(self, path: &str, target: &str) -> Layer {
        self.entry(path, Entry::Link(target.as_bytes()), &owned(0o644), b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend(tar::END);
        self.0
    }
}

/// A directory to unpack into, beside things that must stay as they are.
struct Place {
    within: TempDir,
}

const CANARY: &str = "nobody may touch this";

impl Place {
    fn new() -> Place {
        let within = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(within.path().join("fs")).expect("made");
        std::fs::create_dir(within.path().join("outside")).expect("made");
        std::fs::write(within.path().join("outside/canary"), CANARY).expect("written");
        std::fs::set_permissions(
            within.path().join("outside/canary"),
            std::fs::Permissions::from_mode(0o640),
        )
        .expect("closed");
        Place { within }
    }

    fn fs(&self) -> std::path::PathBuf {
        self.within.path().join("fs")
    }

    /// An absolute path of the canary, as a hostile layer would write it.
    fn canary(&self) -> String {
        self.within.path().join("outside/canary").display().to_string()
    }

    fn look_outside(&self) -> Vec<String> {
        let mut found = listing(&self.within.path().join("outside"), Owners::Real);
        let meta = std::fs::metadata(self.within.path()).expect("there");
        found.push(format!("{} {}", meta.mode(), meta.mtime_nsec()));
        let canary = std::fs::metadata(self.canary()).expect("there");
        let text = std::fs::read_to_string(self.canary()).expect("there");
        found.push(format!("{text} {}.{} {}", canary.mtime(), canary.mtime_nsec(), canary.nlink()));
        found.extend(
            std::fs::read_dir(self.within.path())
                .expect("there")
                .map(|entry| entry.expect("one").path().display().to_string()),
        );
        found.sort();
        found
    }

    fn unpack_as(&self, layer: &[u8], owners: Owners) -> Result<Unpacked> {
        let before = self.look_outside();
        let fs = std::fs::File::open(self.fs()).expect("open");
        let form = Form { owners, devices: Devices::Recorded };
        let unpacked = unpack_into(fs.as_fd(), layer, form);
        assert_eq!(self.look_outside(), before, "nothing outside is touched");
        if let Ok(unpacked) = &unpacked {
            assert_eq!(listing(&self.fs(), owners), listing_of(&unpacked.tree), "the disk is as the tree");
        }
        unpacked
    }
}

/// Unpacks in both forms; what is there then, which is the same.
fn unpacked(layer: Vec<u8>) -> Vec<String> {
    let [real, ours] = [Owners::Real, Owners::Ours].map(|owners| {
        let place = Place::new();
        place.unpack_as(&layer, owners).map(|unpacked| listing_of(&unpacked.tree)).expect("a good layer")
    });
    assert_eq!(real, ours);
    real
}

fn refusal(layer: Vec<u8>) -> String {
    let place = Place::new();
    place.unpack_as(&layer, Owners::Real).expect_err("not a good layer").to_string()
}

/// Every name below a directory, and what it is.
fn listing(root: &Path, owners: Owners) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        let mut names: Vec<_> =
            std::fs::read_dir(&directory).expect("listed").map(|entry| entry.expect("one").path()).collect();
        names.sort();
        for path in names {
            let name = path.strip_prefix(root).expect("below").display().to_string();
            let meta = std::fs::symlink_metadata(&path).expect("there");
            let xattr = |name: &str| {
                let mut value = [0; 200];
                rustix::fs::lgetxattr(&path, name, &mut value[..])
                    .map(|length| String::from_utf8_lossy(&value[..length]).into_owned())
                    .ok()
            };
            let (mut mode, mut owner) = (meta.mode() & 0o7777, (meta.uid(), meta.gid()));
            if owners == Owners::Ours {
                owner = (0, 0);
                if let Some(stat) = xattr("user.containers.override_stat") {
                    let parts: Vec<&str> = stat.split(':').collect();
                    owner = (parts[0].parse().expect("a uid"), parts[1].parse().expect("a gid"));
                    mode = u32::from_str_radix(parts[2], 8).expect("a mode");
                }
            }
            let kind = meta.file_type();
            let what = if kind.is_dir() {
                open.push(path.clone());
                let name = match owners {
                    Owners::Real => "trusted.overlay.opaque",
                    Owners::Ours => "user.overlay.opaque",
                };
                let opaque = if xattr(name).is_some() { " opaque" } else { "" };
                format!("dir {mode:o} {}:{}{opaque}", owner.0, owner.1)
            } else if kind.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).expect("read").display())
            } else if kind.is_fifo() {
                "fifo".to_owned()
            } else if kind.is_char_device() {
                assert_eq!(meta.rdev(), 0);
                "whiteout".to_owned()
            } else {
                format!("file {mode:o} {}:{} {}{}", owner.0, owner.1, meta.len(), further(meta.nlink()))
            };
            found.push(format!("{name} {what}"));
        }
    }
    found.sort();
    found
}

fn further(links: u64) -> String {
    if links > 1 { format!(" x{links}") } else { String::new() }
}

/// The same of a tree.
fn listing_of(tree: &Tree) -> Vec<String> {
    let mut by_name: Vec<(String, Id)> = Vec::new();
    for (directory, name, id) in tree.walk() {
        let path = [&tree.path_of(directory)[..], name].join(&b'/');
        let path = String::from_utf8_lossy(&path).trim_start_matches('/').to_owned();
        by_name.push((path, id));
    }
    by_name.sort();
    let mut found = Vec::new();
    for (path, id) in by_name {
        let inode = tree.inode(id);
        let Meta { mode, uid, gid, .. } = inode.meta;
        let what = match &inode.kind {
            Kind::Directory(directory) => {
                format!("dir {mode:o} {uid}:{gid}{}", if directory.opaque { " opaque" } else { "" })
            }
            Kind::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
            Kind::Fifo => "fifo".to_owned(),
            Kind::Whiteout => "whiteout".to_owned(),
            Kind::Device(_) | Kind::LowerLink(_) => continue,
            Kind::File(content) => {
                format!("file {mode:o} {uid}:{gid} {}{}", content.size, further(inode.links.into()))
            }
        };
        found.push(format!("{path} {what}"));
    }
    found.sort();
    found
}

#[test]
fn a_layer_is_kept_as_it_is() {
    let meta = Meta {
        mode: 0o4755,
        uid: 1000,
        gid: 2_000_000,
        mtime: Mtime { seconds: -5, nanos: 250_000_000 },
        xattrs: vec![(b"user.team"[..].into(), b"car\0go\n"[..].into())],
    };
    let long = "n".repeat(200);
    let holes = [(4096, 4), (1 << 20, 3)];
    let sparse = Entry::Sparse { size: 3 << 20, parts: &holes };
    let device = Entry::Device(Device { class: DeviceClass::Block, major: 8, minor: 1 });
    let bytes = layer()
        .entry("./", Entry::Directory, &Meta { mode: 0o700, uid: 7, ..meta.clone() }, b"")
        .entry("bin/", Entry::Directory, &Meta { mode: 0o2770, ..meta.clone() }, b"")
        .entry("bin/su", Entry::File { size: 2 }, &meta, b"su")
        .entry(&long, Entry::File { size: 0 }, &owned(0), b"")
        .entry("holes", sparse, &owned(0o600), b"onetwo!")
        .entry("dev/sda", device, &owned(0o660), b"")
        .entry("pipe", Entry::Fifo, &owned(0o622), b"")
        .link("bin/also", "bin/su")
        .symlink("link", &"t".repeat(300))
        .end();
    for owners in [Owners::Real, Owners::Ours] {
        let place = Place::new();
        let tree = place.unpack_as(&bytes, owners).expect("a good layer").tree;
        let (fs, stat) =
            (place.fs(), |name: &str| std::fs::symlink_metadata(place.fs().join(name)).expect(name));
        let real = owners == Owners::Real;
        let root = stat("");
        assert_eq!((root.mode() & 0o7777, root.mtime(), root.mtime_nsec()), (0o700, -5, 250_000_000));
        assert_eq!(root.uid(), if real { 7 } else { 0 });
        let su = stat("bin/su");
        assert_eq!((su.mtime(), su.mtime_nsec(), su.nlink()), (-5, 250_000_000, 2));
        assert_eq!(
            (stat("bin").mtime(), stat("link").mtime(), stat("pipe").mtime()),
            (-5, 1_700_000_000, 1_700_000_000)
        );
        let expected = if real { (0o4755, 1000, 2_000_000) } else { (0o755, 0, 0) };
        assert_eq!((su.mode() & 0o7777, su.uid(), su.gid()), expected);
        assert_eq!(stat("bin").mode() & 0o7777, if real { 0o2770 } else { 0o770 });
        assert_eq!(stat(&long).mode() & 0o7777, if real { 0 } else { 0o600 });
        let mut value = [0; 20];
        let length = rustix::fs::getxattr(fs.join("bin/su"), "user.team", &mut value[..]).expect("kept");
        assert_eq!(&value[..length], b"car\0go\n");
        let holes = std::fs::read(fs.join("holes")).expect("read");
        assert_eq!(
            (holes.len(), &holes[4096..4100], &holes[1 << 20..(1 << 20) + 3]),
            (3 << 20, &b"onet"[..], &b"wo!"[..])
        );
        assert!(stat("holes").blocks() < 100, "holes stay holes");
        assert!(!fs.join("dev/sda").exists(), "a device is a record");
        let device = tree.child(ROOT, b"dev").and_then(|dev| tree.child(dev, b"sda")).expect("recorded");
        let recorded = Kind::Device(Device { class: DeviceClass::Block, major: 8, minor: 1 });
        assert_eq!(tree.inode(device).kind, recorded);
        assert_eq!(tree.inode(tree.child(ROOT, b"bin").expect("there")).meta.gid, 2_000_000);
        let usage = tree.usage();
        assert_eq!((usage.bytes, usage.inodes), (2 + 7, 9), "{usage:?}");
    }
}

#[test]
fn whiteouts_hide_what_is_below_in_any_order() {
    let orders = [
        layer()
            .dir("a")
            .file("a/b", "x")
            .file("a/.wh..wh..opq", "")
            .file(".wh.gone", "")
            .file(".wh.new", "")
            .file("new", "y")
            .dir("old")
            .file("old/z", "z")
            .file(".wh.old", "")
            .file("under/.wh.x", "")
            .file(".wh.deep", "")
            .file("deep/er", ""),
        layer()
            .file(".wh.old", "")
            .dir("old")
            .file("old/z", "z")
            .file("new", "y")
            .file(".wh.new", "")
            .file(".wh.gone", "")
            .file("a/.wh..wh..opq", "")
            .dir("a")
            .file("a/b", "x")
            .file("under/.wh.x", "")
            .file("deep/er", "")
            .file(".wh.deep", ""),
    ];
    for order in orders {
        let found = unpacked(order.end());
        let expected = [
            "a dir 755 0:0 opaque",
            "a/b file 644 0:0 1",
            "deep dir 755 0:0 opaque",
            "deep/er file 644 0:0 0",
            "gone whiteout",
            "new file 644 0:0 1",
            "old dir 755 0:0 opaque",
            "old/z file 644 0:0 1",
            "under dir 755 0:0",
            "under/x whiteout",
        ];
        assert_eq!(found, expected);
    }
}

#[test]
fn what_comes_later_in_a_layer_takes_the_place_of_what_was_there() {
    let found = unpacked(
        layer()
            .dir("a")
            .file("a/b", "gone")
            .file("a", "a file now")
            .file("c", "one")
            .dir("c")
            .file("c/d", "two")
            .dir("e")
            .file("e/stays", "")
            .entry("e", Entry::Directory, &owned(0o700), b"")
            .file("f", "1")
            .link("g", "f")
            .file("f", "22")
            .symlink("h", "f")
            .file("h", "333")
            .end(),
    );
    let expected = [
        "a file 644 0:0 10",
        "c dir 755 0:0 opaque",
        "c/d file 644 0:0 3",
        "e dir 700 0:0",
        "e/stays file 644 0:0 0",
        "f file 644 0:0 2",
        "g file 644 0:0 1",
        "h file 644 0:0 3",
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_digest_of_a_layer_is_of_all_its_bytes() {
    use crate::oci::{Algorithm, Digest};
    let mut bytes = layer().file("a", "b").end();
    bytes.extend([0; 5000]);
    bytes.extend(b"behind the end");
    let unpacked = Place::new().unpack_as(&bytes, Owners::Real).expect("a good layer");
    assert_eq!(unpacked.measured.diff_id, Digest::of(Algorithm::Sha256, &bytes));
    assert_eq!(unpacked.measured.size_bytes, bytes.len() as u64);
    // Without its end as well, and with nothing in it.
    let bare = layer().file("a", "b").0;
    assert_eq!(Place::new().unpack_as(&bare, Owners::Real).expect("good").measured.size_bytes, 1024);
    assert_eq!(unpacked_nothing(&[]), 0);
    assert_eq!(unpacked_nothing(&tar::END), 0);
}

fn unpacked_nothing(bytes: &[u8]) -> usize {
    Place::new().unpack_as(bytes, Owners::Real).expect("good").tree.walk().count()
}

#[test]
fn a_directory_that_nobody_may_read_is_filled_all_the_same() {
    let shut = owned(0);
    let found = unpacked(
        layer()
            .entry("a", Entry::Directory, &shut, b"")
            .entry("a/b", Entry::Directory, &shut, b"")
            .file("a/b/c", "x")
            .end(),
    );
    assert_eq!(found, ["a dir 0 0:0", "a/b dir 0 0:0", "a/b/c file 644 0:0 1"]);
}

/// An entry of few names and kinds, so that they meet.
fn any_entry() -> impl Strategy<Value = (String, u8, String)> {
    let name = prop::sample::select(vec!["a", "b", ".wh.a", ".wh.b", ".wh..wh..opq", "..", "."]);
    let path = prop::collection::vec(name.clone(), 1..4).prop_map(|parts| parts.join("/"));
    let target = prop::collection::vec(name, 1..3).prop_map(|parts| parts.join("/"));
    (path, 0u8..6, (any::<bool>(), target).prop_map(|(rooted, t)| if rooted { format!("/{t}") } else { t }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_a_layer_says_the_disk_is_as_the_tree_and_nothing_else_is_touched(entries in prop::collection::vec(any_entry(), 1..12)) {
        let built = entries.iter().fold(layer(), |layer, (path, kind, target)| match kind {
            0 | 1 => layer.file(path, target),
            2 => layer.dir(path),
            3 => layer.symlink(path, target),
            4 => layer.link(path, target),
            _ => layer.entry(path, Entry::Fifo, &owned(0o600), b""),
        });
        let bytes = built.end();
        for owners in [Owners::Real, Owners::Ours] {
            match Place::new().unpack_as(&bytes, owners) {
                Ok(_) | Err(Error::Unprocessable(_)) => {}
                Err(error) => prop_assert!(false, "{}", crate::error::with_causes(&error)),
            }
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..3000), at in 0usize..4000, with in any::<u8>()) {
        let _ = read_tree(&bytes[..]);
        let mut whole = layer().dir("a").file("a/b", "cargo").symlink("a/c", "b").link("d", "a/b").end();
        if let Some(byte) = whole.get_mut(at) {
            *byte = with;
        }
        let _ = Place::new().unpack_as(&whole, Owners::Real);
        bytes.extend(whole);
        let _ = read_tree(&bytes[..]);
    }
}
