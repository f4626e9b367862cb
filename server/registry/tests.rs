//! The client against a registry that lies.

use std::time::Duration;

use url::Url;

use super::fixture::{Auth, Fault, FixtureRegistry, INDEX, LAYER, MANIFEST, sha256};
use super::*;
use crate::clock::Time;
use crate::error::{Error, Upstream, UpstreamKind};
use crate::oci::{Algorithm, Descriptor, Digest};

mod credentials;
mod mirrors;
mod tokens;
mod trust;

fn client() -> Registry {
    let patience = Patience {
        stall: Duration::from_millis(200),
        header: Duration::from_millis(500),
        ..Patience::default()
    };
    Registry::new(patience, Crowd::default(), Clock::new(|| Time(0)))
}

fn reference(registry: &FixtureRegistry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.host()).parse().expect("a reference")
}

/// The repository of `reference` at its own host.
fn at_home(client: &Registry, reference: &Reference) -> Repository {
    let endpoint = Endpoint::of(reference, AddressPolicy::Private);
    client.repository(reference, vec![endpoint], Trace::default())
}

/// The registry's own host, where any certificate is enough, or none.
fn insecure(reference: &Reference, addresses: AddressPolicy) -> Endpoint {
    let mut endpoint = Endpoint::of(reference, addresses);
    endpoint.be_insecure();
    endpoint
}

fn app(registry: &FixtureRegistry) -> Repository {
    at_home(&client(), &reference(registry, "app"))
}

fn blob(bytes: &[u8]) -> Descriptor {
    Descriptor::new(LAYER, Digest::of(Algorithm::Sha256, bytes), bytes.len() as u64)
}

fn document(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type, Digest::of(Algorithm::Sha256, bytes), bytes.len() as u64)
}

async fn read(repository: &Repository, descriptor: &Descriptor, offset: u64) -> Result<Vec<u8>> {
    let size = descriptor.size;
    let (bytes, end) = read_part(repository, descriptor, offset..size).await?;
    assert_eq!(end, size);
    Ok(bytes)
}

/// The bytes of an answer, and where it ends.
async fn read_part(
    repository: &Repository,
    descriptor: &Descriptor,
    wanted: std::ops::Range<u64>,
) -> Result<(Vec<u8>, u64)> {
    let mut stream = repository.fetch_blob(descriptor, wanted, repository.enter().await).await?;
    let mut whole = Vec::new();
    while let Some(bytes) = stream.chunk().await? {
        whole.extend_from_slice(&bytes);
    }
    assert_eq!(stream.offset(), stream.end());
    Ok((whole, stream.end()))
}

/// Where a server is that has this certificate, shakes hands, and says nothing.
async fn certified(certificate: rcgen::Certificate, key: rcgen::KeyPair) -> Url {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .expect("a pair");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    Url::parse(&format!("https://127.0.0.1:{port}/v2/")).expect("a url")
}

/// What is told of requests, and of changes of plan.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Told>>>);

impl Heard {
    fn trace(&self) -> Trace {
        let hear = self.0.clone();
        Trace::to(move |told| hear.lock().expect("no holder panics").push(told))
    }

    /// The URLs of requests that begin so, since it was asked before.
    fn take(&self, start: &str) -> usize {
        let told = std::mem::take(&mut *self.0.lock().expect("no holder panics"));
        let fits = |told: &&Told| matches!(told, Told::Exchange(exchange) if exchange.url.starts_with(start));
        told.iter().filter(fits).count()
    }
}

fn failure<T: std::fmt::Debug>(result: Result<T>) -> Upstream {
    match result.expect_err("a failure") {
        Error::Upstream(upstream) => upstream,
        other => panic!("not a failure of the registry: {other}"),
    }
}

#[tokio::test]
async fn a_tag_is_resolved_by_head_and_its_document_verified() {
    let registry = FixtureRegistry::start().await;
    let manifest = registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    let repository = app(&registry);
    let resolved = repository.resolve(&reference(&registry, "app:v1")).await.expect("resolved");
    assert_eq!(resolved.descriptor, document(MANIFEST, &manifest));
    assert!(resolved.document.is_none());
    let fetched = repository.fetch_document(&resolved.descriptor).await.expect("fetched");
    assert_eq!((&fetched.bytes[..], fetched.document.children().len()), (&manifest[..], 2));
    assert_eq!(registry.log()[0], "HEAD /v2/app/manifests/v1");
    assert!(registry.seen()[0].headers["accept"].starts_with(INDEX));
}

