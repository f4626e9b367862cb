//! Ranges and preconditions of reads: RFC 9110, sections 13 and 14, on 10,000 bytes as in its own examples.

use crate::support::app::{TestApp, story};
use crate::support::raw::noise;
use crate::support::request::{Answer, Request};

const SIZE: usize = 10_000;

fn bytes() -> bytes::Bytes {
    noise(9_110, SIZE)
}

async fn blob(app: &TestApp) -> String {
    format!("/api/v1/content/{}/data", app.put_blob(&bytes()).await)
}

/// What an answer says with 206, held against the blob: `(first, last)` of each part.
fn parts(answer: &Answer) -> Vec<(usize, usize)> {
    let whole = bytes();
    let check = |content_range: &str, part: &[u8]| {
        let range = content_range.strip_prefix("bytes ").and_then(|range| range.strip_suffix("/10000"));
        let (first, last) = range.and_then(|range| range.split_once('-')).expect("bytes first-last/10000");
        let (first, last): (usize, usize) = (first.parse().expect("first"), last.parse().expect("last"));
        assert!(part == &whole[first..=last], "the bytes {first}-{last} are those of the blob");
        (first, last)
    };
    let kind = answer.header("content-type");
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    let Some(boundary) = kind.strip_prefix("multipart/byteranges; boundary=") else {
        return vec![check(answer.header("content-range"), &answer.body)];
    };
    assert_eq!(answer.header("content-range"), "", "the parts have theirs");
    let mut rest = &answer.body[..];
    let mut found = Vec::new();
    loop {
        let delimiter = format!("\r\n--{boundary}");
        rest = rest.strip_prefix(delimiter.as_bytes()).expect("a delimiter");
        if rest == b"--\r\n" {
            return found;
        }
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n").expect("the head of a part");
        let head = std::str::from_utf8(&rest[..end]).expect("text");
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        assert_eq!(field("Content-Type: "), "application/octet-stream");
        let content_range = field("Content-Range: ").to_owned();
        rest = &rest[end + 4..];
        let next = rest.windows(delimiter.len()).position(|window| window == delimiter.as_bytes());
        let (part, after) = rest.split_at(next.expect("the next delimiter"));
        found.push(check(&content_range, part));
        rest = after;
    }
}

