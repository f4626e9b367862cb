//! A server that is not root unpacks what root unpacks: what it cannot give to files it knows of them, and tells the same.

use http::Method;
use orlop::oci::tar::Entry;
use orlop::oci::tree::{Device, DeviceClass};
use serde_json::{Value, json};

use crate::support::served::Served;
use crate::support::unpacking::{Pushed, Tar, pushed};

/// What only root could keep: owners, modes that shut everybody out, setuid, devices, links and fifos of others.
fn layers() -> Vec<Vec<u8>> {
    let null = Device { class: DeviceClass::Character, major: 1, minor: 3 };
    let base = Tar::default()
        .dir("etc", 0o750)
        .owned("etc/shadow", Entry::File { size: 6 }, (0o000, 0, 42), b"secret")
        .owned("bin/su", Entry::File { size: 2 }, (0o4755, 0, 0), b"su")
        .owned("home/me", Entry::Directory, (0o2700, 1000, 1000), b"")
        .owned("home/me/link", Entry::Symlink(b"../../etc/shadow"), (0o777, 1000, 1000), b"")
        .owned("shut", Entry::Directory, (0o000, 7, 7), b"")
        .owned("shut/in", Entry::File { size: 1 }, (0o400, 7, 7), b"x")
        .owned("dev/null", Entry::Device(null), (0o666, 0, 0), b"")
        .owned("run/pipe", Entry::Fifo, (0o622, 5, 5), b"");
    let top = Tar::default()
        .file("etc/.wh.shadow", "")
        .file("home/me/.wh..wh..opq", "")
        .owned("home/me/new", Entry::File { size: 3 }, (0o600, 1000, 1000), b"new")
        .link("bin/also", "bin/su");
    vec![base.end(), top.end()]
}

struct Told {
    files: String,
    archive: Vec<u8>,
    mounts: Value,
    /// The digest of one layer of all of it, and what that makes where it is applied.
    layer: Value,
    again: Vec<u8>,
}

async fn told(server: &Served, image: &Pushed) -> Told {
    let asked = json!({"ref": image.reference, "unpack": true, "platforms": ["linux/amd64"]});
    let made = server.request(Method::POST, "/api/v1/pulls").json(asked).await.expect(202);
    let pull = server.request(Method::GET, format!("{}?wait=60s", made.place())).await.expect(200).json();
    assert_eq!(pull["state"], "succeeded", "{pull}");
    let key = image.chain.last().expect("a top");
    let get = |path: &str| server.request(Method::GET, format!("/api/v1/snapshots/{path}"));
    let files = get(&format!("{key}/files?recursive=true")).header("accept", "application/x-ndjson").await;
    let archive = get(&format!("{key}/archive")).await.expect(200);
    let view = json!({"key": "look", "kind": "view", "parent": key});
    server.request(Method::POST, "/api/v1/snapshots").json(view).await.expect(201);
    let mounts = get("look/mounts").await.expect(200).json();
    let post = |path: &str| server.request(Method::POST, path);
    let plain = "application/vnd.oci.image.layer.v1.tar";
    let whole = json!({"upper": key, "whole": true, "media_type": plain});
    let layer = post("/api/v1/diffs").json(whole).await.expect(201).json()["digest"].clone();
    post("/api/v1/snapshots").json(json!({"key": "again"})).await.expect(201);
    let apply = json!({"digest": layer, "snapshot": "again"});
    post("/api/v1/diffs/apply").json(apply).await.expect(200);
    post("/api/v1/snapshots/again/commit").json(json!({"name": "again-done"})).await.expect(201);
    let again = get("again-done/archive").await.expect(200).body.to_vec();
    Told { files: files.expect(200).text(), archive: archive.body.to_vec(), mounts, layer, again }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_user_is_told_of_an_image_what_root_is_told() {
    let image = pushed(&layers()).await;
    let [roots, theirs] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let root = Served::start(&roots.path().join("data"), &[]);
    let nobody = Served::start_as_nobody(&theirs.path().join("data"), &[]);
    let (by_root, by_nobody) = (told(&root, &image).await, told(&nobody, &image).await);
    assert_eq!(by_nobody.files, by_root.files);
    assert!(by_root.files.contains("\"mode\":\"4755\"") && by_root.files.contains("\"uid\":1000"));
    assert!(by_nobody.archive == by_root.archive, "the archives are the same, byte for byte");
    assert_eq!(by_nobody.layer, by_root.layer);
    for told in [&by_nobody, &by_root] {
        assert!(told.again == told.archive, "applied, it is the same again");
    }
    let options = |told: &Told| told.mounts["items"][0]["options"].to_string();
    assert!(options(&by_nobody).contains("userxattr") && !options(&by_root).contains("userxattr"));
    // And it is still so for whoever starts again.
    assert!(nobody.terminate().success() && root.terminate().success());
    let nobody = Served::start_as_nobody(&theirs.path().join("data"), &[]);
    let key = image.chain.last().expect("a top");
    let path = format!("/api/v1/snapshots/{key}/archive");
    assert!(nobody.request(Method::GET, path).await.expect(200).body == by_root.archive);
    for (path, text) in [("bin/also", "su"), ("home/me/new", "new"), ("shut/in", "x")] {
        let data = format!("/api/v1/snapshots/{key}/files/data?path={path}");
        assert_eq!(nobody.request(Method::GET, data).await.expect(200).text(), text);
    }
    assert!(nobody.terminate().success());
}