#[tokio::test]
async fn what_head_leaves_out_is_learned_by_get() {
    let registry = FixtureRegistry::start().await;
    let manifest = registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    for fault in [
        Fault::Status(405, vec![]),
        Fault::Without("Docker-Content-Digest"),
        Fault::Without("Content-Length"),
        Fault::Without("Content-Type"),
        Fault::Headers(vec![("Content-Type", "text/plain".into())]),
    ] {
        registry.fail_method("HEAD", "/manifests/v1", fault, 1);
        let resolved = app(&registry).resolve(&reference(&registry, "app:v1")).await.expect("resolved");
        assert_eq!(resolved.descriptor, document(MANIFEST, &manifest));
        assert_eq!(resolved.document.expect("the document came with it").bytes, manifest);
    }
}

#[tokio::test]
async fn a_digest_is_looked_for_among_manifests_and_then_among_blobs() {
    let registry = FixtureRegistry::start().await;
    let manifest = registry.push_image("other", None, "linux/amd64", &[b"layer"]);
    registry.push_blob(&manifest);
    let pinned = reference(&registry, "app").at(Digest::of(Algorithm::Sha256, &manifest));
    let resolved = app(&registry).resolve(&pinned).await.expect("resolved");
    assert_eq!(resolved.descriptor, document(MANIFEST, &manifest));
    let places: Vec<_> =
        registry.log().iter().map(|line| line.split('/').nth(3).expect("a place").to_owned()).collect();
    assert_eq!(places, ["manifests", "manifests", "blobs"]);
    let missing = reference(&registry, "app").at(Digest::of(Algorithm::Sha256, b"nowhere"));
    let told = failure(app(&registry).resolve(&missing).await);
    assert_eq!((told.kind, told.status), (UpstreamKind::NotFound, Some(404)));
    assert!(told.reason.contains("MANIFEST_UNKNOWN"), "{}", told.reason);
}

#[tokio::test]
async fn a_document_that_is_not_what_was_promised_is_refused() {
    let registry = FixtureRegistry::start().await;
    let manifest = registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    let repository = app(&registry);
    let descriptor = document(MANIFEST, &manifest);
    let other = format!("sha256:{}", "0".repeat(64));
    for (fault, kind) in [
        (Fault::WrongBytes, UpstreamKind::Mismatch),
        (Fault::Short, UpstreamKind::Mismatch),
        (Fault::Long, UpstreamKind::Mismatch),
        (Fault::Endless, UpstreamKind::BadAnswer),
        (Fault::CutAfter(10), UpstreamKind::Unreachable),
        (Fault::StallAfter(10), UpstreamKind::Unreachable),
        (Fault::Headers(vec![("Content-Type", INDEX.into())]), UpstreamKind::BadAnswer),
        (Fault::Headers(vec![("Content-Encoding", "gzip".into())]), UpstreamKind::BadAnswer),
        (Fault::Headers(vec![("Docker-Content-Digest", "sha256:../..".into())]), UpstreamKind::BadAnswer),
    ] {
        registry.fail("/manifests/", fault.clone(), 1);
        assert_eq!(failure(repository.fetch_document(&descriptor).await).kind, kind, "{fault:?}");
    }
    // It is said in so many words that there is none, which is as good as silence.
    registry.fail("/manifests/", Fault::Headers(vec![("Content-Encoding", "Identity".into())]), 1);
    repository.fetch_document(&descriptor).await.expect("as it is");
    // By tag the registry's own word is all there is to hold it to.
    registry.fail_method("HEAD", "/manifests/v1", Fault::Status(405, vec![]), 1);
    registry.fail("/manifests/v1", Fault::Headers(vec![("Docker-Content-Digest", other.clone())]), 1);
    let told = failure(repository.resolve(&reference(&registry, "app:v1")).await);
    assert_eq!(told.kind, UpstreamKind::Mismatch);
    // By digest an answer about another one is not taken, not even to HEAD.
    registry.fail_method("HEAD", "/manifests/", Fault::Headers(vec![("Docker-Content-Digest", other)]), 1);
    let pinned = reference(&registry, "app").at(descriptor.digest.clone());
    assert_eq!(failure(repository.resolve(&pinned).await).kind, UpstreamKind::Mismatch);
    let larger = Descriptor { size: descriptor.size + 1, ..descriptor.clone() };
    assert_eq!(failure(repository.fetch_document(&larger).await).kind, UpstreamKind::Mismatch);
    let index = Descriptor { media_type: INDEX.into(), ..descriptor };
    assert_eq!(failure(repository.fetch_document(&index).await).kind, UpstreamKind::BadAnswer);
}

