//! Ends that nobody asked for, and the starts after them.

mod kill;
mod power;
mod states;
mod unprivileged;
