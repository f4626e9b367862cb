//! Who gets a credential, and what it gets us.

use std::collections::BTreeMap;

use super::super::fixture::TokenFor;
use super::*;

fn password(text: &str) -> Credential {
    let (username, password) = text.split_once(':').expect("a pair");
    Credential::Password { username: username.into(), password: Secret::new(password) }
}

/// The repository `app` of `registry`, with a credential and with token hosts.
fn known(
    client: &Registry,
    registry: &FixtureRegistry,
    credential: Credential,
    token_hosts: &[String],
) -> Repository {
    let reference = reference(registry, "app");
    let endpoint = Endpoint::of(&reference, Transport::Verified, AddressPolicy::Private);
    let endpoint = Endpoint { token_hosts: token_hosts.to_vec(), credential: Some(credential), ..endpoint };
    client.repository(&reference, vec![endpoint], Trace::default())
}

/// What was sent as `Authorization`, request by request.
fn sent(registry: &FixtureRegistry) -> Vec<String> {
    let scheme = |value: &String| value.split(' ').next().unwrap_or_default().to_owned();
    registry
        .seen()
        .iter()
        .map(|seen| seen.headers.get("authorization").map(scheme).unwrap_or_default())
        .collect()
}

#[tokio::test]
async fn a_password_is_sent_when_it_is_asked_for_and_then_at_once() {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    registry.require(Auth::Password("me:s3cret"));
    let client = client();
    let repository = known(&client, &registry, password("me:s3cret"), &[]);
    for _ in 0..2 {
        read(&repository, &blob(b"x"), 0).await.expect("the bytes");
    }
    assert_eq!(sent(&registry), ["", "Basic", "Basic"]);
    let wrong = known(&client, &registry, password("me:other"), &[]);
    let told = failure(read(&wrong, &blob(b"x"), 0).await);
    assert_eq!(told.kind, UpstreamKind::Denied);
    assert!(!format!("{told:?}").contains("other"), "{told:?}");
}

#[tokio::test]
async fn a_password_gets_a_token_and_the_registry_never_sees_it() {
    for whom in [TokenFor::Password("me:s3cret"), TokenFor::PostedPassword("me:s3cret")] {
        let registry = FixtureRegistry::start().await;
        registry.push_blob(b"x");
        registry.require(Auth::Token { realm: None, expires_in: 300 });
        registry.hand_tokens_to(whom);
        let client = client();
        let repository = known(&client, &registry, password("me:s3cret"), &[]);
        read(&repository, &blob(b"x"), 0).await.expect("the bytes");
        for seen in registry.seen().iter().filter(|seen| !seen.path.starts_with("/token")) {
            assert!(seen.headers.get("authorization").is_none_or(|value| value.starts_with("Bearer ")));
        }
        let told = failure(read(&known(&client, &registry, password("me:no"), &[]), &blob(b"x"), 0).await);
        assert_eq!(told.kind, UpstreamKind::Denied);
        assert!(told.reason.contains("refuses these credentials"), "{}", told.reason);
    }
}

#[tokio::test]
async fn an_identity_token_is_changed_for_access_and_for_its_successor() {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    registry.require(Auth::Token { realm: None, expires_in: 1 });
    registry.hand_tokens_to(TokenFor::Refresh("first".into()));
    let client = client();
    let identity = Credential::IdentityToken { token: Secret::new("first") };
    for _ in 0..2 {
        read(&known(&client, &registry, identity.clone(), &[]), &blob(b"x"), 0).await.expect("the bytes");
    }
    let posted: Vec<BTreeMap<String, String>> = registry
        .seen()
        .iter()
        .filter(|seen| seen.method == "POST")
        .map(|seen| url::form_urlencoded::parse(seen.body.as_bytes()).into_owned().collect())
        .collect();
    let refresh: Vec<_> = posted.iter().map(|form| form["refresh_token"].as_str()).collect();
    assert_eq!(refresh, ["first", "refresh-1"]);
    assert_eq!(
        (posted[0]["grant_type"].as_str(), posted[0]["scope"].as_str()),
        ("refresh_token", "repository:app:pull")
    );
}

