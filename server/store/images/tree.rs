//! The tree of an image: what its name stands for, and all that is below, as far as the documents are here.

use std::collections::{HashMap, HashSet};

use crate::clock::Time;
use crate::db;
use crate::error::{Conflict, Error, Result, Unprocessable};
use crate::events::Topic;
use crate::limits;
use crate::oci::config::platform_of;
use crate::oci::manifest::{Manifest, Role};
use crate::oci::media_type::{Kind, essence, is_image_config, is_restricted};
use crate::oci::{Descriptor, Digest, Document, Platform};
use crate::store::Store;
use crate::store::edges::{Child, child_of, role_name};
use crate::store::images::{Image, Target};
use crate::store::labels::check_media_type;
use crate::store::tell::{News, tell};

/// Digests of one question to the database.
const ASKED_AT_ONCE: usize = 1_000;
/// How many missing blobs a refusal names: enough to act on.
const NAMED_MISSING: usize = 100;

/// The blobs of an image, each once: what names others comes before them.
pub(super) struct Tree {
    pub nodes: Vec<Node>,
}

pub(super) struct Node {
    pub role: Role,
    pub descriptor: Descriptor,
    /// Whether the namespace has it.
    pub present: bool,
    /// What it names, by place in the tree. Empty where it is no document, or could not be read.
    pub children: Vec<usize>,
    /// Why a document that is here tells nothing.
    pub invalid: Option<String>,
    /// Of a manifest: what its entry, or else its config, says that it runs on.
    pub platform: Option<Platform>,
    /// Of a manifest that was read.
    pub manifest: Option<Manifest>,
}

impl Node {
    pub fn as_child(&self) -> Child {
        child_of(role_name(self.role), &self.descriptor, self.present)
    }

    /// A layer of restricted distribution that is not here: a pull skips it, as containerd does, and whoever may have it
    /// knows where it is.
    pub fn is_skipped(&self) -> bool {
        !self.present && self.role == Role::Layer && is_restricted(&self.descriptor.media_type)
    }

    /// A manifest that something runs; build attestations are none.
    fn is_runnable(&self) -> bool {
        self.role == Role::Manifest && !self.platform.as_ref().is_some_and(Platform::is_attestation)
    }
}

impl Tree {
    /// The manifest that suits a platform best. When none is asked for that is the server's own, or the one manifest of
    /// an image that has no other.
    ///
    /// # Errors
    /// `NoPlatform`, with what there is; `Conflict` (incomplete) when a document on the way is not here;
    /// `Unprocessable` for one that is broken.
    pub fn find_manifest(&self, wanted: Option<&Platform>) -> Result<(&Node, &Manifest)> {
        let mut runnable = self.nodes.iter().filter(|node| node.is_runnable());
        let node = match (wanted, runnable.next(), runnable.next()) {
            (Some(wanted), _, _) => &self.nodes[self.find_place(wanted)?],
            (None, Some(only), None) => only,
            (None, _, _) => &self.nodes[self.find_place(&Platform::host())?],
        };
        if !node.present {
            return Err(incomplete(&[node]));
        }
        let refuse = |reason: &str| {
            let (digest, reason) = (node.descriptor.digest.to_string(), reason.to_owned());
            Error::Unprocessable(Unprocessable::NotAManifest { digest, reason })
        };
        let unread = || refuse(node.invalid.as_deref().unwrap_or("it could not be read"));
        Ok((node, node.manifest.as_ref().ok_or_else(unread)?))
    }

    /// The place of the manifest that suits a platform best, whether or not it is here; among equals the first.
    ///
    /// # Errors
    /// `NoPlatform`; `Conflict` (incomplete) when what is not here might have it.
    pub fn find_place(&self, wanted: &Platform) -> Result<usize> {
        let runnable = self.nodes.iter().enumerate().filter(|(_, node)| node.is_runnable());
        let ranked = runnable.filter_map(|(at, node)| Some((wanted.rank(node.platform.as_ref()?)?, at)));
        match ranked.min_by_key(|(rank, _)| *rank) {
            Some((_, best)) => Ok(best),
            None => Err(self.lacks(wanted)),
        }
    }

    /// Why there is nothing for a platform: it is not among what there is, or what might name it is not here.
    fn lacks(&self, wanted: &Platform) -> Error {
        // A manifest that is silent of its platform might be it as well: its config would tell.
        let unknown = |node: &&Node| {
            !node.present
                && (node.role == Role::Index || (node.role == Role::Manifest && node.platform.is_none()))
        };
        let unread: Vec<&Node> = self.nodes.iter().filter(unknown).collect();
        if !unread.is_empty() {
            return incomplete(&unread);
        }
        let mut available: Vec<String> = Vec::new();
        for node in self.nodes.iter().filter(|node| node.is_runnable()) {
            let Some(platform) = &node.platform else { continue };
            let name = platform.normalized().to_string();
            if available.len() < NAMED_MISSING && !available.contains(&name) {
                available.push(name);
            }
        }
        Error::NoPlatform { wanted: wanted.to_string(), available }
    }
}

