//! Disks with little room, or with less than they say.
//!
//! Only root can make such a disk. Where that is forbidden the tests that need one fail and say so: a promise that was not
//! tested is not shown as kept.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::command::run;

/// A file system of its own, in memory.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn mount(options: &str) -> SmallDisk {
        let disk = SmallDisk(tempfile::tempdir().expect("a mount point"));
        let mounted = disk.command("mount", &["-t", "tmpfs", "-o", options, "orlop-test"]);
        assert!(mounted, "a small disk needs root, to mount it: run this test as root, or skip it by name");
        disk
    }

    fn command(&self, program: &str, arguments: &[&str]) -> bool {
        succeeds(program, arguments, self.0.path())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a test that failed may still have files open.
        self.command("umount", &["--lazy"]);
    }
}

/// A file system on a device that has less room than it says: what is written is taken, and its sync fails.
pub struct ThinDisk {
    pub mounted: tempfile::TempDir,
    pub device: SmallDisk,
}

impl ThinDisk {
    /// On a device of this `size=…`.
    pub fn mount(options: &str) -> ThinDisk {
        let disk = ThinDisk {
            device: SmallDisk::mount(options),
            mounted: tempfile::tempdir().expect("a mount point"),
        };
        let image = disk.device.path().join("image");
        assert!(succeeds("truncate", &["-s", "64M"], &image));
        // One group, all of whose own blocks have their room on the device from the beginning: what cannot be written later
        // are bytes of files, and never what says where they are.
        let features = "^has_journal,^metadata_csum,^uninit_bg";
        let plain = ["-qF", "-b", "4096", "-N", "512", "-O", features, "-E", "nodiscard,lazy_itable_init=0"];
        assert!(succeeds("mkfs.ext4", &plain, &image));
        assert!(succeeds("mount", &["-o", "loop", image.to_str().expect("text")], disk.mounted.path()));
        disk
    }
}

impl Drop for ThinDisk {
    fn drop(&mut self) {
        succeeds("umount", &["--lazy"], self.mounted.path());
    }
}

/// Whether a program does what it is told of a path.
pub fn succeeds(program: &str, arguments: &[&str], path: &Path) -> bool {
    let mut command = Command::new(program);
    run(command.args(arguments).arg(path), Duration::from_secs(30)).status.success()
}