#[tokio::test]
async fn a_list_of_referrers_is_asked_for_as_it_is() {
    let registry = FixtureRegistry::start().await;
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    registry.list_referrers("app", subject.as_str(), &[vec![]]);
    for (encoding, kind) in [("gzip", Some(UpstreamKind::BadAnswer)), ("identity", None)] {
        registry.fail("/referrers/", Fault::Headers(vec![("Content-Encoding", encoding.into())]), 1);
        let listed = app(&registry).list_referrers(&subject, &[]).await;
        assert_eq!(listed.err().map(|error| failure::<()>(Err(error)).kind), kind, "{encoding}");
    }
    assert!(registry.seen().iter().all(|seen| seen.headers["accept-encoding"] == "identity"));
}

#[tokio::test]
async fn referrers_of_a_long_digest_are_looked_for_under_the_tag_that_fits() {
    let registry = FixtureRegistry::start().await;
    let subject = Digest::of(Algorithm::Sha512, b"subject");
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX,
        "manifests": [super::fixture::descriptor(MANIFEST, b"referrer")]});
    let tag = format!("sha512-{}", &subject.as_str()["sha512:".len()..][..64]);
    registry.push_document("app", Some(&tag), INDEX, index.to_string().as_bytes());
    let listed = app(&registry).list_referrers(&subject, &[]).await.expect("a list");
    assert_eq!(listed.len(), 1, "{:?}", registry.log());
}

#[tokio::test]
async fn a_tag_whose_head_and_document_differ_is_one_of_them_or_nothing() {
    let registry = FixtureRegistry::start().await;
    let old = registry.push_image("app", Some("v1"), "linux/amd64", &[b"old"]);
    let new = registry.push_image("app", None, "linux/amd64", &[b"new"]);
    let repository = app(&registry);
    let says = |name, value: &str| Fault::Headers(vec![(name, value.to_owned())]);
    // What HEAD says is what is fetched, by its digest: whatever the tag points to by then.
    let digest = sha256(&new);
    registry.fail_method("HEAD", "/manifests/v1", says("Docker-Content-Digest", &digest), 1);
    let resolved = repository.resolve(&reference(&registry, "app:v1")).await.expect("resolved").descriptor;
    assert_eq!(resolved.digest.as_str(), digest);
    let fetched = repository.fetch_document(&Descriptor { size: new.len() as u64, ..resolved }).await;
    assert_eq!(fetched.expect("fetched").bytes, new);
    assert_eq!(registry.log()[1], format!("GET /v2/app/manifests/{digest}"));
    // Another length or type than it then has ends it.
    let media_types = says("Content-Type", INDEX);
    for (fault, kind) in
        [(says("Content-Length", "7"), UpstreamKind::Mismatch), (media_types, UpstreamKind::BadAnswer)]
    {
        registry.fail_method("HEAD", "/manifests/v1", fault.clone(), 1);
        let resolved =
            repository.resolve(&reference(&registry, "app:v1")).await.expect("resolved").descriptor;
        assert_eq!(failure(repository.fetch_document(&resolved).await).kind, kind, "{fault:?}");
    }
    // Where the tag itself is got, the bytes name it.
    registry.fail_method("HEAD", "/manifests/v1", Fault::Status(405, vec![]), 1);
    registry.fail_method("GET", "/manifests/v1", Fault::Without("Docker-Content-Digest"), 1);
    let got = repository.resolve(&reference(&registry, "app:v1")).await.expect("resolved");
    assert_eq!(got.descriptor, document(MANIFEST, &old));
}

