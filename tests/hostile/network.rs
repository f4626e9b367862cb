//! Networks that go: a real registry in a network namespace of its own, at the end of a link that is cut.
//!
//! Only root can make such a network; where that is forbidden the test fails and says so, for a promise that was not
//! tested is not kept.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use orlop::clock::Clock;
use orlop::db::Db;
use orlop::disk::Disk;
use orlop::jobs::{
    AddressPolicy, Created, HostsDirs, JobErrorCode, JobState, Jobs, Pull, PullRequest, Settings, Sources,
};
use orlop::shutdown::Shutdown;
use orlop::store::{Caller, Reach, Sharing, Store};
use serde_json::json;

use crate::support::command::run;
use crate::support::docker_registry::DockerRegistry;
use crate::support::eventually::eventually;
use crate::support::fixture_registry::{CONFIG, LAYER, MANIFEST, descriptor, sha256};
use crate::support::own_network::ip;
use crate::support::raw::noise;
use crate::support::served::Served;

const LIMIT: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;
/// Of the one layer: several parts.
const SIZE: usize = 24 * MIB;
/// So many bytes of it the link carries until it is cut.
const CUT_AT: u64 = 10 * MIB as u64;
/// What may come twice: the packets that were on their way at the cut.
const ON_THE_WAY: u64 = 2 * MIB as u64;

/// A registry with one image, behind a link that can be cut.
struct Island {
    registry: DockerRegistry,
    link: Link,
    layer: Bytes,
}

/// A pair of interfaces, the far one in a namespace of its own. Both go with the namespace.
struct Link {
    name: String,
    near: String,
    address: String,
}

impl Link {
    /// `n` tells apart the links of this process, and two processes at once are told apart by their ids.
    fn make(n: u8) -> Link {
        let id = std::process::id();
        let (name, near) = (format!("orlop-{id}-{n}"), format!("o{id}n{n}"));
        let far = format!("o{id}f{n}");
        let network = format!("10.{}.{}", 200 + id / 256 % 50, id % 256);
        let (here, there) = (format!("{network}.{}/30", 4 * n + 1), format!("{network}.{}/30", 4 * n + 2));
        ip(&["netns", "add", &name]);
        let link = Link { near, address: there.replace("/30", ""), name };
        ip(&["link", "add", &link.near, "type", "veth", "peer", "name", &far, "netns", &link.name]);
        ip(&["address", "add", &here, "dev", &link.near]);
        ip(&["link", "set", &link.near, "up"]);
        ip(&["-n", &link.name, "address", "add", &there, "dev", &far]);
        ip(&["-n", &link.name, "link", "set", &far, "up"]);
        ip(&["-n", &link.name, "link", "set", "lo", "up"]);
        link
    }

    /// From now on the far side's packets go by these rules of nftables, in place of earlier ones.
    fn set_rules(&self, output: &str, input: &str) {
        let table = format!(
            "add table inet link\ndelete table inet link\ntable inet link {{\n\
             chain output {{\ntype filter hook output priority 0; policy accept;\n{output}\n}}\n\
             chain input {{\ntype filter hook input priority 0; policy accept;\n{input}\n}}\n}}\n"
        );
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("rules");
        fs::write(&file, table).expect("the rules are written");
        let mut nft = Command::new("ip");
        nft.args(["netns", "exec", &self.name, "nft", "-f"]).arg(file);
        run(&mut nft, LIMIT).expect_success();
    }

    /// Nothing more comes once so many bytes have come, and nobody is told.
    fn cut_after(&self, bytes: u64) {
        self.set_rules(&format!("quota over {bytes} bytes drop"), "");
    }

    /// Who asks is answered that nobody listens.
    fn refuse(&self) {
        self.set_rules("", "meta l4proto tcp reject with tcp reset");
    }

    fn heal(&self) {
        self.set_rules("", "");
    }

