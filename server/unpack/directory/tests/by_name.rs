//! containerd's cases of layers that want out, by their names there (`TestBreakouts` of its archive package), each in both
//! forms. What they lead to stands outside and is looked at: its bytes, mode, times and links.

use super::*;

enum Outcome {
    /// Files of these paths hold these texts, and links lead there: `-> target`.
    Holds(&'static [(&'static str, &'static str)]),
    Refused(&'static str),
}

use Outcome::{Holds, Refused};

/// `OUT` in a path or target stands for the absolute path of a directory outside, which has a file `canary`.
fn case(name: &str, build: impl Fn(&dyn Fn(&str) -> String) -> Layer, outcome: Outcome) {
    for owners in [Owners::Real, Owners::Ours] {
        let place = Place::new();
        let outside = place.canary().trim_end_matches("/canary").to_owned();
        let layer = build(&|text: &str| text.replace("OUT", &outside)).end();
        let unpacked = place.unpack_as(&layer, owners);
        match (&outcome, unpacked) {
            (Refused(why), Err(error)) => assert!(error.to_string().contains(why), "{name}: {error}"),
            (Refused(_), Ok(_)) => panic!("{name} is refused"),
            (Holds(_), Err(error)) => panic!("{name}: {error}"),
            (Holds(expected), Ok(_)) => {
                for (path, text) in *expected {
                    let path = place.fs().join(path);
                    let there = match text.strip_prefix("-> ") {
                        Some(_) => std::fs::read_link(&path).map(|to| format!("-> {}", to.display())),
                        None => std::fs::read_to_string(&path),
                    };
                    assert_eq!(there.ok().as_deref(), Some(*text), "{name}: {}", path.display());
                }
            }
        }
    }
}

/// What every case of links begins with.
fn etc() -> Layer {
    layer().dir("etc").file("etc/passwd", "within")
}

#[test]
fn symlinks() {
    case(
        "SymlinkAbsolute",
        |_| etc().symlink("local", "/etc").file("local/new", "x"),
        Holds(&[("etc/new", "x")]),
    );
    case(
        "SymlinkAbsolute (outside)",
        |out| layer().symlink("way", &out("OUT")).file("way/canary", "x"),
        Holds(&[]),
    );
    case(
        "SymlinkUpAndOut",
        |_| etc().dir("dummy").symlink("dummy/etc", "../../../etc").file("dummy/etc/new", "x"),
        Holds(&[("etc/new", "x")]),
    );
    case(
        "SymlinkMultipleAbsolute",
        |_| {
            etc()
                .dir("dummy")
                .symlink("dummy/etc", "/etc")
                .symlink("local", "/dummy/etc")
                .file("local/new", "x")
        },
        Holds(&[("etc/new", "x")]),
    );
    case(
        "SymlinkMultipleRelative",
        |_| {
            etc()
                .dir("dummy")
                .symlink("dummy/etc", "/etc")
                .symlink("local", "./dummy/etc")
                .file("local/new", "x")
        },
        Holds(&[("etc/new", "x")]),
    );
    case(
        "SymlinkEmptyFile",
        |out| layer().symlink("way", &out("OUT/canary")).file("way", ""),
        Holds(&[("way", "")]),
    );
    case(
        "SymlinkParentDirectory",
        |_| etc().dir("a").symlink("a/up", "..").file("a/up/new", "x"),
        Holds(&[("new", "x")]),
    );
    case("SymlinkEmptyFilename", |_| etc().symlink("a", "").file("a/new", "x"), Refused("leads nowhere"));
    case(
        "SymlinkParentRelative",
        |_| etc().dir("a").symlink("a/up", "../etc/../../..").file("a/up/outside/canary", "x"),
        Holds(&[("outside/canary", "x")]),
    );
    case(
        "SymlinkSlashEnded",
        |_| etc().dir("local").symlink("local/", "/etc").file("local/new", "x"),
        Holds(&[("etc/new", "x")]),
    );
    case(
        "SymlinkOverrideDirectory",
        |_| etc().dir("local").file("local/old", "y").symlink("local", "/etc").file("local/new", "x"),
        Holds(&[("etc/new", "x"), ("local", "-> /etc")]),
    );
    case(
        "SymlinkOverrideDirectoryRelative",
        |_| etc().dir("local").symlink("local", "../../etc").file("local/new", "x"),
        Holds(&[("etc/new", "x"), ("local", "-> ../../etc")]),
    );
    case(
        "DirectoryOverrideSymlink",
        |out| layer().symlink("way", &out("OUT")).dir("way").file("way/canary", "x"),
        Holds(&[("way/canary", "x")]),
    );
    case(
        "SymlinkOverridePath",
        |out| {
            let turned = layer().dir("a").symlink("a", "/").dir("a").symlink("a", &out("OUT"));
            turned.dir("a").file("a/canary", "x").symlink("a", "/").file("a/etc", "y")
        },
        Holds(&[("a", "-> /"), ("etc", "y")]),
    );
}

#[test]
fn hard_links() {
    case(
        "HardlinkRelative",
        |_| etc().dir("b").link("b/hard", "./etc/passwd"),
        Holds(&[("b/hard", "within")]),
    );
    case(
        "HardlinkDownAndOut",
        |_| etc().dir("a").link("hard", "a/../etc/passwd"),
        Holds(&[("hard", "within")]),
    );
    case("HardlinkAbsolute", |_| etc().link("hard", "/etc/passwd"), Holds(&[("hard", "within")]));
    case(
        "HardlinkRelativeLong",
        |_| etc().symlink("way", "../../../../../../..").link("hard", "way/etc/passwd"),
        Holds(&[("hard", "within")]),
    );
    case(
        "HardlinkRelativeUpAndOut",
        |_| etc().link("hard", "../../../etc/passwd"),
        Holds(&[("hard", "within")]),
    );
    // What is outside is no file of the layer: at best it is one of a lower layer.
    case("HardlinkDirectRelative", |_| etc().link("hard", "../outside/canary"), Holds(&[]));
    case("HardlinkDirectAbsolute", |out| etc().link("hard", &out("OUT/canary")), Holds(&[]));
    case(
        "DirectoryOverrideSymlinkAndHardlink",
        |out| {
            let linked = layer().symlink("way", &out("OUT")).link("hard", "way").dir("way");
            linked.file("way/canary", "x")
        },
        Holds(&[("way/canary", "x")]),
    );
    case(
        "HardlinkSymlinkBeforeCreateTarget",
        |_| etc().symlink("way", "./later").link("hard", "way").file("later", "x").file("hard", "y"),
        Holds(&[("later", "x"), ("hard", "y"), ("way", "-> ./later")]),
    );
    case(
        "HardlinkSymlinkRelative",
        |_| etc().symlink("way", "../outside/canary").link("hard", "way"),
        Holds(&[("hard", "-> ../outside/canary")]),
    );
    case(
        "HardlinkSymlinkAbsolute",
        |_| etc().symlink("way", "/etc/passwd").link("hard", "way"),
        Holds(&[("hard", "-> /etc/passwd")]),
    );
    case(
        "HardlinkSymlinkChmod",
        |out| {
            let way = layer().symlink("way", &out("OUT/canary"));
            way.entry("hard", Entry::Link(b"way"), &owned(0o777), b"")
        },
        Holds(&[]),
    );
}

#[test]
fn whiteouts() {
    let no_name = || Refused("a whiteout of no name");
    case("WhiteoutRootParent", |_| etc().file(".wh...", ""), no_name());
    case("WhiteoutParent", |_| etc().file("etc/.wh...", ""), no_name());
    case("WhiteoutRoot", |_| etc().file(".wh..", ""), no_name());
    case("WhiteoutCurrentDirectory", |_| etc().file("etc/.wh..", ""), no_name());
    // It hides the link of a lower layer, and never what the link leads to.
    case(
        "WhiteoutSymlink",
        |_| etc().symlink("local", "etc").file(".wh.local", ""),
        Holds(&[("etc/passwd", "within")]),
    );
    case(
        "WhiteoutSymlinkPath",
        |out| layer().symlink("way", &out("OUT")).file("way/.wh.canary", ""),
        Holds(&[]),
    );
    case(
        "WhiteoutDirectoryName",
        |_| etc().dir(".wh.etc").file(".wh.etc/file", "plain"),
        Holds(&[("etc/passwd", "within"), (".wh.etc/file", "plain")]),
    );
    case(
        "WhiteoutDeadSymlinkParent",
        |_| etc().symlink("dangling", "nowhere").file("dangling/.wh.file", ""),
        Holds(&[("etc/passwd", "within")]),
    );
    case(
        "WhiteoutRelativePath",
        |_| etc().dir("a").file("a/../.wh.b", ""),
        Holds(&[("etc/passwd", "within")]),
    );
}
