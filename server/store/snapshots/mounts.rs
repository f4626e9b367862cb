//! How a snapshot is mounted: options of the kernel's bind and overlay mounts. Nothing is mounted here.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;

use super::{CHAIN, Form, SnapshotKind, Store};
use crate::db;
use crate::db::snapshots::SnapshotRow;
use crate::disk::{Disk, overlay_parameter};
use crate::error::{Conflict, Error, Result};

/// One mount, as `mount(8)` takes it: type, source and options (containerd's `types.Mount`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub source: String,
    pub options: Vec<String>,
}

impl Mount {
    /// The command that mounts it at `$1`: for a shell on the server's machine. Where the options are more than kernels
    /// take, they are told from the directory of all snapshots.
    pub fn to_shell(&self) -> String {
        let options = self.options.join(",");
        let lower = self.options.iter().find_map(|option| option.strip_prefix("lowerdir="));
        let base = lower
            .and_then(|lower| lower.split_once("/snapshots/"))
            .map(|(base, _)| format!("{base}/snapshots/"));
        if let Some(base) = base.filter(|_| options.len() > LONG_OPTIONS) {
            let near = quoted(&options.replace(&base, ""));
            let base = quoted(&unescaped(&base));
            return format!(
                "(place=$(realpath -- \"$1\") && cd {base} && mount -t {} -o {near} {} \"$place\")",
                self.kind,
                quoted(&self.source)
            );
        }
        let mut line = format!("mount -t {}", self.kind);
        if !self.options.is_empty() {
            let _ = write!(line, " -o {}", quoted(&self.options.join(",")));
        }
        let _ = write!(line, " {} \"$1\"", quoted(&self.source));
        line
    }
}

/// The options of a mount fill a page at most, and other options come along.
const LONG_OPTIONS: usize = 3_500;

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl Store {
    /// What mounts an active snapshot or a view, the same each time.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` (state) for a committed snapshot: it is mounted through a view.
    pub async fn mounts_of(&self, namespace: &str, key: &str) -> Result<Vec<Mount>> {
        let chain = {
            let mut conn = self.0.db.read().await?;
            db::snapshots::list_chain(&mut conn, namespace, key, CHAIN).await?
        };
        let Some((top, parents)) = chain.split_first() else {
            return Err(Error::not_found("snapshot", key));
        };
        let kind = SnapshotKind::of_row(&top.kind);
        if kind == SnapshotKind::Committed {
            let reason = format!(
                "the snapshot `{key}` is committed: prepare an active one on it, or a view, and mount that"
            );
            return Err(Error::Conflict(Conflict::State { reason }));
        }
        // Under an opaque root nothing is seen, which the kernel does not look for.
        let seen = parents.iter().position(|row| row.opaque != 0).map_or(parents.len(), |at| at + 1);
        Ok(vec![mount_of(&self.0.disk, top, &parents[..seen], kind)])
    }
}

fn mount_of(disk: &Disk, top: &SnapshotRow, parents: &[SnapshotRow], kind: SnapshotKind) -> Mount {
    let access = if kind == SnapshotKind::View { "ro" } else { "rw" };
    let bind = |row: &SnapshotRow| Mount {
        kind: "bind",
        source: disk.snapshot_fs(&row.id).display().to_string(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    };
    let lower: Vec<String> = parents.iter().map(|row| escaped(&disk.snapshot_fs(&row.id))).collect();
    match (kind, parents) {
        (_, []) => bind(top),
        (SnapshotKind::View, [parent]) => bind(parent),
        _ => {
            let mut options = Vec::new();
            // A change of its index, or of a directory's name, would be noted where only this machine's kernel reads it.
            for parameter in ["index", "redirect_dir"] {
                if overlay_parameter(parameter) {
                    options.push(format!("{parameter}=off"));
                }
            }
            if parents.iter().all(|row| row.form == Form::Ours.as_str()) {
                options.push("userxattr".to_owned());
            }
            if kind != SnapshotKind::View {
                options.push(format!("workdir={}", escaped(&disk.snapshot_work(&top.id))));
                options.push(format!("upperdir={}", escaped(&disk.snapshot_fs(&top.id))));
            }
            options.push(format!("lowerdir={}", lower.join(":")));
            Mount { kind: "overlay", source: "overlay".to_owned(), options }
        }
    }
}

/// A path among the options of an overlay mount: a colon or a comma would end it.
fn escaped(path: &Path) -> String {
    let text = String::from_utf8_lossy(path.as_os_str().as_bytes());
    text.replace('\\', r"\\").replace(':', r"\:").replace(',', r"\,")
}

/// What [`escaped`] escaped.
fn unescaped(text: &str) -> String {
    text.replace(r"\:", ":").replace(r"\,", ",").replace(r"\\", r"\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_wherever_it_stands() {
        assert_eq!(escaped(Path::new(r"/a:b/c,d\e")), r"/a\:b/c\,d\\e");
        let mount = Mount { kind: "bind", source: "/it's".to_owned(), options: vec!["ro".to_owned()] };
        assert_eq!(mount.to_shell(), r#"mount -t bind -o 'ro' '/it'\''s' "$1""#);
        let lower = vec!["/data/snapshots/0123abcd/fs"; 200].join(":");
        let options = vec!["index=off".to_owned(), format!("lowerdir={lower}")];
        let long = Mount { kind: "overlay", source: "overlay".to_owned(), options }.to_shell();
        assert!(long.contains(
            "cd '/data/snapshots/' && mount -t overlay -o 'index=off,lowerdir=0123abcd/fs:0123abcd/fs"
        ));
        assert!(!long.contains("/data/snapshots/0"));
    }
}
