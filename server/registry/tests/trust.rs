//! Redirects, tokens and addresses: what a registry may make the client do.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::super::failure::no_connection;
use super::*;

/// What is said of the address that most clouds have for it.
const METADATA: &str = "the address 169.254.169.254 is never contacted";

#[tokio::test]
async fn redirects_are_followed_to_where_they_may_lead() {
    let (registry, storage) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    registry.require(Auth::Token { realm: None, expires_in: 300 });
    storage.push_blob(b"far away");
    let repository = app(&registry);
    let redirect = |to: String| Fault::Status(307, vec![("Location", to)]);
    let signed = format!("http://{}/v2/x/blobs/{}?sig=s3cret", storage.host(), sha256(b"far away"));
    // The first request has no token yet and is refused before the plan matters.
    registry.push_blob(b"near");
    read(&repository, &blob(b"near"), 0).await.expect("a token");
    registry.fail("/blobs/", redirect(signed), 1);
    assert_eq!(read(&repository, &blob(b"far away"), 4).await.expect("the rest"), b"away");
    let there = storage.seen().pop().expect("a request");
    assert_eq!(there.headers["range"], "bytes=4-7");
    assert!(!there.headers.contains_key("authorization"), "a token is for the registry alone");

    let own = format!("http://{}/v2/app/blobs/loop", registry.host());
    let (address, plain) = (METADATA, "plain HTTP is used on loopback only");
    for (to, kind, words) in [
        ("https://169.254.169.254/latest/meta-data?x=s3cret", UpstreamKind::Forbidden, address),
        ("https://2852039166/", UpstreamKind::Forbidden, address),
        ("https://0251.0376.0251.0376/", UpstreamKind::Forbidden, address),
        ("https://[::ffff:169.254.169.254]/", UpstreamKind::Forbidden, "169.254.169.254 is never contacted"),
        ("https://[fd00:ec2::254]/", UpstreamKind::Forbidden, "fd00:ec2::254 is never contacted"),
        // A control character is left out of a URL before it is judged.
        ("htt\tps://169.254.\t169.254/", UpstreamKind::Forbidden, address),
        ("http://10.0.0.1/", UpstreamKind::Forbidden, plain),
        ("http://example.com/", UpstreamKind::Forbidden, plain),
        ("file:///etc/passwd", UpstreamKind::BadAnswer, "not a URL"),
        ("http://user:s3cret@127.0.0.1/", UpstreamKind::BadAnswer, "not a URL"),
        ("https://127.0.0.1:1\u{e9}/", UpstreamKind::BadAnswer, "not a URL"),
        ("https://127.0.0.1:1/\u{1}", UpstreamKind::Unreachable, "the connection broke"),
        (&own, UpstreamKind::BadAnswer, "more than"),
    ] {
        registry.fail("/blobs/", redirect(to.to_owned()), 6);
        let told = failure(read(&repository, &blob(b"near"), 0).await);
        assert_eq!(told.kind, kind, "{to}: {}", told.reason);
        assert!(told.reason.contains(words), "{to}: {}", told.reason);
        assert!(!format!("{told:?}").contains("s3cret"), "{told:?}");
        registry.forgive();
    }
    registry.fail("/blobs/", Fault::Status(302, vec![]), 1);
    assert_eq!(failure(read(&repository, &blob(b"near"), 0).await).kind, UpstreamKind::BadAnswer);
}

#[tokio::test]
async fn a_token_stays_at_home_and_is_no_stranger_s_to_send() {
    let (registry, stranger) = (FixtureRegistry::start().await, FixtureRegistry::start().await);
    registry.push_blob(b"near");
    registry.push_blob(b"next door");
    registry.require(Auth::Token { realm: None, expires_in: 300 });
    let repository = app(&registry);
    read(&repository, &blob(b"near"), 0).await.expect("a token");
    let to = |to: String| Fault::Status(307, vec![("Location", to)]);
    let next_door = sha256(b"next door");
    // To another place of its own: the same host, and the same token.
    registry.fail(&sha256(b"near"), to(format!("/v2/app/blobs/{next_door}")), 1);
    read(&repository, &Descriptor { digest: blob(b"near").digest, ..blob(b"next door") }, 0)
        .await
        .expect("bytes");
    let seen = |registry: &FixtureRegistry| registry.seen().pop().expect("a request");
    assert!(
        seen(&registry).path.contains(&next_door) && seen(&registry).headers.contains_key("authorization")
    );
    // And back from somebody else, who thereby chooses what is asked with it.
    registry.fail(&sha256(b"near"), to(format!("http://{}/hop", stranger.host())), 1);
    stranger.fail("/hop", to(format!("http://{}/v2/app/blobs/{next_door}", registry.host())), 1);
    let requests = registry.seen().len();
    let told = failure(read(&repository, &blob(b"near"), 0).await);
    assert_eq!(
        (told.kind, registry.seen().len()),
        (UpstreamKind::Denied, requests + 2),
        "{:?}",
        registry.log()
    );
    for there in [seen(&stranger), seen(&registry)] {
        assert!(!there.headers.contains_key("authorization"), "{there:?}");
    }
}

