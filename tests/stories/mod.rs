//! What the API does, resource by resource, on both databases.

mod archives;
mod command_line;
mod containerd_suite;
mod content;
mod diffs;
mod events;
mod image_commands;
mod image_views;
mod images;
mod index_file;
mod ingests;
mod leases;
mod lists;
mod namespaces;
mod pages;
mod pulls;
mod ranges;
mod registries;
mod selections;
mod sharing;
mod snapshots;
mod system;
mod tokens;
mod unpack_jobs;
mod unpacks;
mod writers;
