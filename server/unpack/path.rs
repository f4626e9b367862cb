//! Paths in an archive: names that its entries call each other by, never paths of ours.

use crate::error::{Error, Result, Unprocessable};
use crate::limits::ARCHIVE_PATH_BYTES;
use crate::oci::digest::excerpt;

/// The path of an entry in its plain form: parts joined by `/`, without `.`; empty for the root.
///
/// # Errors
/// `ValidationFailed` when it is absolute, leads up, is too long, or is no text.
pub(super) fn plain(bytes: &[u8]) -> Result<String> {
    let text = text_of(bytes)?;
    if text.starts_with('/') {
        return Err(refuse(text, "is absolute"));
    }
    join("", text)
}

/// What a symbolic link at `link` leads to, in the archive.
///
/// # Errors
/// As [`plain`]: it must not lead out of the archive.
pub(super) fn follow(link: &str, target: &[u8]) -> Result<String> {
    let target = text_of(target)?;
    if target.starts_with('/') {
        return Err(refuse(target, "is absolute"));
    }
    join(link.rsplit_once('/').map_or("", |(folder, _)| folder), target)
}

fn text_of(bytes: &[u8]) -> Result<&str> {
    let text = std::str::from_utf8(bytes).map_err(|_| invalid("a path is not UTF-8 text".to_owned()))?;
    if text.len() > ARCHIVE_PATH_BYTES {
        return Err(invalid(format!("a path has more than {ARCHIVE_PATH_BYTES} bytes")));
    }
    match text.contains('\0') {
        true => Err(refuse(text, "has a NUL")),
        false => Ok(text),
    }
}

fn join(folder: &str, path: &str) -> Result<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if folder.is_empty() => return Err(refuse(path, "leads up")),
            ".." => drop(parts.pop().ok_or_else(|| refuse(path, "leads out of the archive"))?),
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    // What was taken from two paths may be longer than either.
    match joined.len() > ARCHIVE_PATH_BYTES {
        true => Err(invalid(format!("a path has more than {ARCHIVE_PATH_BYTES} bytes"))),
        false => Ok(joined),
    }
}

fn refuse(path: &str, why: &str) -> Error {
    invalid(format!("the archive has the path `{}`, which {why}", excerpt(path)))
}

fn invalid(reason: String) -> Error {
    Error::Unprocessable(Unprocessable::ValidationFailed { reason })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_plain_or_refused() {
        for (path, expected) in
            [("a/b", "a/b"), ("./a//b/./c/", "a/b/c"), (".", ""), ("", ""), ("a..b/...", "a..b/...")]
        {
            assert_eq!(plain(path.as_bytes()).expect(path), expected);
        }
        let long = "x".repeat(ARCHIVE_PATH_BYTES + 1);
        for path in ["/etc/passwd", "../x", "a/../b", "a/..", "//x", "a\0b", &long] {
            assert!(plain(path.as_bytes()).is_err(), "{path}");
        }
        assert!(plain(b"\xff\xfe").is_err());
    }

    #[test]
    fn a_link_leads_to_a_place_in_the_archive_or_is_refused() {
        for (link, target, expected) in [
            ("id/layer.tar", "../other/layer.tar", "other/layer.tar"),
            ("id/layer.tar", "layer2.tar", "id/layer2.tar"),
            ("id/layer.tar", "../x.tar", "x.tar"),
            ("a/b/c", "./../../d", "d"),
        ] {
            assert_eq!(follow(link, target.as_bytes()).expect(target), expected);
        }
        for (link, target) in [
            ("id/layer.tar", "../../x"),
            ("layer.tar", "../x"),
            ("a/b", "/etc/passwd"),
            ("a/b", "../x/../../y"),
        ] {
            assert!(follow(link, target.as_bytes()).is_err(), "{target}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leads_anywhere_but_down(link in "[a-c/]{1,10}", target in "[a-c./]{0,20}") {
            for found in [plain(target.as_bytes()), follow(&link, target.as_bytes())].into_iter().flatten() {
                prop_assert!(!found.starts_with('/') && found.split('/').all(|part| part != ".." && part != "."));
            }
        }
    }
}