#[tokio::test]
async fn who_has_heard_a_request_is_not_asked_again_in_clear() {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let url = certified(own.cert, own.signing_key).await;
    let reference: Reference =
        format!("127.0.0.1:{}/app:v1", url.port().expect("a port")).parse().expect("a reference");
    let heard = Heard::default();
    let endpoint = insecure(&reference, AddressPolicy::Private);
    let repository = client().repository(&reference, vec![endpoint], heard.trace());
    let told = failure(repository.resolve(&reference).await);
    assert_eq!(told.kind, UpstreamKind::Unreachable, "{}", told.reason);
    assert_eq!(heard.take("http://"), 0);
}

#[tokio::test]
async fn a_host_without_tls_is_asked_for_it_again_after_an_hour() {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    let seconds = Arc::new(AtomicI64::new(0));
    let now = seconds.clone();
    let clock = Clock::new(move || Time(now.load(Ordering::Relaxed) * 1_000_000));
    let client = Registry::new(Patience::default(), Crowd::default(), clock);
    let (heard, reference) = (Heard::default(), reference(&registry, "app"));
    let endpoint = Endpoint::of(&reference, AddressPolicy::Private);
    let repository = client.repository(&reference, vec![endpoint], heard.trace());
    for (at, tries) in [(0, 1), (3_599, 0), (3_600, 1), (3_601, 0)] {
        seconds.store(at, Ordering::Relaxed);
        read(&repository, &blob(b"x"), 0).await.expect("the bytes");
        assert_eq!(heard.take("https://"), tries, "at {at} s");
    }
}

#[tokio::test]
async fn an_anonymous_token_is_fetched_once_and_again_when_it_ends() {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    registry.require(Auth::Token { realm: None, expires_in: 300 });
    let seconds = Arc::new(AtomicI64::new(0));
    let now = seconds.clone();
    let clock = Clock::new(move || Time(now.load(Ordering::Relaxed) * 1_000_000));
    let client = Registry::new(Patience::default(), Crowd::default(), clock);
    let repository = at_home(&client, &reference(&registry, "team/app"));
    let tokens = || registry.log().iter().filter(|line| line.starts_with("GET /token")).count();
    for (at, fetched) in [(0, 1), (200, 1), (299, 2)] {
        seconds.store(at, Ordering::Relaxed);
        read(&repository, &blob(b"x"), 0).await.expect("the bytes");
        assert_eq!(tokens(), fetched, "at {at} s");
    }
    let challenge = format!(r#"Bearer realm="http://{}/token""#, registry.host());
    registry.fail("/blobs/", Fault::Status(401, vec![("WWW-Authenticate", challenge)]), 1);
    read(&repository, &blob(b"x"), 0).await.expect("the bytes");
    assert_eq!(tokens(), 3, "a token that the registry no longer takes is replaced");
    let asked = registry.log().into_iter().find(|line| line.contains("/token")).expect("asked");
    assert_eq!(asked, "GET /token?service=fixture&scope=repository%3Ateam%2Fapp%3Apull");
}

#[tokio::test]
async fn what_cannot_be_had_without_credentials_is_denied() {
    for (auth, kind, words) in [
        (Auth::Basic, UpstreamKind::CredentialWanted, "user and a password"),
        (Auth::TokenRejected, UpstreamKind::Denied, "wants credentials"),
    ] {
        let registry = FixtureRegistry::start().await;
        registry.require(auth);
        let told = failure(read(&app(&registry), &blob(b"x"), 0).await);
        assert_eq!(told.kind, kind);
        assert!(told.reason.contains(words), "{}", told.reason);
        assert!(!format!("{told:?}").contains("secret-"), "{told:?}");
    }
}

#[tokio::test]
async fn a_token_realm_is_a_strangers_word_and_judged_as_one() {
    for (realm, kind, words) in [
        ("https://169.254.169.254/token", UpstreamKind::Forbidden, METADATA),
        ("https://0xa9fea9fe/token", UpstreamKind::Forbidden, METADATA),
        ("https://[fe80::1]/token", UpstreamKind::Forbidden, "fe80::1 is never contacted"),
        ("http://example.com/token", UpstreamKind::Forbidden, "plain HTTP is used on loopback only"),
        ("http://user:s3cret@127.0.0.1/token", UpstreamKind::BadAnswer, "not the URL of a host"),
        ("not a url", UpstreamKind::BadAnswer, "not a URL"),
        ("unix:/run/docker.sock", UpstreamKind::BadAnswer, "not the URL of a host"),
    ] {
        let registry = FixtureRegistry::start().await;
        registry.require(Auth::Token { realm: Some(realm.to_owned()), expires_in: 60 });
        let told = failure(read(&app(&registry), &blob(b"x"), 0).await);
        assert_eq!(told.kind, kind, "{realm}");
        assert!(told.reason.contains(words), "{realm}: {}", told.reason);
        assert!(!format!("{told:?}").contains("s3cret"), "{told:?}");
    }
    let registry = FixtureRegistry::start().await;
    registry.require(Auth::Token { realm: None, expires_in: 60 });
    for fault in [Fault::Endless, Fault::WrongBytes] {
        registry.fail("/token", fault, 1);
        assert_eq!(failure(read(&app(&registry), &blob(b"x"), 0).await).kind, UpstreamKind::BadAnswer);
    }
}

#[tokio::test]
async fn an_address_that_is_not_allowed_is_never_connected_to() {
    let registry = FixtureRegistry::start().await;
    let client = Registry::new(Patience::default(), Crowd::default(), Clock::system());
    let port = registry.host().rsplit_once(':').expect("a port").1.to_owned();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let reference: Reference = format!("{host}:{port}/app:v1").parse().expect("a reference");
        let endpoint = insecure(&reference, AddressPolicy::Public);
        let repository = client.repository(&reference, vec![endpoint], Trace::default());
        let told = failure(repository.resolve(&reference).await);
        assert_eq!(told.kind, UpstreamKind::PrivateAddress, "{host}: {}", told.reason);
    }
    assert!(registry.log().is_empty());
}

