//! Values and rules of the OCI formats: what a digest, a descriptor, a manifest, a platform and a
//! reference are, and which texts are refused. No I/O, no waiting: bytes in, checked values out.
//!
//! Whatever a peer sends becomes one of these values here, or an error; past this room nobody
//! parses such text again, and none of it is ever a path before this room has read it.

#[macro_use]
mod keys;

pub mod chain;
pub mod config;
pub mod descriptor;
pub mod digest;
pub mod hasher;
pub mod layout;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;
mod rules;
pub mod schema1;
pub mod tar;
pub mod tree;

pub use chain::chain_ids;
pub use config::ImageConfig;
pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest};
pub use hasher::Hasher;
pub use manifest::Document;
pub use platform::Platform;
pub use reference::Reference;
pub use rules::{Rule, Rules};
