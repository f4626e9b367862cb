//! Layers that want out: by links, by `..`, by names that are no names, by sizes that nothing has.

use super::*;

/// Unpacks, in both forms; nothing outside may change, and this is what is inside.
fn holds(layer: Layer, expected: &[&str]) {
    assert_eq!(unpacked(layer.end()), expected);
}

fn is_refused(layer: Layer, words: &str) {
    let refusal = refusal(layer.end());
    assert!(refusal.contains(words), "{refusal}");
}

#[test]
fn a_path_that_leads_up_stays_within() {
    holds(layer().file("../x", "1"), &["x file 644 0:0 1"]);
    holds(layer().file("a/../../../x", "1"), &["x file 644 0:0 1"]);
    let place = Place::new();
    let canary = place.canary();
    place.unpack_as(&layer().file(&canary, "mine").end(), Owners::Real).expect("within");
    assert_eq!(std::fs::read_to_string(place.fs().join(&canary[1..])).expect("there"), "mine");
}

#[test]
fn a_link_that_leads_out_is_followed_within() {
    for target in ["/outside", "../outside", "../../../../outside", "./../outside/../outside"] {
        holds(
            layer().symlink("way", target).file("way/canary", "mine"),
            &["outside dir 755 0:0", "outside/canary file 644 0:0 4", &format!("way -> {target}")],
        );
    }
    let place = Place::new();
    let outside = place.within.path().join("outside").display().to_string();
    let through = layer().symlink("way", &outside).file("way/canary", "mine").link("mine", "way/canary");
    place.unpack_as(&through.end(), Owners::Real).expect("within");
    assert_eq!(std::fs::read_to_string(place.fs().join("mine")).expect("there"), "mine");
}

#[test]
fn links_through_links_are_followed_within() {
    holds(
        layer().symlink("a", "/b").symlink("b", "../c/d").file("a/e", "1"),
        &["a -> /b", "b -> ../c/d", "c dir 755 0:0", "c/d dir 755 0:0", "c/d/e file 644 0:0 1"],
    );
    holds(
        layer().dir("a").symlink("a/up", "..").file("a/up/a/up/b", "1"),
        &["a dir 755 0:0", "a/up -> ..", "b file 644 0:0 1"],
    );
    is_refused(layer().symlink("a", "b").symlink("b", "a").file("a/c", ""), "in a circle");
    is_refused(layer().symlink("a", "a").file("a/c", ""), "in a circle");
}

#[test]
fn a_file_in_place_of_a_link_does_not_write_through_it() {
    let place = Place::new();
    let canary = place.canary();
    let replacing = layer().symlink("x", &canary).file("x", "mine");
    assert_eq!(unpacked_at(&place, replacing), ["x file 644 0:0 4"]);
    let place = Place::new();
    let replacing = layer().symlink("x", &place.canary()).link("y", "x").file("y", "mine");
    unpacked_at(&place, replacing);
}

fn unpacked_at(place: &Place, layer: Layer) -> Vec<String> {
    listing_of(&place.unpack_as(&layer.end(), Owners::Real).expect("within").tree)
}

#[test]
fn a_directory_in_place_of_a_link_changes_nothing_behind_it() {
    let place = Place::new();
    let outside = place.within.path().join("outside").display().to_string();
    let replacing = layer()
        .symlink("x", &outside)
        .entry("x", Entry::Directory, &owned(0o777), b"")
        .file("x/canary", "mine");
    assert_eq!(unpacked_at(&place, replacing), ["x dir 777 0:0 opaque", "x/canary file 644 0:0 4"]);
}

#[test]
fn a_directory_that_becomes_a_link_and_back_leads_nowhere() {
    let place = Place::new();
    let outside = place.within.path().join("outside").display().to_string();
    let turning = layer()
        .dir("x")
        .file("x/y", "")
        .symlink("x", &outside)
        .dir("x")
        .file("x/canary", "mine")
        .symlink("x", "/")
        .file("x/etc/passwd", "mine");
    let expected = ["etc dir 755 0:0", "etc/passwd file 644 0:0 4", "x -> /"];
    assert_eq!(unpacked_at(&place, turning), expected);
}

