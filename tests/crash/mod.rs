//! Ends that nobody asked for, and the starts after them.

mod damage;
mod kill;
mod large;
mod power;
mod pull;
mod states;
mod unpack;
mod unprivileged;
