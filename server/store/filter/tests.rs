//! The language as containerd's own tests know it, case by case, and what we add to it.

use std::borrow::Cow;

use proptest::prelude::*;

use super::*;
use crate::store::labels::Labels;

#[derive(Default)]
struct Item {
    name: &'static str,
    note: &'static str,
    labels: Labels,
    size: Option<i64>,
    made_at: Option<Time>,
}

impl Fields for Item {
    fn field(&self, field: &Field) -> Option<Value<'_>> {
        match field {
            Field::Named("name") => Some(Value::Text(Cow::Borrowed(self.name))),
            Field::Named("note") => Some(Value::Text(Cow::Borrowed(self.note))),
            Field::Named("size") => self.size.map(Value::Number),
            Field::Named("made_at") => self.made_at.map(Value::Time),
            Field::Named(_) | Field::Annotation(_) => None,
            Field::Label(key) => self.labels.get(key).map(|value| Value::Text(Cow::Borrowed(value))),
        }
    }
}

const SCHEMA: Schema = Schema::new(
    &[("name", Kind::Text), ("note", Kind::Text), ("size", Kind::Number), ("made_at", Kind::Time)],
    &[Map::Labels],
);

fn item(name: &'static str, note: &'static str, labels: &[(&str, &str)]) -> Item {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Item { name, note, labels, ..Item::default() }
}

/// The cargo of a small ship: what a selector finds is told by its places in this list.
fn cargo() -> Vec<Item> {
    vec![
        item("rope", "", &[("wet", "true")]),
        item("salt", "", &[]),
        item("rope", "", &[("wet", "yes"), ("kept in deck 2", "yes")]),
        item("salt", "", &[("dry", "true")]),
        item("ropes", "", &[("a \\ and a \" in it", "yes")]),
        item("ropes", "", &[("a \\ and a \" in it.twice", "yes")]),
        item("tar", "black, sticky", &[]),
        item("tars", "cab", &[]),
        item("crate", "", &[("wet", "x_deck.two-aft")]),
    ]
}

fn parse(text: &str) -> Result<Filter> {
    Filter::parse(&[text], &SCHEMA)
}

fn found(text: &str) -> Vec<usize> {
    let filter = parse(text).expect("the filter is well-formed");
    cargo().iter().enumerate().filter(|(_, item)| filter.matches(*item)).map(|(at, _)| at).collect()
}

/// The reason and the position of a refusal.
fn refused(text: &str) -> (usize, String) {
    match parse(text) {
        Err(Error::Invalid(invalid)) => {
            assert_eq!(invalid.field.as_deref(), Some("filter"));
            (invalid.position.expect("a refused filter says where"), invalid.reason)
        }
        other => panic!("`{text}` gave {other:?}"),
    }
}

