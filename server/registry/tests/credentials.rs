//! Who gets a credential, and what it gets us.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use super::super::fixture::TokenFor;
use super::*;

pub(super) fn password(text: &str) -> Credential {
    let (username, password) = text.split_once(':').expect("a pair");
    Credential::Password { username: username.into(), password: Secret::new(password) }
}

/// The repository `app` of `registry`, with a credential and with token hosts.
pub(super) fn known(
    client: &Registry,
    registry: &FixtureRegistry,
    credential: Credential,
    token_hosts: &[String],
) -> Repository {
    let reference = reference(registry, "app");
    let endpoint = Endpoint::of(&reference, AddressPolicy::Private);
    let endpoint = Endpoint { token_hosts: token_hosts.to_vec(), credential: Some(credential), ..endpoint };
    client.repository(&reference, vec![endpoint], Trace::default())
}

/// What was sent as `Authorization`, request by request.
pub(super) fn sent(registry: &FixtureRegistry) -> Vec<String> {
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
    let refused =
        (UpstreamKind::CredentialRefused, "the registry refuses the user or the password (status 401)");
    assert_eq!((told.kind, told.reason.as_str()), refused);
    assert!(!format!("{told:?}").contains("other"), "{told:?}");
}

/// The repository `app` of `registry` at its own host, with this header.
fn with_header(registry: &FixtureRegistry, value: &'static str) -> Endpoint {
    let endpoint = Endpoint::of(&reference(registry, "app"), AddressPolicy::Private);
    let headers = HeaderMap::from_iter([("x-key".parse().expect("a name"), HeaderValue::from_static(value))]);
    Endpoint { headers, ..endpoint }
}

#[tokio::test]
async fn a_token_that_configured_headers_earned_is_for_requests_with_those_alone() {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    registry.require(Auth::Token { realm: None, expires_in: 300 });
    let client = client();
    let mut insecure = with_header(&registry, "first");
    // As a host on another machine: what is configured stays behind where nobody proves to be it.
    insecure.scheme = Scheme::Https;
    insecure.be_insecure();
    let (first, rotated) = (|| with_header(&registry, "first"), with_header(&registry, "second"));
    for endpoint in [first(), first(), rotated, insecure] {
        let endpoints = vec![endpoint];
        let repository = client.repository(&reference(&registry, "app"), endpoints, Trace::default());
        read(&repository, &blob(b"x"), 0).await.expect("the bytes");
    }
    let new = ["", "", "Bearer"];
    assert_eq!(sent(&registry), [&new[..], &["Bearer"], &new, &new].concat());
    let keys: Vec<_> = registry.seen().iter().map(|seen| seen.headers.get("x-key").cloned()).collect();
    assert_eq!(keys[7..], [None, None, None], "{keys:?}");
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
        assert_eq!(told.kind, UpstreamKind::CredentialRefused);
        assert!(told.reason.contains("refuses these credentials"), "{}", told.reason);
    }
}

#[tokio::test]
async fn an_identity_token_is_changed_for_access_and_for_its_successor() {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    registry.require(Auth::Token { realm: None, expires_in: 1 });
    registry.hand_tokens_to(TokenFor::Refresh("first".into()));
    let seconds = Arc::new(AtomicI64::new(0));
    let now = seconds.clone();
    let clock = Clock::new(move || Time(now.load(Ordering::Relaxed) * 1_000_000));
    let client = Registry::new(Patience::default(), Crowd::default(), clock);
    let identity = Credential::IdentityToken { token: Secret::new("first") };
    for at in 0..2 {
        seconds.store(at, Ordering::Relaxed);
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
    assert_eq!((told.kind, sent(&registry)), (UpstreamKind::CredentialRefused, vec!["Bearer".to_owned(); 2]));
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
    assert_eq!(told.kind, UpstreamKind::TokenHostUnknown);
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

#[tokio::test]
async fn on_loopback_an_insecure_pull_sends_what_any_other_sends() {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    registry.require(Auth::Password("me:s3cret"));
    let reference = reference(&registry, "app");
    for insecure in [false, true] {
        let server = HostSettings { credential: Some(password("me:s3cret")), ..HostSettings::default() };
        let settings = RegistrySettings { server, mirrors: Vec::new() };
        let mut endpoints = settings.endpoints(&reference, AddressPolicy::Private, true);
        if insecure {
            endpoints[0].be_insecure();
        }
        let repository = client().repository(&reference, endpoints, Trace::default());
        read(&repository, &blob(b"x"), 0).await.expect("the bytes");
    }
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
    let endpoint = Endpoint::of(&reference, AddressPolicy::Private);
    let endpoint = Endpoint { credential: Some(password("me:s3cret")), ..endpoint };
    let repository = client().repository(&reference, vec![endpoint], trace);
    read(&repository, &blob(b"x"), 0).await.expect("the bytes");
    let lines: Vec<String> = told
        .lock()
        .expect("no holder panics")
        .iter()
        .filter_map(|what| match what {
            Told::Exchange(exchange) => Some(exchange.to_string()),
            Told::Body(_) => None,
            Told::Fallback { .. } => panic!("{what:?}"),
        })
        .collect();
    let all = format!("{lines:#?} {told:?}");
    assert!(!all.contains("s3cret") && !all.contains("secret-") && !all.contains("bWU6"), "{all}");
    let last = lines.last().expect("a request");
    assert!(last.contains("(Bearer) → 200"), "{last}");
}

#[tokio::test]
async fn a_credential_that_opens_another_repository_is_not_called_wrong() {
    let registry = FixtureRegistry::start().await;
    registry.require(Auth::TokenRejected);
    let told = failure(read(&known(&client(), &registry, password("me:s3cret"), &[]), &blob(b"x"), 0).await);
    let words = "the credential does not open this repository (status 401)";
    assert_eq!((told.kind, told.reason.as_str()), (UpstreamKind::Denied, words));
}
