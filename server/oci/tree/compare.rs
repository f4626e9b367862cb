//! What one file tree has that another has not, as the entries of the layer that leads from one to the other.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Dir, Found, Id, Inode, Kind, Listed, Merged, Meta};

/// One entry of the layer.
#[derive(Debug)]
pub enum Difference<'e, 't> {
    /// It is new, or other than it was, or a directory above of something that is.
    Here(&'e Found<'t>),
    /// It was there, and is no more.
    Gone,
}

/// Two file trees, compared.
pub struct Comparison<'m, 't> {
    /// `None` for nothing at all: then every file of the other is new.
    from: Option<&'m Merged<'t>>,
    to: &'m Merged<'t>,
    /// Files that are new or other than they were. One of several names is so by all of them: a layer that told only of
    /// some would tear them apart.
    changed: HashSet<File>,
}

/// A file of a merged tree, whatever its names: the layer that brought it, and its id there.
type File = (usize, Id);

impl<'m, 't> Comparison<'m, 't> {
    /// Compares; `is_same` says whether two files hold the same bytes, and is asked only where all else is equal.
    ///
    /// # Errors
    /// Those of `is_same`.
    pub fn new<E>(
        from: Option<&'m Merged<'t>>,
        to: &'m Merged<'t>,
        is_same: impl FnMut(&Found<'t>, &Found<'t>) -> Result<bool, E>,
    ) -> Result<Comparison<'m, 't>, E> {
        let compared = Comparison { from, to, changed: HashSet::new() };
        let mut comparing = Comparing { compared, is_same, before: HashMap::new(), after: HashMap::new() };
        comparing.directory(compared_root(from).as_ref(), &root_of(to))?;
        Ok(comparing.compared)
    }

    /// Tells every entry with its path, in the order of the paths, parents before their children.
    ///
    /// # Errors
    /// Those of `tell`.
    pub fn tell<E>(&self, mut tell: impl FnMut(&[u8], Difference<'_, 't>) -> Result<(), E>) -> Result<(), E> {
        let root = self.to.root();
        let before = self.from.map(Merged::root);
        if before.is_none_or(|before| !is_same_directory(before.inode, root.inode)) {
            tell(b"", Difference::Here(&root))?;
        }
        let mut telling = Telling { compared: self, tell, above: Vec::new() };
        telling.directory(b"", compared_root(self.from).as_ref(), &root_of(self.to))
    }

    fn before(&self, dir: Option<&Dir>, name: &[u8]) -> Option<Found<'t>> {
        self.from?.child(dir?, name)
    }
}

fn root_of(tree: &Merged<'_>) -> Dir {
    tree.root().dir.unwrap_or_default()
}

fn compared_root(tree: Option<&Merged<'_>>) -> Option<Dir> {
    tree.map(root_of)
}

struct Comparing<'m, 't, S> {
    compared: Comparison<'m, 't>,
    is_same: S,
    /// Of files of several names: which file was where this one is now, and the other way round.
    before: HashMap<File, File>,
    after: HashMap<File, File>,
}

impl<'t, S> Comparing<'_, 't, S> {
    fn directory<E>(&mut self, from: Option<&Dir>, to: &Dir) -> Result<(), E>
    where
        S: FnMut(&Found<'t>, &Found<'t>) -> Result<bool, E>,
    {
        for (name, listed) in self.compared.to.list(to) {
            let Listed::There(found) = listed else { continue };
            let before = self.compared.before(from, name);
            match (&found.dir, before) {
                (Some(dir), before) => {
                    self.directory(before.and_then(|before| before.dir).as_ref(), dir)?;
                }
                (None, None) => self.change((found.layer, found.id)),
                (None, Some(before)) => self.file(&before, &found)?,
            }
        }
        Ok(())
    }

    fn file<E>(&mut self, before: &Found<'t>, found: &Found<'t>) -> Result<(), E>
    where
        S: FnMut(&Found<'t>, &Found<'t>) -> Result<bool, E>,
    {
        let (was, is) = ((before.layer, before.id), (found.layer, found.id));
        if before.inode.links > 1 || found.inode.links > 1 {
            let other_before = *self.before.entry(is).or_insert(was);
            let other_after = *self.after.entry(was).or_insert(is);
            if other_before != was || other_after != is {
                self.change(is);
                self.change(other_after);
            }
        }
        if self.compared.changed.contains(&is) {
            return Ok(());
        }
        if !is_alike(before.inode, found.inode) || !(self.is_same)(before, found)? {
            self.change(is);
        }
        Ok(())
    }

    fn change(&mut self, file: File) {
        self.compared.changed.insert(file);
    }
}