#[tokio::test]
async fn a_blob_is_read_from_any_offset() {
    let registry = FixtureRegistry::start().await;
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    registry.push_blob(&bytes);
    let (repository, descriptor) = (app(&registry), blob(&bytes));
    for offset in [0, 1, 299_999] {
        let got = read(&repository, &descriptor, offset).await.expect("the bytes");
        assert_eq!(got, bytes[offset as usize..], "from {offset}");
    }
    let asked = registry.seen().pop().expect("a request").headers;
    assert_eq!((&*asked["range"], &*asked["accept-encoding"]), ("bytes=299999-299999", "identity"));
    let requests = registry.log().len();
    assert_eq!(read(&repository, &descriptor, 300_000).await.expect("nothing"), b"");
    assert_eq!(registry.log().len(), requests, "the end of a blob needs no request");
    assert!(matches!(read(&repository, &descriptor, 300_001).await, Err(Error::Internal { .. })));
}

#[tokio::test]
async fn a_server_that_ignores_the_range_is_read_up_to_the_offset() {
    let registry = FixtureRegistry::start().await;
    let bytes: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    registry.push_blob(&bytes);
    registry.fail("/blobs/", Fault::IgnoreRange, 1);
    let repository = app(&registry);
    assert_eq!(read(&repository, &blob(&bytes), 150_000).await.expect("the bytes"), bytes[150_000..]);
}

#[tokio::test]
async fn a_part_is_asked_for_with_both_its_ends_and_its_answer_is_held_to_them() {
    let registry = FixtureRegistry::start().await;
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    registry.push_blob(&bytes);
    let (repository, descriptor) = (app(&registry), blob(&bytes));
    let (got, end) = read_part(&repository, &descriptor, 10_000..20_000).await.expect("a part");
    assert_eq!((got.as_slice(), end), (&bytes[10_000..20_000], 20_000));
    assert_eq!(registry.seen().pop().expect("a request").headers["range"], "bytes=10000-19999");
    // Less than was asked for is an answer (RFC 9110, section 15.3.7).
    registry.fail("/blobs/", Fault::AtMost(3_000), 1);
    let (got, end) = read_part(&repository, &descriptor, 10_000..20_000).await.expect("a part");
    assert_eq!((got.as_slice(), end), (&bytes[10_000..13_000], 13_000));
    // Whoever ignores ranges gives everything behind as well.
    registry.fail("/blobs/", Fault::IgnoreRange, 1);
    let (got, end) = read_part(&repository, &descriptor, 10_000..20_000).await.expect("the rest");
    assert_eq!((got.as_slice(), end), (&bytes[10_000..], 100_000));
    // So does whoever answers another part, and is asked for none then.
    for fault in [
        Fault::ContentRange("bytes 10000-20000/100000".into()),
        Fault::ContentRange("bytes 9999-19999/100000".into()),
        Fault::ContentRange("bytes 10000-19999/100001".into()),
        Fault::ContentRange("bytes 10000-18446744073709551616/*".into()),
        Fault::Without("Content-Range"),
        Fault::Status(206, vec![]),
        Fault::Status(400, vec![]),
    ] {
        registry.fail("/blobs/", fault.clone(), 1);
        let (got, end) = read_part(&repository, &descriptor, 10_000..20_000).await.expect("the rest");
        assert_eq!((got.as_slice(), end), (&bytes[10_000..], 100_000), "{fault:?}");
        assert!(!registry.seen().pop().expect("a request").headers.contains_key("range"), "{fault:?}");
    }
    for (fault, kind) in [
        (Fault::Long, UpstreamKind::Mismatch),
        (Fault::Endless, UpstreamKind::Mismatch),
        (Fault::Short, UpstreamKind::Unreachable),
    ] {
        registry.fail("/blobs/", fault.clone(), 1);
        let told = failure(read_part(&repository, &descriptor, 10_000..20_000).await);
        assert_eq!(told.kind, kind, "{fault:?}");
    }
}

