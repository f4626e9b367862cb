//! The order in which events can be read: nobody is passed by, whoever commits when, and whatever ends in between.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use orlop::db::events::EventRow;
use orlop::db::{Db, events};
use orlop::error::{Error, Result};
use orlop::shutdown::Shutdown;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::events::{EVENTS, last_id, page};
use crate::support::app::{TestApp, story};
use crate::support::event_stream::{EventStream, id, told};
use crate::support::postgres::fresh_database;

story!(a_reader_sees_every_event_of_eight_writers_once_and_in_order, async |app| {
    let mut reader = EventStream::ndjson(app.get(format!("{EVENTS}?all_namespaces=true&after=0"))).await;
    let writer = async |writer: usize| {
        let mut made = Vec::new();
        for n in 0..25 {
            let name = format!("w{writer}-{n}");
            let place = format!("/api/v1/leases/{name}");
            app.post("/api/v1/leases").json(json!({"id": name})).await.expect(201);
            // Some of the transactions are undone.
            app.post("/api/v1/leases").json(json!({"id": name})).await.expect(409);
            app.delete(&place).await.expect(204);
            made.extend([("/leases/create".to_owned(), name.clone()), ("/leases/delete".to_owned(), name)]);
        }
        made
    };
    let reading = async {
        let mut seen = Vec::new();
        while seen.len() < 8 * 50 {
            let event = reader.next().await;
            if told(&event).0.starts_with("/leases/") {
                seen.push(event);
            }
        }
        seen
    };
    let (made, seen) = tokio::join!(join_all((0..8).map(writer)), reading);
    assert!(seen.is_sorted_by(|one, next| id(one) < id(next)), "in order, and none twice");
    let made: BTreeSet<_> = made.into_iter().flatten().collect();
    assert_eq!(seen.iter().map(told).collect::<BTreeSet<_>>(), made);
    assert_eq!(page(app, "topic=/leases").await, seen, "what was followed is what is kept");
    for writer in 0..8 {
        let own = seen.iter().map(told).filter(|(_, subject)| subject.starts_with(&format!("w{writer}-")));
        let own: Vec<_> = own.map(|(topic, _)| topic).collect();
        assert!(own.chunks(2).all(|pair| pair == ["/leases/create", "/leases/delete"]), "{own:?}");
    }
});

story!(a_reader_goes_on_without_a_gap_after_a_restart, async |app| {
    let follow = |last: i64| EventStream::ndjson(app.get(EVENTS).header("Last-Event-ID", &last.to_string()));
    let mut last = last_id(app).await;
    for round in 0..3 {
        let mut reader = follow(last).await;
        let names = [format!("followed-{round}"), format!("missed-{round}"), format!("after-{round}")];
        let make = async |name: &str| app.post("/api/v1/leases").json(json!({"id": name})).await.expect(201);
        make(&names[0]).await;
        let seen = reader.next().await;
        assert_eq!(told(&seen).1, names[0]);
        make(&names[1]).await;
        app.stop().await;
        // What the stream still brought is as good as what is read again.
        let mut news = vec![];
        while let Some(event) = reader.try_next().await {
            news.push(event);
        }
        app.start_again().await;
        let make = async |name: &str| app.post("/api/v1/leases").json(json!({"id": name})).await.expect(201);
        make(&names[2]).await;
        let mut reader = follow(news.last().map_or(id(&seen), id)).await;
        while news.len() < 2 {
            news.push(reader.next().await);
        }
        let subjects: Vec<_> = news.iter().map(|event| told(event).1).collect();
        assert_eq!(subjects, names[1..]);
        last = id(&news[1]);
    }
});

fn lease_event(subject: &str) -> EventRow {
    let text = |text: &str| text.to_owned();
    EventRow {
        id: 0,
        namespace: text("default"),
        topic: text("/leases/create"),
        subject: text(subject),
        data: text("{}"),
        time: i64::MAX,
    }
}

/// Writes an event in a transaction that ends when it is told to, and then as it is told to.
async fn write_slowly(
    db: Db,
    subject: &'static str,
    begun: oneshot::Sender<()>,
    end: oneshot::Receiver<Result<()>>,
) {
    let outcome = db
        .write(move |tx| {
            Box::pin(async move {
                events::insert_event(tx, &lease_event(subject)).await?;
                let _ = begun.send(());
                end.await.expect("somebody ends it")
            })
        })
        .await;
    drop(outcome);
}

async fn write_at_once(db: &Db, subject: &'static str) {
    let written =
        db.write(move |tx| Box::pin(async move { events::insert_event(tx, &lease_event(subject)).await }));
    written.await.expect("it is written");
}

async fn readable(db: &Db) -> Vec<String> {
    let mut conn = db.read().await.expect("a connection");
    let horizon = events::find_horizon(&mut conn).await.expect("a horizon");
    let rows = events::list_after(&mut conn, 0, horizon, 100).await.expect("events");
    rows.into_iter().map(|row| row.subject).collect()
}

/// On Postgres ids are taken side by side; SQLite has one writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_commits_late_holds_back_those_behind_it_and_no_other() {
    let (database, shutdown) = (fresh_database(), Shutdown::new());
    let db = Db::open_postgres(&database.url(), &shutdown).await.expect("a database");
    write_at_once(&db, "first").await;
    for (slow, ending, left) in [
        ("kept", Ok(()), &["first", "kept", "late"][..]),
        ("undone", Err(Error::internal("undone")), &["first", "kept", "late", "late"]),
    ] {
        let before = readable(&db).await;
        let (begun, has_begun) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let writing = tokio::spawn(write_slowly(db.clone(), slow, begun, ended));
        has_begun.await.expect("it has its id");
        write_at_once(&db, "late").await;
        assert_eq!(readable(&db).await, before, "{slow}: what is behind it waits");
        end.send(ending).expect("it waits");
        writing.await.expect("it ends");
        assert_eq!(readable(&db).await, left);
    }
    db.close().await;
}

/// A transaction of whose end this server hears nothing: one that lost its connection, say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_held_up_by_a_transaction_unheard_of_goes_on_after_it() {
    let app = TestApp::over(fresh_database()).await;
    let url = app.database().expect("Postgres").url();
    let other = Db::open_postgres(&url, &Shutdown::new()).await.expect("a database");
    let mut reader = EventStream::ndjson(app.get(format!("{EVENTS}?topic=/leases"))).await;
    let (begun, has_begun) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let writing = tokio::spawn(write_slowly(other.clone(), "unheard-of", begun, ended));
    has_begun.await.expect("it has its id");
    app.post("/api/v1/leases").json(json!({"id": "behind"})).await.expect(201);
    assert_eq!(page(&app, "topic=/leases").await, [Value::Null; 0]);
    end.send(Ok(())).expect("it waits");
    writing.await.expect("it ends");
    let seen = [told(&reader.next().await).1, told(&reader.next().await).1];
    assert_eq!(seen, ["unheard-of", "behind"]);
    other.close().await;
    app.stop().await;
}
