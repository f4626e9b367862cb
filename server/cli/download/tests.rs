//! What is asked for, and how it is taken up again.

use super::*;
use crate::cli::client::Client;
use crate::cli::context::{Output, Paint};
use crate::cli::scripted::{against, broken, whole};

const TAGGED: &str = "200 OK\r\nETag: \"a\"";

/// What was written, or the exit code; and what the server was asked.
async fn downloaded(answers: Vec<String>, wanted: Option<Range>) -> (Result<String, u8>, Vec<String>) {
    let origin =
        Origin { path: vec!["x".to_owned()], query: Vec::new(), doing: "read x".to_owned(), hint: "again" };
    let asking = async |client: Client| {
        let context = Context { client, output: Output::Text, paint: Paint::Plain };
        let mut written = Vec::new();
        let mut download = Download::new(&context, origin).range(wanted);
        let ran = download
            .run(&mut |bytes| {
                written.extend_from_slice(bytes);
                Ok(())
            })
            .await;
        ran.map(|()| String::from_utf8(written).expect("text")).map_err(|failure| failure.exit.number())
    };
    against(answers, asking).await
}

#[tokio::test]
async fn what_broke_off_goes_on_with_the_same_bytes() {
    let rest = whole("206 Partial Content\r\nETag: \"a\"\r\nContent-Range: bytes 5-9/10", "56789");
    let (read, requests) = downloaded(vec![broken(TAGGED, "01234"), rest], None).await;
    assert_eq!(read.as_deref(), Ok("0123456789"));
    assert!(!requests[0].contains("range") && !requests[0].contains("if-match"), "{}", requests[0]);
    assert!(
        requests[1].contains("range: bytes=5-\r\n") && requests[1].contains("if-match: \"a\""),
        "{requests:?}"
    );
}

#[tokio::test]
async fn what_has_changed_or_has_no_tag_does_not_go_on() {
    let (read, _) = downloaded(vec![broken(TAGGED, "01"), whole("412 Precondition Failed", "")], None).await;
    assert_eq!(read, Err(5));
    let (read, requests) = downloaded(vec![broken("200 OK", "01")], None).await;
    assert_eq!((read, requests.len()), (Err(7), 1));
}

#[tokio::test]
async fn the_end_of_a_range_is_known_from_its_first_answer() {
    let head = "206 Partial Content\r\nETag: \"a\"\r\nContent-Range: bytes";
    let answers = vec![broken(&format!("{head} 6-9/10"), "67"), whole(&format!("{head} 8-9/10"), "89")];
    let (read, requests) = downloaded(answers, Some(Range::Last(4))).await;
    assert_eq!(read.as_deref(), Ok("6789"));
    assert!(
        requests[0].contains("range: bytes=-4") && requests[1].contains("range: bytes=8-9"),
        "{requests:?}"
    );
}

#[tokio::test]
async fn a_layer_that_is_being_read_is_waited_for() {
    let reading = || whole("202 Accepted\r\nRetry-After: 1", "{\"state\":\"indexing\"}");
    let (read, requests) = downloaded(vec![reading(), reading(), whole(TAGGED, "text")], None).await;
    assert_eq!((read.as_deref(), requests.len()), (Ok("text"), 3));
    assert!(requests.iter().all(|request| *request == requests[0]), "{requests:?}");
}

#[test]
fn ranges_are_written_as_in_http() {
    assert_eq!(parse_range("0-511"), Ok(Range::Between(0, 511)));
    assert_eq!(parse_range("5-").map(Range::header), Ok("bytes=5-".to_owned()));
    assert_eq!(parse_range("-7").map(Range::header), Ok("bytes=-7".to_owned()));
    for bad in ["", "-", "7", "9-3", "a-b", "1-2,4-5"] {
        assert!(parse_range(bad).is_err(), "{bad}");
    }
    assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, 9)));
    assert_eq!(parse_content_range("bytes */10"), None);
}

#[test]
fn only_what_a_terminal_merely_shows_is_text() {
    assert!(is_text("é\n\ttext".as_bytes()) && is_text(b"cut \xc3"));
    assert!(!is_text(b"\x1b[2J") && !is_text(b"\x1f\x8b") && !is_text(b"a\0") && !is_text(b"\xff "));
}