#[tokio::test]
async fn a_registry_token_is_sent_as_it_is_and_its_refusal_is_final() {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    registry.require(Auth::Token { realm: None, expires_in: 300 });
    let client = client();
    let token = |text: &str| Credential::RegistryToken { token: Secret::new(text) };
    read(&known(&client, &registry, token("secret-1"), &[]), &blob(b"x"), 0).await.expect("the bytes");
    let told = failure(read(&known(&client, &registry, token("wrong"), &[]), &blob(b"x"), 0).await);
    assert_eq!((told.kind, sent(&registry)), (UpstreamKind::Denied, vec!["Bearer".to_owned(); 2]));
}

#[tokio::test]
async fn a_realm_on_another_host_gets_a_credential_only_where_it_is_configured() {
    let (registry, elsewhere) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    registry.push_blob(b"x");
    let realm = Some(format!("http://{}/token", elsewhere.host()));
    registry.require(Auth::Token { realm, expires_in: 300 });
    elsewhere.hand_tokens_to(TokenFor::Password("me:s3cret"));
    let client = client();
    let told = failure(read(&known(&client, &registry, password("me:s3cret"), &[]), &blob(b"x"), 0).await);
    assert_eq!(told.kind, UpstreamKind::Denied);
    assert!(told.reason.contains(&elsewhere.host()) && !told.reason.contains("s3cret"), "{}", told.reason);
    assert!(elsewhere.seen().is_empty(), "nothing at all is sent there");
    let configured = known(&client, &registry, password("me:s3cret"), &[elsewhere.host()]);
    read(&configured, &blob(b"x"), 0).await.expect("the bytes");
}

#[tokio::test]
async fn a_redirect_never_takes_a_credential_along() {
    let (registry, storage) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    storage.push_blob(b"far away");
    storage.require(Auth::Basic);
    registry.push_blob(b"near");
    registry.require(Auth::Password("me:s3cret"));
    let repository = known(&client(), &registry, password("me:s3cret"), &[]);
    read(&repository, &blob(b"near"), 0).await.expect("the bytes");
    let to = format!("http://{}/v2/x/blobs/{}", storage.host(), sha256(b"far away"));
    registry.fail("/blobs/", Fault::Status(307, vec![("Location", to)]), 1);
    let told = failure(read(&repository, &blob(b"far away"), 0).await);
    assert_eq!((told.kind, sent(&storage)), (UpstreamKind::Denied, vec![String::new()]));

    // Nor does a token server that sends the form on.
    registry.require(Auth::Token { realm: None, expires_in: 300 });
    let to = format!("http://{}/token", storage.host());
    registry.fail("/token", Fault::Status(307, vec![("Location", to)]), 1);
    let identity = Credential::IdentityToken { token: Secret::new("s3cret") };
    let told = failure(read(&known(&client(), &registry, identity, &[]), &blob(b"near"), 0).await);
    assert_eq!((told.kind, storage.seen().len()), (UpstreamKind::BadAnswer, 1), "{}", told.reason);
}

#[tokio::test]
async fn a_token_opens_one_repository_of_one_registry_behind_a_host() {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    registry.require(Auth::Token { realm: None, expires_in: 300 });
    let client = client();
    let reference: Reference = "registry.example/library/app".parse().expect("a reference");
    // As proxies have it: one host, and a path for each registry that they speak for.
    let proxy = |path: &str| {
        let url = Some(format!("http://{}/v2/{path}", registry.host()).parse().expect("a URL"));
        let server = HostSettings { url, override_path: true, ..HostSettings::default() };
        let settings = RegistrySettings { server, mirrors: Vec::new() };
        let endpoints = settings.endpoints(&reference, AddressPolicy::Private, true);
        client.repository(&reference, endpoints, Trace::default())
    };
    let tokens = || registry.log().iter().filter(|line| line.contains("/token")).cloned().collect::<Vec<_>>();
    registry.name_scope("repository:hub/library/app:pull");
    read(&proxy("hub"), &blob(b"x"), 0).await.expect("the bytes");
    registry.name_scope("repository:quay/library/app:pull");
    read(&proxy("quay"), &blob(b"x"), 0).await.expect("the bytes");
    let asked = sent(&registry).iter().filter(|scheme| *scheme == "Bearer").count();
    assert_eq!((tokens().len(), asked), (2, 2), "none is sent where it opens nothing: {:?}", registry.log());
    // Both are kept.
    read(&proxy("hub"), &blob(b"x"), 0).await.expect("the bytes");
    read(&proxy("quay"), &blob(b"x"), 0).await.expect("the bytes");
    assert_eq!(tokens().len(), 2);
    // Two repositories of one registry are two scopes as well.
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    registry.require(Auth::Token { realm: None, expires_in: 300 });
    for name in ["one", "two", "one"] {
        let repository = at_home(&client, &super::reference(&registry, name), Transport::Verified);
        read(&repository, &blob(b"x"), 0).await.expect("the bytes");
    }
    let scheme = ["", "", "Bearer", "", "", "Bearer", "Bearer"];
    assert_eq!(sent(&registry), scheme, "{:?}", registry.log());
}

