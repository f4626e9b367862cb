//! Events: a page of what is kept, or a stream of what happens; of one namespace or of all, through a filter.

use std::time::{Duration, Instant};

use orlop::limits::EVENT_CLIENTS;
use serde_json::{Value, json};

use crate::support::app::{On, TestApp, sha256, story};
use crate::support::event_stream::{EventStream, id, told};
use crate::support::eventually::eventually;
use crate::support::fixture_registry::{Fault, FixtureRegistry};

const EVENTS: &str = "/api/v1/events";

async fn lease(app: &TestApp, namespace: &str, name: &str) {
    app.post("/api/v1/leases").namespace(namespace).json(json!({"id": name})).await.expect(201);
}

async fn subjects(app: &TestApp, query: &str) -> Vec<String> {
    let page = app.get(format!("{EVENTS}?{query}")).await.expect(200).json();
    page["items"].as_array().expect("items").iter().map(|event| told(event).1).collect()
}

/// Percent-encoded, as a value in a query.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The secret of a token that may read, in `namespaces`.
async fn reader_of(app: &TestApp, namespaces: &[&str]) -> (String, String) {
    let new = orlop::store::NewToken {
        name: "reader".to_owned(),
        scopes: [orlop::store::Scope::Read].into(),
        namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
        expiry: orlop::store::Expiry::Never,
    };
    let (token, secret) = app.state().store.create_token(new).await.expect("a token");
    (token.id, secret)
}

story!(an_event_says_what_happened_to_what_where_and_when, async |app| {
    app.post("/api/v1/content?media_type=text/plain").body("hello").await.expect(201);
    let page = app.get(format!("{EVENTS}?topic=/content")).await.expect(200).json();
    let event = &page["items"][0];
    let digest = sha256(b"hello");
    let expected = json!({
        "id": event["id"], "time": app.clock.now().to_string(), "namespace": "default",
        "topic": "/content/create", "subject": digest,
        "event": {"digest": digest, "size": 5, "media_type": "text/plain"},
    });
    assert_eq!((event, &page["next_cursor"]), (&expected, &Value::Null));
});

story!(a_page_is_one_of_a_list_like_any_other, async |app| {
    for n in 0..5 {
        lease(app, "default", &format!("l{n}")).await;
    }
    let all = ["l0", "l1", "l2", "l3", "l4"];
    assert_eq!(subjects(app, "topic=/leases").await, all);
    assert_eq!(subjects(app, "topic=/leases&sort=-id&limit=2").await, ["l4", "l3"]);
    let (mut path, mut seen) = (format!("{EVENTS}?topic=/leases&limit=2"), Vec::new());
    loop {
        let page = app.get(&path).await.expect(200);
        seen.extend(page.json()["items"].as_array().expect("items").iter().map(|event| told(event).1));
        let link = page.header("link").to_owned();
        let Some(next) = link.strip_prefix('<').and_then(|rest| rest.strip_suffix(">; rel=\"next\"")) else {
            break;
        };
        // What comes meanwhile is at the end.
        if seen.len() == 2 {
            lease(app, "default", "l5").await;
        }
        path = next.to_owned();
    }
    assert_eq!(seen, ["l0", "l1", "l2", "l3", "l4", "l5"]);
    let page = app.get(format!("{EVENTS}?topic=/leases&limit=1")).await.json();
    let cursor = page["next_cursor"].as_str().expect("a cursor");
    for other in ["topic=/content", "all_namespaces=true&topic=/leases", "topic=/leases&namespace=other"] {
        let refused = app.get(format!("{EVENTS}?cursor={cursor}&{other}")).await;
        assert_eq!(refused.expect(400).json()["field"], "cursor", "{other}");
    }
});

