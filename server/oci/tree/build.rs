//! A tree of what is on a disk already, name by name.

use std::collections::BTreeMap;

use super::{Directory, Id, Inode, Kind, Meta, ROOT, Tree};

impl Tree {
    /// A tree of a directory with this metadata, which is not implied.
    pub fn of_root(meta: Meta, opaque: bool) -> Tree {
        let mut tree = Tree::new();
        tree.inode_mut(ROOT).meta = meta;
        if let Some(root) = tree.directory_mut(ROOT) {
            root.implied = false;
            root.opaque = opaque;
        }
        tree
    }

    /// Adds a directory to one; its id.
    ///
    /// # Panics
    /// As [`Tree::inode`].
    pub fn add_directory(&mut self, parent: Id, name: &[u8], meta: Meta, opaque: bool) -> Id {
        let above = self.directory(parent);
        let path_bytes = above.map_or(0, |above| above.path_bytes) + 1 + name.len() as u32;
        let depth = above.map_or(0, |above| above.depth) + 1;
        let directory = Directory {
            children: BTreeMap::new(),
            parent,
            name: name.into(),
            path_bytes,
            depth,
            opaque,
            implied: false,
        };
        self.add_file(parent, name, Kind::Directory(directory), meta)
    }

    /// Adds what is no directory; its id.
    ///
    /// # Panics
    /// As [`Tree::inode`].
    pub fn add_file(&mut self, parent: Id, name: &[u8], kind: Kind, meta: Meta) -> Id {
        let id = Id::try_from(self.inodes.len()).expect("fewer files than fit: they have a limit");
        self.inodes.push(Inode { meta, kind, links: 1 });
        self.name(parent, name, id);
        id
    }

    /// Gives what is there a further name.
    ///
    /// # Panics
    /// As [`Tree::inode`].
    pub fn add_name(&mut self, parent: Id, name: &[u8], id: Id) {
        self.inode_mut(id).links += 1;
        self.name(parent, name, id);
    }

    /// Gives a file that is there other metadata.
    ///
    /// # Panics
    /// As [`Tree::inode`].
    pub fn set_meta(&mut self, id: Id, meta: Meta) {
        self.inode_mut(id).meta = meta;
    }

    /// Puts a copy of another tree's file in the place of a name that stood for it; the id of the copy.
    ///
    /// # Panics
    /// As [`Tree::inode`].
    pub fn replace_link(&mut self, parent: Id, name: &[u8], file: Inode) -> Id {
        self.forget(parent, name);
        self.add_file(parent, name, file.kind, file.meta)
    }

    /// Takes a name away.
    ///
    /// # Panics
    /// As [`Tree::inode`].
    pub fn forget(&mut self, parent: Id, name: &[u8]) {
        if let Some(directory) = self.directory_mut(parent) {
            directory.children.remove(name);
        }
    }

    /// The directory at a path of this tree alone, which leads through no link.
    pub fn find_directory(&self, path: &[u8]) -> Option<Id> {
        let mut at = ROOT;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            at = self.child(at, part).filter(|id| self.directory(*id).is_some())?;
        }
        Some(at)
    }

    pub(super) fn name(&mut self, parent: Id, name: &[u8], id: Id) {
        if let Some(directory) = self.directory_mut(parent) {
            directory.children.insert(name.into(), id);
        }
    }
}
