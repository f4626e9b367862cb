//! Registries of the Internet that send the server where it alone can go: to metadata services, to private networks, to
//! itself. Whoever listens there hears of none of it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::support::app::{On, TestApp};
use crate::support::fixture_registry::{Auth, CONFIG, Fault, FixtureRegistry, descriptor, sha256};
use crate::support::own_network::within;
use crate::support::pulling::{pull, pulled, push, stored, with};

/// Addresses of the Internet, on this machine for once.
const REGISTRY: &str = "11.22.33.44:5000";
const MIRROR: &str = "11.22.33.55:5000";
/// Where nobody is to go.
const TRAPS: [&str; 6] = [
    "169.254.169.254:80",
    "169.254.169.254:443",
    "100.100.100.200:80",
    "10.66.77.88:80",
    "127.0.0.1:4444",
    "[fd00:ec2::254]:80",
];
const ADDRESSES: [&str; 6] = [
    "11.22.33.44/32",
    "11.22.33.55/32",
    "169.254.169.254/32",
    "100.100.100.200/32",
    "10.66.77.88/32",
    "fd00:ec2::254/128",
];
const FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";

/// Listeners at all traps, who count their callers.
struct Tripwires(Arc<AtomicUsize>);

impl Tripwires {
    async fn set() -> Tripwires {
        let callers = Arc::new(AtomicUsize::new(0));
        for trap in TRAPS {
            let listener = TcpListener::bind(trap).await.expect("an address of this machine");
            let callers = callers.clone();
            tokio::spawn(async move {
                while listener.accept().await.is_ok() {
                    callers.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Tripwires(callers)
    }

    fn callers(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// That nobody called, and that somebody who does is counted.
    async fn end(self) {
        assert_eq!(self.callers(), 0);
        for (n, trap) in TRAPS.iter().enumerate() {
            let calling = TcpStream::connect(trap).await.expect("somebody listens");
            crate::support::eventually::eventually("the call is counted", async || {
                (self.callers() == n + 1).then_some(())
            })
            .await;
            drop(calling);
        }
    }
}

/// A registry of the Internet with `app:v1`; the whole of it by plain HTTP, which pulls are told to take.
async fn registry_at(address: &str) -> FixtureRegistry {
    let registry = FixtureRegistry::start_at(address).await;
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    registry
}

fn asked(reference: &str) -> Value {
    json!({"ref": reference, "platforms": ["linux/amd64"], "insecure": true})
}

/// A way to send a server somewhere, in the course of a pull.
type Way = (&'static str, fn(&FixtureRegistry, String) -> Value);

fn redirects(part: &str, registry: &FixtureRegistry, trap: String) -> Value {
    registry.fail(part, Fault::Status(307, vec![("Location", trap)]), usize::MAX);
    asked(&format!("{REGISTRY}/app:v1"))
}

const WAYS: [Way; 6] = [
    ("blobs", |registry, trap| redirects("/blobs/", registry, trap)),
    ("manifests", |registry, trap| redirects("/manifests/", registry, trap)),
    ("everything", |registry, trap| redirects("/v2/", registry, trap)),
    ("tokens", |registry, trap| {
        registry.require(Auth::Token { realm: Some(trap), expires_in: 60 });
        asked(&format!("{REGISTRY}/app:v1"))
    }),
    ("tokens that are elsewhere", |registry, trap| {
        registry.require(Auth::Token { realm: None, expires_in: 60 });
        redirects("/token", registry, trap)
    }),
    ("layers of others", |registry, trap| {
        let config = json!({"os": "linux", "architecture": "amd64"}).to_string().into_bytes();
        registry.push_blob(&config);
        let layer = with(descriptor(FOREIGN, b"foreign"), "urls", json!([trap]));
        let reference = push(registry, "foreign", descriptor(CONFIG, &config), &[layer]);
        with(asked(&reference), "foreign_layers", "fetch".into())
    }),
];

/// URLs that lead into a trap.
fn lures(trap: &str) -> [String; 2] {
    [format!("http://{trap}/latest/meta-data"), format!("https://{trap}/latest/meta-data")]
}

async fn send_everywhere(private_registries: &str) {
    let tripwires = Tripwires::set().await;
    let app = TestApp::with(On::Sqlite, &[("private_registries", private_registries)]).await;
    let (registry, mirror) = (registry_at(REGISTRY).await, registry_at(MIRROR).await);
    for (name, way) in WAYS {
        for lure in TRAPS.iter().flat_map(|trap| lures(trap)) {
            registry.forget();
            registry.forgive();
            let ended = pull(&app, way(&registry, lure.clone())).await;
            let code = ended["error"]["code"].as_str().unwrap_or_default();
            assert_eq!(code, "upstream-forbidden-address", "{name} to {lure}: {ended}");
            assert_eq!(tripwires.callers(), 0, "{name} to {lure}");
        }
    }
    // A mirror that does so is passed over, and the registry itself is asked.
    registry.forget();
    registry.forgive();
    assert_eq!(app.get("/api/v1/images").await.expect(200).json()["items"], json!([]));
    let mirrors =
        json!({"url": format!("http://{REGISTRY}"), "mirrors": [{"url": format!("http://{MIRROR}")}]});
    app.put(format!("/api/v1/registries/{REGISTRY}")).json(mirrors).await.expect(201);
    for lure in TRAPS.iter().flat_map(|trap| lures(trap)) {
        mirror.fail("/v2/", Fault::Status(307, vec![("Location", lure)]), usize::MAX);
        let ended = pull(&app, asked(&format!("{REGISTRY}/app:v1"))).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        mirror.forgive();
    }
    assert!(!mirror.log().is_empty(), "it was asked");
    let content = stored(&app).await;
    assert!(content.contains(&sha256(b"layer")) && !content.contains(&sha256(b"foreign")), "{content:?}");
    app.stop().await;
    tripwires.end().await;
}

#[test]
fn nobody_of_the_internet_sends_a_server_into_a_trap_that_may_go_to_private_networks_itself() {
    within(1, &ADDRESSES, || send_everywhere("allow"));
}

#[test]
fn nobody_of_the_internet_sends_a_server_into_a_trap_that_may_not() {
    within(2, &ADDRESSES, || send_everywhere("refuse"));
}

/// DNS of one name, whose addresses are another matter with each question.
struct Fickle {
    answers: Arc<Mutex<Vec<Vec<Ipv4Addr>>>>,
}

impl Fickle {
    /// At the address where this machine looks for DNS.
    async fn serve() -> Fickle {
        let socket = UdpSocket::bind((nameserver(), 53)).await.expect("the place of DNS");
        let answers: Arc<Mutex<Vec<Vec<Ipv4Addr>>>> = Arc::default();
        let told = answers.clone();
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                let answer = answer(&question[..length], &told);
                // Who asks and goes away is asked for nothing.
                let _ = socket.send_to(&answer, from).await;
            }
        });
        Fickle { answers }
    }

    /// What is answered from now on, question by question; the last one stays.
    fn set(&self, answers: Vec<Vec<Ipv4Addr>>) {
        *self.answers.lock().expect("no holder panics") = answers;
    }
}

fn nameserver() -> IpAddr {
    let file = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let named = file.lines().find_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok());
    // What the C library does without one.
    named.unwrap_or(Ipv4Addr::LOCALHOST.into())
}

/// RFC 1035, section 4: the question again, and the addresses if it asks for those of IPv4.
fn answer(question: &[u8], answers: &Mutex<Vec<Vec<Ipv4Addr>>>) -> Vec<u8> {
    let name = question[12..].iter().position(|length| *length == 0).expect("the end of a name");
    let end = 12 + name + 5;
    let asks_for_a = question[end - 4..end - 2] == [0, 1];
    let addresses = match asks_for_a {
        false => Vec::new(),
        true => {
            let mut answers = answers.lock().expect("no holder panics");
            if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
        }
    };
    let count = u8::try_from(addresses.len()).expect("few");
    let mut answer = [&question[..2], &[0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0], &question[12..end]].concat();
    for address in addresses {
        // The name of the question, an address, no time to live.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

#[test]
fn a_name_that_changes_its_address_between_two_looks_is_judged_by_each() {
    let mut addresses = ADDRESSES.map(str::to_owned).to_vec();
    if !nameserver().is_loopback() {
        addresses.push(nameserver().to_string());
    }
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    within(3, &addresses, || async {
        let (tripwires, dns) = (Tripwires::set().await, Fickle::serve().await);
        let registry = registry_at("11.22.33.44:80").await;
        let start = || TestApp::with(On::Sqlite, &[("private_registries", "refuse")]);
        let good = Ipv4Addr::new(11, 22, 33, 44);
        for trap in [[169, 254, 169, 254], [10, 66, 77, 88]].map(Ipv4Addr::from) {
            // A look for each of the tag, the manifest, the config and the layer.
            for honest in 0..4 {
                let app = start().await;
                let mut answers = vec![vec![good]; honest];
                answers.push(vec![trap]);
                dns.set(answers);
                let ended = pull(&app, asked("fickle.example:80/app:v1")).await;
                let code = ended["error"]["code"].as_str().unwrap_or_default();
                assert_eq!(code, "upstream-forbidden-address", "{honest} times honest: {ended}");
                assert_eq!(tripwires.callers(), 0, "{honest} times honest");
                assert_eq!(app.get("/api/v1/images").await.expect(200).json()["items"], json!([]));
                app.stop().await;
            }
        }
        assert!(!registry.log().is_empty(), "it was asked as long as the name was its own");
        let app = start().await;
        // Of several addresses those are used that may be.
        dns.set(vec![vec![Ipv4Addr::new(10, 66, 77, 88), good, Ipv4Addr::new(169, 254, 169, 254)]]);
        pulled(&app, asked("fickle.example:80/app:v1")).await;
        app.stop().await;
        tripwires.end().await;
    });
}
