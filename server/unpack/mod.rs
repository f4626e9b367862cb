//! Layers and archives from outside: what is inside them. Hostile input is the normal case: what is not plainly an archive
//! of plain files is refused, nothing of it is ever a path of ours, and no size that it declares is believed.
//!
//! This room reads; what is done with the bytes is its callers' business.

mod archive;
mod checkpoints;
mod compression;
pub mod decompress;
mod directory;
mod graft;
mod gzip;
mod inflate;
mod pack;
mod part;
mod path;
mod settle;
mod tar;
mod unpacking;
mod watch;

pub use archive::{Archive, Entry, EntryKind};
pub use checkpoints::{Checkpoints, Index};
pub use compression::Compression;
pub use directory::{Devices, Form, Owners, Unpacked, read_tree, unpack_into};
pub use graft::graft;
pub use pack::{Packing, pack};
pub use part::Part;
pub use settle::{settle, settle_lowest};
