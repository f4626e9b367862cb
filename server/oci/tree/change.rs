//! What an entry of a layer does to its tree (image-spec, *layer.md*; where that is silent, as containerd does).
//!
//! Order does not matter between a whiteout and what the same layer puts in its place: a whiteout hides what lower layers
//! have, never what its own layer has.

use serde::{Deserialize, Serialize};

use super::{DEPTH, Device, Directory, Id, Kind, Meta, NAME_BYTES, PATH_BYTES, ROOT, Tree};

/// What the names of entries that delete something begin with.
pub const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// How many symbolic links the directory of one entry may lead through.
const LINKS: usize = 255;

/// An entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As the archive has it, in bytes.
    pub path: Vec<u8>,
    pub what: What,
    pub meta: Meta,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Directory,
    File(Content),
    /// A further name for what is at this path.
    Link(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
    Device(Device),
}

/// The bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Content {
    /// With its holes.
    pub size: u64,
    /// Where its bytes begin in the tar of the layer.
    pub offset: u64,
    /// The parts that are not holes, `(offset in the file, length)`, in order; `None` for a file without holes.
    pub parts: Option<Box<[(u64, u64)]>>,
}

impl Content {
    /// Its bytes in the archive: those that are not holes.
    pub fn stored_bytes(&self) -> u64 {
        let parts = self.parts.as_deref();
        parts.map_or(self.size, |parts| parts.iter().fold(0, |sum, part| sum.saturating_add(part.1)))
    }
}

/// What is to be done in the directory of a layer so that it is as its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    MakeDirectory(Id),
    /// Metadata of a directory that is there.
    SetMeta(Id),
    MakeOpaque(Id),
    /// With all that is in it, if it is a directory.
    Remove {
        directory: Id,
        name: Box<[u8]>,
        is_directory: bool,
    },
    /// Anything but a directory; where it is a file, its bytes follow.
    Make {
        directory: Id,
        name: Box<[u8]>,
        id: Id,
    },
    /// A further name for what is at `of`.
    Link {
        directory: Id,
        name: Box<[u8]>,
        of: (Id, Box<[u8]>),
    },
}

/// Why an entry is refused: none of it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub &'static str);

type Result<T> = std::result::Result<T, Refused>;

const NO_DIRECTORY: Refused = Refused("lies in what is no directory");

impl Tree {
    /// Takes an entry into the tree, and says what is to be done. The id of the file whose bytes follow, if it has any.
    ///
    /// # Errors
    /// [`Refused`], after which the tree is of no more use.
    pub fn change(&mut self, change: Change, steps: &mut Vec<Step>) -> Result<Option<Id>> {
        steps.clear();
        let parts = clean(&change.path)?;
        let Some((name, parents)) = parts.split_last() else {
            return self.change_root(change, steps).map(|()| None);
        };
        if let Some(hidden) = name.strip_prefix(WHITEOUT)
            && change.what != What::Directory
        {
            let is_opaque = *name == OPAQUE;
            if !is_opaque && matches!(hidden, b"" | b"." | b"..") {
                return Err(Refused("is a whiteout of no name"));
            }
            let directory = match self.enter(parents, steps) {
                // Where a file took the place of a directory, some writers hide what was in it as well: it is.
                Err(NO_DIRECTORY) => return Ok(None),
                entered => entered?,
            };
            match is_opaque {
                true => self.make_opaque(directory, steps),
                false => self.hide(directory, hidden, steps),
            }
            return Ok(None);
        }
        let directory = self.enter(parents, steps)?;
        match change.what {
            What::Directory => self.change_directory(directory, name, change.meta, steps).map(|()| None),
            What::Link(target) => self.link(directory, name, &target, steps).map(|()| None),
            What::File(content) => {
                self.put(directory, name, Kind::File(content), change.meta, steps).map(Some)
            }
            What::Symlink(target) => {
                if target.is_empty() || target.contains(&0) || target.len() > PATH_BYTES {
                    return Err(Refused("is a symbolic link that leads nowhere"));
                }
                self.put(directory, name, Kind::Symlink(target.into()), change.meta, steps).map(|_| None)
            }
            What::Fifo => self.put(directory, name, Kind::Fifo, change.meta, steps).map(|_| None),
            What::Device(device) => {
                self.put(directory, name, Kind::Device(device), change.meta, steps).map(|_| None)
            }
        }
    }

