//! Lists: pages behind a cursor, filters, order, and the whole as NDJSON.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{TestApp, sha256, story};
use crate::support::raw::noise;
use crate::support::request::Answer;

/// Percent-encoded, as a value in a query.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn digests(answer: &Answer) -> Vec<String> {
    let page = answer.json();
    let items = page["items"].as_array().expect("items").iter();
    items.map(|item| item["digest"].as_str().expect("a digest").to_owned()).collect()
}

/// Every page from `path` on, each by the link of the one before.
async fn pages(app: &TestApp, path: &str) -> Vec<Value> {
    let (mut path, mut items) = (path.to_owned(), Vec::new());
    loop {
        let page = app.get(&path).await.expect(200);
        items.extend(page.json()["items"].as_array().expect("items").clone());
        let link = page.header("link");
        if page.json()["next_cursor"].is_null() {
            assert_eq!(link, "");
            return items;
        }
        path = link
            .strip_prefix('<')
            .and_then(|rest| rest.strip_suffix(">; rel=\"next\""))
            .expect("a link")
            .to_owned();
    }
}

/// Blobs of 1 to `count` bytes, each with its size as the label `n`, created a second apart.
async fn fill(app: &TestApp, count: usize) {
    for size in 1..=count {
        let path = format!("/api/v1/content?label=n={size}&media_type=text/plain");
        app.post(path).body(noise(size as u64, size)).await.expect(201);
        app.clock.advance(Duration::from_secs(1));
    }
}

story!(pages_follow_each_other_to_the_end_and_hold_each_item_once, async |app| {
    fill(app, 7).await;
    for limit in [1, 2, 3, 7, 8, 1_000] {
        let all = pages(app, &format!("/api/v1/content?limit={limit}")).await;
        let seen: BTreeSet<_> = all.iter().map(|item| item["digest"].to_string()).collect();
        assert_eq!((all.len(), seen.len()), (7, 7), "limit {limit}");
        assert!(all.is_sorted_by_key(|item| item["digest"].to_string()), "in the order of the digest");
    }
    let exactly = app.get("/api/v1/content?limit=7").await.json();
    assert_eq!(exactly["next_cursor"], json!(null), "a full last page has no next");
});

story!(a_cursor_is_not_moved_by_what_comes_and_goes, async |app| {
    fill(app, 6).await;
    let first = app.get("/api/v1/content?sort=created_at&limit=3").await.expect(200);
    let link = first.header("link");
    let next = link.strip_prefix('<').and_then(|rest| rest.strip_suffix(">; rel=\"next\"")).expect("a link");
    let (mut seen, gone) = (digests(&first), sha256(&noise(2, 2)));
    app.delete(format!("/api/v1/content/{gone}")).await.expect(204);
    app.post("/api/v1/content").body("newcomer").await.expect(201);
    seen.extend(digests(&app.get(next).await.expect(200)));
    let all: Vec<_> = (1..=6).map(|size| sha256(&noise(size, size as usize))).collect();
    assert_eq!(seen[..6], all[..6], "each once, whatever happened in between");
});

story!(a_cursor_belongs_to_its_filter_and_order, async |app| {
    fill(app, 3).await;
    let first = app.get("/api/v1/content?limit=1&filter=size%3E0&sort=-size").await.expect(200).json();
    let cursor = encoded(first["next_cursor"].as_str().expect("a cursor"));
    for other in
        ["filter=size%3E1&sort=-size", "filter=size%3E0&sort=size", "sort=-size", "filter=size%3E0", ""]
    {
        let refused = app.get(format!("/api/v1/content?limit=1&cursor={cursor}&{other}")).await;
        assert_eq!(refused.to_string(), "400 invalid-argument", "{other}");
    }
    let same = app.get(format!("/api/v1/content?limit=2&cursor={cursor}&filter=size%3E0&sort=-size")).await;
    assert_eq!(same.status, 200, "another limit is the same list");
    for broken in ["x", "", "%00", "AAAA", &"A".repeat(20_000)] {
        let refused = app.get(format!("/api/v1/content?cursor={broken}")).await;
        assert!(matches!(refused.status, 400 | 414), "{broken:.20}: {refused}");
    }
});

