//! Ends that nobody asked for, and the starts after them.

mod kill;
mod large;
mod power;
mod pull;
mod states;
mod unprivileged;