    fn change_root(&mut self, change: Change, steps: &mut Vec<Step>) -> Result<()> {
        if change.what != What::Directory {
            return Err(Refused("takes the place of the root"));
        }
        self.set_directory(ROOT, change.meta, steps);
        Ok(())
    }

    fn set_directory(&mut self, id: Id, meta: Meta, steps: &mut Vec<Step>) {
        self.inode_mut(id).meta = meta;
        if let Some(directory) = self.directory_mut(id) {
            directory.implied = false;
        }
        steps.push(Step::SetMeta(id));
    }

    fn change_directory(&mut self, parent: Id, name: &[u8], meta: Meta, steps: &mut Vec<Step>) -> Result<()> {
        match self.child(parent, name) {
            Some(id) if self.directory(id).is_some() => self.set_directory(id, meta, steps),
            // What it replaces hid what is below, and so does the directory.
            Some(_) => {
                self.remove(parent, name, steps);
                let id = self.make_directory(parent, name, meta, true)?;
                steps.push(Step::MakeDirectory(id));
            }
            None => {
                let id = self.make_directory(parent, name, meta, false)?;
                steps.push(Step::MakeDirectory(id));
            }
        }
        let id = self.child(parent, name).unwrap_or(ROOT);
        if let Some(directory) = self.directory_mut(id) {
            directory.implied = false;
        }
        Ok(())
    }

    /// The directory at a path, through links as far as the tree has them; what is not there is made.
    fn enter(&mut self, path: &[&[u8]], steps: &mut Vec<Step>) -> Result<Id> {
        self.resolve(path, Some(steps))?.ok_or(Refused("lies in no directory"))
    }

