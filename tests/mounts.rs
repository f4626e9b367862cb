//! Snapshots mounted by this machine's kernel, and taken apart by other programs: the same file system each time. Only root
//! can mount; where that is forbidden these tests fail and say so, for a promise that was not looked at is not kept.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use orlop::oci::tar::Entry;
use orlop::oci::tree::{Device, DeviceClass};
use serde_json::{Value, json};

use crate::support::app::{On, TestApp, sha256};
use crate::support::command::run;
use crate::support::docker_registry::{DockerRegistry, skopeo_copy};
use crate::support::eventually::eventually;
use crate::support::pulling::pulled;
use crate::support::unpacking::{Tar, pushed};

const LIMIT: Duration = Duration::from_secs(120);

/// A mounted snapshot, until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// Mounts a snapshot as the server says.
    async fn at(app: &TestApp, key: &str, place: &Path) -> Mounted {
        let script = app.get(format!("/api/v1/snapshots/{key}/mounts?format=sh")).await.expect(200).text();
        fs::create_dir_all(place).expect("a place");
        run(Command::new("sh").args(["-ec", &script, "mount"]).arg(place), LIMIT).expect_success();
        Mounted(place.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Every name below a directory, and what is there of it.
fn look_at(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("listed") {
            let path = entry.expect("an entry").path();
            let meta = fs::symlink_metadata(&path).expect("there");
            let kind = meta.file_type();
            let held = if kind.is_dir() {
                open.push(path.clone());
                "directory".to_owned()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).expect("a link").display())
            } else if kind.is_file() {
                format!("{} x{}", sha256(&fs::read(&path).expect("read")), meta.nlink())
            } else if kind.is_fifo() {
                "fifo".to_owned()
            } else {
                format!("device {}", meta.rdev())
            };
            let xattrs = if kind.is_symlink() { String::new() } else { xattrs_of(&path) };
            let times = format!("{}.{}", meta.mtime(), meta.mtime_nsec());
            let what = format!("{:o} {}:{} {times} {held} {xattrs}", meta.mode(), meta.uid(), meta.gid());
            found.insert(path.strip_prefix(root).expect("below").display().to_string(), what);
        }
    }
    found
}

fn xattrs_of(path: &Path) -> String {
    let (mut names, mut value) = (vec![0; 4096], vec![0; 65_536]);
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut shown = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("an attribute");
        shown.push(format!("{}={:?}", String::from_utf8_lossy(name), &value[..length]));
    }
    shown.sort();
    shown.join(",")
}

/// What differs between two trees, as far as a person can take it in.
#[track_caller]
fn assert_same(left: &BTreeMap<String, String>, right: &BTreeMap<String, String>, what: &str) {
    let names = left.keys().chain(right.keys());
    let differs = names.filter(|name| left.get(*name) != right.get(*name));
    let differs: Vec<_> = differs
        .map(|name| format!("{name}: {:?} | {:?}", left.get(name), right.get(name)))
        .take(10)
        .collect();
    assert!(differs.is_empty(), "{what}:\n{}", differs.join("\n"));
    assert!(!left.is_empty(), "{what}: there is something to compare");
}

/// The archive of a snapshot, taken apart by GNU tar.
async fn untarred(app: &TestApp, key: &str, place: &Path) -> BTreeMap<String, String> {
    let archive = app.get(format!("/api/v1/snapshots/{key}/archive")).await.expect(200);
    fs::create_dir_all(place).expect("a place");
    fs::write(place.with_extension("tar"), &archive.body).expect("written");
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"]).arg(place.with_extension("tar"));
    run(tar.arg("-C").arg(place), LIMIT).expect_success();
    look_at(place)
}

async fn prepare(app: &TestApp, key: &str, parent: Option<&str>, kind: &str) {
    let mut body = json!({"key": key, "kind": kind});
    if let Some(parent) = parent {
        body["parent"] = parent.into();
    }
    app.post("/api/v1/snapshots").json(body).await.expect(201);
}

