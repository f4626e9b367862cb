//! The integration tests: the promises of the whole, from outside.

mod architecture;
mod builders;
mod contract;
mod crash;
mod fuzz;
mod harness;
mod hostile;
mod laws;
mod mounts;
mod ordinary_user;
mod private_registries;
mod pulls;
mod stories;
mod support;
