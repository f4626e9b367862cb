//! A token server for docker-registry: signed tokens (distribution, "Token Authentication Implementation") for whoever
//! knows the password, over plain HTTP on loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const ISSUER: &str = "harbour";
pub const SERVICE: &str = "cargo";

pub struct TokenServer {
    pub address: SocketAddr,
    /// The scopes that tokens were made for.
    asked: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

struct Signer {
    key: EcdsaKeyPair,
    certificate: String,
    /// `Basic …`
    password: String,
    life: Duration,
}

impl TokenServer {
    /// Hands tokens with this life to whoever knows `user:password`. The certificate that a registry is to trust is
    /// written to `bundle`.
    pub async fn start(bundle: &Path, password: &str, life: Duration) -> TokenServer {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new([ISSUER.to_owned()]).expect("params");
        let certificate = params.self_signed(&pair).expect("a certificate");
        std::fs::write(bundle, certificate.pem()).expect("the bundle is written");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der());
        let signer = Arc::new(Signer {
            key: key.expect("a P-256 key"),
            certificate: STANDARD.encode(certificate.der()),
            password: format!("Basic {}", STANDARD.encode(password)),
            life,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("its address");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = asked.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, signer.clone(), heard.clone()));
            }
        });
        TokenServer { address, asked, accepting }
    }

    /// The `auth` section of a registry that trusts this server.
    pub fn auth(&self, bundle: &Path) -> String {
        format!(
            "auth: {{token: {{realm: 'http://{}/token', service: '{SERVICE}', issuer: '{ISSUER}', \
             rootcertbundle: '{}'}}}}",
            self.address,
            bundle.display()
        )
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no holder panics").clone()
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, signer: Arc<Signer>, asked: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    let (mut target, mut authorization, mut line) = (String::new(), None, String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line).await.is_err() || line.trim().is_empty() {
            break;
        }
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                authorization = Some(value.trim().to_owned());
            }
            Some(_) => {}
            None => target = line.split(' ').nth(1).unwrap_or_default().to_owned(),
        }
    }
    let url = url::Url::parse(&format!("http://x{target}")).expect("a target");
    let scope = url.query_pairs().find(|(name, _)| name == "scope").map(|(_, scope)| scope.into_owned());
    let scope = scope.unwrap_or_default();
    asked.lock().expect("no holder panics").push(scope.clone());
    let (status, body) = match authorization == Some(signer.password.clone()) {
        true => ("200 OK", json!({"token": signer.token(&scope), "expires_in": signer.life.as_secs()})),
        false => ("401 Unauthorized", json!({"errors": [{"code": "UNAUTHORIZED"}]})),
    };
    let body = body.to_string();
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    // A peer that hangs up early has heard enough.
    let _ = stream.write_all(answer.as_bytes()).await;
}

impl Signer {
    fn token(&self, scope: &str) -> String {
        let mut parts = scope.splitn(3, ':');
        let (kind, name, actions) = (parts.next(), parts.next(), parts.next().unwrap_or_default());
        let access: Vec<_> = name
            .map(
                |name| json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}),
            )
            .into_iter()
            .collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": ISSUER, "sub": "ci", "aud": SERVICE, "jti": "1", "access": access,
            "iat": now, "nbf": now - 10, "exp": now + self.life.as_secs(),
        });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
