//! What proves to a registry who we are. Nothing here is ever printed.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::id::hex;
use crate::limits;

/// Text that is in no `Debug`, no log and no answer.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text: for the wire, and for what is sealed, only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A credential for one registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Credential {
    /// For the registry itself (RFC 7617), or for the token server that it names.
    Password { username: String, password: Secret },
    /// A refresh token, which the token server changes for access tokens (RFC 6749, section 6).
    IdentityToken { token: Secret },
    /// An access token that the registry takes as it is (RFC 6750).
    RegistryToken { token: Secret },
}

impl Credential {
    /// # Errors
    /// `Invalid` for what no header can carry; the text is not repeated.
    pub fn check(self) -> Result<Credential> {
        let text = |secret: &Secret| {
            !secret.0.is_empty()
                && secret.0.len() <= limits::CREDENTIAL_BYTES
                && !secret.0.contains(char::is_control)
        };
        let graphic = |secret: &Secret| text(secret) && secret.0.bytes().all(|c| c.is_ascii_graphic());
        match &self {
            // RFC 7617, section 2: a colon would end the name.
            Credential::Password { username, .. }
                if username.is_empty()
                    || username.len() > limits::CREDENTIAL_BYTES
                    || username.contains(|c: char| c == ':' || c.is_control()) =>
            {
                Err(Error::invalid("a user name is text without `:` and control characters"))
            }
            Credential::Password { password, .. } if !text(password) => Err(Error::invalid(format!(
                "a password has 1 to {} bytes and no control characters",
                limits::CREDENTIAL_BYTES
            ))),
            Credential::IdentityToken { token } | Credential::RegistryToken { token } if !graphic(token) => {
                Err(Error::invalid(format!(
                    "a token is 1 to {} visible ASCII characters",
                    limits::CREDENTIAL_BYTES
                )))
            }
            Credential::Password { .. }
            | Credential::IdentityToken { .. }
            | Credential::RegistryToken { .. } => Ok(self),
        }
    }

    /// Names the credential without telling it: for this process's memory only, where tokens are kept by it.
    pub(super) fn fingerprint(&self) -> String {
        let (kind, name, secret) = match self {
            Credential::Password { username, password } => ("p", username.as_str(), password),
            Credential::IdentityToken { token } => ("i", "", token),
            Credential::RegistryToken { token } => ("r", "", token),
        };
        hex(&Sha256::digest(format!("{kind}\0{name}\0{}", secret.expose())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str, password: &str) -> Credential {
        Credential::Password { username: username.into(), password: Secret::new(password) }
    }

    #[test]
    fn a_credential_is_never_printed() {
        let all = [
            password("me", "s3cret"),
            Credential::IdentityToken { token: Secret::new("s3cret") },
            Credential::RegistryToken { token: Secret::new("s3cret") },
        ];
        for credential in all {
            assert!(!format!("{credential:?}").contains("s3cret"));
            assert!(!credential.fingerprint().contains("s3cret"));
        }
    }

    #[test]
    fn what_no_header_can_carry_is_refused_without_being_repeated() {
        let token = |token: &str| Credential::RegistryToken { token: Secret::new(token) };
        let long = "s3cret".repeat(4096);
        for bad in [
            password("", "s3cret"),
            password("a:s3cret", "x"),
            password("a\r\ns3cret", "x"),
            password("a", ""),
            password("a", "s3cret\n"),
            password("a", &long),
            token("s3cret s3cret"),
            token("s3cret\r\nX: y"),
            token(""),
            token("s3crét"),
        ] {
            let error = bad.check().expect_err("refused").to_string();
            assert!(!error.contains("s3cr"), "{error}");
        }
        for good in [password("a", "pässwörd with spaces:"), password("AWS", "x"), token("ey.J0-_~+/=")] {
            good.check().expect("good");
        }
    }
}
