//! Layers on top of each other, seen as one tree (as overlay file systems merge them).

use std::collections::BTreeSet;

use super::{Id, Inode, Kind, ROOT, Tree};

/// How many symbolic links a path may lead through, as on Linux.
const LINKS: usize = 40;

/// A chain of layers, the top one first.
pub struct Merged<'t> {
    layers: Vec<&'t Tree>,
    /// Of one layer alone it is told what it deletes, though nothing is below it.
    alone: bool,
}

/// A directory of the merged tree: what of the layers makes it up, the top one first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dir(Vec<(usize, Id)>);

/// What is there of a name.
#[derive(Debug, Clone)]
pub struct Found<'t> {
    /// Which layer brought it, counted from the top.
    pub layer: usize,
    pub id: Id,
    pub inode: &'t Inode,
    /// The directory of that layer that has it, and its name there.
    holder: Id,
    name: &'t [u8],
    /// Where it is a directory.
    pub dir: Option<Dir>,
}

/// One name of a directory.
#[derive(Debug, Clone)]
pub enum Listed<'t> {
    There(Found<'t>),
    /// A lower layer has it, and the one of this number deleted it.
    Deleted {
        by: usize,
    },
}

impl Found<'_> {
    /// Whether it is a directory that hides what lower layers have in it.
    pub fn is_opaque_in_itself(&self) -> bool {
        matches!(&self.inode.kind, Kind::Directory(directory) if directory.opaque)
    }

    /// Where it is in its own layer, whose tree this is.
    pub fn path_in(&self, tree: &Tree) -> Vec<u8> {
        let mut path = tree.path_of(self.holder);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(self.name);
        path
    }
}

/// The tree of no layer at all.
fn nothing() -> &'static Tree {
    static NOTHING: std::sync::LazyLock<Tree> = std::sync::LazyLock::new(Tree::new);
    &NOTHING
}

impl<'t> Merged<'t> {
    pub fn new(layers: Vec<&'t Tree>) -> Merged<'t> {
        Merged { layers, alone: false }
    }

    /// One layer by itself: what it deletes is listed.
    pub fn alone(layer: &'t Tree) -> Merged<'t> {
        Merged { layers: vec![layer], alone: true }
    }

    pub fn root(&self) -> Found<'t> {
        let opaque = |tree: &Tree| tree.directory(ROOT).is_some_and(|root| root.opaque);
        let shown = self.layers.iter().position(|tree| opaque(tree)).map_or(self.layers.len(), |at| at + 1);
        let dir = Dir((0..shown).map(|layer| (layer, ROOT)).collect());
        // Where a layer says nothing of its root, it is that of the layer below.
        let described =
            self.layers[..shown].iter().position(|tree| tree.directory(ROOT).is_some_and(|dir| !dir.implied));
        let layer = described.unwrap_or(0);
        let tree = self.layers.get(layer).copied().unwrap_or_else(|| nothing());
        Found { layer, id: ROOT, inode: tree.inode(ROOT), holder: ROOT, name: b"", dir: Some(dir) }
    }

    /// What a directory has of this name; `None` also for what is deleted.
    pub fn child(&self, dir: &Dir, name: &[u8]) -> Option<Found<'t>> {
        match self.look_up(dir, name)? {
            Listed::There(found) => Some(found),
            Listed::Deleted { .. } => None,
        }
    }

    fn look_up(&self, dir: &Dir, name: &[u8]) -> Option<Listed<'t>> {
        let mut named = dir.0.iter().filter_map(|(layer, holder)| {
            let (name, id) = self.layers[*layer].entry(*holder, name)?;
            Some(Found {
                layer: *layer,
                id,
                inode: self.layers[*layer].inode(id),
                holder: *holder,
                name,
                dir: None,
            })
        });
        let top = named.next()?;
        if top.inode.kind == Kind::Whiteout {
            let was_there = self.alone || named.any(|found| found.inode.kind != Kind::Whiteout);
            return was_there.then_some(Listed::Deleted { by: top.layer });
        }
        let Some(directory) = self.layers[top.layer].directory(top.id) else {
            return Some(Listed::There(top));
        };
        let mut parts = vec![(top.layer, top.id)];
        let mut opaque = directory.opaque;
        let mut described = (!directory.implied).then(|| top.clone());
        for found in named {
            let Some(below) = self.layers[found.layer].directory(found.id).filter(|_| !opaque) else { break };
            parts.push((found.layer, found.id));
            opaque = below.opaque;
            described = described.or_else(|| (!below.implied).then_some(found));
        }
        Some(Listed::There(Found { dir: Some(Dir(parts)), ..described.unwrap_or(top) }))
    }

    /// The names of a directory, in the order of their bytes, those that are deleted among them.
    pub fn list(&self, dir: &Dir) -> Vec<(&'t [u8], Listed<'t>)> {
        let names: BTreeSet<&'t [u8]> = dir
            .0
            .iter()
            .flat_map(|(layer, id)| self.layers[*layer].directory(*id).into_iter().flat_map(|dir| dir.iter()))
            .map(|(name, _)| name)
            .collect();
        names.into_iter().filter_map(|name| Some((name, self.look_up(dir, name)?))).collect()
    }

    /// What is found, or where that is a further name of a file that lower layers have, this file; `None` where they have
    /// it not.
    pub fn file_of(&self, found: &Found<'t>) -> Option<Found<'t>> {
        match &found.inode.kind {
            Kind::LowerLink(target) if found.layer + 1 < self.layers.len() => {
                let below = Merged::new(self.layers[found.layer + 1..].to_vec());
                let mut there = below.find(target, false)?;
                there.layer += found.layer + 1;
                Some(there)
            }
            _ => Some(found.clone()),
        }
    }

    /// What is at a path, through links on the way, and at its end too if `follow` says so. Links and `..` never lead
    /// above the root. `None` where there is nothing, or links go in a circle.
    pub fn find(&self, path: &[u8], follow: bool) -> Option<Found<'t>> {
        let mut above = vec![self.root()];
        let mut links = 0;
        let mut left: Vec<&[u8]> = path.rsplit(|byte| *byte == b'/').collect();
        let must_be_directory = path.ends_with(b"/");
        while let Some(part) = left.pop() {
            match part {
                b"" | b"." => continue,
                b".." => {
                    if above.len() > 1 {
                        above.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let found = self.child(above.last()?.dir.as_ref()?, part)?;
            let is_last = left.iter().all(|part| matches!(*part, b"" | b"."));
            match &found.inode.kind {
                Kind::Symlink(target) if !is_last || follow || must_be_directory => {
                    links += 1;
                    if links > LINKS {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        above.truncate(1);
                    }
                    left.extend(target.rsplit(|byte| *byte == b'/'));
                }
                _ => above.push(self.file_of(&found)?),
            }
        }
        above.pop().filter(|found| !must_be_directory || found.dir.is_some())
    }
}
