//! Mirrors and the registry behind them: who is asked, and when somebody else is.

use super::*;

/// Endpoints of one registry: mirrors first, each without anything of its own.
fn mirrored(
    client: &Registry,
    origin: &FixtureRegistry,
    mirrors: &[&FixtureRegistry],
    trace: Trace,
) -> Repository {
    let mirror = |host: &&FixtureRegistry| HostSettings {
        url: Some(format!("http://{}", host.host()).parse().expect("a URL")),
        ..HostSettings::default()
    };
    let settings =
        RegistrySettings { mirrors: mirrors.iter().map(mirror).collect(), ..RegistrySettings::default() };
    let reference = reference(origin, "app");
    let endpoints =
        settings.check().expect("good settings").endpoints(&reference, AddressPolicy::Private, true);
    client.repository(&reference, endpoints, trace)
}

#[tokio::test]
async fn a_mirror_is_asked_first_by_name_and_the_registry_when_it_does_not_help() {
    let (origin, mirror) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    origin.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    mirror.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = told.clone();
    let trace = Trace::to(move |what| hear.lock().expect("no holder panics").push(what));
    let client = client();
    let repository = mirrored(&client, &origin, &[&mirror], trace);
    repository.resolve(&reference(&origin, "app:v1")).await.expect("resolved");
    read(&repository, &blob(b"layer"), 0).await.expect("the bytes");
    assert!(origin.seen().is_empty());
    let asked = format!(
        "GET /v2/app/blobs/{}?ns=127.0.0.1%3A{}",
        sha256(b"layer"),
        origin.host().rsplit_once(':').expect("a port").1
    );
    assert_eq!(mirror.log()[1], asked);

    // What it lacks is had from the registry, and it is asked again for the next.
    origin.push_blob(b"only here");
    read(&repository, &blob(b"only here"), 0).await.expect("the bytes");
    read(&repository, &blob(b"layer"), 0).await.expect("the bytes");
    assert_eq!((mirror.seen().len(), origin.seen().len()), (4, 1), "{:?}", origin.log());

    // One that fails is asked last from then on.
    mirror.fail("/blobs/", Fault::Status(500, vec![]), 100);
    for _ in 0..2 {
        read(&repository, &blob(b"layer"), 0).await.expect("the bytes");
    }
    assert_eq!(mirror.seen().len(), 5);
    let told = told.lock().expect("no holder panics");
    let fallbacks = told.iter().filter(|what| matches!(what, Told::Fallback { .. })).count();
    assert_eq!(fallbacks, 2, "{told:?}");
}

#[tokio::test]
async fn the_failure_that_is_told_is_of_the_host_that_came_furthest() {
    let (origin, mirror) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    origin.require(Auth::Basic);
    let repository = mirrored(&client(), &origin, &[&mirror], Trace::default());
    let told = failure(repository.resolve(&reference(&origin, "app:v1")).await);
    assert_eq!((told.kind, told.host), (UpstreamKind::CredentialWanted, origin.host()));
    // A mirror that is away changes nothing of what the registry says.
    origin.forget();
    mirror.fail("/manifests/", Fault::HangUp, 9);
    let repository = mirrored(&client(), &origin, &[&mirror], Trace::default());
    let told = failure(repository.resolve(&reference(&origin, "app:v1")).await);
    assert_eq!((told.kind, told.host), (UpstreamKind::NotFound, origin.host()));
}

