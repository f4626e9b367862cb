//! Idempotency keys: a POST that its client repeats makes nothing twice.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Store;
use crate::clock::Time;
use crate::db;
use crate::error::{Error, Result, Unprocessable};
use crate::id::hex;
use crate::limits;

/// A request that may be a repeat: the key that its client gave it, and what it asks.
#[derive(Debug, Clone)]
pub struct Keyed {
    scope: String,
    key: String,
    fingerprint: String,
}

impl Keyed {
    /// `scope` is the namespace in which the key counts, empty for what is in none; `target` the path and query.
    /// Two bodies that say the same are the same, however they are spaced.
    pub fn new(scope: &str, key: &str, method: &str, target: &str, body: &impl Serialize) -> Keyed {
        let request = serde_json::to_vec(&(method, target, body)).expect("a body was read from JSON");
        let fingerprint = hex(&Sha256::digest(request));
        Keyed { scope: scope.to_owned(), key: key.to_owned(), fingerprint }
    }
}

impl Store {
    /// Makes something, unless the same request has made it already: then `find` gives it, and what was removed since
    /// is made anew. Requests with one key wait for each other, and go on to their end though the client leaves: its
    /// repeat shall find what was made.
    ///
    /// A process that is killed between making and remembering forgets the key. What has a name is then refused as
    /// `AlreadyExists` by the repeat; a lease without one is made again, and expires.
    ///
    /// # Errors
    /// What `make` and `find` say; `Unprocessable` when the key came with another request.
    pub async fn make_once<T: Send + 'static, F>(
        &self,
        keyed: Option<Keyed>,
        make: impl Future<Output = Result<T>> + Send + 'static,
        id_of: fn(&T) -> &str,
        find: impl FnOnce(String) -> F + Send + 'static,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let Some(keyed) = keyed else { return make.await };
        let store = self.clone();
        self.to_the_end("make once", async move {
            let _turn = store.0.keys.enter(&(&keyed.scope, &keyed.key)).await;
            if let Some(id) = store.find_made(&keyed).await? {
                match find(id).await {
                    Err(Error::NotFound { .. }) => {}
                    found => return found,
                }
            }
            let made = make.await?;
            store.remember_made(keyed, id_of(&made).to_owned()).await?;
            Ok(made)
        })
        .await
    }

    async fn find_made(&self, keyed: &Keyed) -> Result<Option<String>> {
        let since = Time(self.now().0.saturating_sub(limits::IDEMPOTENCY_TIME.as_micros() as i64));
        let mut conn = self.0.db.read().await?;
        match db::idempotency::find_key(&mut conn, &keyed.scope, &keyed.key, since.0).await? {
            None => Ok(None),
            Some((fingerprint, id)) if fingerprint == keyed.fingerprint => Ok(Some(id)),
            Some(_) => Err(Error::Unprocessable(Unprocessable::IdempotencyKeyReused)),
        }
    }

    async fn remember_made(&self, keyed: Keyed, id: String) -> Result<()> {
        let now = self.now();
        self.0
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let Keyed { scope, key, fingerprint } = &keyed;
                    db::idempotency::remember(tx, scope, key, fingerprint, &id, now.0).await
                })
            })
            .await
    }
}