story!(a_browser_gets_frames_and_goes_on_where_it_was, async |app| {
    lease(app, "default", "before").await;
    let mut stream = EventStream::sse(app.get(format!("{EVENTS}?topic=/leases"))).await;
    assert_eq!(stream.frame().await, ["retry: 2000"]);
    let alive = stream.frame().await;
    assert!(alive[0].starts_with(':') && alive[1].starts_with("id: "), "where it begins: {alive:?}");
    app.put_blob(b"not asked for").await;
    lease(app, "default", "one").await;
    let frame = stream.frame().await;
    let data = frame[2].strip_prefix("data: ").expect("data last");
    let event: Value = serde_json::from_str(data).expect("JSON");
    let expected = [format!("id: {}", id(&event)), "event: /leases/create".to_owned()];
    assert_eq!((&frame[..2], told(&event).1.as_str(), frame.len()), (&expected[..], "one", 3));
    drop(stream);
    for name in ["two", "three"] {
        lease(app, "default", name).await;
    }
    // An EventSource repeats its address: what the header says counts.
    let again = app.get(format!("{EVENTS}?topic=/leases&after=0"));
    let mut stream = EventStream::sse(again.header("Last-Event-ID", &id(&event).to_string())).await;
    let mut names = Vec::new();
    while names.len() < 2 {
        let frame = stream.frame().await;
        let data = frame.iter().find_map(|line| line.strip_prefix("data: "));
        names.extend(data.map(|data| told(&serde_json::from_str(data).expect("JSON")).1));
    }
    assert_eq!(names, ["two", "three"]);
});

story!(a_stream_begins_now_or_after_an_event_and_is_of_the_form_asked_for, async |app| {
    lease(app, "default", "before").await;
    let mut now = EventStream::ndjson(app.get(EVENTS)).await;
    let mut all = EventStream::ndjson(app.get(format!("{EVENTS}?after=0&topic=/leases"))).await;
    lease(app, "default", "after").await;
    assert_eq!(told(&now.next().await), ("/leases/create".to_owned(), "after".to_owned()));
    assert_eq!([told(&all.next().await).1, told(&all.next().await).1], ["before", "after"]);
    for (accepts, form) in [
        ("*/*", "application/json"),
        ("application/json, text/event-stream", "application/json"),
        ("text/*", "text/event-stream"),
        ("text/event-stream;q=0.5, application/x-ndjson", "application/x-ndjson"),
    ] {
        let (_, answer) = app.get(EVENTS).header("Accept", accepts).begin().await.expect("an answer");
        assert_eq!(answer.headers()["content-type"], form, "{accepts}");
    }
    assert_eq!(app.get(EVENTS).header("Accept", "text/html").await.to_string(), "406 not-acceptable");
});

story!(a_filter_chooses_by_topic_subject_and_what_is_told, async |app| {
    let digest = app.put_blob(b"hello").await;
    app.put_blob(b"hello, world").await;
    let change = json!({"labels": {"team/a": "harbour"}});
    app.patch(format!("/api/v1/content/{digest}")).merge_patch(change).await.expect(200);
    lease(app, "default", "l").await;
    for (filter, found) in [
        ("topic==\"/content/create\"", 2),
        ("topic~=^/content/", 3),
        ("topic==\"/content/create\",event.size>5", 1),
        ("event.size<=5", 1),
        (&format!("subject=={digest}"), 2),
        (&format!("event.digest=={digest}"), 2),
        ("event.labels.\"team/a\"==harbour", 1),
        ("event.labels.\"team/a\"", 1),
        ("event.kind==user", 1),
        ("event.expires_at>2026-01-01T00:00:00Z", 1),
        ("namespace==default,topic==\"/leases/create\"", 1),
        ("id>=1,topic~=content", 3),
        ("time>2100-01-01T00:00:00Z", 0),
    ] {
        let query = format!("filter={}", encoded(filter));
        assert_eq!(subjects(app, &query).await.len(), found, "{filter}");
        if found > 0 {
            let mut stream = EventStream::ndjson(app.get(format!("{EVENTS}?after=0&{query}"))).await;
            for _ in 0..found {
                stream.next().await;
            }
        }
    }
    for (bad, field) in [
        ("filter=event.colour%3D%3Dred", "filter"),
        ("filter=labels.a%3D%3Db", "filter"),
        ("filter=event.labels", "filter"),
        ("filter=event.size~%3D%28", "filter"),
        ("topic=/contents", "topic"),
        ("topic=content", "topic"),
        ("sort=time", "sort"),
        ("all_namespaces=yes", "all_namespaces"),
        ("all_namespaces=true&namespace=default", "all_namespaces"),
    ] {
        for form in ["application/json", "application/x-ndjson", "text/event-stream"] {
            let refused = app.get(format!("{EVENTS}?{bad}")).header("Accept", form).await;
            assert_eq!(refused.expect(400).json()["field"], field, "{bad} as {form}");
        }
    }
});

