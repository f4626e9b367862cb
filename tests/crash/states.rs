//! What a crash can leave, laid out by hand: each start says what it repaired, and answers as if nothing had been.

use std::fs;
use std::path::{Path, PathBuf};

use orlop::app::create_token_offline;
use orlop::config::{Config, ServeArgs};
use orlop::store::{Expiry, NewToken, Repaired, Scope};
use serde_json::json;

use crate::support::app::{On, TestApp, sha256, story};
use crate::support::postgres;
use crate::support::raw::noise;
use crate::support::rows::execute;

fn data(digest: &str) -> String {
    format!("/api/v1/content/{digest}/data")
}

fn blob_file(app: &TestApp, digest: &str) -> PathBuf {
    app.data_dir().join("blobs/sha256").join(&digest["sha256:".len()..])
}

fn ingest_file(app: &TestApp, ingest: &str) -> PathBuf {
    app.data_dir().join("ingests").join(ingest.rsplit('/').next().expect("an id")).join("data")
}

/// Writes as root writes: a blob is read-only, and a crash does not ask.
fn overwrite(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).expect("a file in the data directory");
}

/// A statement on the database of a stopped server.
async fn sql(app: &TestApp, statement: &str) {
    assert_eq!(execute(app, statement).await, 1, "{statement}");
}

fn nothing() -> Repaired {
    Repaired::default()
}

story!(a_stray_file_of_a_write_that_never_ended_is_removed, async |app| {
    app.stop().await;
    let ingests = app.data_dir().join("ingests");
    fs::create_dir(ingests.join("put_01stray")).expect("a directory");
    fs::write(ingests.join("put_01stray/data"), "half").expect("a file");
    fs::write(ingests.join("index.json.0123456789abcdef"), "half").expect("a file");
    app.start_again().await;
    assert_eq!(app.repaired(), Repaired { stray_files: 2, ..nothing() });
    assert_eq!(fs::read_dir(ingests).expect("the ingests").count(), 0);
});

story!(the_tail_of_an_ingest_counts_after_a_killed_process, async |app| {
    let ingest = app.filled_ingest("u", b"hel").await;
    app.stop().await;
    // Written, and never acknowledged: the process ended between the write and the record.
    fs::write(ingest_file(app, &ingest), "hello").expect("a longer file");
    app.start_again().await;
    let status = app.get(&ingest).await.json();
    assert_eq!((&status["offset"], &status["digest"]), (&json!(5), &json!(sha256(b"hello"))));
    app.commit(&ingest, json!({"expected_digest": sha256(b"hello")})).await.expect(201);
});

story!(the_tail_of_an_ingest_does_not_count_after_another_boot, async |app| {
    let ingest = app.filled_ingest("u", b"hel").await;
    app.stop().await;
    fs::write(ingest_file(app, &ingest), b"hel\0\0").expect("a longer file");
    sql(app, "UPDATE ingests SET boot = 'the boot before'").await;
    app.start_again().await;
    let status = app.get(&ingest).await.json();
    assert_eq!((&status["offset"], &status["digest"]), (&json!(3), &json!(sha256(b"hel"))));
    app.append(&ingest, 3, b"lo").await.expect(204);
    app.commit(&ingest, json!({"expected_digest": sha256(b"hello")})).await.expect(201);
});

story!(an_old_or_empty_journal_takes_nothing_back_that_is_certain, async |app| {
    for (boot, journal) in [
        ("boot", ""),
        ("boot", "0-3\n"),
        ("'the boot before'", ""),
        ("'the boot before'", "0-3\n7-12\n"),
        ("'the boot before'", "0-12\n"),
    ] {
        let ingest = app.filled_ingest("u", b"hello").await;
        app.stop().await;
        let file = ingest_file(app, &ingest);
        fs::write(&file, b"hello\0\0world").expect("a longer file");
        fs::write(file.with_file_name("ahead"), journal).expect("a journal");
        sql(app, &format!("UPDATE ingests SET boot = {boot}")).await;
        app.start_again().await;
        let status = app.get(&ingest).await.json();
        assert_eq!(
            (&status["offset"], &status["digest"]),
            (&json!(5), &json!(sha256(b"hello"))),
            "{journal}"
        );
        app.append(&ingest, 5, b" cargo").await.expect(204);
        app.commit(&ingest, json!({"expected_digest": sha256(b"hello cargo")})).await.expect(201);
        app.delete(format!("/api/v1/content/{}", sha256(b"hello cargo"))).await.expect(204);
    }
});