#[tokio::test]
async fn a_blob_that_is_not_as_long_as_promised_is_refused() {
    let registry = FixtureRegistry::start().await;
    let bytes = b"0123456789".repeat(1000);
    registry.push_blob(&bytes);
    let (repository, descriptor) = (app(&registry), blob(&bytes));
    for (fault, offset, kind) in [
        (Fault::Short, 0, UpstreamKind::Mismatch),
        (Fault::Long, 0, UpstreamKind::Mismatch),
        (Fault::Long, 5, UpstreamKind::Mismatch),
        (Fault::Endless, 0, UpstreamKind::Mismatch),
        (Fault::Endless, 5, UpstreamKind::Mismatch),
        (Fault::Short, 5, UpstreamKind::Unreachable),
        (Fault::CutAfter(100), 0, UpstreamKind::Unreachable),
        (Fault::CutAfter(0), 5, UpstreamKind::Unreachable),
        (Fault::StallAfter(100), 0, UpstreamKind::Unreachable),
        // A byte now and then is as good as none.
        (Fault::Drip(Duration::from_millis(20)), 0, UpstreamKind::Unreachable),
        (Fault::Silent, 0, UpstreamKind::Unreachable),
        (Fault::Status(416, vec![]), 5, UpstreamKind::Mismatch),
        (Fault::Status(206, vec![]), 0, UpstreamKind::BadAnswer),
        (Fault::Status(204, vec![]), 0, UpstreamKind::BadAnswer),
        (Fault::Headers(vec![("Content-Encoding", "gzip".into())]), 0, UpstreamKind::BadAnswer),
    ] {
        registry.fail("/blobs/", fault.clone(), 1);
        assert_eq!(
            failure(read(&repository, &descriptor, offset).await).kind,
            kind,
            "{fault:?} from {offset}"
        );
    }
    let parts = [
        "bytes 4-9999/10000",
        "bytes 5-9999/9999",
        "bytes 5-10000/*",
        "bytes 5-4/10000",
        "items 5-9999/10000",
    ];
    for part in parts {
        registry.fail("/blobs/", Fault::ContentRange(part.into()), 1);
        assert_eq!(read(&repository, &descriptor, 5).await.expect("the whole"), bytes[5..], "{part}");
        assert!(!registry.seen().pop().expect("a request").headers.contains_key("range"), "{part}");
    }
    assert_eq!(read(&repository, &descriptor, 5).await.expect("unharmed"), bytes[5..]);
}

#[tokio::test]
async fn a_cut_blob_goes_on_where_it_broke() {
    let registry = FixtureRegistry::start().await;
    let bytes = b"0123456789".repeat(10_000);
    registry.push_blob(&bytes);
    registry.fail("/blobs/", Fault::CutAfter(70_000), 1);
    let repository = app(&registry);
    let mut stream = {
        let place = repository.enter().await;
        repository.fetch_blob(&blob(&bytes), 0..100_000, place).await.expect("a stream")
    };
    let mut got = Vec::new();
    let error = loop {
        match stream.chunk().await {
            Ok(bytes) => got.extend_from_slice(&bytes.expect("cut before its end")),
            Err(error) => break error,
        }
    };
    assert!(retriable(&error));
    assert_eq!((stream.offset(), got.len()), (70_000, 70_000));
    got.extend(read(&repository, &blob(&bytes), stream.offset()).await.expect("the rest"));
    assert_eq!(got, bytes);
}

#[tokio::test]
async fn statuses_become_kinds_and_waits() {
    let registry = FixtureRegistry::start().await;
    let wait = |seconds: &str| vec![("Retry-After", seconds.to_owned())];
    for (fault, kind, seconds) in [
        (Fault::Status(500, vec![]), UpstreamKind::ServerError, None),
        (Fault::Status(503, vec![]), UpstreamKind::ServerError, None),
        (Fault::Status(503, wait("9")), UpstreamKind::RateLimited, Some(9)),
        (Fault::Status(429, wait("3")), UpstreamKind::RateLimited, Some(3)),
        (Fault::Status(403, vec![]), UpstreamKind::Denied, None),
    ] {
        registry.fail("/blobs/", fault, 1);
        let told = failure(read(&app(&registry), &blob(b"x"), 0).await);
        assert_eq!((told.kind, told.retry_after.map(|wait| wait.as_secs())), (kind, seconds));
    }
}

#[tokio::test]
async fn what_came_from_the_internet_sends_us_to_no_private_address() {
    let registry = FixtureRegistry::start().await;
    let place = registry.push_file("/elsewhere", b"foreign");
    let foreign = Descriptor { urls: vec![place], ..blob(b"foreign") };
    let repository = app(&registry);
    let mut stream = repository
        .fetch_foreign(&foreign, 0..foreign.size, repository.enter().await)
        .await
        .expect("a private registry may");
    assert_eq!(stream.chunk().await.expect("bytes").expect("all of them"), &b"foreign"[..]);
    // One answer of a public host, and all that the image names is judged by it.
    repository.note_sender(AddressPolicy::Public);
    let refused =
        failure(repository.fetch_foreign(&foreign, 0..foreign.size, repository.enter().await).await);
    assert_eq!(refused.kind, UpstreamKind::Forbidden);
    assert!(refused.reason.ends_with("a host of the Internet sends us there"), "{}", refused.reason);
    assert_eq!(registry.log(), ["GET /elsewhere"]);
}

