//! The integration tests: the promises of the whole, from outside.

mod harness;
mod laws;
mod stories;
mod support;