/// The layout of an image that is made of Debian's packages.
fn base_image() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/images/base")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_image_is_mounted_archived_and_run_as_others_unpack_it() {
    let app = TestApp::with(On::Sqlite, &[]).await;
    let place = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start();
    let name = format!("{}/base:v1", registry.host());
    skopeo_copy(&format!("oci:{}:v1", base_image().display()), &format!("docker://{name}"));
    let pull = pulled(&app, json!({"ref": name, "unpack": true})).await;
    let key = pull["snapshots"][0]["key"].as_str().expect("a snapshot").to_owned();
    prepare(&app, "look", Some(&key), "view").await;

    let umoci = place.path().join("umoci");
    let image = format!("{}:v1", base_image().display());
    run(Command::new("umoci").args(["unpack", "--image", &image]).arg(&umoci), LIMIT).expect_success();
    let theirs = look_at(&umoci.join("rootfs"));
    let archived = untarred(&app, &key, &place.path().join("archive")).await;
    assert_same(&archived, &theirs, "GNU tar of our archive, and umoci");

    let mounted = Mounted::at(&app, "look", &place.path().join("mnt")).await;
    // Devices are records, and not made.
    let without_devices: BTreeMap<_, _> =
        theirs.into_iter().filter(|(_, what)| !what.contains(" device ")).collect();
    assert_same(&look_at(&mounted.0), &without_devices, "our mount, and umoci");
    let refused = fs::write(mounted.0.join("etc/hostname"), "mine");
    assert!(refused.is_err(), "a view is only looked at");
    let script = ". /etc/os-release && echo $ID";
    for root in [&mounted.0, &place.path().join("archive")] {
        let said = run(Command::new("chroot").arg(root).args(["/bin/sh", "-c", script]), LIMIT);
        assert_eq!(said.expect_success().trim(), "debian");
    }
    drop(mounted);
    let id = pull["image_id"].as_str().expect("an id");
    let path = format!("/api/v1/images/{id}/files/data?path=/etc/os-release");
    // Large layers take a while when they are read for the first time.
    let read = async || Some(app.get(&path).await).filter(|answer| answer.status != 202);
    let told = eventually("the layers are read", read).await;
    assert!(told.expect(200).text().contains("ID=debian"));
    app.stop().await;
}