    /// As [`Tree::enter`], where nothing is to be made without `steps`: `None` for what is not there then.
    fn resolve(&mut self, path: &[&[u8]], mut steps: Option<&mut Vec<Step>>) -> Result<Option<Id>> {
        let mut at = ROOT;
        let mut links = 0;
        // From the last part on; those that links add are looked at first.
        let mut left: Vec<Box<[u8]>> = path.iter().rev().map(|part| Box::from(*part)).collect();
        while let Some(part) = left.pop() {
            match &*part {
                b"" | b"." => continue,
                b".." => {
                    at = self.directory(at).map_or(ROOT, Directory::parent);
                    continue;
                }
                _ => {}
            }
            let found = self.child(at, &part);
            match (found.map(|id| (id, &self.inode(id).kind)), &mut steps) {
                (Some((id, Kind::Directory(_))), _) => at = id,
                (Some((_, Kind::Symlink(target))), _) => {
                    links += 1;
                    if links > LINKS {
                        return Err(Refused("lies behind links that lead in a circle"));
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    left.extend(target.rsplit(|byte| *byte == b'/').map(Box::from));
                }
                (Some((_, Kind::Whiteout)) | None, None) => return Ok(None),
                (Some((_, Kind::Whiteout)), Some(steps)) => {
                    self.remove(at, &part, steps);
                    at = self.make_directory(at, &part, Meta::of_implied_directory(), true)?;
                    steps.push(Step::MakeDirectory(at));
                }
                (None, Some(steps)) => {
                    at = self.make_directory(at, &part, Meta::of_implied_directory(), false)?;
                    steps.push(Step::MakeDirectory(at));
                }
                (Some((_, Kind::File(_) | Kind::Fifo | Kind::Device(_) | Kind::LowerLink(_))), _) => {
                    return Err(NO_DIRECTORY);
                }
            }
        }
        Ok(Some(at))
    }

    fn make_directory(&mut self, parent: Id, name: &[u8], meta: Meta, opaque: bool) -> Result<Id> {
        self.check_place(parent, name)?;
        if self.directory(parent).is_some_and(|directory| directory.depth >= DEPTH) {
            return Err(Refused("lies too deep"));
        }
        let id = self.add_directory(parent, name, meta, opaque);
        if let Some(directory) = self.directory_mut(id) {
            directory.implied = true;
        }
        Ok(id)
    }

    /// Links may lead to a deeper place than any entry's own path names.
    fn check_place(&self, parent: Id, name: &[u8]) -> Result<()> {
        let above = self.directory(parent).map_or(0, |directory| directory.path_bytes as usize);
        match name.len() <= NAME_BYTES && above + 1 + name.len() <= PATH_BYTES {
            true => Ok(()),
            false => Err(Refused("lies too deep, or has too long a name")),
        }
    }

    /// Puts what is no directory in its place, and takes away what was there.
    fn put(&mut self, parent: Id, name: &[u8], kind: Kind, meta: Meta, steps: &mut Vec<Step>) -> Result<Id> {
        self.check_place(parent, name)?;
        self.remove(parent, name, steps);
        let id = self.add_file(parent, name, kind, meta);
        steps.push(Step::Make { directory: parent, name: name.into(), id });
        Ok(id)
    }

    /// Removes a name, with all that is below it.
    fn remove(&mut self, parent: Id, name: &[u8], steps: &mut Vec<Step>) {
        let removed = self.directory_mut(parent).and_then(|directory| directory.children.remove(name));
        let Some(id) = removed else { return };
        let is_directory = self.directory(id).is_some();
        let is_on_disk = !matches!(self.inode(id).kind, Kind::LowerLink(_));
        self.unlink(id);
        if is_on_disk {
            steps.push(Step::Remove { directory: parent, name: name.into(), is_directory });
        }
    }

    /// Takes a name from an inode; one without a name gives back what it held.
    fn unlink(&mut self, id: Id) {
        let mut gone = vec![id];
        while let Some(id) = gone.pop() {
            let inode = self.inode_mut(id);
            inode.links -= 1;
            if inode.links > 0 {
                continue;
            }
            inode.meta = Meta::default();
            if let Kind::Directory(directory) = std::mem::replace(&mut inode.kind, Kind::Whiteout) {
                gone.extend(directory.children.into_values());
            }
        }
    }

    fn make_opaque(&mut self, id: Id, steps: &mut Vec<Step>) {
        if let Some(directory) = self.directory_mut(id)
            && !std::mem::replace(&mut directory.opaque, true)
        {
            steps.push(Step::MakeOpaque(id));
        }
    }

    /// Hides what lower layers have of a name. What this layer has hides it already, but for a directory.
    fn hide(&mut self, parent: Id, name: &[u8], steps: &mut Vec<Step>) {
        match self.child(parent, name) {
            Some(id) => self.make_opaque(id, steps),
            None => {
                let id = self.add_file(parent, name, Kind::Whiteout, Meta::default());
                steps.push(Step::Make { directory: parent, name: name.into(), id });
            }
        }
    }

    /// A further name. Links lead to it, and it is not followed itself: a link to a symbolic link is one to the link.
    fn link(&mut self, parent: Id, name: &[u8], target: &[u8], steps: &mut Vec<Step>) -> Result<()> {
        let parts = clean(target)?;
        let Some((last, parents)) = parts.split_last() else {
            return Err(Refused("is a hard link to a directory"));
        };
        self.check_place(parent, name)?;
        let holder = self.resolve(parents, None)?;
        let found = holder.and_then(|holder| self.child(holder, last).map(|id| (holder, id)));
        let Some((holder, id)) = found else {
            self.remove(parent, name, steps);
            self.add_file(parent, name, Kind::LowerLink(parts.join(&b'/').into()), Meta::default());
            return Ok(());
        };
        if (holder, *last) == (parent, name) {
            return Err(Refused("is a hard link to itself"));
        }
        match &self.inode(id).kind {
            Kind::Directory(_) => return Err(Refused("is a hard link to a directory")),
            Kind::Whiteout => return Err(Refused("is a hard link to what the layer hides")),
            Kind::LowerLink(target) => {
                let kind = Kind::LowerLink(target.clone());
                self.remove(parent, name, steps);
                self.add_file(parent, name, kind, Meta::default());
                return Ok(());
            }
            Kind::File(_) | Kind::Symlink(_) | Kind::Fifo | Kind::Device(_) => {}
        }
        // First a name more, then one fewer: they may be names of the same file, and the one in hand its only other.
        self.inode_mut(id).links += 1;
        self.remove(parent, name, steps);
        if self.child(holder, last) != Some(id) {
            return Err(Refused("is a hard link to what it replaces"));
        }
        self.name(parent, name, id);
        steps.push(Step::Link { directory: parent, name: name.into(), of: (holder, (*last).into()) });
        Ok(())
    }
}

/// The parts of a path from the root, as a plain text: `.` is nothing and `..` the part before, but never above the
/// root.
///
/// # Errors
/// Where it is too long, or holds what no name can have.
fn clean(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.len() > PATH_BYTES {
        return Err(Refused("has too long a path"));
    }
    if path.contains(&0) {
        return Err(Refused("has a NUL in its path"));
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Ok(parts)
}