story!(a_place_that_is_none_is_refused_in_every_form, async |app| {
    lease(app, "default", "l").await;
    let future = i64::MAX.to_string();
    for bad in
        ["-1", "x", "1.5", "+1", " 1", "0x1", "", "9223372036854775808", "99999999999999999999", &future]
    {
        for form in ["application/json", "application/x-ndjson", "text/event-stream"] {
            let refused = app.get(format!("{EVENTS}?after={}", encoded(bad))).header("Accept", form).await;
            assert_eq!(refused.expect(400).json()["field"], "after", "{bad} as {form}");
            if form != "application/json" && !bad.starts_with(' ') {
                let ask = app.get(EVENTS).header("Accept", form).header("Last-Event-ID", bad);
                assert_eq!(ask.await.expect(400).json()["field"], "Last-Event-ID", "{bad} as {form}");
            }
        }
    }
    let twice = app.get(EVENTS).header("Accept", "text/event-stream").header("Last-Event-ID", "1");
    assert_eq!(twice.header("Last-Event-ID", "2").await.to_string(), "400 invalid-argument");
    for name in ["limit=1", "sort=id", "cursor=x"] {
        let refused = app.get(format!("{EVENTS}?{name}")).header("Accept", "application/x-ndjson").await;
        assert_eq!(refused.expect(400).json()["field"], name.split('=').next().expect("a name"));
    }
});

story!(a_namespace_is_told_of_to_those_who_reach_it, [("auth", "always")], async |app| {
    let (_, all) = reader_of(app, &[]).await;
    let (_, mine) = reader_of(app, &["mine"]).await;
    let store = app.state().store.clone();
    let make = async |namespace: &str, name: &str| {
        let expiry = orlop::store::Expiry::Never;
        let labels = Default::default();
        let new = orlop::store::NewLease { id: Some(name.to_owned()), expiry, labels, flat: false };
        store.create_lease(namespace, new, "user").await.expect("a lease");
    };
    let of_mine = format!("{EVENTS}?namespace=mine&after=0&topic=/leases");
    let of_all = format!("{EVENTS}?all_namespaces=true&after=0&topic=/leases");
    let mut narrow = EventStream::ndjson(app.get(&of_mine).token(&mine)).await;
    let mut wide = EventStream::ndjson(app.get(&of_all).token(&all)).await;
    for (namespace, name) in [("theirs", "a"), ("mine", "b"), ("default", "c"), ("mine", "d")] {
        make(namespace, name).await;
    }
    assert_eq!([told(&narrow.next().await).1, told(&narrow.next().await).1], ["b", "d"]);
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.push(told(&wide.next().await).1);
    }
    assert_eq!(seen, ["a", "b", "c", "d"]);
    let listed = app.get(&of_mine).token(&mine).await.expect(200).json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));
    for form in ["application/json", "application/x-ndjson", "text/event-stream"] {
        for path in [of_all.as_str(), EVENTS, "/api/v1/events?namespace=theirs"] {
            let refused = app.get(path).header("Accept", form).token(&mine).await;
            assert_eq!(refused.to_string(), "403 forbidden", "{path} as {form}");
        }
        assert_eq!(app.get(&of_all).header("Accept", form).await.to_string(), "401 unauthenticated");
    }
    drop(store);
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_soon_after_its_token() {
    let settings = [("auth", "always"), ("private_registries", "allow")];
    let app = TestApp::with(On::Sqlite, &settings).await;
    let (token, secret) = reader_of(&app, &[]).await;
    let (_, other) = reader_of(&app, &[]).await;
    let registry = FixtureRegistry::start().await;
    let of_pull = format!("/api/v1/pulls/{}/events", slow_pull(&app, &registry).await);
    let mut ended = [
        EventStream::ndjson(app.get(EVENTS).token(&secret)).await,
        EventStream::ndjson(app.get(&of_pull).token(&secret)).await,
        EventStream::sse(app.get(&of_pull).token(&secret)).await,
    ];
    let mut goes_on = [
        EventStream::ndjson(app.get(EVENTS).token(&other)).await,
        EventStream::ndjson(app.get(&of_pull).token(&other)).await,
    ];
    app.state().store.revoke_token(&token, orlop::store::IfMatch::Absent).await.expect("it is there");
    let soon = Instant::now() + orlop::limits::EVENT_HEARTBEAT * 2;
    for stream in &mut ended {
        let rest = async { while stream.line().await.is_some() {} };
        tokio::time::timeout_at(soon.into(), rest).await.expect("it ends");
    }
    for stream in &mut goes_on {
        let mut heartbeats = 0;
        while heartbeats < 2 {
            heartbeats += usize::from(stream.line().await.expect("it goes on").is_empty());
        }
    }
    app.stop().await;
}