/// The refusal of what cannot be done without these.
pub(super) fn incomplete(missing: &[&Node]) -> Error {
    let named = missing.iter().take(NAMED_MISSING).map(|node| node.descriptor.digest.to_string());
    Error::Conflict(Conflict::Incomplete { count: missing.len(), missing: named.collect() })
}

/// Where a document that is still to be read stands.
struct Open {
    at: usize,
    depth: usize,
}

/// A walk in progress.
struct Walk<'a> {
    store: &'a Store,
    namespace: &'a str,
    nodes: Vec<Node>,
    places: HashMap<Digest, usize>,
    named: usize,
    bytes_left: u64,
}

/// What reading a document gave.
enum Read {
    Document(Box<Document>),
    Missing,
    Invalid(String),
}

impl Store {
    /// Looks through what an image stands for as a whole.
    ///
    /// # Errors
    /// `Unprocessable` when what it stands for is no document, or a limit is passed ([`limits::IMAGE_BLOBS`],
    /// [`limits::IMAGE_DOCUMENT_BYTES`], [`limits::INDEX_DEPTH`]). What is not here is no error.
    pub(super) async fn read_tree(&self, namespace: &str, target: &Target) -> Result<Tree> {
        let mut walk = Walk {
            store: self,
            namespace,
            nodes: Vec::new(),
            places: HashMap::new(),
            named: 0,
            bytes_left: limits::IMAGE_DOCUMENT_BYTES,
        };
        let root = descriptor_of(target)?;
        let mut open: Vec<Open> =
            walk.add(root, None)?.1.map(|at| Open { at, depth: 0 }).into_iter().collect();
        while let Some(next) = open.pop() {
            let mut below = walk.read(next).await?;
            // The first child is the next to be looked into.
            below.reverse();
            open.extend(below);
        }
        if let Some(Node { invalid: Some(reason), descriptor, .. }) = walk.nodes.first() {
            let (digest, reason) = (descriptor.digest.to_string(), reason.clone());
            return Err(Error::Unprocessable(Unprocessable::NotAManifest { digest, reason }));
        }
        let mut tree = Tree { nodes: walk.nodes };
        self.find_present(namespace, &mut tree).await?;
        self.ask_configs(namespace, &mut tree, walk.bytes_left).await?;
        Ok(tree)
    }

    /// Which blobs the namespace has.
    async fn find_present(&self, namespace: &str, tree: &mut Tree) -> Result<()> {
        let mut stored = HashSet::new();
        for some in tree.nodes.chunks(ASKED_AT_ONCE) {
            let digests = json_list(some.iter().map(|node| node.descriptor.digest.as_str()));
            let mut conn = self.0.db.read().await?;
            stored.extend(db::content::list_stored(&mut conn, namespace, &digests).await?);
        }
        for node in &mut tree.nodes {
            // A document that was just read is here, and one that was not is of no use.
            if !matches!(node.role, Role::Index | Role::Manifest) {
                node.present = stored.contains(&(node.descriptor.digest.to_string(),));
            }
        }
        Ok(())
    }

