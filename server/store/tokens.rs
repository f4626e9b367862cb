//! Tokens: who may call, to do what, where, until when. A secret is shown once and stored as its digest.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::namespaces::check_namespace;
use super::{Expiry, Reach, Store};
use crate::clock::Time;
use crate::db;
use crate::db::tokens::TokenRow;
use crate::error::{Error, Result};
use crate::id::{hex, new_id, random_bytes};
use crate::limits;

/// What a caller may do; each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    Read,
    Write,
    Admin,
}

impl Scope {
    pub const ALL: [Scope; 3] = [Scope::Read, Scope::Write, Scope::Admin];
}

/// A token, without its secret.
#[derive(Debug, Clone, Serialize)]
pub struct Token {
    pub id: String,
    pub name: String,
    pub scopes: Vec<Scope>,
    /// Empty: everywhere.
    pub namespaces: Vec<String>,
    pub created_at: Time,
    pub expires_at: Option<Time>,
    pub last_used_at: Option<Time>,
}

impl Token {
    /// A token changes only by being used.
    pub fn tag(&self) -> String {
        let made = super::tag_of(self.created_at);
        self.last_used_at.map_or(made.clone(), |used| format!("{made}-{}", super::tag_of(used)))
    }

    /// The most that the token allows.
    pub fn scope(&self) -> Option<Scope> {
        self.scopes.iter().copied().max()
    }

    pub fn reach(&self) -> Reach {
        Reach::of(self.namespaces.iter())
    }
}

#[derive(Debug, Clone)]
pub struct NewToken {
    pub name: String,
    pub scopes: BTreeSet<Scope>,
    pub namespaces: BTreeSet<String>,
    pub expiry: Expiry,
}

/// A browser's session: what its cookie holds, and what its forms carry.
#[derive(Debug, Clone)]
pub struct Session {
    pub secret: String,
    pub csrf: String,
    pub token: Token,
}

/// What every secret begins with, so that one that was leaked can be recognised.
const PREFIX: &str = "orl_";
/// How long a browser stays logged in, at most; a shorter-lived token ends its sessions with itself.
pub const SESSION_TIME: Duration = Duration::from_secs(12 * 3600);
/// `last_used_at` is kept to this, so that reading does not write.
const USE_RESOLUTION: i64 = 60_000_000;

impl Store {
    /// Makes a token; the second value is its secret, which nobody can ask for again.
    ///
    /// # Errors
    /// `Invalid` for a name, scope, namespace or time.
    pub async fn create_token(&self, new: NewToken) -> Result<(Token, String)> {
        let now = self.now();
        if new.name.is_empty()
            || new.name.len() > limits::TOKEN_NAME_BYTES
            || new.name.contains(|c: char| c.is_ascii_control())
        {
            return Err(Error::invalid_field(
                "name",
                "a token's name has 1 to 255 bytes and no control characters",
            ));
        }
        if new.scopes.is_empty() {
            return Err(Error::invalid_field("scopes", "a token needs a scope: read, write or admin"));
        }
        if new.namespaces.len() > limits::TOKEN_NAMESPACES {
            let reason = format!("a token names at most {} namespaces", limits::TOKEN_NAMESPACES);
            return Err(Error::invalid_field("namespaces", reason));
        }
        for namespace in &new.namespaces {
            check_namespace(namespace).map_err(|error| error.in_field("namespaces"))?;
        }
        let expires_at = super::leases::end_of(new.expiry, now)?;
        let secret = format!("{PREFIX}{}", hex(&random_bytes::<32>()));
        let token = Token {
            id: new_id("tok", now),
            name: new.name,
            scopes: new.scopes.into_iter().collect(),
            namespaces: new.namespaces.into_iter().collect(),
            created_at: now,
            expires_at,
            last_used_at: None,
        };
        let row = TokenRow {
            id: token.id.clone(),
            name: token.name.clone(),
            secret_digest: digest_of(&secret),
            scopes: serde_json::to_string(&token.scopes).expect("scopes are JSON"),
            namespaces: serde_json::to_string(&token.namespaces).expect("names are JSON"),
            created_at: now.0,
            expires_at: expires_at.map(|time| time.0),
            last_used_at: None,
        };
        self.0.db.write(move |tx| Box::pin(async move { db::tokens::insert_token(tx, &row).await })).await?;
        Ok((token, secret))
    }

