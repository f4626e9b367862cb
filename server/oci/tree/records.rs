//! What a directory cannot hold of a layer stands in a tree beside it, with the directories that it lies in: devices, and
//! where the server is not root, whose links and fifos are.

use super::{Id, Inode, Kind, Meta, ROOT, Tree};

impl Tree {
    /// Makes a tree of records what it is once a layer has been applied: those that the layer hides, replaces or removes go,
    /// and its own come.
    pub fn update_records(&mut self, layer: &Tree, is_wanted: impl Fn(&Kind) -> bool) {
        let mut kept = Tree::new();
        for (path, inode) in self.files() {
            if !layer.covers(&path) {
                kept.add_record(&path, inode);
            }
        }
        for (path, inode) in layer.files().filter(|(_, inode)| is_wanted(&inode.kind)) {
            kept.add_record(&path, inode);
        }
        *self = kept;
    }

    /// Completes a tree that a directory was read as: with devices, where their directories still are and nothing has taken
    /// their place, and with what is known of files that are still the same. How many came.
    pub fn add_records(&mut self, records: &Tree) -> u64 {
        let mut added = 0;
        for (path, record) in records.files() {
            let (above, name) = split(&path);
            let Some(directory) = self.find_directory(above) else { continue };
            let there = self.child(directory, name);
            match there.map(|id| (id, self.inode(id))) {
                Some((id, file)) if is_still(file, record) => self.set_meta(id, record.meta.clone()),
                None if matches!(record.kind, Kind::Device(_)) => {
                    self.add_file(directory, name, record.kind.clone(), record.meta.clone());
                    added += 1;
                }
                Some((_, Inode { kind: Kind::Whiteout, .. })) if matches!(record.kind, Kind::Device(_)) => {
                    self.forget(directory, name);
                    self.add_file(directory, name, record.kind.clone(), record.meta.clone());
                }
                _ => {}
            }
        }
        added
    }

    fn files(&self) -> impl Iterator<Item = (Vec<u8>, &Inode)> {
        let files = self.walk().filter(|(_, _, id)| self.directory(*id).is_none());
        files.map(|(holder, name, id)| (join(&self.path_of(holder), name), self.inode(id)))
    }

    /// Whether a layer leaves nothing at a path of what was there before it.
    fn covers(&self, path: &[u8]) -> bool {
        let mut at = ROOT;
        for part in path.split(|byte| *byte == b'/') {
            match self.directory(at) {
                Some(directory) if !directory.opaque => {}
                _ => return true,
            }
            match self.child(at, part) {
                Some(below) => at = below,
                None => return false,
            }
        }
        true
    }

    fn add_record(&mut self, path: &[u8], record: &Inode) {
        let (above, name) = split(path);
        let mut at: Id = ROOT;
        for part in above.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            at = match self.child(at, part) {
                Some(there) => there,
                None => self.add_directory(at, part, Meta::of_implied_directory(), false),
            };
        }
        self.add_file(at, name, record.kind.clone(), record.meta.clone());
    }
}

/// Whether a file on the disk is the one of a record, as far as anybody can tell.
fn is_still(file: &Inode, record: &Inode) -> bool {
    file.kind == record.kind && file.meta.mtime == record.meta.mtime
}

fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    match above {
        b"" => name.to_vec(),
        above => [above, name].join(&b'/'),
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}