#[tokio::test]
async fn a_credential_is_asked_to_pull_what_is_pulled_and_nothing_else() {
    for (said, asked) in [
        ("repository:app:pull", "repository:app:pull"),
        ("repository:app:pull,push,delete", "repository:app:pull"),
        ("repository:victim/app:pull", "repository:app:pull"),
        ("repository:victim:*", "repository:app:pull"),
        ("registry:catalog:*", "repository:app:pull"),
        ("repository:victim:push repository:app:push", "repository:app:pull"),
    ] {
        let registry = FixtureRegistry::start().await;
        registry.push_blob(b"x");
        registry.require(Auth::Token { realm: None, expires_in: 300 });
        registry.name_scope(said);
        let identity = Credential::IdentityToken { token: Secret::new("s3cret") };
        for credential in [password("me:s3cret"), identity] {
            read(&known(&client(), &registry, credential, &[]), &blob(b"x"), 0).await.expect("the bytes");
        }
        let seen = registry.seen();
        let tokens = seen.iter().filter(|seen| seen.path.starts_with("/token"));
        let scopes: Vec<_> = tokens
            .map(|seen| format!("{}&{}", seen.path.split_once('?').map_or("", |(_, query)| query), seen.body))
            .flat_map(|text| url::form_urlencoded::parse(text.as_bytes()).into_owned().collect::<Vec<_>>())
            .filter(|(name, _)| name == "scope")
            .map(|(_, scope)| scope)
            .collect();
        assert_eq!(scopes, [asked, asked], "{said}");
    }
}

#[test]
fn a_repository_is_called_by_its_own_name_or_below_the_path_it_is_asked_at() {
    let reference: Reference = "docker.io/library/app".parse().expect("a reference");
    let of = |url: &str, name: &str| {
        let host = HostSettings {
            url: Some(url.parse().expect(url)),
            override_path: true,
            ..HostSettings::default()
        };
        let settings = RegistrySettings { server: host, mirrors: Vec::new() };
        settings.endpoints(&reference, AddressPolicy::Public, true)[0].may_call("library/app", name)
    };
    for (url, name, may) in [
        ("https://proxy.example/v2", "library/app", true),
        ("https://proxy.example/v2/hub", "hub/library/app", true),
        ("https://proxy.example/v2/team/hub", "team/hub/library/app", true),
        ("https://proxy.example/v2", "docker.io/library/app", true),
        ("https://proxy.example/v2", "hub/library/app", false),
        ("https://proxy.example/v2/hub", "ub/library/app", false),
        ("https://proxy.example/v2/hub", "hub/other/app", false),
        ("https://proxy.example/v2/hub", "app", false),
        ("https://proxy.example/v2/hub", "evil-library/app", false),
        ("https://proxy.example/v2/hub", "/library/app", false),
    ] {
        assert_eq!(of(url, name), may, "{url} {name}");
    }
}

