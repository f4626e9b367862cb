//! A layer that was unpacked for itself, moved onto the directory of a snapshot that is being built.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, RawMode, fgetxattr, mkdirat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::directory::{Form, Kept, OPAQUE, remove_tree};
use crate::error::{Doing, Result};
use crate::oci::tree::{self, Id, Kind, Merged, ROOT, Tree};

const DOING: &str = "apply a layer to a snapshot";

/// Moves the files of a layer onto a directory, as an entry after the other would have gone there: what the layer deletes
/// goes, what it replaces is replaced, directories are merged. `below` is what the directory itself stands on: only there do
/// whiteouts have something to hide. Nothing is synced. Blocks.
///
/// # Errors
/// `OutOfSpace`, `Unavailable` or `Internal`: part of the layer may be moved then, and to do it again makes it whole.
pub fn graft(
    onto: BorrowedFd<'_>,
    layer: BorrowedFd<'_>,
    tree: &Tree,
    below: &Merged<'_>,
    form: Form,
) -> Result<()> {
    let mut graft =
        Graft { to: Kept::new(onto, form), from: Kept::new(layer, form), tree, below, shown: HashMap::new() };
    graft.enter(ROOT, false, below.root().dir)?;
    for (holder, name, id) in tree.walk() {
        graft.take(holder, name, id)?;
    }
    graft.to.set_times(tree)
}

struct Graft<'g> {
    to: Kept<'g>,
    from: Kept<'g>,
    tree: &'g Tree,
    below: &'g Merged<'g>,
    /// Of each directory what shows through from below; nothing where it is opaque, or nothing is there.
    shown: HashMap<Id, tree::Dir>,
}

impl Graft<'_> {
    fn take(&mut self, holder: Id, name: &[u8], id: Id) -> Result<()> {
        let handle = self.to.handle(self.tree, holder)?;
        let to = handle.as_fd();
        let lower = self.shown.get(&holder).and_then(|dir| self.below.child(dir, name));
        let kind = &self.tree.inode(id).kind;
        if matches!(kind, Kind::Directory(_)) {
            let there = kind_of(to, name)?;
            if there != Some(FileType::Directory) {
                remove(to, name, there)?;
                mkdirat(to, name, Mode::RWXU).doing(DOING)?;
            }
            // What stood in its place hid what is below, and so does the directory.
            let hides = there.is_some_and(|there| there != FileType::Directory);
            return self.enter(id, hides, lower.and_then(|lower| lower.dir));
        }
        let there = kind_of(to, name)?;
        let moves = match kind {
            Kind::Whiteout => lower.is_some(),
            kind => self.from.is_on_disk(kind),
        };
        if there == Some(FileType::Directory) || !moves {
            remove(to, name, there)?;
        }
        if moves {
            let from = self.from.handle(self.tree, holder)?;
            renameat(&from, name, to, name).doing(DOING)?;
        }
        Ok(())
    }

    /// Makes a directory that is there what the layer says of it.
    fn enter(&mut self, id: Id, hides: bool, lower: Option<tree::Dir>) -> Result<()> {
        let handle = self.to.handle(self.tree, id)?;
        let is_opaque = self.tree.directory(id).is_some_and(|directory| directory.opaque);
        if is_opaque {
            clear(handle.as_fd())?;
        }
        let hides = hides || is_opaque || was_opaque(handle.as_fd());
        match lower {
            Some(_) if hides => self.to.mark_opaque(&handle)?,
            Some(lower) => drop(self.shown.insert(id, lower)),
            None => {}
        }
        self.to.dress_directory(self.tree, id)
    }
}

/// What there is of a name.
fn kind_of(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<FileType>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode as RawMode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error).doing(DOING),
    }
}

fn remove(directory: BorrowedFd<'_>, name: &[u8], kind: Option<FileType>) -> Result<()> {
    match kind {
        None => Ok(()),
        Some(FileType::Directory) => remove_tree(directory, name),
        Some(_) => unlinkat(directory, name, AtFlags::empty()).doing(DOING),
    }
}

fn clear(directory: BorrowedFd<'_>) -> Result<()> {
    for entry in Dir::read_from(directory).doing(DOING)? {
        let entry = entry.doing(DOING)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            remove(directory, name, kind_of(directory, name)?)?;
        }
    }
    Ok(())
}

fn was_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    OPAQUE.iter().any(|name| fgetxattr(directory, *name, &mut value) == Ok(1) && value == *b"y")
}
