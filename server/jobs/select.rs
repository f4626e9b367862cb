//! What a pull takes of an image: from what a reference stands for down to the blobs, through indexes and referrers.
//!
//! The walk is the same for a pull and for the plan of one; where documents come from is the shelf's business.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Error, Result, Upstream, UpstreamKind};
use crate::jobs::request::Request;
use crate::jobs::run::Ended;
use crate::jobs::taken::{Leaf, Taken, check_size, refused, too_many};
use crate::jobs::view::BlobRole;
use crate::limits;
use crate::oci::digest::excerpt;
use crate::oci::manifest::{Index, Manifest};
use crate::oci::media_type;
use crate::oci::platform::NoMatch;
use crate::oci::{Descriptor, Digest, Document, Platform};
use crate::registry::Fetched;

/// Where the walk gets what it looks into.
pub(super) trait Shelf: Sync {
    /// The document of a descriptor, verified and parsed. `fetched` is it where it came along already.
    ///
    /// # Errors
    /// Of one that the registry lacks what [`Wanted::explain`] makes of it.
    fn document(
        &self,
        wanted: Wanted<'_>,
        fetched: Option<Fetched>,
    ) -> impl Future<Output = Result<Document, Ended>> + Send;

    /// What an image config says that the image runs on; `None` when it says nothing.
    fn platform(&self, config: &Descriptor) -> impl Future<Output = Result<Option<Platform>, Ended>> + Send;

    /// The manifests that refer to `subject`, of these artifact types or of any.
    fn referrers(
        &self,
        subject: &Digest,
        types: &[String],
    ) -> impl Future<Output = Result<Vec<Descriptor>, Ended>> + Send;

    /// A referrer that was listed does not come along.
    fn leave_out(&self, referrer: &Descriptor, why: String);
}

/// A document that is to be looked into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub descriptor: &'a Descriptor,
    /// The index that names it.
    pub index: Option<&'a Digest>,
}

impl Wanted<'_> {
    /// A registry that lacks what its own index names is not asked for another spelling.
    pub fn explain(&self, error: Error) -> Error {
        let (Error::Upstream(told), Some(index)) = (&error, self.index) else { return error };
        if told.kind != UpstreamKind::NotFound {
            return error;
        }
        let Descriptor { digest, platform, .. } = self.descriptor;
        // A stranger's text.
        let name = |platform: &Platform| excerpt(&platform.normalized().to_string());
        let named = platform.as_ref().map(|platform| format!(" for {}", name(platform)));
        let status = told.status.map(|status| format!(" (status {status})")).unwrap_or_default();
        let reason = format!(
            "the registry does not have the manifest {digest}{}, which its index {index} names{status}",
            named.unwrap_or_default()
        );
        Error::Upstream(Upstream { kind: UpstreamKind::PartMissing, reason, ..told.clone() })
    }
}

/// What a pull takes.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Indexes and manifests, each once.
    pub documents: Vec<(BlobRole, Descriptor)>,
    /// Configs first, each blob once.
    pub leaves: Vec<Leaf>,
    /// What the images run on that are taken, as far as it is known.
    pub platforms: Vec<Platform>,
    /// Each subject, and what refers to it.
    pub referrers: Vec<(Digest, Digest)>,
}

impl Tree {
    /// Walks from the root down.
    ///
    /// # Errors
    /// `Upstream`, with `NoPlatform` when there is nothing for a platform; `Unprocessable` for documents that are
    /// nested too deep, in a circle, too many, or promise what cannot be; the shelf's own.
    pub async fn grow(
        shelf: &impl Shelf,
        request: &Request,
        root: Descriptor,
        fetched: Option<Fetched>,
    ) -> Result<Tree, Ended> {
        let mut walk = Walk::new(request)?;
        walk.open.push(walk.root(root, fetched));
        while let Some(node) = walk.open.pop() {
            walk.visit(shelf, node).await?;
        }
        Ok(walk.finish()?)
    }
}

/// A document to be looked into.
struct Node {
    descriptor: Descriptor,
    /// Where it came along already.
    fetched: Option<Fetched>,
    standing: Standing,
    wish: Wish,
    /// The indexes above it.
    path: Vec<Digest>,
    /// How many levels of referrers it takes along.
    referrer_levels: usize,
}

/// Why a document is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// It is what was asked for, or an index says that it is for a platform asked for.
    Chosen,
    /// What comes with something else.
    Along,
    /// It refers to this one.
    Referrer(Digest),
}

