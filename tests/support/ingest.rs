//! Ingests as a test writes them: by the path that opening answered with.

use http::header::LOCATION;
use serde_json::{Value, json};

use super::app::TestApp;
use super::request::Request;

impl TestApp {
    /// Opens an ingest; `what` is the whole body.
    pub fn open(&self, what: Value) -> Request {
        self.post("/api/v1/ingests").json(what)
    }

    /// Opens a new ingest by its ref alone; its path.
    pub async fn new_ingest(&self, reference: &str) -> String {
        let opened = self.open(json!({"ref": reference})).await.expect(201);
        opened.header(LOCATION.as_str()).to_owned()
    }

    /// A new ingest with its first bytes; its path.
    pub async fn filled_ingest(&self, reference: &str, bytes: &[u8]) -> String {
        let ingest = self.new_ingest(reference).await;
        self.append(&ingest, 0, bytes).await.expect(204);
        ingest
    }

    pub fn append(&self, ingest: &str, offset: u64, bytes: &[u8]) -> Request {
        let request = self.patch(format!("{ingest}/data")).body(bytes);
        request
            .header("Content-Type", "application/partial-upload")
            .header("Upload-Offset", &offset.to_string())
    }

    pub fn truncate(&self, ingest: &str) -> Request {
        self.post(format!("{ingest}/truncate")).json(json!({"offset": 0}))
    }

    /// `what` is the whole body of the commit.
    pub fn commit(&self, ingest: &str, what: Value) -> Request {
        self.post(format!("{ingest}/commit")).json(what)
    }
}