    /// A manifest whose entry names no platform has a config that may.
    async fn ask_configs(&self, namespace: &str, tree: &mut Tree, mut bytes_left: u64) -> Result<()> {
        for at in 0..tree.nodes.len() {
            let node = &tree.nodes[at];
            let Some(manifest) = node.manifest.as_ref().filter(|_| node.platform.is_none()) else { continue };
            let config = &manifest.config;
            if !is_image_config(&config.media_type) || config.size > bytes_left {
                continue;
            }
            bytes_left -= config.size;
            match self.read_blob(namespace, &config.digest, config.size).await {
                Ok(bytes) => tree.nodes[at].platform = platform_of(&bytes),
                Err(Error::NotFound { .. } | Error::Corrupt { .. } | Error::TooLarge { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Records whose media type nobody has told get what the documents of the image say.
    ///
    /// # Errors
    /// `Unavailable`. An image that cannot be looked through is left as it is.
    pub async fn hint_media_types(&self, image: &Image) -> Result<()> {
        let tree = match self.read_tree(&image.namespace, &image.target).await {
            Err(Error::Unprocessable(_)) => return Ok(()),
            tree => tree?,
        };
        let told = tree.nodes.into_iter().filter(|node| node.present);
        let hints =
            told.map(|node| (node.descriptor.digest, essence(&node.descriptor.media_type).to_owned()));
        let hints: Vec<_> = hints.filter(|(_, text)| check_media_type(text).is_ok()).collect();
        for some in hints.chunks(ASKED_AT_ONCE) {
            let (store, namespace, some) = (self.clone(), image.namespace.clone(), some.to_vec());
            let written = self.0.db.write(move |tx| {
                Box::pin(async move {
                    let mut changed = Vec::new();
                    for (digest, media_type) in some {
                        let row = db::content::lock_record(tx, &namespace, digest.as_str()).await?;
                        let Some(mut row) = row.filter(|row| row.media_type.is_none()) else { continue };
                        row.media_type = Some(media_type);
                        row.updated_at = store.after(Time(row.updated_at)).0;
                        db::content::update_record(tx, &row).await?;
                        tell(tx, store.now(), News::of_content(Topic::ContentUpdate, &row)).await?;
                        changed.push(digest);
                    }
                    Ok(changed)
                })
            });
            for digest in written.await? {
                self.0.cache.forget(&image.namespace, &digest);
            }
        }
        Ok(())
    }

    /// A document, whose descriptor says what it should be.
    async fn read_document(&self, namespace: &str, descriptor: &Descriptor) -> Result<Read> {
        match self.read_blob(namespace, &descriptor.digest, limits::MANIFEST_BYTES).await {
            Ok(bytes) => Ok(match Document::parse(&bytes, Some(&descriptor.media_type)) {
                Ok(document) => Read::Document(Box::new(document)),
                Err(error) => Read::Invalid(error.to_string()),
            }),
            Err(Error::NotFound { .. } | Error::Corrupt { .. }) => Ok(Read::Missing),
            Err(Error::TooLarge { .. }) => {
                Ok(Read::Invalid(format!("it is longer than {} bytes", limits::MANIFEST_BYTES)))
            }
            Err(error) => Err(error),
        }
    }
}

impl Walk<'_> {
    /// A blob's place in the tree; the second is its place where it is a document that was not there before.
    fn add(&mut self, descriptor: Descriptor, parent: Option<Role>) -> Result<(usize, Option<usize>)> {
        self.named += 1;
        if self.named > limits::IMAGE_BLOBS {
            return Err(refuse(format!("the image names more than {} blobs", limits::IMAGE_BLOBS)));
        }
        if let Some(at) = self.places.get(&descriptor.digest) {
            return Ok((*at, None));
        }
        let at = self.nodes.len();
        let role = match (parent, descriptor.kind()) {
            (None | Some(Role::Index), Kind::Index) => Role::Index,
            (None | Some(Role::Index), Kind::Manifest) => Role::Manifest,
            // What a name stands for is looked into whatever it is called.
            (None, Kind::Config | Kind::Layer | Kind::Other) => Role::Manifest,
            (Some(Role::Manifest), _) => Role::Layer,
            (Some(_), _) => Role::Other,
        };
        let platform = descriptor.platform.clone().filter(|platform| !platform.os.is_empty());
        self.places.insert(descriptor.digest.clone(), at);
        self.nodes.push(Node {
            role,
            descriptor,
            present: false,
            children: Vec::new(),
            invalid: None,
            platform,
            manifest: None,
        });
        Ok((at, matches!(role, Role::Index | Role::Manifest).then_some(at)))
    }

    /// Reads a document; the ones that it names and that are to be read next.
    async fn read(&mut self, Open { at, depth }: Open) -> Result<Vec<Open>> {
        if depth > limits::INDEX_DEPTH {
            return Err(refuse(format!("indexes are nested deeper than {} levels", limits::INDEX_DEPTH)));
        }
        let descriptor = self.nodes[at].descriptor.clone();
        // Of a document that is not here the size is only said.
        let size = descriptor.size.min(limits::MANIFEST_BYTES);
        let document = match self.store.read_document(self.namespace, &descriptor).await? {
            Read::Document(document) => *document,
            Read::Missing => return Ok(Vec::new()),
            Read::Invalid(reason) => {
                self.nodes[at].present = true;
                self.nodes[at].invalid = Some(reason);
                return Ok(Vec::new());
            }
        };
        let left = self.bytes_left.checked_sub(size);
        self.bytes_left = left.ok_or_else(|| {
            let most = limits::IMAGE_DOCUMENT_BYTES;
            refuse(format!("the manifests of the image have more than {most} bytes together"))
        })?;
        self.nodes[at].present = true;
        let own = if matches!(document, Document::Index(_)) { Role::Index } else { Role::Manifest };
        self.nodes[at].role = own;
        let mut below = Vec::new();
        for child in document.children() {
            let (place, new) = self.add(child.descriptor.clone(), Some(own))?;
            self.nodes[at].children.push(place);
            if child.role == Role::Config && self.nodes[place].children.is_empty() {
                self.nodes[place].role = Role::Config;
            }
            below.extend(new.map(|at| Open { at, depth: depth + 1 }));
        }
        if let Document::Manifest(manifest) = document {
            self.nodes[at].manifest = Some(manifest);
        }
        Ok(below)
    }
}

fn refuse(reason: String) -> Error {
    Error::Unprocessable(Unprocessable::ValidationFailed { reason })
}

fn descriptor_of(target: &Target) -> Result<Descriptor> {
    let digest = target.digest.parse()?;
    Ok(Descriptor {
        annotations: target.annotations.clone(),
        ..Descriptor::new(&target.media_type, digest, target.size)
    })
}

/// Texts as the one parameter of a statement about many.
pub(in crate::store) fn json_list<'t>(texts: impl Iterator<Item = &'t str>) -> String {
    serde_json::to_string(&texts.collect::<Vec<_>>()).expect("texts are JSON")
}
