//! orlop: a content store for container images and any other blobs, served over HTTP.
//!
//! The rooms, in reading order. `ARCHITECTURE.md` says how they lean on each other.

pub mod clock;
pub mod error;
pub mod id;
pub mod limits;

pub mod oci;

pub mod disk;

pub mod db;

pub mod events;

pub mod store;

pub mod registry;

pub mod unpack;

pub mod jobs;

pub mod http;

pub mod config;
pub mod shutdown;
pub mod telemetry;

pub mod app;
pub mod cli;
