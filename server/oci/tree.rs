//! What a layer holds, as a tree in the form that overlay file systems keep: whiteouts hide what lower layers have, and
//! opaque directories all of it (image-spec, *layer.md*).
//!
//! [`Tree::change`] is where the rules of a changeset are: it decides what an entry of a layer does, and says it as
//! [`Step`]s, which whoever keeps a directory carries out. Names of the layer are looked up here and nowhere else, so
//! that nothing is ever followed on a disk.

mod build;
mod change;
mod compare;
mod encode;
mod merge;
mod records;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use change::{Change, Content, Refused, Step, WHITEOUT, What};
pub use compare::{Comparison, Difference};
pub use merge::{Dir, Found, Listed, Merged};

/// Names an inode of one tree. Those that are gone are never given again.
pub type Id = u32;

/// The directory that a tree begins with.
pub const ROOT: Id = 0;

/// The longest path of an entry, and the longest that it may lead to (`PATH_MAX`).
pub const PATH_BYTES: usize = 4_096;
/// The longest name (`NAME_MAX`).
pub const NAME_BYTES: usize = 255;
/// Directories inside each other: whoever removes them holds each open.
pub const DEPTH: u16 = 512;

/// The files of one layer. Equal trees are the same layer, however its entries were ordered.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    inodes: Vec<Inode>,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tree of {} inodes", self.inodes.len())
    }
}

/// A file of any kind. It may have several names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    pub meta: Meta,
    pub kind: Kind,
    /// How many names of this tree it has.
    pub links: u32,
}

/// What is known of a file beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Permissions with setuid, setgid and sticky: the lower twelve bits of `st_mode`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Mtime,
    /// Extended attributes, by their full names.
    pub xattrs: Xattrs,
}

/// Extended attributes: names and values, in the order of the names.
pub type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

/// A time of a file: seconds since the Unix epoch, and nanoseconds beyond them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Mtime {
    pub seconds: i64,
    pub nanos: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Directory(Directory),
    File(Content),
    /// Where it leads, as it was written: nobody has looked there.
    Symlink(Box<[u8]>),
    Fifo,
    Device(Device),
    /// What lower layers have of this name is not there.
    Whiteout,
    /// A further name of a file that a lower layer has at this path, which begins at the root.
    LowerLink(Box<[u8]>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub class: DeviceClass,
    pub major: u32,
    pub minor: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceClass {
    Block,
    Character,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    children: BTreeMap<Box<[u8]>, Id>,
    parent: Id,
    name: Box<[u8]>,
    /// The length of its path, from the root.
    path_bytes: u32,
    depth: u16,
    /// Nothing of lower layers shows through.
    pub opaque: bool,
    /// The layer names something in it, and not the directory: it is as in the lower layers, where they have it.
    pub implied: bool,
}

impl Meta {
    /// What a directory is that nobody described.
    pub fn of_implied_directory() -> Meta {
        Meta { mode: 0o755, ..Meta::default() }
    }
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

impl Tree {
    /// Nothing but a root, which is as in the lower layers.
    pub fn new() -> Tree {
        let root = Directory {
            children: BTreeMap::new(),
            parent: ROOT,
            name: Box::default(),
            path_bytes: 0,
            depth: 0,
            opaque: false,
            implied: true,
        };
        let inode = Inode { meta: Meta::of_implied_directory(), kind: Kind::Directory(root), links: 1 };
        Tree { inodes: vec![inode] }
    }

    /// # Panics
    /// For an id of another tree.
    pub fn inode(&self, id: Id) -> &Inode {
        &self.inodes[id as usize]
    }

    fn inode_mut(&mut self, id: Id) -> &mut Inode {
        &mut self.inodes[id as usize]
    }

    /// `None` where it is something else.
    pub fn directory(&self, id: Id) -> Option<&Directory> {
        match &self.inode(id).kind {
            Kind::Directory(directory) => Some(directory),
            Kind::File(_)
            | Kind::Symlink(_)
            | Kind::Fifo
            | Kind::Device(_)
            | Kind::Whiteout
            | Kind::LowerLink(_) => None,
        }
    }

    fn directory_mut(&mut self, id: Id) -> Option<&mut Directory> {
        match &mut self.inode_mut(id).kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// As [`Tree::child`], with the name as the tree has it.
    fn entry(&self, directory: Id, name: &[u8]) -> Option<(&[u8], Id)> {
        self.directory(directory)?.children.get_key_value(name).map(|(name, id)| (&**name, *id))
    }

    /// What a directory has of this name.
    pub fn child(&self, directory: Id, name: &[u8]) -> Option<Id> {
        self.directory(directory)?.children.get(name).copied()
    }

    /// The path of a directory from the root, without a slash before it; empty for the root.
    pub fn path_of(&self, directory: Id) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = directory;
        while let Some(found) = self.directory(at).filter(|_| at != ROOT) {
            names.push(&*found.name);
            at = found.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// How many inodes it takes in memory, those that are gone among them.
    pub fn inodes(&self) -> usize {
        self.inodes.len()
    }

    /// Every name of the tree but the root's: its directory, itself, and what it names; parents before their children,
    /// and in the order of the names' bytes.
    pub fn walk(&self) -> Walk<'_> {
        Walk { tree: self, open: vec![(ROOT, self.children(ROOT))] }
    }

    fn children(&self, directory: Id) -> Children<'_> {
        const NONE: &BTreeMap<Box<[u8]>, Id> = &BTreeMap::new();
        self.directory(directory).map_or(NONE, |directory| &directory.children).iter()
    }

    /// What the layer takes on a disk, lower layers apart.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage { bytes: 0, inodes: 1 };
        let mut seen = std::collections::HashSet::new();
        for (_, _, id) in self.walk() {
            let inode = self.inode(id);
            if inode.links > 1 && !seen.insert(id) {
                continue;
            }
            usage.inodes += 1;
            if let Kind::File(content) = &inode.kind {
                usage.bytes = usage.bytes.saturating_add(content.stored_bytes());
            }
        }
        usage
    }
}

impl Directory {
    pub fn parent(&self) -> Id {
        self.parent
    }

    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Its names in the order of their bytes, and what they name.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Id)> {
        self.children.iter().map(|(name, id)| (&**name, *id))
    }
}

/// Bytes of files (holes and further names not counted) and files of any kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

/// What is left of a directory's names.
type Children<'t> = std::collections::btree_map::Iter<'t, Box<[u8]>, Id>;

/// The names of a tree, depth first.
pub struct Walk<'t> {
    tree: &'t Tree,
    open: Vec<(Id, Children<'t>)>,
}

impl<'t> Iterator for Walk<'t> {
    type Item = (Id, &'t [u8], Id);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (directory, children) = self.open.last_mut()?;
            let directory = *directory;
            let Some((name, id)) = children.next() else {
                self.open.pop();
                continue;
            };
            if self.tree.directory(*id).is_some() {
                self.open.push((*id, self.tree.children(*id)));
            }
            return Some((directory, name, *id));
        }
    }
}
