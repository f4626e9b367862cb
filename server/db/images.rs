//! `images`: a name and what it stands for.

use super::{Conn, Tx};
use crate::error::Result;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ImageRow {
    pub id: String,
    pub namespace: String,
    pub name: String,
    pub media_type: String,
    pub digest: String,
    pub size: i64,
    pub annotations: String,
    pub labels: String,
    pub created_at: i64,
    pub updated_at: i64,
}

rows!(ImageRow: annotations, labels);

/// For `Db::list_rows`.
pub const SELECT_IMAGES: &str = "SELECT id, namespace, name, media_type, digest, size, annotations, labels,
    created_at, updated_at FROM images";

pub async fn find_image(conn: &mut Conn, namespace: &str, id: &str) -> Result<Option<ImageRow>> {
    const SQL: &str = "SELECT id, namespace, name, media_type, digest, size, annotations, labels,
        created_at, updated_at FROM images WHERE namespace = $1 AND id = $2";
    fetch_optional!(ImageRow, conn, SQL, namespace, id)
}

pub async fn find_by_name(conn: &mut Conn, namespace: &str, name: &str) -> Result<Option<ImageRow>> {
    const SQL: &str = "SELECT id, namespace, name, media_type, digest, size, annotations, labels,
        created_at, updated_at FROM images WHERE namespace = $1 AND name = $2";
    fetch_optional!(ImageRow, conn, SQL, namespace, name)
}

/// An image that this transaction is about to change: it stays as it is for everybody else until then.
pub async fn lock_image(tx: &mut Tx, namespace: &str, id: &str) -> Result<Option<ImageRow>> {
    fetch_locked!(
        ImageRow,
        tx,
        "SELECT id, namespace, name, media_type, digest, size, annotations, labels,
        created_at, updated_at FROM images WHERE namespace = $1 AND id = $2",
        "FOR UPDATE",
        namespace,
        id
    )
}

/// As [`lock_image`], by name.
pub async fn lock_by_name(tx: &mut Tx, namespace: &str, name: &str) -> Result<Option<ImageRow>> {
    fetch_locked!(
        ImageRow,
        tx,
        "SELECT id, namespace, name, media_type, digest, size, annotations, labels,
        created_at, updated_at FROM images WHERE namespace = $1 AND name = $2",
        "FOR UPDATE",
        namespace,
        name
    )
}

/// Whether the name was free.
pub async fn insert_image(tx: &mut Tx, row: &ImageRow) -> Result<bool> {
    const SQL: &str =
        "INSERT INTO images (id, namespace, name, media_type, digest, size, annotations, labels,
        created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
        ON CONFLICT (namespace, name) DO NOTHING";
    let inserted = execute!(
        tx,
        SQL,
        &row.id,
        &row.namespace,
        &row.name,
        &row.media_type,
        &row.digest,
        row.size,
        &row.annotations,
        &row.labels,
        row.created_at
    )?;
    Ok(inserted == 1)
}

/// Changes an image that this transaction has locked.
pub async fn update_image(tx: &mut Tx, row: &ImageRow) -> Result<()> {
    const SQL: &str = "UPDATE images SET media_type = $3, digest = $4, size = $5, annotations = $6,
        labels = $7, updated_at = $8 WHERE namespace = $1 AND id = $2";
    execute!(
        tx,
        SQL,
        &row.namespace,
        &row.id,
        &row.media_type,
        &row.digest,
        row.size,
        &row.annotations,
        &row.labels,
        row.updated_at
    )
    .map(drop)
}

pub async fn delete_image(tx: &mut Tx, namespace: &str, id: &str) -> Result<bool> {
    const SQL: &str = "DELETE FROM images WHERE namespace = $1 AND id = $2";
    Ok(execute!(tx, SQL, namespace, id)? == 1)
}

/// Id and name of the images that stand for `digest`, at most `limit`.
pub async fn list_by_digest(
    conn: &mut Conn,
    namespace: &str,
    digest: &str,
    limit: i64,
) -> Result<Vec<(String, String)>> {
    const SQL: &str =
        "SELECT id, name FROM images WHERE namespace = $1 AND digest = $2 ORDER BY name LIMIT $3";
    fetch_all!((String, String), conn, SQL, namespace, digest, limit)
}

/// Id, name and digest of the images that stand for one of `digests` (a JSON list), at most `limit`.
pub async fn list_by_digests(
    conn: &mut Conn,
    namespace: &str,
    digests: &str,
    limit: i64,
) -> Result<Vec<(String, String, String)>> {
    fetch_among!(
        (String, String, String),
        conn,
        "SELECT id, name, digest FROM images WHERE namespace = $1 AND digest IN",
        "LIMIT $3",
        namespace,
        digests,
        limit
    )
}

/// What `index.json` says of an image.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct NameRow {
    pub namespace: String,
    pub name: String,
    pub media_type: String,
    pub digest: String,
    pub size: i64,
}

/// Every image of every namespace after `(namespace, name)` whose target is stored, for `index.json`.
pub async fn list_all_after(conn: &mut Conn, after: (&str, &str), limit: i64) -> Result<Vec<NameRow>> {
    const SQL: &str = "SELECT i.namespace, i.name, i.media_type, i.digest, i.size FROM images i
        JOIN blobs b ON b.digest = i.digest AND b.state = 'stored'
        WHERE i.namespace > $1 OR (i.namespace = $1 AND i.name > $2) ORDER BY i.namespace, i.name LIMIT $3";
    fetch_all!(NameRow, conn, SQL, after.0, after.1, limit)
}