/// What of a document is taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Wish {
    entries: Entries,
    take: Take,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Entries {
    Every,
    For(Vec<Platform>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Take {
    Whole,
    /// Documents and configs.
    Metadata,
}

struct Walk<'a> {
    request: &'a Request,
    wanted: Vec<Platform>,
    open: Vec<Node>,
    visited: HashSet<(Digest, Wish)>,
    entries: usize,
    taken: Taken,
    platforms: Vec<Platform>,
    referrers: Vec<(Digest, Digest)>,
    /// The platforms for which there is something.
    found: HashSet<Platform>,
    /// What there is instead.
    available: Vec<Platform>,
}

impl<'a> Walk<'a> {
    fn new(request: &'a Request) -> Result<Walk<'a>> {
        Ok(Walk {
            request,
            wanted: if request.selection.all_platforms { Vec::new() } else { request.wanted()? },
            open: Vec::new(),
            visited: HashSet::new(),
            entries: 0,
            taken: Taken::new(request.selection.foreign_layers),
            platforms: Vec::new(),
            referrers: Vec::new(),
            found: HashSet::new(),
            available: Vec::new(),
        })
    }

    fn root(&self, descriptor: Descriptor, fetched: Option<Fetched>) -> Node {
        let selection = &self.request.selection;
        let entries = match selection.all_platforms {
            true => Entries::Every,
            false => Entries::For(self.wanted.clone()),
        };
        Node {
            descriptor,
            fetched,
            standing: Standing::Chosen,
            wish: Wish { entries, take: self.take_of_chosen() },
            path: Vec::new(),
            referrer_levels: if selection.referrers { limits::REFERRER_DEPTH } else { 0 },
        }
    }

    fn take_of_chosen(&self) -> Take {
        if self.request.selection.metadata_only { Take::Metadata } else { Take::Whole }
    }

    async fn visit(&mut self, shelf: &impl Shelf, mut node: Node) -> Result<(), Ended> {
        check_path(&node)?;
        if !self.visited.insert((node.descriptor.digest.clone(), node.wish.clone())) {
            return Ok(());
        }
        self.taken.take_document(&node.descriptor)?;
        let fetched = node.fetched.take();
        let wanted = Wanted { descriptor: &node.descriptor, index: node.path.last() };
        let document = match shelf.document(wanted, fetched).await {
            // Lists of referrers are kept by hand at some registries, and go stale.
            Err(Ended::Failed(error)) if node.is_referrer() && is_not_found(&error) => {
                shelf.leave_out(&node.descriptor, error.to_string());
                return Ok(());
            }
            settled => settled?,
        };
        if let Standing::Referrer(subject) = &node.standing {
            if document.subject().is_none_or(|named| named.digest != *subject) {
                shelf.leave_out(&node.descriptor, format!("it does not refer to {subject}"));
                return Ok(());
            }
            self.referrers.push((subject.clone(), node.descriptor.digest.clone()));
        }
        match document {
            Document::Index(index) => self.look_into(&node, &index)?,
            Document::Manifest(manifest) => {
                if !self.suits(shelf, &node, &manifest).await? {
                    return Ok(());
                }
                self.gather(manifest, node.wish.take)?;
            }
        }
        self.ask_for_referrers(shelf, &node).await
    }

    /// Opens the entries of an index that are wanted, each once.
    fn look_into(&mut self, node: &Node, index: &Index) -> Result<()> {
        self.entries += index.manifests.len();
        if self.entries > limits::PULL_ENTRIES {
            return Err(too_many("entries of indexes", limits::PULL_ENTRIES));
        }
        let mut chosen = self.choose(&node.wish.entries, &index.manifests);
        // What is opened last is looked into first: in the order of the index.
        for entry in index.manifests.iter().rev() {
            let (standing, wish, levels) = match chosen.remove(&entry.digest) {
                Some(entries) => {
                    let standing =
                        if node.standing == Standing::Chosen { Standing::Chosen } else { Standing::Along };
                    (standing, Wish { entries, take: node.wish.take }, node.referrer_levels)
                }
                None if self.request.selection.all_metadata && entry.kind().is_document() => {
                    (Standing::Along, Wish { entries: Entries::Every, take: Take::Metadata }, 0)
                }
                None => continue,
            };
            if entry.kind().is_document() {
                let path = node.path.iter().cloned().chain([node.descriptor.digest.clone()]).collect();
                let descriptor = Descriptor { annotations: BTreeMap::new(), ..entry.clone() };
                self.open.push(Node {
                    descriptor,
                    fetched: None,
                    standing,
                    wish,
                    path,
                    referrer_levels: levels,
                });
                continue;
            }
            // It is there for somebody who knows what it is: kept whole, and not looked into.
            if let Entries::For(platforms) = wish.entries {
                self.found.extend(platforms);
            }
            match wish.take {
                Take::Metadata => {}
                Take::Whole => self.taken.take_leaf(BlobRole::Layer, entry.clone())?,
            }
        }
        Ok(())
    }

    /// The entries that are wanted, by their digests, and what of them.
    fn choose(&mut self, wanted: &Entries, entries: &[Descriptor]) -> HashMap<Digest, Entries> {
        let Entries::For(platforms) = wanted else {
            return entries.iter().map(|entry| (entry.digest.clone(), Entries::Every)).collect();
        };
        let mut chosen: HashMap<Digest, Vec<Platform>> = HashMap::new();
        for platform in platforms {
            let candidates = platform.candidates(entries);
            if candidates.iter().all(|entry| entry.platform.is_none()) {
                self.note_available(entries.iter().filter_map(|entry| entry.platform.as_ref()));
            }
            for entry in candidates {
                chosen.entry(entry.digest.clone()).or_default().push(platform.clone());
            }
        }
        chosen.into_iter().map(|(digest, platforms)| (digest, Entries::For(platforms))).collect()
    }

    /// Whether the manifest runs on what is asked for. One that says nothing of its platform objects to none.
    async fn suits(&mut self, shelf: &impl Shelf, node: &Node, manifest: &Manifest) -> Result<bool, Ended> {
        let named = node.descriptor.platform.clone();
        let offered = match (&named, &node.standing) {
            (None, Standing::Chosen) if media_type::is_image_config(&manifest.config.media_type) => {
                check_size(&manifest.config)?;
                shelf.platform(&manifest.config).await?
            }
            (None, _) | (Some(_), _) => named.clone(),
        };
        if let Entries::For(platforms) = &node.wish.entries {
            // Who asks for one manifest and names no platform takes it as it is.
            let as_it_is = named.is_some() || (node.path.is_empty() && self.request.platforms.is_empty());
            let runs = |wanted: &&Platform| {
                as_it_is || offered.as_ref().is_none_or(|offered| wanted.rank(offered).is_some())
            };
            let suited: Vec<Platform> = platforms.iter().filter(runs).cloned().collect();
            if suited.is_empty() {
                self.note_available(offered.iter());
                return Ok(false);
            }
            self.found.extend(suited);
        }
        if node.standing == Standing::Chosen
            && let Some(offered) = offered.map(|offered| offered.normalized())
            && !offered.is_attestation()
            && !self.platforms.contains(&offered)
        {
            self.platforms.push(offered);
        }
        Ok(true)
    }

    fn gather(&mut self, manifest: Manifest, take: Take) -> Result<()> {
        self.taken.take_leaf(BlobRole::Config, manifest.config)?;
        match take {
            Take::Metadata => Ok(()),
            Take::Whole => {
                manifest.layers.into_iter().try_for_each(|layer| self.taken.take_leaf(BlobRole::Layer, layer))
            }
        }
    }

    async fn ask_for_referrers(&mut self, shelf: &impl Shelf, node: &Node) -> Result<(), Ended> {
        let Some(referrer_levels) = node.referrer_levels.checked_sub(1) else { return Ok(()) };
        let subject = &node.descriptor.digest;
        let referrers = shelf.referrers(subject, &self.request.selection.referrer_types).await?;
        if referrers.len() > limits::REFERRERS {
            let (count, limit) = (referrers.len(), limits::REFERRERS);
            return Err(refused(format!(
                "{count} manifests refer to {subject}; a pull takes at most {limit}: name some with `referrer_types`"
            ))
            .into());
        }
        for referrer in referrers.into_iter().rev() {
            if !referrer.kind().is_document() {
                shelf.leave_out(&referrer, "it is listed as a referrer and is no manifest".to_owned());
                continue;
            }
            self.open.push(Node {
                // What it runs on is not what anybody asked for.
                descriptor: Descriptor { platform: None, annotations: BTreeMap::new(), ..referrer },
                fetched: None,
                standing: Standing::Referrer(subject.clone()),
                wish: Wish { entries: Entries::Every, take: self.take_of_chosen() },
                path: Vec::new(),
                referrer_levels,
            });
        }
        Ok(())
    }

    fn note_available<'p>(&mut self, platforms: impl Iterator<Item = &'p Platform>) {
        /// More than is ever told.
        const MOST: usize = 64;
        for platform in platforms.filter(|platform| !platform.is_attestation()) {
            if self.available.len() < MOST && !self.available.contains(platform) {
                self.available.push(platform.clone());
            }
        }
    }

    fn finish(self) -> Result<Tree> {
        if let Some(missing) = self.wanted.iter().find(|wanted| !self.found.contains(*wanted)) {
            let missing = NoMatch { wanted: Box::new(missing.clone()), available: self.available };
            return Err(upstream_of(self.request, UpstreamKind::NoPlatform, missing.to_string()));
        }
        let Taken { documents, mut leaves, .. } = self.taken;
        // A stable sort: configs first, because what they say may end the pull; layers in their order.
        leaves.sort_by_key(|leaf| leaf.role);
        Ok(Tree { documents, leaves, platforms: self.platforms, referrers: self.referrers })
    }
}

impl Node {
    fn is_referrer(&self) -> bool {
        matches!(self.standing, Standing::Referrer(_))
    }
}

fn check_path(node: &Node) -> Result<()> {
    if node.path.contains(&node.descriptor.digest) {
        return Err(refused(format!("the index {} is its own child", node.descriptor.digest)));
    }
    if node.path.len() > limits::INDEX_DEPTH {
        return Err(refused(format!("indexes are nested deeper than {} levels", limits::INDEX_DEPTH)));
    }
    Ok(())
}

fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Upstream(upstream) if upstream.kind == UpstreamKind::NotFound)
}

/// A failure of the registry's that we found, not the client for it.
pub(super) fn upstream_of(request: &Request, kind: UpstreamKind, reason: String) -> Error {
    let host = request.reference.api_host().to_owned();
    Error::Upstream(Upstream { kind, host, reason, status: None, retry_after: None })
}

#[cfg(test)]
mod tests;