#[test]
fn the_expressions_of_containerds_suite_find_what_they_find_there() {
    let everything: Vec<usize> = (0..9).collect();
    assert_eq!(found(""), everything);
    assert_eq!(found("name"), everything);
    assert_eq!(found("labels.wet"), [0, 2, 8]);
    assert_eq!(found("labels.wet,name"), [0, 2, 8]);
    assert_eq!(found("labels.wet==true"), [0]);
    assert_eq!(found("labels.wet==x_deck.two-aft"), [8]);
    assert_eq!(found("name==salt"), [1, 3]);
    assert_eq!(found("name!=salt"), [0, 2, 4, 5, 6, 7, 8]);
    assert_eq!(found("name==salt,labels.dry"), [3]);
    assert_eq!(found(r#"note=="black, sticky""#), [6]);
    assert_eq!(found("note~=[abc]+,name!=rope"), [6, 7]);
    assert_eq!(found("note~=/[abc]+/,name!=rope"), [6, 7]);
    assert_eq!(found("note~=/[abc]{1,2}/,name!=rope"), [6, 7]);
    assert_eq!(found(r#"note~=/[abc]{0,1}"\//,name!=rope"#), [0; 0]);
    assert_eq!(found("name==salt,labels.dry==true"), [3]);
    assert_eq!(found("name==salt,labels.dry==false"), [0; 0]);
    assert_eq!(found(r#"name==rope,labels."kept in deck 2""#), [2]);
    assert_eq!(found(r#"labels."a \\ and a \" in it"==yes"#), [4]);
    assert_eq!(found(r#"labels."a \\ and a \" in it".twice==yes"#), [5]);
}

#[test]
fn the_errors_of_containerds_suite_are_errors_at_the_same_place() {
    let cases = [
        ("labels.|wet|==x_deck.two-aft", 7, "quotes only the value of ~="),
        (r#"labels.?"a \\ and a \" in it".twice==yes"#, 7, "expected a field"),
        ("name==rope,", 11, "expected a field"),
        ("labels.", 7, "expected a field"),
        ("image~=,id?=?fbaq", 7, "expected a value"),
        ("labels.ns/key==value", 9, "does not end"),
        ("labels.key==/value", 12, "does not end"),
    ];
    for (text, position, reason) in cases {
        let (at, said) = refused(text);
        assert!(at == position && said.contains(reason), "`{text}`: {said} at {at}");
    }
}

#[test]
fn an_absent_field_is_unequal_to_everything_and_reads_as_the_empty_text() {
    assert_eq!(found("note").len(), 2);
    assert_eq!(found(r#"note=="""#), [0; 0]);
    assert_eq!(found("note!=cab"), [0, 1, 2, 3, 4, 5, 6, 8]);
    assert_eq!(found("note~=.*").len(), 9);
    assert_eq!(found("note~=^$").len(), 7);
    assert_eq!(found("labels.wet!=true"), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(found("size<=9223372036854775807"), [0; 0]);
    assert_eq!(found("size!=1").len(), 9);
}

#[test]
fn several_filters_are_alternatives_and_an_empty_one_is_everything() {
    let either = Filter::parse(&["name==salt", "name==tar"], &SCHEMA).expect("two filters");
    assert_eq!(cargo().iter().filter(|item| either.matches(*item)).count(), 3);
    assert!(Filter::parse(&["name==salt", ""], &SCHEMA).expect("one is empty").is_everything());
    assert!(Filter::parse::<&str>(&[], &SCHEMA).expect("no filter").is_everything());
    assert!(Filter::parse(&["", "name=="], &SCHEMA).is_err(), "the empty one hides no error");
}

#[test]
fn sizes_and_times_are_compared_as_what_they_are() {
    let made_at = Some("2026-11-21T10:00:00Z".parse().expect("a time"));
    let barrel = Item { size: Some(10), made_at, ..item("barrel", "", &[]) };
    for (text, expected) in [
        ("size>9", true),
        ("size > 9 , size < 11", true),
        ("size>=10", true),
        ("size<=10", true),
        ("size<10", false),
        ("size==10", true),
        ("size==010", true),
        ("size!=10", false),
        ("size~=^1", true),
        ("made_at<2026-11-21T10:00:00.000001Z", true),
        ("made_at>=2026-11-21T12:00:00+02:00", true),
        ("made_at>\"2026-11-21T10:00:00Z\"", false),
        ("made_at~=^2026-11", true),
        ("name==<barrel>", false),
        ("name==?barrel", false),
        ("name~=.*rel$", true),
    ] {
        assert_eq!(parse(text).expect(text).matches(&barrel), expected, "{text}");
    }
}

#[test]
fn a_filter_that_makes_no_sense_for_the_resource_says_so_and_where() {
    let cases = [
        ("nmae==x", 0, "there is no field `nmae`: did you mean `name`?"),
        ("name==x, label.a==y", 9, "there is no field `label.a`: did you mean `labels`?"),
        ("q", 0, "there is no field `q`: the fields are name, note, size, made_at, labels"),
        ("name.first", 0, "there is no field `name.first`: did you mean `name`?"),
        ("labels", 0, "`labels` needs a key, as in labels.\"example.com/key\""),
        ("name<x", 4, "only sizes and times can be compared with <, <=, > and >=; this field is text"),
        ("labels.a>=1", 8, "only sizes and times can be compared with <, <=, > and >=; this field is text"),
        ("size>big", 5, "`big` is not a whole number"),
        ("size==1e3", 6, "`1e3` is not a whole number"),
        (
            "made_at>2026-11-21",
            8,
            "`2026-11-21` is not an RFC 3339 time: write it as in 2026-11-21T10:00:00Z",
        ),
        ("name=x", 4, "`=` is not an operator: write `==`"),
        ("name===x", 4, "`===` is not an operator"),
        ("name==x y", 8, "unexpected `y`: selectors are separated by a comma"),
        ("näme==x", 1, "expected an operator"),
        ("name==\0", 6, "a NUL character is not allowed"),
        ("name==\"a\nb\"", 6, "the quoted text does not end"),
        (r#"name=="a\d""#, 8, "unknown escape: a backslash itself is written \\\\"),
        (r#"name=="\xff""#, 6, "the quoted text is not UTF-8"),
        (r#"name=="\x+1""#, 7, "a \\x escape has two hexadecimal digits"),
        (r#"name=="\ud800""#, 7, "the escape does not name a Unicode character"),
        (r#"name=="\400""#, 7, "an octal escape has three digits, at most \\377"),
        (r"name==|x|", 6, "`|` quotes only the value of ~=: use double quotes"),
        ("note~=a(b", 6, "the pattern is not a regular expression: unclosed group"),
        ("note~=\"é(b\"", 6, "the pattern is not a regular expression: unclosed group"),
        (r"note~=(\w{50}){50}", 6, "the pattern is too large once its repetitions are written out"),
    ];
    for (text, position, reason) in cases {
        let (at, said) = refused(text);
        assert!(at == position && said.starts_with(reason), "`{text}`: {said} at {at}");
    }
}

#[test]
fn escapes_are_read_as_go_reads_them() {
    let filter = parse(r#"name=="\a\b\f\n\r\t\v\\\"\101\x41\u00e9\U0001f6a2\303\251""#).expect("all escapes");
    let Test::Equal(Literal::Text(text)) = &filter.any[0][0].test else { panic!("{filter:?}") };
    assert_eq!(text, "\u{7}\u{8}\u{c}\n\r\t\u{b}\\\"AAé🚢é");
}

#[test]
fn every_limit_is_a_refusal() {
    let long = "a".repeat(PATTERN_BYTES + 1);
    assert_eq!(refused(&format!("note~={long}")).0, 6);
    assert!(parse(&format!("note~={}", &long[1..])).is_ok());
    assert!(refused(&format!("name=={}", "a".repeat(FILTER_BYTES))).1.contains("4096 bytes"));
    assert!(refused(&["name"; FILTER_SELECTORS + 1].join(",")).1.contains("64 selectors"));
    assert!(refused(&["name~=a"; FILTER_PATTERNS + 1].join(",")).1.contains("8 patterns"));
    assert!(Filter::parse(&["name"; FILTERS + 1], &SCHEMA).is_err());
}

#[test]
fn an_image_answers_to_containerds_spelling_of_its_media_type() {
    let filter =
        Filter::parse(&["target.mediatype==x,annotations.a.b==c"], &Schema::IMAGES).expect("an alias");
    assert_eq!(filter.any[0][0].field, Field::Named("target.media_type"));
    assert_eq!(filter.any[0][1].field, Field::Annotation("a.b".into()));
    let (tokens, images) = (Schema::TOKENS, Schema::IMAGES);
    assert!(Filter::parse(&["labels.a"], &tokens).is_err(), "tokens have no labels");
    let asked = Filter::parse(&["target"], &images).expect_err("not a field");
    assert!(asked.to_string().contains("did you mean `target."), "{asked}");
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>(), near in r#"(name|labels|[.,"/|\\=!~<>?x ]){0,24}"#) {
        let _ = parse(&text);
        if let Err(Error::Invalid(invalid)) = parse(&near) {
            prop_assert!(invalid.position.expect("a position") <= near.chars().count());
        }
    }

    #[test]
    fn any_label_is_found_again_when_quoted(key in any::<String>(), value in any::<String>()) {
        let filter = parse(&format!("{}=={}", quote_key(&key), quote(&value))).expect("quoted");
        let selector = &filter.any[0][0];
        prop_assert_eq!(&selector.field, &Field::Label(key));
        let Test::Equal(literal) = &selector.test else { panic!("not an equality") };
        prop_assert_eq!(literal, &Literal::Text(value));
    }
}
