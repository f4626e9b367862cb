//! Layers and archives from outside: what is inside them. Hostile input is the normal case: what is not plainly an archive
//! of plain files is refused, nothing of it is ever a path of ours, and no size that it declares is believed.
//!
//! This room reads; what is done with the bytes is its callers' business.

mod archive;
mod compression;
pub mod decompress;
mod directory;
mod graft;
mod pack;
mod path;
mod settle;
mod tar;
mod watch;

pub use archive::{Archive, Entry, EntryKind};
pub use compression::Compression;
pub use decompress::{Cursor, read_layer as read_pieces};
pub use directory::{Devices, Form, Owners, Unpacked, read_tree, unpack_into};
pub use graft::graft;
pub use pack::{Packing, pack};
pub use settle::{settle, settle_lowest};