#[tokio::test]
async fn a_mirror_that_fails_after_the_head_of_its_answer_is_left() {
    let other = format!("sha256:{}", "0".repeat(64));
    let headers = |name: &'static str, value: &str| Fault::Headers(vec![(name, value.to_owned())]);
    for fault in [Fault::CutAfter(3), Fault::StallAfter(3), Fault::Short] {
        let (origin, mirror) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
        origin.push_blob(b"0123456789");
        mirror.push_blob(b"0123456789");
        mirror.fail("/blobs/", fault.clone(), 9);
        let repository = mirrored(&client(), &origin, &[&mirror], Trace::default());
        let mut stream = {
            let place = repository.enter().await;
            repository.fetch_blob(&blob(b"0123456789"), 1..10, place).await.expect("its head is good")
        };
        while let Ok(more) = stream.chunk().await {
            more.expect("it fails before its end");
        }
        read(&repository, &blob(b"0123456789"), stream.offset()).await.expect("the rest");
        assert_eq!((mirror.seen().len(), origin.seen().len()), (1, 1), "{fault:?}");
    }
    // An answer that is not what it has to be is had elsewhere at once: no wait makes it better.
    for (method, part, fault) in [
        ("GET", "/blobs/", headers("Content-Encoding", "gzip")),
        ("GET", "/blobs/", Fault::ContentRange("bytes 0-1/2".into())),
        ("HEAD", "/manifests/", headers("Docker-Content-Digest", &other)),
        ("HEAD", "/manifests/", headers("Docker-Content-Digest", "none")),
        ("GET", "/manifests/", Fault::WrongBytes),
        ("GET", "/manifests/", headers("Content-Type", INDEX)),
        ("GET", "/manifests/", headers("Content-Encoding", "gzip")),
    ] {
        let (origin, mirror) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
        let manifest = origin.push_image("app", Some("v1"), "linux/amd64", &[b"0123456789"]);
        mirror.push_image("app", Some("v1"), "linux/amd64", &[b"0123456789"]);
        mirror.fail_method(method, part, fault.clone(), 9);
        let repository = mirrored(&client(), &origin, &[&mirror], Trace::default());
        let pinned = reference(&origin, "app").at(Digest::of(Algorithm::Sha256, &manifest));
        let resolved = repository.resolve(&pinned).await.expect("resolved").descriptor;
        assert_eq!(repository.fetch_document(&resolved).await.expect("fetched").bytes, manifest);
        assert_eq!(read(&repository, &blob(b"0123456789"), 1).await.expect("the rest"), b"123456789");
        let asked = |registry: &FixtureRegistry| {
            let fits = |line: &&String| line.starts_with(method) && line.contains(part);
            registry.log().iter().filter(fits).count()
        };
        assert_eq!((asked(&mirror), asked(&origin)), (1, 1), "{method} {part} {fault:?}");
    }
    // Nobody else is asked where nobody else is left.
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    registry.fail("/blobs/", headers("Content-Encoding", "gzip"), 9);
    assert_eq!(failure(read(&app(&registry), &blob(b"x"), 0).await).kind, UpstreamKind::BadAnswer);
    assert_eq!(registry.log().len(), 1);
}

#[tokio::test]
async fn a_list_of_referrers_that_is_none_is_had_from_the_registry() {
    let (origin, mirror) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    let digest = Digest::of(Algorithm::Sha256, b"subject");
    let entry = super::super::fixture::descriptor(MANIFEST, b"referrer");
    for registry in [&origin, &mirror] {
        registry.list_referrers("app", digest.as_str(), &[vec![entry.clone()]]);
    }
    mirror.fail("/referrers/", Fault::WrongBytes, 9);
    let repository = mirrored(&client(), &origin, &[&mirror], Trace::default());
    let found = repository.list_referrers(&digest, &[]).await.expect("a list");
    assert_eq!((found.len(), mirror.log().len()), (1, 1));
}

#[tokio::test]
async fn what_a_mirror_lacks_is_not_gone_while_the_registry_is_away() {
    let (origin, mirror) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    let repository = mirrored(&client(), &origin, &[&mirror], Trace::default());
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    for fault in [Fault::HangUp, Fault::Status(503, vec![]), Fault::Status(429, vec![])] {
        origin.fail("", fault.clone(), 9);
        for told in [
            failure(repository.resolve(&reference(&origin, "app:v1")).await),
            failure(read(&repository, &blob(b"x"), 0).await),
            failure(repository.list_referrers(&subject, &[]).await),
        ] {
            assert_eq!(told.host, origin.host(), "{fault:?}");
            assert!(retriable(&Error::Upstream(told.clone())), "{fault:?}: {told:?}");
        }
        origin.forgive();
    }
    // Where the registry may not be asked at all, the mirrors are all there is.
    let endpoint = |host: &FixtureRegistry, asked: &[Capability]| HostSettings {
        url: Some(format!("http://{}", host.host()).parse().expect("a URL")),
        capabilities: asked.iter().copied().collect(),
        ..HostSettings::default()
    };
    let away = FixtureRegistry::start().await;
    away.fail("", Fault::Status(503, vec![]), 9);
    let mirrors = vec![endpoint(&mirror, &Capability::ALL), endpoint(&away, &Capability::ALL)];
    let settings = RegistrySettings { server: endpoint(&origin, &[Capability::Push]), mirrors };
    let reference = reference(&origin, "app:v1");
    let endpoints = settings.endpoints(&reference, AddressPolicy::Private, true);
    let repository = client().repository(&reference, endpoints, Trace::default());
    let told = failure(repository.resolve(&reference).await);
    assert_eq!((told.kind, told.host), (UpstreamKind::ServerError, away.host()));
}
