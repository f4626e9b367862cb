//! Walks over documents that no honest digest allows: the shelf here gives what it is told to, whatever its name.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::*;
use crate::jobs::{PullRequest, Selection};
use crate::oci::Algorithm;
use crate::store::{Caller, Reach};

/// Documents and lists of referrers by digest, and what was asked for.
#[derive(Default)]
struct Told {
    documents: HashMap<Digest, Value>,
    referrers: HashMap<Digest, Vec<Descriptor>>,
    asked: Mutex<Vec<Digest>>,
}

impl Shelf for Told {
    async fn document(&self, wanted: Wanted<'_>, _: Option<Fetched>) -> Result<Document, Ended> {
        let descriptor = wanted.descriptor;
        self.asked.lock().expect("no holder panics").push(descriptor.digest.clone());
        let document = self.documents[&descriptor.digest].to_string();
        Ok(Document::parse(document.as_bytes(), Some(&descriptor.media_type))?)
    }

    async fn platform(&self, _: &Descriptor) -> Result<Option<Platform>, Ended> {
        Ok(None)
    }

    async fn referrers(&self, subject: &Digest, _: &[String]) -> Result<Vec<Descriptor>, Ended> {
        Ok(self.referrers.get(subject).cloned().unwrap_or_default())
    }

    fn leave_out(&self, _: &Descriptor, why: String) {
        panic!("nothing is left out: {why}");
    }
}

fn digest(name: &str) -> Digest {
    Digest::of(Algorithm::Sha256, name.as_bytes())
}

fn index(name: &str) -> Descriptor {
    Descriptor::new(media_type::OCI_INDEX, digest(name), 100)
}

fn manifest(name: &str) -> Descriptor {
    Descriptor::new(media_type::OCI_MANIFEST, digest(name), 100)
}

impl Told {
    /// An index of that name, which lists these.
    fn lists(mut self, name: &str, entries: &[Descriptor]) -> Told {
        self.documents.insert(digest(name), json!({"schemaVersion": 2, "manifests": entries}));
        self
    }

    /// A manifest of that name and of one layer, which refers to another and is listed by it.
    fn refers(mut self, name: &str, subject: &str) -> Told {
        let config = Descriptor::new("application/vnd.oci.empty.v1+json", digest("config"), 2);
        let document = json!({
            "schemaVersion": 2, "config": config, "layers": [], "subject": manifest(subject),
        });
        self.documents.insert(digest(name), document);
        self.referrers.entry(digest(subject)).or_default().push(manifest(name));
        self
    }

    async fn grow(&self, root: Descriptor) -> Result<Tree> {
        let asked = PullRequest {
            reference: "r.io/app:v1".into(),
            selection: Selection { all_platforms: true, referrers: true, ..Selection::default() },
            ..PullRequest::default()
        };
        let caller = Caller { namespace: "default".into(), lease: None, reach: Reach::Everywhere };
        let request = Request::check(&caller, &asked).expect("a request");
        match Tree::grow(self, &request, root, None).await {
            Ok(tree) => Ok(tree),
            Err(Ended::Failed(error)) => Err(error),
            Err(Ended::Stopped) => panic!("nobody stops it"),
        }
    }

    fn asked(&self) -> usize {
        self.asked.lock().expect("no holder panics").len()
    }
}

#[tokio::test]
async fn an_index_that_lists_itself_is_refused_when_it_is_met_again() {
    let told = Told::default().lists("a", &[index("a")]);
    let error = told.grow(index("a")).await.expect_err("a circle");
    assert!(error.to_string().contains(&format!("the index {} is its own child", digest("a"))), "{error}");
    assert_eq!(told.asked(), 1);
}

#[tokio::test]
async fn a_circle_of_indexes_is_refused_however_long() {
    let told = Told::default().lists("a", &[index("b")]).lists("b", &[index("c")]).lists("c", &[index("a")]);
    let error = told.grow(index("a")).await.expect_err("a circle");
    assert!(error.to_string().contains("is its own child"), "{error}");
    assert_eq!(told.asked(), 3, "each was looked into once");
}

#[tokio::test]
async fn an_index_below_two_others_is_no_circle_and_looked_into_once() {
    let told = Told::default()
        .lists("a", &[index("b"), index("c"), index("b")])
        .lists("b", &[index("d")])
        .lists("c", &[index("d")])
        .lists("d", &[]);
    let tree = told.grow(index("a")).await.expect("a tree");
    assert_eq!((tree.documents.len(), told.asked()), (4, 4));
}

#[tokio::test]
async fn indexes_are_nested_so_deep_and_no_deeper() {
    let chain = |depth: usize| {
        let name = |level: usize| format!("level {level}");
        (0..depth).fold(Told::default().lists(&name(depth), &[]), |told, level| {
            told.lists(&name(level), &[index(&name(level + 1))])
        })
    };
    let deepest = chain(limits::INDEX_DEPTH).grow(index("level 0")).await.expect("a tree");
    assert_eq!(deepest.documents.len(), limits::INDEX_DEPTH + 1);
    let deeper = chain(limits::INDEX_DEPTH + 1);
    let error = deeper.grow(index("level 0")).await.expect_err("too deep");
    assert!(error.to_string().contains("nested deeper than"), "{error}");
    assert_eq!(deeper.asked(), limits::INDEX_DEPTH + 1, "what is too deep is not asked for");
}

#[tokio::test]
async fn manifests_that_refer_to_each_other_are_taken_once() {
    let told = Told::default().refers("a", "b").refers("b", "a");
    let tree = told.grow(manifest("a")).await.expect("a tree");
    let mut taken: Vec<Digest> = tree.documents.into_iter().map(|(_, document)| document.digest).collect();
    taken.sort();
    let mut both = vec![digest("a"), digest("b")];
    both.sort();
    assert_eq!(taken, both);
    assert!(told.asked() <= 3, "{}", told.asked());
}
