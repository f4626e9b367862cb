//! Control characters where a registry's words become ours: where it sends us, what it challenges with, what it hands out
//! as a token. None comes into a request, a log or a text.

use super::hostile_transport::hasty;
use super::*;
use crate::registry::fixture::Auth;

/// A registry with one image, and a server that has never seen it.
struct Trial {
    registry: FixtureRegistry,
    server: Server,
    _directory: TempDir,
}

impl Trial {
    async fn begin() -> Trial {
        let (registry, directory) = (FixtureRegistry::start().await, directory());
        registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
        let server = Server::start_with(directory.path(), hasty).await;
        Trial { registry, server, _directory: directory }
    }

    /// Pulls in vain: nothing of the layer is stored, nothing is named, and no text of the pull or of a request has a
    /// control character, or a header that the registry put there.
    async fn fails(self, what: &str) -> (JobErrorCode, String) {
        let name = format!("{}/app:v1", self.registry.host());
        let pull = self.server.pull(ask(name.clone())).await;
        let error = pull.error.unwrap_or_else(|| panic!("{what}: it is {:?}", pull.state));
        let texts = pull.log.iter().map(|line| &line.message).chain([&error.detail]);
        for text in texts {
            assert!(!text.chars().any(char::is_control), "{what}: {text:?}");
        }
        for seen in self.registry.seen() {
            let mut texts = seen.headers.values().chain([&seen.path]);
            assert!(texts.all(|text| !text.chars().any(char::is_control)), "{what}: {seen:?}");
            assert!(!seen.headers.contains_key("x-evil"), "{what}: {seen:?}");
            assert!(!seen.headers.contains_key("authorization"), "{what}: {seen:?}");
        }
        let layer = sha256(b"layer").parse().expect("a digest");
        assert!(self.server.store.find_content("default", &layer).await.is_err(), "{what}");
        assert!(self.server.store.find_image_by("default", &name).await.is_err(), "{what}");
        self.server.stop().await;
        (error.code, error.detail)
    }
}

/// Characters that no header can hold: who sends one sends no HTTP.
const UNHEARD: [&str; 5] = ["\0", "\u{1b}[31m", "\u{7}", "\u{7f}", "\rX-Evil: y"];
/// Those that a header can hold, and no URL of ours: beyond ASCII, where more of them are.
const BEYOND: [&str; 3] = ["\u{9b}31m", "\u{85}X-Evil: y", "\u{202e}"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_with_control_characters_leads_nowhere() {
    let to = |trial: &Trial, text: &str| {
        let place = format!("http://{}/elsewhere{text}", trial.registry.host());
        trial.registry.fail(&sha256(b"layer"), Fault::Status(307, vec![("Location", place)]), usize::MAX);
    };
    for text in UNHEARD {
        let trial = Trial::begin().await;
        to(&trial, text);
        assert_eq!(trial.fails(text).await.0, JobErrorCode::UpstreamUnreachable, "{text:?}");
    }
    for text in BEYOND {
        let trial = Trial::begin().await;
        to(&trial, text);
        let (code, detail) = trial.fails(text).await;
        assert_eq!(code, JobErrorCode::UpstreamBadAnswer, "{text:?}: {detail}");
        assert!(detail.ends_with("it redirects to something that is not a URL"), "{text:?}: {detail}");
    }
    // Those that are spelt out are part of a path, and stay spelt out.
    for text in ["%0d%0aX-Evil:%20y", "%00", "%1b[31m", "\tX-Evil:"] {
        let trial = Trial::begin().await;
        to(&trial, text);
        assert_eq!(trial.fails(text).await.0, JobErrorCode::UpstreamNotFound, "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_with_control_characters_gets_no_token() {
    let realm = |trial: &Trial, text: &str| {
        let realm = Some(format!("http://{}/elsewhere{text}", trial.registry.host()));
        trial.registry.require(Auth::Token { realm, expires_in: 60 });
    };
    for text in UNHEARD {
        let trial = Trial::begin().await;
        realm(&trial, text);
        assert_eq!(trial.fails(text).await.0, JobErrorCode::UpstreamUnreachable, "{text:?}");
    }
    for text in BEYOND {
        let trial = Trial::begin().await;
        realm(&trial, text);
        let (code, detail) = trial.fails(text).await;
        assert_eq!(code, JobErrorCode::UpstreamDenied, "{text:?}: {detail}");
    }
    for text in ["%0d%0aX-Evil:%20y", "%00", "\tX-Evil:"] {
        let trial = Trial::begin().await;
        realm(&trial, text);
        // It wants a token there as well, which nobody has.
        assert_eq!(trial.fails(text).await.0, JobErrorCode::UpstreamDenied, "{text:?}");
    }
    for text in ["repository:app:pull\u{9b}31m", "repository:app:pull\u{0}", "repository:app:pull\r"] {
        let trial = Trial::begin().await;
        trial.registry.require(Auth::Token { realm: None, expires_in: 60 });
        trial.registry.name_scope(text);
        trial.fails(text).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_with_control_characters_is_none_and_is_sent_to_nobody() {
    for token in [
        r"secret-1\r\nX-Evil: y",
        r"secret-1\nX-Evil: y",
        r"secret-1\u0000",
        r"secret-1\u001b[31m",
        r"secret-1\u007f",
        r"secret-1\t",
        r"secret-1\u0085",
        r"secret-1\u202e",
        r" secret-1",
    ] {
        for field in ["token", "access_token"] {
            let trial = Trial::begin().await;
            let body = format!(r#"{{"{field}":"{token}","expires_in":60}}"#);
            let realm = Some(trial.registry.push_file("/elsewhere", body.as_bytes()));
            trial.registry.require(Auth::Token { realm, expires_in: 60 });
            let (code, detail) = trial.fails(token).await;
            assert_eq!(code, JobErrorCode::UpstreamBadAnswer, "{token}: {detail}");
            assert!(detail.ends_with("its answer has no token in it"), "{token}: {detail}");
        }
    }
}
