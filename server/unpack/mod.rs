//! Layers: what is inside them. Hostile input is the normal case.

pub mod decompress;
