use super::*;

fn params(query: &str) -> Params {
    Params::of(Some(query)).expect("a well-formed query")
}

fn field(error: &Error) -> Option<&str> {
    match error {
        Error::Invalid(invalid) => invalid.field.as_deref(),
        _ => None,
    }
}

#[test]
fn parameters_are_unescaped_and_keep_their_order() {
    let given = params("filter=a%3D%3Db&filter=c+d&name=%C3%A9&&alone&");
    assert_eq!(given.all("filter").collect::<Vec<_>>(), ["a==b", "c d"]);
    assert_eq!(given.one("name").expect("readable"), Some("é"));
    assert_eq!(given.one("alone").expect("readable"), Some(""));
    assert_eq!(given.one("missing").expect("readable"), None);
    assert_eq!(Params::of(None).expect("nothing given").names().count(), 0);
}

#[test]
fn what_is_wrongly_escaped_is_refused_by_name() {
    for wrong in ["name=%ff", "name=%c0%af", "name=%zz", "name=%4", "name=a%00b"] {
        let refusal = Params::of(Some(wrong)).expect_err(wrong);
        assert_eq!(field(&refusal), Some("name"), "{wrong}: {refusal}");
    }
    Params::of(Some("%zz=1")).expect_err("a name that nobody can read");
}

#[test]
fn a_flag_is_true_or_false() {
    assert!(params("force=true").flag("force").expect("readable"));
    assert!(!params("force=false").flag("force").expect("readable"));
    assert!(!params("").flag("force").expect("readable"));
    assert!(params("verbose").bare_flag("verbose").expect("readable"));
    assert!(!params("verbose=false").bare_flag("verbose").expect("readable"));
    params("verbose=1").bare_flag("verbose").expect_err("no boolean");
    for wrong in ["force", "force=", "force=1", "force=TRUE", "force=maybe", "force=true&force=true"] {
        let refusal = params(wrong).flag("force").expect_err(wrong);
        assert_eq!(field(&refusal), Some("force"), "{wrong}: {refusal}");
    }
}

#[tokio::test]
async fn a_request_is_the_same_whichever_way_its_target_is_written() {
    let keyed = async |target: &str| {
        let request = http::Request::post(target).header("idempotency-key", "k").body(()).expect("a request");
        let idempotency = Idempotency::from_request_parts(&mut request.into_parts().0, &()).await;
        format!("{:?}", idempotency.expect("a key").keyed("default", &()))
    };
    let plain = keyed("/api/v1/leases?namespace=default").await;
    assert_eq!(keyed("https://orlop.example:7070/api/v1/leases?namespace=default").await, plain);
    assert_ne!(keyed("/api/v1/leases?namespace=other").await, plain);
}