    /// Bytes that came over it, with their packets' heads.
    fn carried(&self) -> u64 {
        let file = format!("/sys/class/net/{}/statistics/rx_bytes", self.near);
        fs::read_to_string(file).expect("the link's counter").trim().parse().expect("a number")
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The near end goes first: the namespace lives on for as long as a socket in it does.
        run(Command::new("ip").args(["link", "delete", &self.near]), LIMIT);
        run(Command::new("ip").args(["netns", "delete", &self.name]), LIMIT);
    }
}

impl Island {
    async fn make(n: u8) -> Island {
        let link = Link::make(n);
        let registry = DockerRegistry::start_in(&link.name, &link.address);
        let layer = noise(n.into(), SIZE);
        let config = json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [sha256(&layer)]},
        });
        let config = config.to_string();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config.as_bytes()), "layers": [descriptor(LAYER, &layer)],
        });
        registry.push_blob("app", &layer).await;
        registry.push_blob("app", config.as_bytes()).await;
        registry.push_document("app", "v1", MANIFEST, manifest.to_string().as_bytes()).await;
        Island { registry, link, layer }
    }

    fn reference(&self) -> String {
        format!("{}/app:v1", self.registry.host())
    }

    /// That the whole layer came over the link once, since it had carried `before`.
    fn check_carried(&self, before: u64) {
        let carried = self.link.carried() - before;
        // Heads of packets, the other documents, and what was on its way.
        let most = SIZE as u64 * 102 / 100 + ON_THE_WAY;
        assert!((SIZE as u64..most).contains(&carried), "{carried} bytes for a layer of {SIZE}");
    }
}

/// The jobs of a server that waits for nothing long, on a data directory.
struct Hasty {
    jobs: Jobs,
    store: Store,
    shutdown: Shutdown,
}

impl Hasty {
    async fn start(directory: &Path, island: &Island) -> Hasty {
        let shutdown = Shutdown::new();
        let db = Db::open_sqlite(&directory.join("orlop.db"), &shutdown).await.expect("a database");
        let disk = Disk::open(&directory.join("data")).expect("a data directory");
        let settings = orlop::store::Settings {
            grace_lease: LIMIT,
            ingest_expiry: LIMIT,
            sharing: Sharing::Shared,
            max_blob_bytes: 1 << 30,
        };
        let store = Store::new(disk, db, Clock::system(), settings, shutdown.clone()).expect("a store");
        store.start_tasks();
        let host = island.registry.host();
        let hosts = directory.join("hosts").join(&host);
        fs::create_dir_all(&hosts).expect("a directory");
        fs::write(hosts.join("hosts.toml"), format!("server = 'http://{host}'\n")).expect("written");
        let mut settings = Settings::new(4, 4, AddressPolicy::Private);
        let hosts = Arc::new(HostsDirs::new(vec![directory.join("hosts")]));
        settings.sources = Sources { hosts, ..Sources::default() };
        settings.patience.connect = Duration::from_millis(300);
        settings.patience.header = Duration::from_millis(500);
        settings.patience.stall = Duration::from_millis(500);
        settings.retry.first_wait = Duration::from_millis(100);
        settings.retry.attempts_once_answered = 6;
        let jobs = Jobs::new(store.clone(), Clock::system(), shutdown.clone(), settings);
        Hasty { jobs, store, shutdown }
    }

    async fn begin(&self, reference: String) -> String {
        let caller = Caller { namespace: "default".into(), lease: None, reach: Reach::Everywhere };
        let asked =
            PullRequest { reference, platforms: vec!["linux/amd64".into()], ..PullRequest::default() };
        let created = self.jobs.create_pull(&caller, &asked, None).await.expect("a pull");
        let (Created::New(pull) | Created::Existing(pull)) = created;
        pull.id
    }

    async fn end(&self, id: &str) -> Pull {
        self.jobs.wait("default", id, LIMIT).await.expect("its end")
    }