#[test]
fn a_hard_link_is_one_within_or_none() {
    let place = Place::new();
    for target in [place.canary(), "../outside/canary".to_owned(), "a/../../outside/canary".to_owned()] {
        // It is a name of what a lower layer may have there, and nothing is linked now.
        let unpacked =
            Place::new().unpack_as(&layer().dir("a").link("x", &target).end(), Owners::Real).expect("within");
        assert_eq!(listing_of(&unpacked.tree), ["a dir 755 0:0"]);
        let link = unpacked.tree.child(ROOT, b"x").expect("recorded");
        assert!(matches!(unpacked.tree.inode(link).kind, Kind::LowerLink(_)));
    }
    // A link to a link is the link itself, and what is done to it is not done to what it leads to.
    let place = Place::new();
    let canary = place.canary();
    let linked = layer().symlink("way", &canary).entry("way2", Entry::Link(b"way"), &owned(0o777), b"");
    assert_eq!(unpacked_at(&place, linked).len(), 2);
    is_refused(layer().dir("a").link("b", "a"), "a hard link to a directory");
    is_refused(layer().link("b", "."), "a hard link to a directory");
    is_refused(layer().link("b", "../.."), "a hard link to a directory");
    is_refused(layer().file("a", "").link("a", "a"), "a hard link to itself");
    is_refused(layer().dir("a").file("a/b", "").link("a", "a/b"), "what it replaces");
    is_refused(layer().file(".wh.a", "").link("b", "a"), "what the layer hides");
}

#[test]
fn the_root_stays_a_directory() {
    for path in [".", "./", "/", "a/..", "../.."] {
        is_refused(layer().symlink(path, "/etc"), "takes the place of the root");
        is_refused(layer().file(path, "x"), "takes the place of the root");
        holds(layer().entry(path, Entry::Directory, &owned(0o711), b""), &[]);
    }
}

#[test]
fn a_whiteout_needs_a_name() {
    for path in [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", "a/.wh..."] {
        is_refused(layer().dir("a").file(path, ""), "a whiteout of no name");
    }
    // A directory is what it is called.
    holds(
        layer().dir(".wh.etc").file(".wh.etc/passwd", ""),
        &[".wh.etc dir 755 0:0", ".wh.etc/passwd file 644 0:0 0"],
    );
}

#[test]
fn a_whiteout_behind_a_link_hides_within() {
    holds(
        layer().symlink("way", "/outside").file("way/.wh.canary", "").file("way/.wh..wh..opq", ""),
        &["outside dir 755 0:0 opaque", "outside/canary whiteout", "way -> /outside"],
    );
}

#[test]
fn what_is_hidden_below_a_file_is_hidden_by_the_file() {
    let file = ["a file 644 0:0 1"];
    holds(layer().file("a", "x").file("a/.wh.b", "").file("a/c/.wh.d", "").file("a/.wh..wh..opq", ""), &file);
    holds(layer().file("a/.wh.b", "").file("a/c/.wh.d", "").file("a", "x"), &file);
}

#[test]
fn nothing_lies_in_what_is_no_directory() {
    is_refused(layer().file("a", "").file("a/b", ""), "no directory");
    is_refused(layer().entry("a", Entry::Fifo, &owned(0o600), b"").file("a/b", ""), "no directory");
    is_refused(layer().file("b", "").symlink("a", "b").file("a/c", ""), "no directory");
}