/// A pull that goes on for two minutes.
async fn slow_pull(app: &TestApp, registry: &FixtureRegistry) -> String {
    let layer = [b'x'; 120];
    registry.push_image("app", Some("v1"), "linux/amd64", &[&layer]);
    registry.fail(&sha256(&layer), Fault::Drip(Duration::from_secs(1)), 1);
    let reference = format!("{}/app:v1", registry.host());
    let platforms = vec!["linux/amd64".to_owned()];
    let asked = orlop::jobs::PullRequest { reference, platforms, ..Default::default() };
    let reach = orlop::store::Reach::Everywhere;
    let caller = orlop::store::Caller { namespace: "default".to_owned(), lease: None, reach };
    match app.state().jobs.create_pull(&caller, &asked, None).await.expect("a pull") {
        orlop::jobs::Created::New(pull) | orlop::jobs::Created::Existing(pull) => pull.id,
    }
}

story!(a_pull_is_told_of_from_the_asking_to_the_end, async |app| {
    // It takes connections and never says a word.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let reference = format!("{}/app:v1", mute.local_addr().expect("it is bound"));
    let mut stream = EventStream::ndjson(app.get(format!("{EVENTS}?topic=/pulls"))).await;
    let made =
        app.post("/api/v1/pulls").json(json!({"ref": reference, "image_name": "app"})).await.expect(202);
    let pull = made.json()["id"].as_str().expect("an id").to_owned();
    let mut next = async |topic: &str, state: &str| {
        let event = stream.next().await;
        let fields = json!({"id": pull, "ref": reference, "image_name": "app", "state": state});
        assert_eq!((told(&event), &event["event"]), ((topic.to_owned(), pull.clone()), &fields));
    };
    next("/pulls/create", "queued").await;
    next("/pulls/start", "running").await;
    app.delete(made.place()).await.expect(202);
    next("/pulls/update", "cancelling").await;
    next("/pulls/finish", "cancelled").await;
    eventually("it is finished", async || {
        (app.delete(format!("{}?purge=true", made.place())).await.status == 204).then_some(())
    })
    .await;
    next("/pulls/delete", "cancelled").await;
});

story!(streams_have_places_and_give_them_back, async |app| {
    let mut streams = Vec::new();
    for _ in 0..EVENT_CLIENTS {
        streams.push(EventStream::ndjson(app.get(EVENTS)).await);
    }
    for form in ["application/x-ndjson", "text/event-stream"] {
        let refused = app.get(EVENTS).header("Accept", form).await;
        assert_eq!(refused.to_string(), "429 rate-limited");
    }
    app.get(EVENTS).await.expect(200);
    lease(app, "default", "l").await;
    for stream in &mut streams {
        assert_eq!(told(&stream.next().await).1, "l", "each of them hears of it");
    }
    streams.clear();
    eventually("a place is free again", async || {
        let (_, answer) =
            app.get(EVENTS).header("Accept", "text/event-stream").begin().await.expect("an answer");
        (answer.status() == 200).then_some(())
    })
    .await;
});

story!(a_reader_that_never_reads_holds_back_nobody, async |app| {
    let mut deaf = app.raw().await;
    deaf.send(format!(
        "GET {EVENTS}?after=0 HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
    ))
    .await;
    let mut stream = EventStream::ndjson(app.get(format!("{EVENTS}?topic=/content/update"))).await;
    let digest = app.put_blob(b"hello").await;
    let begun = Instant::now();
    // More than the buffers of a connection take.
    for n in 0..1_500 {
        let change = json!({"labels": {"n": format!("{n}-{}", "v".repeat(3_900))}});
        app.patch(format!("/api/v1/content/{digest}")).merge_patch(change).await.expect(200);
    }
    for _ in 0..1_500 {
        stream.next().await;
    }
    assert!(begun.elapsed() < Duration::from_secs(120));
    drop(deaf);
});