/// Whether two files are the same but for their bytes.
fn is_alike(before: &Inode, now: &Inode) -> bool {
    let kinds = match (&before.kind, &now.kind) {
        // Where its bytes are in an archive, and which of them are holes, makes no difference.
        (Kind::File(before), Kind::File(now)) => before.size == now.size,
        (before, now) => before == now,
    };
    kinds && before.meta == now.meta
}

/// Its time apart, which changes with every name that comes and goes in it (as with containerd).
fn is_same_directory(before: &Inode, now: &Inode) -> bool {
    let mtime = before.meta.mtime;
    before.meta == Meta { mtime, ..now.meta.clone() }
}

struct Telling<'c, 'm, 't, T> {
    compared: &'c Comparison<'m, 't>,
    tell: T,
    /// The directories above, and whether they have been told.
    above: Vec<(Vec<u8>, Found<'t>, bool)>,
}

impl<'t, T> Telling<'_, '_, 't, T> {
    fn directory<E>(&mut self, path: &[u8], from: Option<&Dir>, to: &Dir) -> Result<(), E>
    where
        T: FnMut(&[u8], Difference<'_, 't>) -> Result<(), E>,
    {
        let mut names: BTreeMap<&[u8], Option<Found<'t>>> = BTreeMap::new();
        if let (Some(tree), Some(dir)) = (self.compared.from, from) {
            let there = tree.list(dir).into_iter();
            names.extend(there.filter(|(_, listed)| is_there(listed)).map(|(name, _)| (name, None)));
        }
        for (name, listed) in self.compared.to.list(to) {
            if let Listed::There(found) = listed {
                names.insert(name, Some(found));
            }
        }
        for (name, found) in names {
            let path = match path {
                b"" => name.to_vec(),
                path => [path, name].join(&b'/'),
            };
            match found {
                None => self.tell(&path, Difference::Gone)?,
                Some(Found { dir: None, layer, id, .. }) if !self.compared.changed.contains(&(layer, id)) => {
                }
                Some(found) => match found.dir.clone() {
                    None => self.tell(&path, Difference::Here(&found))?,
                    Some(dir) => {
                        let before = self.compared.before(from, name).filter(|before| before.dir.is_some());
                        let is_old = before
                            .as_ref()
                            .is_some_and(|before| is_same_directory(before.inode, found.inode));
                        self.above.push((path.clone(), found, false));
                        if !is_old {
                            self.tell_above()?;
                        }
                        self.directory(&path, before.and_then(|before| before.dir).as_ref(), &dir)?;
                        self.above.pop();
                    }
                },
            }
        }
        Ok(())
    }

    fn tell<E>(&mut self, path: &[u8], entry: Difference<'_, 't>) -> Result<(), E>
    where
        T: FnMut(&[u8], Difference<'_, 't>) -> Result<(), E>,
    {
        self.tell_above()?;
        (self.tell)(path, entry)
    }

    fn tell_above<E>(&mut self) -> Result<(), E>
    where
        T: FnMut(&[u8], Difference<'_, 't>) -> Result<(), E>,
    {
        for (path, found, told) in &mut self.above {
            if !std::mem::replace(told, true) {
                (self.tell)(path, Difference::Here(found))?;
            }
        }
        Ok(())
    }
}

fn is_there(listed: &Listed<'_>) -> bool {
    matches!(listed, Listed::There(_))
}