#[test]
fn names_and_depths_have_a_limit() {
    let name = "n".repeat(255);
    holds(layer().file(&name, ""), &[&format!("{name} file 644 0:0 0")]);
    is_refused(layer().file(&"n".repeat(256), ""), "too long a name");
    is_refused(layer().file(&format!("{}x", "n/".repeat(2_100)), ""), "path");
    is_refused(layer().dir(&"d/".repeat(513)), "too deep");
    // Links lead deeper than any path of an entry does.
    let deep = "deep/".repeat(400);
    let mut ladder = layer().symlink("a", &deep).file("a/x", "");
    ladder = ladder.symlink(&format!("{deep}b"), &deep).file("a/b/y", "");
    is_refused(ladder, "too deep");
}

#[test]
fn owners_that_no_system_has_are_refused() {
    for id in [1u64 << 31, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        let record = |key: &str| {
            let mut text = format!(" {key}={id}\n");
            let length = text.len() + 2;
            text.insert_str(0, &length.to_string());
            assert_eq!(text.len(), length);
            text
        };
        for key in ["uid", "gid"] {
            is_refused(raw_pax(&record(key), "x"), "larger than any");
        }
    }
    holds(
        layer().entry("x", Entry::File { size: 0 }, &Meta { uid: (1 << 31) - 1, ..owned(0o644) }, b""),
        &[&format!("x file 644 {}:0 0", (1u32 << 31) - 1)],
    );
}

/// A file with a pax header of these bytes.
fn raw_pax(records: &str, path: &str) -> Layer {
    let mut layer = layer();
    let mut header = tar::header("pax", Entry::File { size: records.len() as u64 });
    header[156] = b'x';
    seal(&mut header);
    layer.0.extend(header);
    layer.0.extend(records.as_bytes());
    layer.0.resize(layer.0.len() + tar::padding(records.len() as u64), 0);
    layer.file(path, "")
}

/// Makes a changed header's sum right.
fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

#[test]
fn a_pax_record_that_is_none_is_refused() {
    for records in [
        "x",
        "5 a=b\n",
        "99 path=a\n",
        "9 path=a",
        "0 path=a\n",
        " path=a\n",
        "-9 path=a\n",
        "6 path\n",
        "8 size=\n",
        "10 size=-1\n",
        "9 size=x\n",
        "10 uid=1e3\n",
    ] {
        let refusal = refusal(raw_pax(records, "x").end());
        assert!(
            refusal.contains("pax") || refusal.contains("PAX") || refusal.contains("no number"),
            "{records:?}: {refusal}"
        );
    }
    is_refused(raw_pax("15 path=a\0b/cd\n", "x"), "NUL");
}

#[test]
fn a_size_in_pax_is_the_size() {
    // What pax says counts, for the bytes and for what comes after them: an archive within a file stays one.
    let inner = layer().file("smuggled", "").end();
    for header_size in [0, 7, inner.len() as u64 + 512] {
        let mut header = tar::header("outer", Entry::File { size: header_size });
        seal(&mut header);
        let record = format!("13 size={}\n", inner.len());
        assert_eq!((record.len(), inner.len()), (13, 1536));
        let mut layer = raw_pax(&record, "x");
        layer.0.truncate(layer.0.len() - 512);
        layer.0.extend(header);
        layer.0.extend(&inner);
        holds(layer.file("after", ""), &["after file 644 0:0 0", "outer file 644 0:0 1536"]);
    }
}

#[test]
fn a_tar_that_is_damaged_is_refused() {
    let whole = layer().dir("a").file("a/b", &"cargo".repeat(300)).file("c", "").end();
    // Cut anywhere but between two entries.
    for end in (1..whole.len() - 1024).step_by(61).filter(|end| ![512, 512 + 512 + 1536, 3072].contains(end))
    {
        let result = Place::new().unpack_as(&whole[..end], Owners::Real);
        let padding_alone = (512 + 512 + 1500..=512 + 512 + 1536).contains(&end);
        assert_eq!(result.is_ok(), padding_alone, "cut at {end}");
    }
    let mut wrong_sum = whole.clone();
    wrong_sum[0] = b'z';
    assert!(refusal(wrong_sum).contains("checksum"));
    let mut unknown = whole.clone();
    unknown[156] = b'Z';
    seal(&mut unknown[..512]);
    assert!(refusal(unknown).contains("of a type"));
    let mut hole = layer().file("a", "").0;
    hole.extend([0; 512]);
    assert!(refusal([hole, layer().file("b", "").end()].concat()).contains("block of zeros"));
    assert!(refusal(b"<html>404</html>".repeat(100)).contains("damaged, or is none"));
}