#[tokio::test]
async fn what_a_token_server_lacks_is_no_image() {
    let registry = FixtureRegistry::start().await;
    registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
    registry.require(Auth::Token { realm: None, expires_in: 300 });
    for (status, kind, words) in [
        (
            404,
            UpstreamKind::BadAnswer,
            "the token server gives no token where it was asked for one (status 404)",
        ),
        (
            410,
            UpstreamKind::BadAnswer,
            "the token server gives no token where it was asked for one (status 410)",
        ),
        (
            405,
            UpstreamKind::BadAnswer,
            "the token server gave an answer that makes no sense here (status 405)",
        ),
        (
            422,
            UpstreamKind::BadAnswer,
            "the token server gave an answer that makes no sense here (status 422)",
        ),
        (403, UpstreamKind::Denied, "the token server refuses us without credentials (status 403)"),
        (429, UpstreamKind::RateLimited, "the token server limits our requests (status 429)"),
        (500, UpstreamKind::ServerError, "the token server failed (status 500)"),
    ] {
        registry.fail("/token", Fault::Status(status, vec![]), 1);
        let told = failure(app(&registry).resolve(&reference(&registry, "app:v1")).await);
        assert_eq!((told.kind, &*told.reason), (kind, words));
        registry.forgive();
    }
    // Nor does it mean that there are no referrers.
    registry.fail("/token", Fault::Status(404, vec![]), 1);
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    assert_eq!(failure(app(&registry).list_referrers(&subject, &[]).await).kind, UpstreamKind::BadAnswer);
}

#[tokio::test]
async fn headers_of_a_host_go_to_its_own_token_server_and_to_no_other() {
    let (registry, elsewhere) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    registry.push_blob(b"x");
    let reference = reference(&registry, "app");
    let server = HostSettings {
        headers: [("X-Key".to_owned(), vec![Secret::new("s3cret")])].into(),
        ..HostSettings::default()
    };
    let settings = RegistrySettings { server, mirrors: Vec::new() };
    for (realm, there) in
        [(None, &registry), (Some(format!("http://{}/token", elsewhere.host())), &elsewhere)]
    {
        registry.require(Auth::Token { realm, expires_in: 300 });
        let endpoints = settings.endpoints(&reference, AddressPolicy::Private, true);
        let repository = client().repository(&reference, endpoints, Trace::default());
        read(&repository, &blob(b"x"), 0).await.expect("the bytes");
        let seen = there.seen();
        let asked = seen.iter().find(|seen| seen.path.starts_with("/token")).expect("asked for a token");
        let own = there.host() == registry.host();
        assert_eq!(asked.headers.get("x-key").map(String::as_str), own.then_some("s3cret"));
    }
}

#[tokio::test]
async fn many_who_need_a_token_cost_one_request_for_it() {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    registry.require(Auth::Token { realm: None, expires_in: 300 });
    registry.hand_tokens_to(TokenFor::Password("me:s3cret"));
    let repository = known(&client(), &registry, password("me:s3cret"), &[]);
    let descriptor = blob(b"x");
    let reads = (0..20).map(|_| read(&repository, &descriptor, 0));
    for got in futures_util::future::join_all(reads).await {
        got.expect("the bytes");
    }
    assert_eq!(registry.log().iter().filter(|line| line.contains("/token")).count(), 1);
}

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
    assert_eq!((told.kind, told.host), (UpstreamKind::Denied, origin.host()));
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
        while !matches!(stream.chunk().await, Err(_)) {}
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

#[tokio::test]
async fn what_is_configured_for_a_verified_host_is_not_sent_over_an_insecure_connection() {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    registry.require(Auth::Password("me:s3cret"));
    let reference = reference(&registry, "app");
    let settings = |scheme: &str, skip_verify| {
        let server = HostSettings {
            url: Some(format!("{scheme}://{}", registry.host()).parse().expect("a URL")),
            headers: [("X-Key".to_owned(), vec![Secret::new("s3cret")])].into(),
            credential: Some(password("me:s3cret")),
            skip_verify,
            ..HostSettings::default()
        };
        RegistrySettings { server, mirrors: Vec::new() }.check().expect("good settings")
    };
    let insecure = |settings: RegistrySettings| {
        let mut endpoints = settings.endpoints(&reference, AddressPolicy::Private, true);
        endpoints[0].be_insecure();
        endpoints
    };
    let asked = |endpoints| client().repository(&reference, endpoints, Trace::default());
    let told = failure(read(&asked(insecure(settings("https", false))), &blob(b"x"), 0).await);
    assert_eq!(told.kind, UpstreamKind::Denied);
    let why = "configured credentials are not sent over an unverified connection";
    assert!(told.reason.ends_with(why), "{}", told.reason);
    assert!(registry.seen().iter().all(|seen| !seen.headers.contains_key("x-key")), "{:?}", registry.seen());
    assert_eq!(sent(&registry), [""]);

    // What the pull brings along is its own to send.
    let mut endpoints = insecure(settings("https", false));
    endpoints[0].set_credential(Some(password("me:s3cret")));
    read(&asked(endpoints), &blob(b"x"), 0).await.expect("the bytes");
    // Where the settings say plain HTTP themselves, nothing changes.
    read(&asked(insecure(settings("http", false))), &blob(b"x"), 0).await.expect("the bytes");
    // Any certificate is not none at all.
    let requests = registry.seen().len();
    let told = failure(read(&asked(insecure(settings("https", true))), &blob(b"x"), 0).await);
    assert_eq!((told.kind, registry.seen().len()), (UpstreamKind::Unreachable, requests));
}

