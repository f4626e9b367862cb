//! What a layer takes over from those below it, once these are known: the metadata of directories that it only names
//! something in, and files that it gives a further name.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, linkat};

use super::directory::{Form, Kept};
use super::tar::refused;
use crate::error::{Doing, Result};
use crate::oci::tree::{Found, Kind, Merged, ROOT, Tree};

/// Makes an unpacked layer fit what is below it. `open` gives the bytes of a file of a lower layer. Blocks.
///
/// # Errors
/// `ValidationFailed` for a further name of what no lower layer has; `OutOfSpace`, `Unavailable` or `Internal`.
pub fn settle<R: Read>(
    directory: BorrowedFd<'_>,
    tree: &mut Tree,
    below: &Merged<'_>,
    form: Form,
    open: impl Fn(&Found<'_>) -> Result<R>,
) -> Result<()> {
    let mut kept = Kept::new(directory, form);
    let implied: Vec<_> = std::iter::once(ROOT)
        .chain(tree.walk().map(|(_, _, id)| id))
        .filter(|id| tree.directory(*id).is_some_and(|directory| directory.implied))
        .collect();
    for id in implied {
        let path = tree.path_of(id);
        let found = below.find(&path, false).filter(|found| found.dir.is_some());
        if let Some(found) = found {
            tree.set_meta(id, found.inode.meta.clone());
            kept.dress_directory(tree, id)?;
        }
    }
    let links: Vec<_> = tree
        .walk()
        .filter_map(|(holder, name, id)| match &tree.inode(id).kind {
            Kind::LowerLink(target) => Some((holder, name.to_vec(), target.clone())),
            _ => None,
        })
        .collect();
    for (holder, name, target) in links {
        let path = [&tree.path_of(holder)[..], &name].join(&b'/');
        let found = below.find(&target, false).filter(|found| is_linkable(&found.inode.kind));
        let Some(found) = found else {
            return Err(refused(&path, "is a hard link to what no layer has"));
        };
        let inode = found.inode.clone();
        let id = tree.replace_link(holder, &name, inode);
        let mut bytes = match &found.inode.kind {
            Kind::File(_) => Some(open(&found)?),
            _ => None,
        };
        let bytes = bytes.as_mut().map(|bytes| bytes as &mut dyn Read);
        kept.copy_in(tree, holder, &name, id, bytes)?;
        // Its other name shows the same file from now on, as it does where a file system copies it up.
        copy_up(&mut kept, tree, &target, (holder, &name))?;
    }
    kept.set_times(tree)
}

fn is_linkable(kind: &Kind) -> bool {
    match kind {
        Kind::File(_) | Kind::Symlink(_) | Kind::Fifo | Kind::Device(_) => true,
        Kind::Directory(_) | Kind::Whiteout | Kind::LowerLink(_) => false,
    }
}

/// Gives the copy the name that it was taken from as well, where that is a plain path and nothing has it.
fn copy_up(kept: &mut Kept<'_>, tree: &mut Tree, target: &[u8], (holder, name): (u32, &[u8])) -> Result<()> {
    let (above, last) = match target.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (&b""[..], target),
    };
    let Some(above) = tree.find_directory(above) else { return Ok(()) };
    let Some(id) = tree.child(holder, name).filter(|_| tree.child(above, last).is_none()) else {
        return Ok(());
    };
    tree.add_name(above, last, id);
    if kept.is_on_disk(&tree.inode(id).kind) {
        let from = kept.handle(tree, holder)?;
        let to = kept.handle(tree, above)?;
        linkat(from.as_fd(), name, to.as_fd(), last, AtFlags::empty()).doing("link a file of a layer")?;
    }
    Ok(())
}

/// Whiteouts of the lowest layer hide nothing: they go, so that it can be mounted alone.
///
/// # Errors
/// `Unavailable` or `Internal`.
pub fn settle_lowest(directory: BorrowedFd<'_>, tree: &mut Tree, form: Form) -> Result<()> {
    let mut kept = Kept::new(directory, form);
    let whiteouts: Vec<_> = tree
        .walk()
        .filter(|(_, _, id)| tree.inode(*id).kind == Kind::Whiteout)
        .map(|(holder, name, _)| (holder, name.to_vec()))
        .collect();
    for (holder, name, ..) in &whiteouts {
        let handle = kept.handle(tree, *holder)?;
        rustix::fs::unlinkat(handle.as_fd(), &**name, AtFlags::empty())
            .doing("remove a whiteout of a layer")?;
        tree.forget(*holder, name);
    }
    let lost = tree.walk().find_map(|(holder, name, id)| {
        let is_link = matches!(tree.inode(id).kind, Kind::LowerLink(_));
        is_link.then(|| [&tree.path_of(holder)[..], name].join(&b'/'))
    });
    if let Some(path) = lost {
        return Err(refused(&path, "is a hard link to what no layer has"));
    }
    if whiteouts.is_empty() { Ok(()) } else { kept.set_times(tree) }
}
