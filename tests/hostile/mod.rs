//! Peers and machines that mean harm: each file is named after the threat.

mod archives;
mod bad_promises;
mod broken_transactions;
mod credential_helpers;
mod flood;
mod foreign_key;
mod foreign_sites;
mod full_disk_pulls;
mod lost_database;
mod lying_tags;
mod network;
mod smuggling;
mod traversal;
mod tripwires;
mod troubled_disk;
