//! A network of a test's own: a namespace whose addresses are what the test says, with nothing behind them.
//!
//! Only root can make one; where that is forbidden the test fails and says so.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::command::run;

const LIMIT: Duration = Duration::from_secs(60);

/// A namespace, which goes with this value.
struct Namespace(String);

/// Runs `ip`, which makes and takes away what networks are made of.
pub fn ip(arguments: &[&str]) {
    let ran = run(Command::new("ip").args(arguments), LIMIT);
    assert!(ran.status.success(), "a network of its own needs root: {}", ran.stderr);
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run(Command::new("ip").args(["netns", "delete", &self.0]), LIMIT);
    }
}

/// Runs a story on a machine that has these addresses, and no way to any other. `n` tells apart those of one process.
pub fn within<F: Future<Output = ()>>(n: u8, addresses: &[&str], story: impl FnOnce() -> F + Send + 'static) {
    let namespace = Namespace(format!("orlop-own-{}-{n}", std::process::id()));
    ip(&["netns", "add", &namespace.0]);
    ip(&["-n", &namespace.0, "link", "set", "lo", "up"]);
    for address in addresses {
        let mut add = vec!["-n", &namespace.0, "address", "add", address, "dev", "lo"];
        // One of IPv6 would otherwise be looked for elsewhere before it can be used.
        add.extend(address.contains(':').then_some("nodad"));
        ip(&add);
    }
    let door = File::open(format!("/run/netns/{}", namespace.0)).expect("the namespace is there");
    // Threads begin where the one is that starts them: all of this runtime are inside.
    let inside = std::thread::spawn(move || {
        move_into_link_name_space(door.as_fd(), Some(LinkNameSpaceType::Network)).expect("a way in");
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2).enable_all().build().expect("a runtime").block_on(story());
    });
    if let Err(panic) = inside.join() {
        std::panic::resume_unwind(panic);
    }
}