    async fn waits(&self, id: &str) {
        eventually("the pull waits, and says why", async || {
            let pull = self.jobs.find("default", id).await.expect("the pull");
            assert!(!pull.state.is_final(), "{pull:?}");
            pull.blobs.iter().any(|blob| blob.wait.is_some()).then_some(())
        })
        .await;
    }

    async fn check(&self, layer: &Bytes) {
        let digest = sha256(layer).parse().expect("a digest");
        assert!(self.store.read_blob("default", &digest, 1 << 26).await.expect("the layer") == *layer);
        self.shutdown.drain(LIMIT).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_silent_for_seconds_costs_a_wait_that_is_told_and_no_byte() {
    let island = Island::make(1).await;
    let directory = tempfile::tempdir().expect("a directory");
    let served = Served::start(&directory.path().join("data"), &[]);
    let host = island.registry.host();
    let plain = json!({"url": format!("http://{host}")});
    served.request(Method::PUT, format!("/api/v1/registries/{host}")).json(plain).await.expect(201);
    let before = island.link.carried();
    island.link.cut_after(CUT_AT);
    let asked = json!({"ref": island.reference(), "platforms": ["linux/amd64"]});
    let pull = served.request(Method::POST, "/api/v1/pulls").json(asked).await.expect(202);
    let pull = pull.place().to_owned();
    eventually("that nothing comes is told", async || {
        let shown = served.request(Method::GET, &pull).await.expect(200).json();
        assert_eq!(shown["state"], "running", "{shown}");
        let progress = &shown["progress"];
        // The rate is that of the last seconds, and falls; when it will end nobody can say.
        (progress["stalled_seconds"].as_u64()? >= 2).then(|| assert_eq!(progress["eta_seconds"], json!(null)))
    })
    .await;
    island.link.heal();
    let ended = served.request(Method::GET, format!("{pull}?wait=60s")).await.expect(200).json();
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let digest = sha256(&island.layer);
    let read = served.request(Method::GET, format!("/api/v1/content/{digest}/data")).await.expect(200);
    assert!(read.body == island.layer);
    island.check_carried(before);
    assert!(served.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_stays_silent_is_given_up_and_what_had_come_counts_on_the_next() {
    let island = Island::make(2).await;
    let directory = tempfile::tempdir().expect("a directory");
    let hasty = Hasty::start(directory.path(), &island).await;
    let before = island.link.carried();
    island.link.cut_after(CUT_AT);
    let id = hasty.begin(island.reference()).await;
    hasty.waits(&id).await;
    // Whoever asks now hears at once that nobody is there, and once more hears it.
    island.link.refuse();
    hasty.waits(&id).await;
    island.link.heal();
    let pull = hasty.end(&id).await;
    assert_eq!((pull.state, pull.attempt), (JobState::Succeeded, 1), "{pull:?}");
    island.check_carried(before);
    hasty.check(&island.layer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_never_comes_back_fails_the_pull_and_a_retry_asks_for_the_rest() {
    let island = Island::make(3).await;
    let directory = tempfile::tempdir().expect("a directory");
    let hasty = Hasty::start(directory.path(), &island).await;
    let before = island.link.carried();
    island.link.cut_after(CUT_AT);
    let id = hasty.begin(island.reference()).await;
    hasty.waits(&id).await;
    ip(&["link", "set", &island.link.near, "down"]);
    let pull = hasty.end(&id).await;
    let error = pull.error.expect("why it failed");
    assert_eq!(error.code, JobErrorCode::UpstreamUnreachable, "{error:?}");
    assert_eq!(error.host, Some(island.registry.host()));
    ip(&["link", "set", &island.link.near, "up"]);
    island.link.heal();
    hasty.jobs.retry("default", &id, None).await.expect("another attempt");
    let pull = hasty.end(&id).await;
    assert_eq!((pull.state, pull.attempt), (JobState::Succeeded, 2), "{pull:?}");
    assert!(pull.progress.bytes_resumed > CUT_AT - ON_THE_WAY, "{:?}", pull.progress);
    island.check_carried(before);
    hasty.check(&island.layer).await;
}