story!(order_is_by_the_keys_named_and_ties_are_stable, async |app| {
    fill(app, 5).await;
    let sizes = async |sort: &str| -> Vec<u64> {
        let page = app.get(format!("/api/v1/content?sort={sort}")).await.expect(200).json();
        page["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|item| item["size"].as_u64().expect("a size"))
            .collect()
    };
    assert_eq!(sizes("size").await, [1, 2, 3, 4, 5]);
    assert_eq!(sizes("-size").await, [5, 4, 3, 2, 1]);
    assert_eq!(sizes("-created_at").await, [5, 4, 3, 2, 1]);
    assert_eq!(sizes("media_type,-size").await, [5, 4, 3, 2, 1]);
    for sort in ["color", "size,", "--size", "labels.n"] {
        let refused = app.get(format!("/api/v1/content?sort={sort}")).await;
        assert_eq!(refused.to_string(), "400 invalid-argument", "{sort}");
    }
});

story!(a_page_has_1_to_1000_items, async |app| {
    for limit in ["0", "1001", "-1", "x", "1000000000000", "18446744073709551616", ""] {
        let refused = app.get(format!("/api/v1/content?limit={limit}")).await;
        assert_eq!(refused.to_string(), "400 invalid-argument", "{limit:?}");
    }
    assert_eq!(app.get("/api/v1/content?limit=1000").await.status, 200);
    assert_eq!(app.get("/api/v1/content?colour=blue").await.to_string(), "400 invalid-argument");
    assert_eq!(app.get("/api/v1/content?limit=1&limit=2").await.to_string(), "400 invalid-argument");
});

story!(filters_choose_as_containerd_does, async |app| {
    fill(app, 5).await;
    let sizes = async |filters: &[&str]| -> Vec<u64> {
        let query: Vec<_> = filters.iter().map(|filter| format!("filter={}", encoded(filter))).collect();
        let page = app.get(format!("/api/v1/content?sort=size&{}", query.join("&"))).await.expect(200).json();
        page["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|item| item["size"].as_u64().expect("a size"))
            .collect()
    };
    let digest = sha256(&noise(3, 3));
    assert_eq!(sizes(&[&format!("digest=={digest}")]).await, [3]);
    assert_eq!(sizes(&["labels.n==2"]).await, [2]);
    assert_eq!(sizes(&["labels.\"n\"==2"]).await, [2]);
    assert_eq!(sizes(&["labels.n!=2"]).await, [1, 3, 4, 5]);
    assert_eq!(
        sizes(&["labels.absent!=x"]).await,
        [1, 2, 3, 4, 5],
        "an absent field is not equal to anything"
    );
    assert_eq!(sizes(&["labels.absent"]).await, [0; 0]);
    assert_eq!(sizes(&["labels.n"]).await, [1, 2, 3, 4, 5]);
    assert_eq!(sizes(&["labels.n~=^[12]$"]).await, [1, 2]);
    assert_eq!(sizes(&["labels.n~=/[12]/"]).await, [1, 2]);
    assert_eq!(sizes(&["labels.absent~=.*"]).await, [1, 2, 3, 4, 5]);
    assert_eq!(sizes(&["size>2,size<=4"]).await, [3, 4], "comma is and");
    assert_eq!(sizes(&["size<2", "size>=5"]).await, [1, 5], "repeated is or");
    assert_eq!(sizes(&["media_type==text/plain,size==1"]).await, [1]);
    assert_eq!(sizes(&[""]).await, [1, 2, 3, 4, 5]);
    let later = app.clock.now().to_string();
    assert_eq!(sizes(&[&format!("created_at<\"{later}\"")]).await, [1, 2, 3, 4, 5]);
    assert_eq!(sizes(&[&format!("created_at>=\"{later}\"")]).await, [0; 0]);
});

story!(a_bad_filter_is_refused_at_its_position_also_on_an_empty_list, async |app| {
    for (filter, position) in [
        ("size>", 5),
        ("labels.n==\"x", 10),
        ("size==1,", 8),
        ("labels.", 7),
        ("colour==x", 0),
        ("labels.n~=\"(\"", 10),
        ("labels.n==|x|", 10),
    ] {
        let refused = app.get(format!("/api/v1/content?filter={}", encoded(filter))).await;
        assert_eq!(refused.to_string(), "400 invalid-argument", "{filter}");
        assert!(
            refused.json()["position"].as_u64().is_some_and(|at| at.abs_diff(position) <= 1),
            "{filter}: {:?}",
            refused.json()
        );
    }
});

story!(plain_parameters_cover_the_common_cases, async |app| {
    fill(app, 3).await;
    app.put_blob(b"plain").await;
    assert_eq!(digests(&app.get("/api/v1/content?label=n=2").await), [sha256(&noise(2, 2))]);
    assert_eq!(digests(&app.get("/api/v1/content?label=n").await).len(), 3);
    assert_eq!(digests(&app.get("/api/v1/content?media_type=text/plain").await).len(), 3);
    assert_eq!(digests(&app.get("/api/v1/content?media_type=text/plain&label=n=1&label=n=2").await).len(), 0);
});

story!(ndjson_is_the_pages_in_one_stream, async |app| {
    // More than the largest page, so that the stream crosses from one page to the next.
    let puts =
        (0..1_030).map(|n| async move { app.post("/api/v1/content").body(format!("blob {n}")).await.status });
    use futures_util::StreamExt;
    let stored: Vec<u16> = futures_util::stream::iter(puts).buffer_unordered(16).collect().await;
    assert!(stored.iter().all(|status| *status == 201));
    let stream =
        app.get("/api/v1/content?sort=-size").header("Accept", "application/x-ndjson").await.expect(200);
    assert_eq!(stream.header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> = std::str::from_utf8(&stream.body)
        .expect("text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a document"))
        .collect();
    assert_eq!(lines.len(), 1_030);
    assert_eq!(lines, pages(app, "/api/v1/content?sort=-size&limit=1000").await);
    let some = app.get("/api/v1/content?limit=3").header("Accept", "application/x-ndjson").await.expect(200);
    assert_eq!(some.body.iter().filter(|byte| **byte == b'\n').count(), 3);
    for (accepts, form) in [
        ("APPLICATION/X-NDJSON", "application/x-ndjson"),
        ("application/json;q=0.5, application/x-ndjson", "application/x-ndjson"),
        ("application/x-ndjson, */*", "application/x-ndjson"),
        ("application/json, application/x-ndjson;q=0.5", "application/json"),
        ("application/x-ndjson;q=0, application/*", "application/json"),
    ] {
        let answer = app.get("/api/v1/content").header("Accept", accepts).await.expect(200);
        assert_eq!(answer.header("content-type"), form, "{accepts}");
    }
    let refused = app.get("/api/v1/content").header("Accept", "application/json;q=0").await;
    assert_eq!(refused.to_string(), "406 not-acceptable");
    let neither = app.get("/api/v1/content").header("Accept", "text/html").await;
    assert_eq!(neither.to_string(), "406 not-acceptable");
});

story!(ingests_are_listed_with_what_they_hold_now, async |app| {
    for (reference, size) in [("a", 3), ("b", 1), ("c", 2)] {
        app.filled_ingest(reference, &noise(1, size)).await;
        app.clock.advance(Duration::from_secs(1));
    }
    let refs = async |query: &str| -> Vec<String> {
        let page = app.get(format!("/api/v1/ingests?{query}")).await.expect(200).json();
        page["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|item| item["ref"].as_str().expect("a ref").to_owned())
            .collect()
    };
    assert_eq!(refs("").await, ["a", "b", "c"], "the oldest first");
    assert_eq!(refs("sort=-ref").await, ["c", "b", "a"]);
    assert_eq!(refs("sort=offset").await, ["b", "c", "a"]);
    assert_eq!(refs("filter=offset%3E1&sort=ref").await, ["a", "c"]);
    assert_eq!(refs("filter=ref%3D%3Db").await, ["b"]);
    assert_eq!(pages(app, "/api/v1/ingests?limit=2").await.len(), 3);
});

story!(a_page_of_large_items_ends_early_and_loses_none, async |app| {
    // 248 KiB of labels on each of them: twenty are more than a page takes.
    let labels: serde_json::Map<_, _> =
        (0..62).map(|n| (format!("key-{n}"), json!("v".repeat(4_000)))).collect();
    for n in 0..20_usize {
        let digest = app.put_blob(&noise(n as u64, 10)).await;
        let change = json!({"labels": labels});
        app.patch(format!("/api/v1/content/{digest}")).merge_patch(change).await.expect(200);
    }
    for path in ["/api/v1/content?limit=1000", "/api/v1/content?limit=1000&filter=size%3E1"] {
        let first = app.get(path).await.expect(200);
        let held = first.json()["items"].as_array().expect("items").len();
        assert!((10..20).contains(&held) && first.body.len() < 5 << 20, "{path}: {held}");
        assert_eq!(pages(app, path).await.len(), 20, "{path}");
    }
    let none = app.get("/api/v1/content?filter=size%3E100").await.expect(200).json();
    assert_eq!((&none["items"], &none["next_cursor"]), (&json!([]), &json!(null)));
    let lines = app.get("/api/v1/content?limit=1000").header("Accept", "application/x-ndjson").await;
    assert_eq!(lines.body.iter().filter(|byte| **byte == b'\n').count(), 20);
});