/// What the table expects.
enum Expected {
    Parts(&'static [(usize, usize)]),
    Whole,
    Unsatisfiable,
}

use Expected::{Parts, Unsatisfiable, Whole};

const TABLE: &[(&str, Expected)] = &[
    // The RFC's own examples (section 14.1.2).
    ("bytes=0-499", Parts(&[(0, 499)])),
    ("bytes=500-999", Parts(&[(500, 999)])),
    ("bytes=-500", Parts(&[(9_500, 9_999)])),
    ("bytes=9500-", Parts(&[(9_500, 9_999)])),
    ("bytes=0-0,-1", Parts(&[(0, 0), (9_999, 9_999)])),
    ("bytes= 0-999, 4500-5499, -1000", Parts(&[(0, 999), (4_500, 5_499), (9_000, 9_999)])),
    ("bytes=500-600,601-999", Parts(&[(500, 999)])),
    ("bytes=500-700,601-999", Parts(&[(500, 999)])),
    // Edges.
    ("bytes=0-", Parts(&[(0, 9_999)])),
    ("bytes=0-9999", Parts(&[(0, 9_999)])),
    ("bytes=0-10000", Parts(&[(0, 9_999)])),
    ("bytes=9999-", Parts(&[(9_999, 9_999)])),
    ("bytes=9999-9999", Parts(&[(9_999, 9_999)])),
    ("bytes=-10000", Parts(&[(0, 9_999)])),
    ("bytes=-10001", Parts(&[(0, 9_999)])),
    ("bytes=0-0", Parts(&[(0, 0)])),
    ("BYTES=0-0", Parts(&[(0, 0)])),
    ("bytes=,,0-0,", Parts(&[(0, 0)])),
    // Some of several outside: those inside count.
    ("bytes=10000-,0-1", Parts(&[(0, 1)])),
    ("bytes=0-1,-0", Parts(&[(0, 1)])),
    // Beyond 64 bits is beyond every end, and nothing overflows.
    ("bytes=0-18446744073709551615", Parts(&[(0, 9_999)])),
    ("bytes=0-99999999999999999999999999", Parts(&[(0, 9_999)])),
    ("bytes=-18446744073709551615", Parts(&[(0, 9_999)])),
    ("bytes=-99999999999999999999999999", Parts(&[(0, 9_999)])),
    ("bytes=18446744073709551615-", Unsatisfiable),
    ("bytes=99999999999999999999999999-", Unsatisfiable),
    ("bytes=9223372036854775807-9223372036854775808", Unsatisfiable),
    // None inside.
    ("bytes=10000-", Unsatisfiable),
    ("bytes=10000-10001", Unsatisfiable),
    ("bytes=-0", Unsatisfiable),
    ("bytes=10000-,20000-", Unsatisfiable),
    // Malformed, or in another unit: as if it were not there (section 14.2).
    ("bytes", Whole),
    ("bytes=", Whole),
    ("bytes=-", Whole),
    ("bytes=a-b", Whole),
    ("bytes=5-4", Whole),
    ("bytes=1", Whole),
    ("bytes=--1", Whole),
    ("bytes=+1-2", Whole),
    ("bytes=0-1,x", Whole),
    ("bytes=0-1;2-3", Whole),
    ("bytes=0x0-0x1", Whole),
    ("bytes 0-1", Whole),
    ("lines=0-1", Whole),
    // 16 ranges are answered, 17 are not.
    (
        "bytes=0-0,2-2,4-4,6-6,8-8,10-10,12-12,14-14,16-16,18-18,20-20,22-22,24-24,26-26,28-28,30-30,32-32",
        Whole,
    ),
];

story!(every_range_is_answered_as_rfc_9110_says, async |app| {
    let blob = blob(app).await;
    for (range, expected) in TABLE {
        let answer = app.get(&blob).range(range).await;
        match expected {
            Parts(wanted) => {
                assert_eq!(answer.status, 206, "{range}: {answer}");
                assert_eq!(parts(&answer), *wanted, "{range}");
            }
            Whole => {
                assert_eq!(answer.status, 200, "{range}: {answer}");
                assert!(answer.body == bytes(), "{range}");
            }
            Unsatisfiable => {
                assert_eq!(answer.to_string(), "416 range-not-satisfiable", "{range}");
                assert_eq!(answer.header("content-range"), "bytes */10000", "{range}");
            }
        }
    }
});

story!(sixteen_ranges_come_in_the_order_asked_for, async |app| {
    let blob = blob(app).await;
    let wanted: Vec<_> = (0..16).rev().map(|at| (at * 600, at * 600 + 99)).collect();
    let line: Vec<_> = wanted.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    let answer = app.get(&blob).range(&format!("bytes={}", line.join(","))).await.expect(206);
    assert_eq!(parts(&answer), wanted);
});

story!(overlapping_ranges_never_send_more_than_there_is, async |app| {
    let blob = blob(app).await;
    let answer = app.get(&blob).range(&format!("bytes={}", ["0-"; 16].join(","))).await.expect(206);
    assert_eq!(parts(&answer), [(0, 9_999)]);
});

story!(two_range_headers_are_as_none, async |app| {
    let blob = blob(app).await;
    assert_eq!(app.get(&blob).range("bytes=0-0").range("bytes=1-1").await.status, 200);
});

story!(if_range_honours_the_range_only_for_this_very_blob, async |app| {
    let blob = blob(app).await;
    let tag = app.head(&blob).await.header("etag").to_owned();
    let ask = |value: &str| app.get(&blob).range("bytes=0-9").header("If-Range", value);
    assert_eq!(ask(&tag).await.status, 206);
    for other in [format!("W/{tag}").as_str(), "\"other\"", "Sat, 21 Nov 2026 10:00:00 GMT", "*", &tag[1..]] {
        assert_eq!(ask(other).await.status, 200, "{other}");
    }
    let beyond = app.get(&blob).range("bytes=10000-").header("If-Range", "\"other\"").await;
    assert_eq!(beyond.status, 200, "a range that is not honoured cannot fail");
});

story!(head_says_what_get_would_without_a_body, async |app| {
    let blob = blob(app).await;
    let tag = app.head(&blob).await.header("etag").to_owned();
    type Ask<'a> = &'a dyn Fn(Request) -> Request;
    let asks: [Ask; 4] = [
        &|request| request,
        &|request| request.header("If-None-Match", &tag),
        &|request| request.header("If-Match", "\"other\""),
        &|request| request.range("bytes=0-9").header("If-Range", "\"other\""),
    ];
    for ask in asks {
        let (get, head) = (ask(app.get(&blob)).await, ask(app.head(&blob)).await);
        assert_eq!(get.status, head.status);
        assert!(head.body.is_empty());
        for name in ["etag", "content-range", "accept-ranges", "content-length", "content-type"] {
            // A problem names its request, whose id has always the same length.
            assert_eq!(get.header(name), head.header(name), "{name} of {}", get.status);
        }
    }
});

story!(ranges_are_for_get_alone, async |app| {
    let blob = blob(app).await;
    for range in ["bytes=0-499", "bytes=10000-", "bytes=0-0,9-9"] {
        let head = app.head(&blob).range(range).await.expect(200);
        let said =
            (head.header("content-length"), head.header("content-range"), head.header("accept-ranges"));
        assert_eq!(said, ("10000", "", "bytes"), "{range}");
    }
});

story!(preconditions_are_judged_in_the_order_of_the_rfc, async |app| {
    let blob = blob(app).await;
    let tag = app.head(&blob).await.header("etag").to_owned();
    for known in [tag.clone(), format!("W/{tag}"), "*".to_owned(), format!("\"other\", {tag}")] {
        let answer = app.get(&blob).header("If-None-Match", &known).await;
        assert_eq!(answer.to_string(), "304", "{known}");
        assert_eq!(answer.header("etag"), tag);
        assert_eq!(answer.header("cache-control"), "private, max-age=31536000, immutable");
        // 304 comes before the range is looked at (section 13.2.2).
        assert_eq!(app.get(&blob).header("If-None-Match", &known).range("bytes=10000-").await.status, 304);
    }
    assert_eq!(app.get(&blob).header("If-None-Match", "\"other\"").await.status, 200);
    for (wanted, status) in [(tag.as_str(), 200), ("*", 200), ("\"other\"", 412), (&format!("W/{tag}"), 412)]
    {
        assert_eq!(app.get(&blob).header("If-Match", wanted).await.status, status, "{wanted}");
    }
    let both = app.get(&blob).header("If-Match", "\"other\"").header("If-None-Match", &tag).await;
    assert_eq!(both.to_string(), "412 precondition-failed");
});

story!(an_empty_blob_has_no_range_that_lies_within, async |app| {
    let blob = format!("/api/v1/content/{}/data", app.put_blob(b"").await);
    assert_eq!(app.get(&blob).await.to_string(), "200");
    for range in ["bytes=0-0", "bytes=0-", "bytes=-1"] {
        let answer = app.get(&blob).range(range).await;
        assert_eq!(answer.to_string(), "416 range-not-satisfiable", "{range}");
        assert_eq!(answer.header("content-range"), "bytes */0");
    }
});
