//! The end-to-end tests: the built binary between the tools that people use it with.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use http::Method;
use serde_json::Value;

use support::app::sha256;
use support::command::{Background, run};
use support::docker_registry::{DockerRegistry, skopeo_copy};
use support::eventually::eventually;
use support::image::{Image, Kind};
use support::served::Served;
use support::slow_link::SlowLink;

const LIMIT: Duration = Duration::from_secs(120);

/// An image of Debian packages: four layers, 50 MiB.
fn base_image() -> String {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/images/base");
    assert!(image.join("index.json").exists(), "no image to pull: run `make images` as root first");
    format!("oci:{}:v1", image.display())
}

fn orlop(served: &Served, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orlop"));
    command.env_clear().env("ORLOP_SERVER", format!("http://{}", served.address)).args(arguments);
    command
}

/// Every blob file, held against its name; their number and bytes.
fn check_blobs(data: &Path) -> (usize, u64) {
    let (mut count, mut size) = (0, 0);
    for entry in fs::read_dir(data.join("blobs/sha256")).expect("the blobs") {
        let path = entry.expect("an entry").path();
        let bytes = fs::read(&path).expect("a blob can be read");
        let name = path.file_name().expect("a name").to_str().expect("text");
        assert_eq!(sha256(&bytes), format!("sha256:{name}"));
        count += 1;
        size += bytes.len() as u64;
    }
    (count, size)
}

async fn only_pull(served: &Served) -> Value {
    let pulls = served.request(Method::GET, "/api/v1/pulls").await.expect(200).json();
    assert_eq!(pulls["items"].as_array().map(Vec::len), Some(1), "{pulls}");
    pulls["items"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_image_is_pulled_killed_resumed_and_read_by_other_tools() {
    const SPEED: u64 = 12 << 20;
    const KILLED_AFTER: u64 = 16 << 20;
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let registry = DockerRegistry::start();
    skopeo_copy(&base_image(), &format!("docker://{}/cargo/base:v1", registry.host()));
    let link = SlowLink::to(registry.host().parse().expect("an address"), SPEED).await;
    let reference = format!("{}/cargo/base:v1", link.address);

    let served = Served::start(&data, &[]);
    let mut pulling = orlop(&served, &["pull", &reference]);
    let pulling = Background(
        pulling.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("orlop"),
    );
    eventually("the download is in its middle", async || (link.carried() > KILLED_AFTER).then_some(())).await;
    served.kill_now();
    drop((pulling, served));
    let before = link.carried();

    link.be_fast();
    let served = Served::start(&data, &[]);
    let id = only_pull(&served).await["id"].as_str().expect("an id").to_owned();
    let done = eventually("the pull ends by itself", async || {
        let job =
            served.request(Method::GET, format!("/api/v1/pulls/{id}?wait=20s")).await.expect(200).json();
        assert!(!matches!(job["state"].as_str(), Some("failed" | "cancelled")), "{job}");
        (job["state"] == "succeeded").then_some(job)
    })
    .await;
    let (count, size) = check_blobs(&data);
    assert!(count >= 6, "a manifest, a config and four layers: {count}");
    let again = link.carried() - before;
    // What was on its way at the kill may be lost; what had arrived may not be fetched twice.
    assert!(again < size - KILLED_AFTER / 2, "{again} of {size} bytes were fetched again after {before}");
    assert_eq!(done["progress"]["bytes_done"], done["progress"]["bytes_total"], "{done}");

    run(&mut orlop(&served, &["pull", &reference]), LIMIT).expect_success();
    assert_eq!(check_blobs(&data).0, count, "pulled again, nothing new");
    reads_ranges_with_curl(&served, &data);
    assert!(served.terminate().success(), "a stop by SIGTERM is clean");

    let copy = directory.path().join("copy");
    skopeo_copy(&format!("oci:{}:{reference}", data.display()), &format!("dir:{}", copy.display()));
    let manifest = fs::read(copy.join("manifest.json")).expect("skopeo copied the manifest");
    let expected =
        run(Command::new("skopeo").args(["inspect", "--raw", &base_image()]), LIMIT).expect_success();
    assert_eq!(String::from_utf8_lossy(&manifest), expected, "the image that went in came out");
}

/// The first, some and the last bytes of the largest blob, as `curl -r` gets them.
fn reads_ranges_with_curl(served: &Served, data: &Path) {
    let blobs = fs::read_dir(data.join("blobs/sha256"))
        .expect("the blobs")
        .map(|entry| entry.expect("an entry").path());
    let largest =
        blobs.max_by_key(|path| path.metadata().map_or(0, |metadata| metadata.len())).expect("a blob");
    let bytes = fs::read(&largest).expect("a blob can be read");
    let digest = format!("sha256:{}", largest.file_name().expect("a name").to_string_lossy());
    let url = format!("http://{}/api/v1/content/{digest}/data", served.address);
    let into = data.with_extension("range");
    for (range, wanted) in [
        ("0-99", &bytes[..100]),
        ("1000000-1999999", &bytes[1_000_000..2_000_000]),
        ("-5", &bytes[bytes.len() - 5..]),
    ] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "-r", range, "-o"])
            .arg(&into)
            .arg(&url);
        run(&mut curl, LIMIT).expect_success();
        assert!(fs::read(&into).expect("curl wrote it") == wanted, "{range}");
    }
}

