//! What the tests share: real peers to talk to, images to move, and the contract to hold answers against.

// Each test target uses a part of this.
#![allow(dead_code)]

pub mod app;
pub mod command;
pub mod contract;
pub mod disks;
pub mod docker_registry;
pub mod event_stream;
pub mod eventually;
pub mod fixture_registry;
pub mod image;
pub mod ingest;
pub mod own_network;
pub mod postgres;
pub mod pulling;
pub mod raw;
pub mod request;
pub mod rows;
pub mod served;
pub mod slow_link;
pub mod stored;
pub mod token_server;
pub mod unpacking;