#[tokio::test]
async fn a_private_host_that_is_written_down_opens_no_other_to_its_images() {
    let (registry, storage) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    registry.push_blob(b"near");
    let place = storage.push_file("/elsewhere", b"foreign").replace("http:", "https:");
    let foreign = Descriptor { urls: vec![place], ..blob(b"foreign") };
    storage.push_blob(b"far away");
    let refuses = async |repository: &Repository, kind| {
        let place = repository.enter().await;
        let told = failure(repository.fetch_foreign(&foreign, 0..foreign.size, place).await);
        assert_eq!(told.kind, kind, "{}", told.reason);
        assert!(told.reason.starts_with("the address 127.0.0.1 is of a private network"), "{}", told.reason);
    };
    let host = HostSettings {
        url: Some(format!("http://{}", registry.host()).parse().expect("a URL")),
        ..HostSettings::default()
    };
    let mirrored: Reference = "registry.example/app".parse().expect("a reference");
    let own = RegistrySettings { server: host.clone(), mirrors: Vec::new() };
    let through = RegistrySettings { server: HostSettings::default(), mirrors: vec![host] };
    for (settings, reference) in [(own, &reference(&registry, "app")), (through, &mirrored)] {
        let endpoints = settings.endpoints(reference, AddressPolicy::Public, true);
        let repository = client().repository(reference, endpoints, Trace::default());
        refuses(&repository, UpstreamKind::PrivateAddress).await;
        read(&repository, &blob(b"near"), 0).await.expect("it may be contacted itself");
        refuses(&repository, UpstreamKind::PrivateAddress).await;
        // Its own redirect is its own word: many keep their bytes at another private host.
        let to = format!("http://{}/v2/x/blobs/{}", storage.host(), sha256(b"far away"));
        registry.fail("/blobs/", Fault::Status(307, vec![("Location", to)]), 1);
        read(&repository, &blob(b"far away"), 0).await.expect("what it keeps elsewhere");
    }
    // Where the server may go anywhere, what comes through a mirror may not send it there.
    let through = RegistrySettings {
        server: HostSettings::default(),
        mirrors: vec![HostSettings {
            url: Some(format!("http://{}", registry.host()).parse().expect("a URL")),
            ..HostSettings::default()
        }],
    };
    let endpoints = through.endpoints(&mirrored, AddressPolicy::Private, true);
    let repository = client().repository(&mirrored, endpoints, Trace::default());
    read(&repository, &blob(b"near"), 0).await.expect("the bytes");
    refuses(&repository, UpstreamKind::Forbidden).await;
}

#[tokio::test]
async fn a_blob_that_the_registry_lacks_is_named_and_no_misspelt_tag() {
    let registry = FixtureRegistry::start().await;
    let lost = blob(b"nowhere");
    let told = failure(read(&app(&registry), &lost, 0).await);
    assert_eq!((told.kind, told.status), (UpstreamKind::PartMissing, Some(404)));
    let words = format!("the registry does not have the blob {} of the image (status 404)", lost.digest);
    assert_eq!(told.reason, words);
    assert_eq!(failure(app(&registry).find_size(&lost.digest).await).kind, UpstreamKind::PartMissing);
}

#[tokio::test]
async fn a_page_in_place_of_a_manifest_is_told_by_its_type() {
    let registry = FixtureRegistry::start().await;
    registry.push_document(
        "app",
        Some("v1"),
        "text/html; charset=utf-8",
        b"<html>Log in to the network</html>",
    );
    let told = failure(app(&registry).resolve(&reference(&registry, "app:v1")).await);
    assert_eq!(told.kind, UpstreamKind::BadAnswer);
    assert!(
        told.reason.starts_with("its document, which comes as `text/html`, cannot be used: "),
        "{}",
        told.reason
    );
}