/// The image of this name, as the API has it.
async fn image_named(served: &Served, name: &str) -> Value {
    let found = served.request(Method::GET, format!("/api/v1/images?name={name}")).await.expect(200).json();
    found["items"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_other_tools_wrote_is_imported() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let served = Served::start(&directory.path().join("data"), &[]);
    let whole = Image::multi_platform(Kind::Oci, &["linux/amd64", "linux/arm64/v8"]).await;
    let source = whole.write_dir(&directory.path().join("whole"));
    skopeo_copy(&source, &format!("oci-archive:{}:v1", at("oci.tar")));
    let told = run(&mut orlop(&served, &["image", "import", &at("oci.tar")]), LIMIT).expect_success();
    assert_eq!(told, format!("v1 {}\n", whole.top().digest));
    run(&mut orlop(&served, &["image", "check", "v1"]), LIMIT).expect_success();

    let one = Image::multi_platform(Kind::Docker, &["linux/amd64"]).await;
    let one = Image { blobs: one.blobs[..4].to_vec() };
    let source = one.write_dir(&directory.path().join("one"));
    skopeo_copy_one(&source, &format!("docker-archive:{}:example.com/cargo:1", at("docker.tar")));
    run(Command::new("gzip").arg(at("docker.tar")), LIMIT).expect_success();
    run(&mut orlop(&served, &["image", "import", &at("docker.tar.gz")]), LIMIT).expect_success();
    let image = image_named(&served, "example.com/cargo:1").await;
    let id = image["id"].as_str().expect("an id");
    let manifest =
        served.request(Method::GET, format!("/api/v1/images/{id}/history")).await.expect(200).json();
    assert_eq!(manifest["findings"], serde_json::json!([]));
    for step in manifest["steps"].as_array().expect("steps") {
        assert_eq!(step["layer"]["digest"], step["diff_id"], "skopeo writes layers that are not packed");
    }
    assert_eq!(manifest["config"]["digest"], one.blobs[2].digest, "the config is as it was");
    assert!(served.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_is_read_by_other_tools_and_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let served = Served::start(&directory.path().join("data"), &[]);
    let whole = Image::multi_platform(Kind::Oci, &["linux/amd64", "linux/arm64/v8"]).await;
    skopeo_copy(
        &whole.write_dir(&directory.path().join("whole")),
        &format!("oci-archive:{}:v1", at("in.tar")),
    );
    run(&mut orlop(&served, &["image", "import", &at("in.tar"), "--name", "cargo:v1"]), LIMIT)
        .expect_success();
    run(&mut orlop(&served, &["image", "export", "cargo:v1", "-o", &at("out.tar")]), LIMIT).expect_success();
    let one = ["image", "export", "cargo:v1", "--platform", "linux/amd64", "-o", &at("one.tar")];
    run(&mut orlop(&served, &one), LIMIT).expect_success();

    let listed = run(Command::new("tar").args(["tf", &at("out.tar")]), LIMIT).expect_success();
    assert!(listed.starts_with("oci-layout\nindex.json\nblobs/\nblobs/sha256/\n"), "{listed}");
    assert_eq!(listed.lines().count(), 4 + whole.blobs.len());
    skopeo_copy(&format!("oci-archive:{}", at("out.tar")), &format!("dir:{}", at("back")));
    let back = fs::read(directory.path().join("back/manifest.json")).expect("skopeo wrote it");
    assert_eq!(sha256(&back), whole.top().digest);
    for form in ["oci-archive", "docker-archive"] {
        skopeo_copy_one(&format!("{form}:{}", at("one.tar")), &format!("dir:{}", at(form)));
        let config = whole.blobs[2].digest.replace("sha256:", "");
        assert!(directory.path().join(form).join(config).exists(), "{form}: the config is as it was");
    }

    fs::create_dir(directory.path().join("layout")).expect("a directory");
    run(Command::new("tar").args(["xf", &at("one.tar"), "-C", &at("layout")]), LIMIT).expect_success();
    let mut umoci = Command::new("umoci");
    umoci.args(["unpack", "--rootless", "--image", &format!("{}:cargo:v1", at("layout")), &at("bundle")]);
    run(&mut umoci, LIMIT).expect_success();
    let unpacked = fs::read(directory.path().join("bundle/rootfs/platform")).expect("a file of the image");
    assert_eq!(unpacked, b"linux/amd64");

    let again = Served::start(&directory.path().join("again"), &[]);
    run(&mut orlop(&again, &["image", "import", &at("out.tar")]), LIMIT).expect_success();
    assert_eq!(
        image_named(&again, "cargo:v1").await["target"],
        image_named(&served, "cargo:v1").await["target"]
    );
    run(&mut orlop(&again, &["image", "export", "cargo:v1", "-o", &at("again.tar")]), LIMIT).expect_success();
    let [first, second] =
        ["out.tar", "again.tar"].map(|name| fs::read(directory.path().join(name)).expect("an archive"));
    assert!(first == second, "the same bytes");
    assert!(served.terminate().success() && again.terminate().success());
}

/// As [`skopeo_copy`], of the one image that suits this machine.
#[track_caller]
fn skopeo_copy_one(source: &str, destination: &str) {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet", source, destination]);
    run(&mut command, LIMIT).expect_success();
}

/// A page as a browser has it once its module has run and nothing more comes.
fn browse(served: &Served, path: &str) -> String {
    let profile = tempfile::tempdir().expect("a directory for the browser");
    let mut chromium = Command::new("chromium");
    // Without a sandbox it also runs as root; with time of its own it waits for no clock.
    chromium
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{}{path}", served.address));
    run(&mut chromium, LIMIT).expect_success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_runs_the_modules_of_the_pages() {
    let directory = tempfile::tempdir().expect("a directory");
    let served = Served::start(&directory.path().join("data"), &[]);
    let asked = serde_json::json!({"ref": "127.0.0.1:1/cargo/rope:v1"});
    let pull = served.request(Method::POST, "/api/v1/pulls").json(asked).await.expect(202).json();
    let id = pull["id"].as_str().expect("an id");
    served.request(Method::GET, format!("/api/v1/pulls/{id}?wait=60s")).await.expect(200);

    let front = browse(&served, "/");
    assert!(front.contains("data-live=\"on\"") && !front.contains("<fieldset disabled"), "{front}");
    assert!(front.contains(&format!("href=\"/pulls/{id}?namespace=default\"")), "{front}");
    let page = browse(&served, &format!("/pulls/{id}"));
    assert!(page.contains("<span data-k=\"word\">Ended</span>"), "{page}");
    assert!(page.contains("data-do=\"retry\">Retry</button>"), "its button can be used: {page}");
}