#[test]
fn only_a_written_port_80_goes_without_a_try_of_tls() {
    for (authority, goes_plain) in [
        ("registry.example", false),
        ("registry.example:443", false),
        ("registry.example:8080", false),
        ("registry.example:80", true),
        ("[::80]", false),
        ("[::1]:80", true),
    ] {
        let reference: Reference = format!("{authority}/app").parse().expect("a reference");
        let endpoint = insecure(&reference, AddressPolicy::Public);
        assert_eq!(endpoint.names_plain_port(), goes_plain, "{authority}");
    }
}

#[tokio::test]
async fn a_certificate_that_proves_nothing_is_told_as_such() {
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, date_time_ymd};
    let key = || KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "Harbour");
    let issuer = CertifiedIssuer::self_signed(params, key()).expect("an issuer");
    let issued = |name: &str, until: i32| {
        let (mut params, key) = (CertificateParams::new([name.to_owned()]).expect("a name"), key());
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
        (params.signed_by(&key, &issuer).expect("a certificate"), key)
    };
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let root = reqwest::Certificate::from_der(issuer.der()).expect("a root");
    for ((certificate, key), words) in [
        ((own.cert, own.signing_key), "issued by somebody whom this system does not trust"),
        (issued("127.0.0.1", 2021), "has expired"),
        (issued("registry.example", 2999), "is for another name"),
    ] {
        let url = certified(certificate, key).await;
        let client = reqwest::Client::builder().tls_certs_merge([root.clone()]).build().expect("a client");
        let error = client.get(url.clone()).send().await.expect_err("nobody to trust");
        let told = failure::<()>(Err(no_connection(&url, &error)));
        assert_eq!((told.kind, retriable(&Error::Upstream(told.clone()))), (UpstreamKind::Untrusted, false));
        assert!(told.reason.contains(words), "{}", told.reason);
    }
}

#[tokio::test]
async fn a_host_that_does_not_listen_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let host = listener.local_addr().expect("its address");
    drop(listener);
    let reference: Reference = format!("{host}/app:v1").parse().expect("a reference");
    let told = failure(at_home(&client(), &reference).resolve(&reference).await);
    assert_eq!((told.kind, told.host), (UpstreamKind::Unreachable, host.to_string()));
    assert!(told.reason.contains("refused"), "{}", told.reason);
}
