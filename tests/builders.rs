//! Images of the other programs that build them, in every compression that they write: pulled from a real registry,
//! exported, and read by those programs again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::command::run;
use crate::support::docker_registry::{DockerRegistry, skopeo_copy};
use crate::support::served::Served;

const LIMIT: Duration = Duration::from_secs(120);

/// buildah and podman over a storage of their own, and umoci over layouts.
struct Builders {
    directory: tempfile::TempDir,
}

impl Builders {
    fn new() -> Builders {
        Builders { directory: tempfile::tempdir().expect("a directory") }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// One of the two that share a storage. Neither mounts nor runs anything, so that they need no more than root's
    /// right to write files of every owner.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.env("HOME", self.directory.path()).env("BUILDAH_ISOLATION", "chroot");
        command.args(["--storage-driver", "vfs", "--root"]).arg(self.at("storage"));
        command.arg("--runroot").arg(self.at("run"));
        if program == "podman" {
            command.arg("--tmpdir").arg(self.at("tmp"));
        }
        command.args(arguments);
        command
    }

    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let printed = run(&mut self.command(program, arguments), LIMIT).expect_success();
        printed.trim().to_owned()
    }

    /// A container with one file, which says what is given here.
    fn build(&self, text: &str) -> String {
        let tree = self.at(&format!("tree-{text}"));
        fs::create_dir(&tree).expect("a directory");
        fs::write(tree.join("cargo"), text).expect("a file");
        let container = self.run("buildah", &["from", "scratch"]);
        self.run("buildah", &["copy", "--quiet", &container, &tree.display().to_string(), "/"]);
        container
    }

    /// Builds an image, and pushes it with its layers in this compression.
    fn push(&self, text: &str, compression: Option<&str>, name: &str) {
        let container = self.build(text);
        let Some(compression) = compression else {
            let layout = format!("oci:{}:v1", self.at(text).display());
            self.run("buildah", &["commit", "--quiet", "--disable-compression", &container, &layout]);
            let mut skopeo = Command::new("skopeo");
            skopeo.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests"]);
            skopeo.args(["--dest-tls-verify=false", &layout, &format!("docker://{name}")]);
            run(&mut skopeo, LIMIT).expect_success();
            return;
        };
        let image = format!("example.com/{text}:v1");
        self.run("buildah", &["commit", "--quiet", &container, &image]);
        let to = format!("docker://{name}");
        let pushed = ["--quiet", "--tls-verify=false", "--compression-format", compression, &image, &to];
        self.run("podman", &[&["push"], &pushed[..]].concat());
    }

    /// An image of umoci with a second layer that deletes a file of the first.
    fn push_by_umoci(&self, name: &str) {
        let layout = self.at("umoci").display().to_string();
        let image = format!("{layout}:v1");
        let file = self.at("file");
        fs::write(&file, "umoci").expect("a file");
        let umoci = |arguments: &[&str]| run(Command::new("umoci").args(arguments), LIMIT).expect_success();
        umoci(&["init", "--layout", &layout]);
        umoci(&["new", "--image", &image]);
        let insert = |path: &str| umoci(&["insert", "--image", &image, &file.display().to_string(), path]);
        insert("/cargo");
        insert("/ballast");
        umoci(&["insert", "--image", &image, "--whiteout", "/ballast"]);
        skopeo_copy(&format!("oci:{image}"), &format!("docker://{name}"));
    }

    /// What the file says in an image of an archive, read by podman and buildah.
    fn read(&self, archive: &Path) -> String {
        let loaded = self.run("podman", &["load", "--quiet", "--input", &archive.display().to_string()]);
        let (_, image) = loaded.split_once(": ").expect("podman says what it loaded");
        let container = self.run("buildah", &["from", "--pull-never", image]);
        let root = PathBuf::from(self.run("buildah", &["mount", &container]));
        assert!(!root.join("ballast").exists(), "it was deleted by a later layer");
        fs::read_to_string(root.join("cargo")).expect("the file of the image")
    }
}

async fn pull(served: &Served, reference: &str) -> Value {
    let asked = json!({"ref": reference, "platforms": ["linux/amd64"]});
    let made = served.request(Method::POST, "/api/v1/pulls").json(asked).await.expect(202);
    let ended = served.request(Method::GET, format!("{}?wait=60s", made.place())).await.expect(200).json();
    assert_eq!(ended["state"], "succeeded", "{ended}");
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_of_every_builder_and_compression_are_pulled_and_go_back_to_podman() {
    let (registry, builders) = (DockerRegistry::start(), Builders::new());
    let served = Served::start(&builders.at("data"), &[]);
    let layer = "application/vnd.oci.image.layer.v1.tar";
    for (text, compression, media_type) in [
        ("plain", None, layer.to_owned()),
        ("gzip", Some("gzip"), format!("{layer}+gzip")),
        ("zstd", Some("zstd"), format!("{layer}+zstd")),
        ("chunked", Some("zstd:chunked"), format!("{layer}+zstd")),
        ("umoci", Some("umoci"), format!("{layer}+gzip")),
    ] {
        let name = format!("{}/{text}:v1", registry.host());
        match text {
            "umoci" => builders.push_by_umoci(&name),
            _ => builders.push(text, compression, &name),
        }
        let pulled = pull(&served, &name).await;
        let layers: Vec<_> = pulled["blobs"]
            .as_array()
            .expect("blobs")
            .iter()
            .filter(|blob| blob["role"] == "layer")
            .collect();
        assert_eq!(layers.len(), if text == "umoci" { 3 } else { 1 });
        assert!(layers.iter().all(|layer| layer["media_type"] == *media_type), "{text}: {layers:?}");

        let found = served.request(Method::GET, format!("/api/v1/images?name={name}")).await.expect(200);
        let image = format!("/api/v1/images/{}", found.json()["items"][0]["id"].as_str().expect("an id"));
        let history = served.request(Method::GET, format!("{image}/history")).await.expect(200).json();
        assert_eq!(history["findings"], json!([]), "{text}");
        if compression.is_none() {
            assert_eq!(layers[0]["digest"], history["steps"][0]["diff_id"], "{history}");
        }
        let archive = served.request(Method::GET, format!("{image}/archive")).await.expect(200);
        let file = builders.at(&format!("{text}.tar"));
        fs::write(&file, &archive.body).expect("the archive is written");
        assert_eq!(builders.read(&file), text);
    }
    assert!(served.terminate().success());
}