story!(an_ingest_shorter_than_its_record_begins_again, async |app| {
    for boot in ["boot", "'the boot before'"] {
        let ingest = app.filled_ingest("u", b"hello").await;
        app.stop().await;
        fs::write(ingest_file(app, &ingest), "he").expect("a shorter file");
        sql(app, &format!("UPDATE ingests SET boot = {boot}")).await;
        app.start_again().await;
        let status = app.get(&ingest).await.json();
        assert_eq!((&status["offset"], &status["digest"]), (&json!(0), &json!(sha256(b""))));
        app.delete(&ingest).await.expect(204);
    }
});

story!(an_ingest_without_its_file_begins_again, async |app| {
    let ingest = app.filled_ingest("u", b"hello").await;
    app.stop().await;
    fs::remove_file(ingest_file(app, &ingest)).expect("the file was there");
    app.start_again().await;
    assert_eq!(app.repaired(), Repaired { restarted_ingests: 1, ..nothing() });
    assert_eq!(app.open(json!({"ref": "u"})).await.expect(200).json()["offset"], 0);
    app.append(&ingest, 0, b"again").await.expect(204);
    app.commit(&ingest, json!({"expected_digest": sha256(b"again")})).await.expect(201);
});

story!(a_commit_that_ended_after_the_rename_is_undone, async |app| {
    let ingest = app.filled_ingest("u", b"hello").await;
    app.stop().await;
    let (file, blob) = (ingest_file(app, &ingest), blob_file(app, &sha256(b"hello")));
    fs::rename(&file, &blob).expect("as the commit does");
    app.start_again().await;
    assert_eq!(app.repaired(), Repaired { undone_commits: 1, ..nothing() });
    assert_eq!(app.get(data(&sha256(b"hello"))).await.status, 404, "nobody was told that it is there");
    assert_eq!(app.get(&ingest).await.json()["offset"], 5);
    app.commit(&ingest, json!({})).await.expect(201);
    assert_eq!(app.get(data(&sha256(b"hello"))).await.to_string(), "200 \"hello\"");
});

story!(a_blob_without_a_record_is_kept_and_served_to_nobody, async |app| {
    app.stop().await;
    let digest = sha256(b"renamed");
    overwrite(&blob_file(app, &digest), b"renamed");
    app.start_again().await;
    assert_eq!(app.repaired(), Repaired { adopted_blobs: 1, ..nothing() });
    assert_eq!(app.get(data(&digest)).await.status, 404);
    assert_eq!(app.put(data(&digest)).body("renamed").await.status, 201);
    app.restart().await;
    assert_eq!(app.repaired(), nothing());
    assert_eq!(app.get(data(&digest)).await.to_string(), "200 \"renamed\"");
});

story!(a_record_without_a_file_is_never_served_and_heals, async |app| {
    let digest = app.put_blob(b"hello").await;
    app.stop().await;
    fs::remove_file(blob_file(app, &digest)).expect("the file was there");
    app.start_again().await;
    assert_eq!(app.repaired(), Repaired { missing_blobs: 1, ..nothing() });
    assert_eq!(app.get(data(&digest)).await.to_string(), "500 corrupt-content");
    assert_eq!(app.head(data(&digest)).await.status, 500);
    let damaged = async || app.get("/api/v1/system/usage").await.json()["damaged_blobs"].clone();
    assert_eq!(damaged().await, 1);
    assert_eq!(
        app.get(format!("/api/v1/content/{digest}")).await.status,
        200,
        "the record says what is missing"
    );
    let healed = app.put(data(&digest)).body("hello").await;
    assert!(matches!(healed.status, 200 | 201), "{healed}");
    assert_eq!(damaged().await, 0);
    assert_eq!(app.get(data(&digest)).await.to_string(), "200 \"hello\"");
    app.restart().await;
    assert_eq!(app.repaired(), nothing());
});

story!(a_file_that_comes_back_is_served_if_it_has_its_bytes, async |app| {
    let digest = app.put_blob(b"hello").await;
    app.stop().await;
    fs::remove_file(blob_file(app, &digest)).expect("the file was there");
    app.start_again().await;
    app.stop().await;
    overwrite(&blob_file(app, &digest), b"jello");
    app.start_again().await;
    assert_eq!(app.repaired(), Repaired { quarantined_files: 1, ..nothing() });
    assert_eq!(app.get(data(&digest)).await.to_string(), "500 corrupt-content");
    app.stop().await;
    overwrite(&blob_file(app, &digest), b"hello");
    app.start_again().await;
    assert_eq!(app.get(data(&digest)).await.to_string(), "200 \"hello\"");
});

