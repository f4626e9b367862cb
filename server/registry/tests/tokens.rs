//! Token servers: what they are asked for, and what their answers open.

use super::super::fixture::TokenFor;
use super::credentials::{known, password, sent};
use super::*;

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
        let repository = at_home(&client, &super::reference(&registry, name));
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

#[tokio::test]
async fn each_scope_that_is_asked_for_stands_by_itself() {
    let registry = FixtureRegistry::start().await;
    registry.push_blob(b"x");
    registry.require(Auth::Token { realm: None, expires_in: 300 });
    registry.name_scope("repository:app:pull  repository:base:pull");
    read(&app(&registry), &blob(b"x"), 0).await.expect("the bytes");
    let asked = registry.log().into_iter().find(|line| line.contains("/token")).expect("asked");
    let scopes = "scope=repository%3Aapp%3Apull&scope=repository%3Abase%3Apull";
    assert_eq!(asked, format!("GET /token?service=fixture&{scopes}"));
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
        (403, UpstreamKind::CredentialWanted, "the token server refuses us without credentials (status 403)"),
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
    // Also one that lives no longer than what is set aside for its way.
    for expires_in in [300, 5, 1] {
        let registry = FixtureRegistry::start().await;
        registry.push_blob(b"x");
        registry.require(Auth::Token { realm: None, expires_in });
        registry.hand_tokens_to(TokenFor::Password("me:s3cret"));
        let repository = known(&client(), &registry, password("me:s3cret"), &[]);
        let descriptor = blob(b"x");
        let reads = (0..20).map(|_| read(&repository, &descriptor, 0));
        for got in futures_util::future::join_all(reads).await {
            got.expect("the bytes");
        }
        let asked = registry.log().iter().filter(|line| line.contains("/token")).count();
        assert_eq!(asked, 1, "of tokens that live {expires_in} s");
    }
}