/// What is done to a file system, layer by layer: the cases of containerd's suite that need a mount.
const STEPS: [&str; 12] = [
    "mkdir -p a/b etc dir; echo one > a/b/file; echo x > etc/motd; echo gone > a/gone; ln -s a/b link; chmod 750 a",
    "echo two > a/b/file; rm a/gone; mkdir c; echo new > c/new",
    "rm -r a; mkdir a; echo fresh > a/fresh",
    "chown 7:8 etc/motd; chown -R 9:9 c; chmod 4711 etc/motd",
    "mv c/new c/renamed; ln c/renamed etc/hard",
    "rm link; mkdir link; echo in > link/in; rm -rf dir; ln -s etc dir",
    "rm -r link; echo file > link",
    "mkdir -p deep/er/est; touch -d @1000000000 deep/er/est/file; truncate -s 5M deep/hole; echo end >> deep/hole",
    "echo again > a/gone; mkfifo pipe; rm -r c; mkdir -m 700 c; chown 3:4 c",
    "rm dir; mkdir dir; echo back > dir/back; echo more >> a/fresh",
    "rm -r deep/er; mkdir deep/er; echo short > deep/er/x",
    "mv a/fresh a/stale; cp -a etc/motd a/copy; rm pipe",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_through_mounts_is_what_every_view_of_it_shows() {
    let app = TestApp::with(On::Sqlite, &[]).await;
    let place = tempfile::tempdir().expect("a directory");
    let flat = place.path().join("flat");
    fs::create_dir(&flat).expect("a directory");
    let do_in = |directory: &Path, step: &str| {
        run(Command::new("sh").args(["-ec", &format!("umask 022; {step}")]).current_dir(directory), LIMIT)
            .expect_success();
    };
    // An overlay mount counts the names that a file had in its own layer, also those that are gone.
    let uncounted = |tree: BTreeMap<String, String>| -> BTreeMap<String, String> {
        let counts = |word: &&str| word.strip_prefix('x').is_none_or(|count| count.parse::<u32>().is_err());
        let without = |what: String| what.split(' ').filter(counts).collect::<Vec<_>>().join(" ");
        tree.into_iter().map(|(name, what)| (name, without(what))).collect()
    };
    // Times differ between two runs of a command; all else may not.
    let timeless = |tree: BTreeMap<String, String>| -> BTreeMap<String, String> {
        let without = |what: String| {
            let mut words: Vec<&str> = what.split(' ').collect();
            words.remove(2);
            words.join(" ")
        };
        tree.into_iter().map(|(name, what)| (name, without(what))).collect()
    };
    let mut parent: Option<String> = None;
    for (number, step) in STEPS.iter().enumerate() {
        prepare(&app, "work", parent.as_deref(), "active").await;
        let mounted = Mounted::at(&app, "work", &place.path().join("mnt")).await;
        do_in(&mounted.0, step);
        drop(mounted);
        do_in(&flat, step);
        let name = format!("layer-{number}");
        app.post("/api/v1/snapshots/work/commit").json(json!({"name": name})).await.expect(201);
        let archived = untarred(&app, &name, &place.path().join(format!("archive-{number}"))).await;
        assert_same(&timeless(archived.clone()), &timeless(look_at(&flat)), &format!("after `{step}`"));
        // The layer that it is makes the same of what was the same before.
        let layer = app.post("/api/v1/diffs").json(json!({"upper": name})).await.expect(201).json();
        let below = parent.map(|parent| format!("copy-of-{parent}"));
        prepare(&app, "copy", below.as_deref(), "active").await;
        let apply = json!({"digest": layer["digest"], "snapshot": "copy"});
        app.post("/api/v1/diffs/apply").json(apply).await.expect(200);
        let copy = format!("copy-of-{name}");
        app.post("/api/v1/snapshots/copy/commit").json(json!({"name": copy})).await.expect(201);
        let copied = untarred(&app, &copy, &place.path().join(format!("copy-{number}"))).await;
        assert_same(&copied, &archived, &format!("the layer of `{step}`"));
        parent = Some(name);
    }
    let top = parent.expect("layers");
    prepare(&app, "look", Some(&top), "view").await;
    let mounted = Mounted::at(&app, "look", &place.path().join("mnt")).await;
    let shown = uncounted(look_at(&mounted.0));
    assert_same(&timeless(shown.clone()), &timeless(uncounted(look_at(&flat))), "the mount of all layers");
    let archived = uncounted(untarred(&app, &top, &place.path().join("archive-top")).await);
    assert_same(&archived, &shown, "the archive and the mount, times and all");
    drop(mounted);
    // What the list says is what is there, and nothing that is deleted.
    let list = app.get(format!("/api/v1/snapshots/{top}/files?recursive=true&limit=1000")).await.expect(200);
    let list = list.json();
    let listed: Vec<&str> = list["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|entry| entry["deleted"] == Value::Bool(false))
        .map(|entry| entry["path"].as_str().expect("a path"))
        .collect();
    let mut listed_by_bytes = listed.clone();
    listed_by_bytes.sort_unstable();
    assert_eq!(listed_by_bytes, shown.keys().map(String::as_str).collect::<Vec<_>>());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_layers_as_an_image_may_well_have_are_mounted() {
    let app = TestApp::with(On::Sqlite, &[]).await;
    let place = tempfile::tempdir().expect("a directory");
    let mut parent: Option<String> = None;
    for number in 0..128 {
        prepare(&app, "work", parent.as_deref(), "active").await;
        let mounts = app.get("/api/v1/snapshots/work/mounts").await.expect(200).json();
        let mount = &mounts["items"][0];
        let upper = mount["options"].as_array().expect("options").iter().filter_map(Value::as_str);
        let upper = upper.filter_map(|option| option.strip_prefix("upperdir=")).next();
        let fs = PathBuf::from(upper.unwrap_or_else(|| mount["source"].as_str().expect("a source")));
        fs::write(fs.join(number.to_string()), number.to_string()).expect("written");
        fs::write(fs.join("last"), number.to_string()).expect("written");
        let name = format!("layer-{number}");
        app.post("/api/v1/snapshots/work/commit").json(json!({"name": name})).await.expect(201);
        parent = Some(name);
    }
    let top = parent.expect("layers");
    prepare(&app, "look", Some(&top), "view").await;
    let mounted = Mounted::at(&app, "look", &place.path().join("mnt")).await;
    let shown = look_at(&mounted.0);
    assert_eq!(
        (shown.len(), fs::read_to_string(mounted.0.join("last")).expect("read")),
        (129, "127".to_owned())
    );
    assert_same(&untarred(&app, &top, &place.path().join("archive")).await, &shown, "archive and mount");
    drop(mounted);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_are_made_where_that_is_set() {
    for (setting, is_made) in [("record", false), ("make", true)] {
        let app = TestApp::with(On::Sqlite, &[("devices", setting)]).await;
        let null = Device { class: DeviceClass::Character, major: 1, minor: 3 };
        let image = pushed(&[Tar::default().entry("dev/null", Entry::Device(null), 0o666, b"").end()]).await;
        let asked = json!({"ref": image.reference, "unpack": true, "platforms": ["linux/amd64"]});
        pulled(&app, asked).await;
        prepare(&app, "look", Some(&image.chain[0]), "view").await;
        let place = tempfile::tempdir().expect("a directory");
        let mounted = Mounted::at(&app, "look", &place.path().join("mnt")).await;
        let device = fs::symlink_metadata(mounted.0.join("dev/null")).ok();
        let expected = is_made.then_some((0o666, 0x103));
        assert_eq!(device.map(|device| (device.mode() & 0o7777, device.rdev())), expected);
        drop(mounted);
        // Either way it is known.
        let listed = app.get("/api/v1/snapshots/look/files?path=dev/null").await.expect(200).json();
        assert_eq!(listed["items"][0]["device"], json!({"major": 1, "minor": 3}));
        app.stop().await;
    }
}