    /// # Errors
    /// `NotFound`.
    pub async fn find_token(&self, id: &str) -> Result<Token> {
        let mut conn = self.0.db.read().await?;
        let row = db::tokens::find_token(&mut conn, id).await?;
        row.map(token_of).ok_or_else(|| Error::not_found("token", id))
    }

    /// Ends a token and every session that stands for it, at once.
    ///
    /// # Errors
    /// `NotFound`, `PreconditionFailed`.
    pub async fn revoke_token(&self, id: &str, if_match: super::IfMatch) -> Result<()> {
        if_match.check(&self.find_token(id).await?.tag())?;
        let token = id.to_owned();
        let revoked = self
            .0
            .db
            .write(move |tx| Box::pin(async move { db::tokens::delete_token(tx, &token).await }))
            .await?;
        if revoked { Ok(()) } else { Err(Error::not_found("token", id)) }
    }

    /// The unexpired token of a secret; `None` when there is none.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer: then nobody is let in.
    pub async fn check_secret(&self, secret: &str) -> Result<Option<Token>> {
        let presented = digest_of(secret);
        let now = self.now();
        let found = {
            let mut conn = self.0.db.read().await?;
            db::tokens::find_by_secret(&mut conn, &presented).await?
        };
        // The look-up is by digest, so its time says nothing of the secret; the comparison is constant as well.
        let Some(row) = found.filter(|row| is_same(row.secret_digest.as_bytes(), presented.as_bytes()))
        else {
            return Ok(None);
        };
        if row.expires_at.is_some_and(|at| at <= now.0) {
            return Ok(None);
        }
        if row.last_used_at.is_none_or(|at| now.0.saturating_sub(at) > USE_RESOLUTION) {
            self.note_use(&row.id, now).await;
        }
        Ok(Some(token_of(row)))
    }

    async fn note_use(&self, id: &str, now: Time) {
        let token = id.to_owned();
        let noted = self
            .0
            .db
            .write(move |tx| Box::pin(async move { db::tokens::note_use(tx, &token, now.0).await }))
            .await;
        if let Err(error) = noted {
            tracing::debug!("Could not note the use of a token: {error}");
        }
    }

    /// Logs a browser in; `None` when the secret is no token's.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn begin_session(&self, secret: &str) -> Result<Option<Session>> {
        let Some(token) = self.check_secret(secret).await? else { return Ok(None) };
        let session = Session { secret: hex(&random_bytes::<32>()), csrf: hex(&random_bytes::<16>()), token };
        let end = self.now().plus(SESSION_TIME);
        let end = session.token.expires_at.map_or(end, |at| at.min(end));
        let (digest, token, csrf) =
            (digest_of(&session.secret), session.token.id.clone(), session.csrf.clone());
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move { db::tokens::insert_session(tx, &digest, &token, &csrf, end.0).await })
            })
            .await?;
        Ok(Some(session))
    }

    /// The session behind a cookie; `None` when it, or its token, has ended.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn check_session(&self, secret: &str) -> Result<Option<Session>> {
        let now = self.now();
        let mut conn = self.0.db.read().await?;
        let Some((token, csrf)) = db::tokens::find_session(&mut conn, &digest_of(secret), now.0).await?
        else {
            return Ok(None);
        };
        let row = db::tokens::find_token(&mut conn, &token).await?;
        let row = row.filter(|row| row.expires_at.is_none_or(|at| at > now.0));
        Ok(row.map(|row| Session { secret: secret.to_owned(), csrf, token: token_of(row) }))
    }

    /// Logs a browser out. That there was no session is not an error.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn end_session(&self, secret: &str) -> Result<()> {
        let digest = digest_of(secret);
        self.0
            .db
            .write(move |tx| Box::pin(async move { db::tokens::delete_session(tx, &digest).await }))
            .await
    }
}

pub(super) fn token_of(row: TokenRow) -> Token {
    Token {
        id: row.id,
        name: row.name,
        scopes: serde_json::from_str(&row.scopes).unwrap_or_default(),
        // A row that cannot be read reaches nowhere: the empty name is no namespace.
        namespaces: serde_json::from_str(&row.namespaces).unwrap_or_else(|_| vec![String::new()]),
        created_at: Time(row.created_at),
        expires_at: row.expires_at.map(Time),
        last_used_at: row.last_used_at.map(Time),
    }
}

fn digest_of(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

/// Compares secrets without telling by the time it takes how much of them is right.
pub fn is_same(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}