story!(a_truncated_blob_is_never_served_and_heals, async |app| {
    let bytes = noise(1, 100_000);
    let digest = app.put_blob(&bytes).await;
    app.stop().await;
    for torn in [&b""[..], &bytes[..99_999]] {
        overwrite(&blob_file(app, &digest), torn);
        app.start_again().await;
        assert_eq!(app.get(data(&digest)).await.to_string(), "500 corrupt-content", "{} bytes", torn.len());
        assert_eq!(app.get(data(&digest)).range("bytes=0-9").await.status, 500);
        app.put(data(&digest)).body(&bytes).await;
        assert!(app.get(data(&digest)).await.body == bytes);
        app.stop().await;
    }
    app.start_again().await;
});

story!(a_deletion_that_was_cut_off_is_finished, async |app| {
    for file_is_left in [true, false] {
        let digest = app.put_blob(b"hello").await;
        app.stop().await;
        for table in ["content", "edges", "lease_resources"] {
            execute(app, &format!("DELETE FROM {table}")).await;
        }
        sql(app, "UPDATE blobs SET state = 'deleting'").await;
        if !file_is_left {
            fs::remove_file(blob_file(app, &digest)).expect("the file was there");
        }
        app.start_again().await;
        assert_eq!(app.repaired(), Repaired { finished_deletions: 1, ..nothing() });
        assert!(!blob_file(app, &digest).exists());
        assert_eq!(app.get(data(&digest)).await.status, 404);
    }
});

story!(what_is_no_blob_is_put_aside, async |app| {
    app.put_blob(b"hello").await;
    app.stop().await;
    let blobs = app.data_dir().join("blobs/sha256");
    fs::write(blobs.join("README"), "mine").expect("a file");
    fs::write(blobs.join("ABCDEF"), "").expect("a file");
    fs::create_dir(blobs.join("sub")).expect("a directory");
    app.start_again().await;
    assert_eq!(app.repaired(), Repaired { quarantined_files: 3, ..nothing() });
    assert_eq!(fs::read_dir(app.data_dir().join("quarantine")).expect("the quarantine").count(), 3);
    assert_eq!(fs::read_dir(blobs).expect("the blobs").count(), 1);
    app.restart().await;
    assert_eq!(app.repaired(), nothing());
});

#[tokio::test]
async fn a_second_server_does_not_start_on_the_same_directory() {
    let app = TestApp::start().await;
    let directory = app.data_dir().to_owned();
    let second = TestApp::refused(&directory).await;
    assert!(second.contains("a running server on the data directory"), "{second}");
    assert_eq!(app.put_blob(b"hello").await, sha256(b"hello"), "the first goes on");
    app.stop().await;
    let third = TestApp::in_directory(&directory, &[]).await;
    assert_eq!(third.get(data(&sha256(b"hello"))).await.status, 200);
    third.stop().await;
}

#[tokio::test]
async fn a_directory_of_a_newer_version_is_refused_and_left_alone() {
    let app = TestApp::with(On::Sqlite, &[]).await;
    app.stop().await;
    let format = app.data_dir().join("format");
    let newer = fs::read_to_string(&format).expect("the format").replace("\"format\":1", "\"format\":2");
    fs::write(&format, &newer).expect("a file");
    let refused = app.try_start().await.expect_err("a newer format");
    assert!(refused.to_string().contains("newer orlop"), "{refused}");
    assert_eq!(fs::read_to_string(&format).expect("the format"), newer);
}

#[tokio::test]
async fn a_database_of_another_directory_is_refused() {
    let one = TestApp::with(On::Postgres, &[]).await;
    one.stop().await;
    let url = one.database().expect("on Postgres").url();
    let other = tempfile::tempdir().expect("a directory");
    let refused = TestApp::refused_with(other.path(), &[("database_url", &url)]).await;
    assert!(refused.contains("belongs to another data directory"), "{refused}");
    postgres::execute(&url, "SELECT 1").expect("the database is as it was");
    one.start_again().await;
    one.stop().await;
}

#[tokio::test]
async fn a_token_made_without_a_server_is_made_in_the_database_of_its_directory_only() {
    let (one, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let database = postgres::fresh_database();
    let create = async |directory: &Path| {
        let settings =
            [("ORLOP_DATA_DIR", directory.display().to_string()), ("ORLOP_DATABASE_URL", database.url())];
        let settings = settings.map(|(key, value)| (key.into(), value.into()));
        let config = Config::load(&ServeArgs::default(), settings).expect("a configuration");
        let new = NewToken {
            name: "first".into(),
            scopes: [Scope::Admin].into(),
            namespaces: [].into(),
            expiry: Expiry::Never,
        };
        create_token_offline(config, new).await
    };
    create(one.path()).await.expect("a token, and the database is claimed");
    let refused = create(other.path()).await.expect_err("the database of another directory");
    assert!(refused.to_string().contains("belongs to another data directory"), "{refused}");
    create(one.path()).await.expect("another token");
}