/// All that is written to a log.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no holder panics").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_log_at_any_level_holds_a_secret() {
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _listening = tracing::subscriber::set_default(subscriber);
    let (registry, storage) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    registry.push_blob(b"x");
    let place = format!("{}?sig=s3cret", storage.push_file("/elsewhere", b"x"));
    let server = HostSettings {
        headers: [("X-Key".to_owned(), vec![Secret::new("s3cret")])].into(),
        credential: Some(password("me:s3cret")),
        ..HostSettings::default()
    };
    let identity = HostSettings {
        credential: Some(Credential::IdentityToken { token: Secret::new("s3cret") }),
        ..server.clone()
    };
    for (server, auth, to) in [
        (server.clone(), Auth::Password("me:s3cret"), TokenFor::Password("me:s3cret")),
        (server.clone(), Auth::Token { realm: None, expires_in: 300 }, TokenFor::Password("me:s3cret")),
        (server, Auth::Token { realm: None, expires_in: 300 }, TokenFor::PostedPassword("me:s3cret")),
        (identity, Auth::Token { realm: None, expires_in: 300 }, TokenFor::Refresh("s3cret".into())),
    ] {
        registry.require(auth);
        registry.hand_tokens_to(to);
        let settings = RegistrySettings { server, mirrors: Vec::new() };
        let reference = reference(&registry, "app");
        let endpoints = settings.endpoints(&reference, AddressPolicy::Private, true);
        let repository = client().repository(&reference, endpoints, Trace::default());
        read(&repository, &blob(b"x"), 0).await.expect("the bytes");
        registry.fail("/blobs/", Fault::Status(307, vec![("Location", place.clone())]), 1);
        read(&repository, &blob(b"x"), 0).await.expect("the bytes, from elsewhere");
        tracing::trace!(?settings, "As it is configured");
    }
    let text = String::from_utf8(written.0.lock().expect("no holder panics").clone()).expect("text");
    assert!(text.contains("TRACE"), "something is written");
    for secret in ["s3cret", "secret-", "refresh-", "bWU6"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}

#[tokio::test]
async fn no_trace_holds_a_secret() {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    registry.require(Auth::Token { realm: None, expires_in: 300 });
    registry.hand_tokens_to(TokenFor::Password("me:s3cret"));
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = told.clone();
    let trace = Trace::to(move |what| hear.lock().expect("no holder panics").push(what));
    let reference = reference(&registry, "app");
    let endpoint = Endpoint::of(&reference, Transport::Verified, AddressPolicy::Private);
    let endpoint = Endpoint { credential: Some(password("me:s3cret")), ..endpoint };
    let repository = client().repository(&reference, vec![endpoint], trace);
    read(&repository, &blob(b"x"), 0).await.expect("the bytes");
    let lines: Vec<String> = told
        .lock()
        .expect("no holder panics")
        .iter()
        .map(|what| match what {
            Told::Exchange(exchange) => exchange.to_string(),
            Told::Fallback { .. } => panic!("{what:?}"),
        })
        .collect();
    let all = format!("{lines:#?} {told:?}");
    assert!(!all.contains("s3cret") && !all.contains("secret-") && !all.contains("bWU6"), "{all}");
    let last = lines.last().expect("a request");
    assert!(last.contains("(Bearer) → 200"), "{last}");
}