#[test]
fn a_sparse_file_is_as_large_as_its_parts_say_or_refused() {
    let sparse = |size: u64, parts: &[(u64, u64)], bytes: &[u8]| {
        layer().entry("s", Entry::Sparse { size, parts }, &owned(0o644), bytes)
    };
    holds(sparse(1 << 40, &[(1 << 39, 2)], b"xy"), &[&format!("s file 644 0:0 {}", 1u64 << 40)]);
    holds(sparse(10, &[], b""), &["s file 644 0:0 10"]);
    is_refused(sparse(10, &[(9, 2)], b"xy"), "parts");
    is_refused(sparse(10, &[(4, 2), (2, 2)], b"xyxy"), "parts");
    is_refused(sparse(10, &[(4, 2), (5, 2)], b"xyxy"), "parts");
    is_refused(sparse(u64::MAX, &[(u64::MAX - 1, 2)], b"xy"), "parts");
    is_refused(sparse(u64::MAX, &[], b""), "parts");
    is_refused(sparse(1 << 44, &[], b""), "parts");
}

#[test]
fn attributes_that_would_lie_to_the_kernel_or_to_us_are_left_out() {
    let xattrs = [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "user.overlay.opaque",
        "user.containers.override_stat",
        "user.good",
    ];
    let meta = Meta {
        xattrs: xattrs.iter().map(|name| (name.as_bytes().into(), b"y"[..].into())).collect(),
        ..owned(0o755)
    };
    let unpacked = Place::new()
        .unpack_as(&layer().entry("d", Entry::Directory, &meta, b"").end(), Owners::Real)
        .expect("good");
    let inode = unpacked.tree.inode(unpacked.tree.child(ROOT, b"d").expect("there"));
    assert_eq!(inode.meta.xattrs, [(Box::from(&b"user.good"[..]), Box::from(&b"y"[..]))]);
}

#[test]
fn what_declares_much_and_holds_nothing_takes_nothing() {
    // A header that promises bytes, and none come: nothing is made ready for them.
    let mut huge = tar::header("x", Entry::File { size: 1 << 62 });
    seal(&mut huge);
    assert!(refusal(huge).contains("cut short"));
    let mut negative = tar::header("x", Entry::File { size: 0 });
    negative[124..136].fill(0xff);
    seal(&mut negative);
    assert!(refusal(negative).contains("size"));
    let mut long_name = tar::header("L", Entry::File { size: 1 << 30 });
    long_name[156] = b'L';
    long_name[257..265].copy_from_slice(b"ustar  \0");
    seal(&mut long_name);
    assert!(refusal(long_name).contains("limit"));
}

#[test]
fn names_are_bytes() {
    let meta = owned(0o644);
    let mut odd = layer();
    for name in [&b"a\"b"[..], b"new\nline", b"\xff\xfe", b"\x1b[31m", b"<script>"] {
        odd.0.extend(tar::full_header(name, Entry::File { size: 0 }, &meta));
    }
    let place = Place::new();
    let tree = place.unpack_as(&odd.end(), Owners::Real).map(|unpacked| unpacked.tree);
    assert_eq!(tree.expect("good").walk().count(), 5);
}

#[test]
fn a_layer_may_have_so_many_entries() {
    let many = (0..2_000).fold(layer(), |layer, number| layer.file(&number.to_string(), ""));
    assert_eq!(unpacked(many.end()).len(), 2_000);
}
