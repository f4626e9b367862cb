//! Files as lines of text: drawn as a tree, or one by one.

use serde_json::Value;

use super::path_of;
use crate::cli::text::{escape, human_bytes};

/// A tree of files, as they come: each directory before what is in it.
#[derive(Debug, Default)]
pub struct Drawing {
    /// How deep each stands, and what is said of it.
    entries: Vec<(usize, String)>,
    directories: usize,
    files: usize,
    others: usize,
}

impl Drawing {
    pub fn add(&mut self, depth: u64, item: &Value) {
        match text(item, "type") {
            "directory" => self.directories += 1,
            "file" => self.files += 1,
            _ => self.others += 1,
        }
        self.entries.push((depth as usize, entry(item)));
    }

    pub fn lines(&self) -> String {
        let mut lines = String::new();
        // Of the entry at hand and of those it is in: whether it is the last of its directory.
        let mut last = Vec::new();
        for ((depth, said), is_last) in self.entries.iter().zip(self.which_are_last()) {
            last.truncate(*depth);
            for above in &last {
                lines.push_str(if *above { "    " } else { "│   " });
            }
            lines.push_str(if is_last { "└── " } else { "├── " });
            lines.push_str(said);
            lines.push('\n');
            last.push(is_last);
        }
        lines
    }

    /// Known from the end: whether another one of the same directory comes later.
    fn which_are_last(&self) -> Vec<bool> {
        let mut later: Vec<bool> = Vec::new();
        let mut found = vec![false; self.entries.len()];
        for (at, (depth, _)) in self.entries.iter().enumerate().rev() {
            later.truncate(depth + 1);
            later.resize(depth + 1, false);
            found[at] = !later[*depth];
            later[*depth] = true;
        }
        found
    }

    /// `1 directory, 3 files, 2 others`
    pub fn sum(&self) -> String {
        let count = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        let mut told =
            vec![count(self.directories, "directory", "directories"), count(self.files, "file", "files")];
        if self.others > 0 {
            told.push(count(self.others, "other", "others"));
        }
        told.join(", ")
    }
}

/// A name with a mark of its type, and what there is to say of it.
fn entry(item: &Value) -> String {
    let name = escape(path_of(item).rsplit('/').next().unwrap_or_default());
    match text(item, "type") {
        "directory" if item.get("opaque") == Some(&Value::Bool(true)) => format!("{name}/  opaque"),
        "directory" => format!("{name}/"),
        "symlink" => format!("{name} -> {}", escape(text(item, "target"))),
        "link" => format!("{name}  further name of {}", escape(text(item, "target"))),
        "fifo" => format!("{name}|"),
        kind @ ("block" | "character") => format!("{name}  {kind} {}", device(item)),
        "whiteout" => format!("{name}  deleted"),
        _ if mode(item) & 0o111 != 0 => format!("{name}*  {}", human_bytes(number(item, "size"))),
        _ => format!("{name}  {}", human_bytes(number(item, "size"))),
    }
}

/// As `tar tv` has it: `-rw-r--r-- 0/0 12 2026-01-05 09:30:00 etc/motd`.
pub fn line(item: &Value) -> String {
    let owner = format!("{}/{}", number(item, "uid"), number(item, "gid"));
    let size = match text(item, "type") {
        "block" | "character" => device(item).replace(':', ","),
        _ => number(item, "size").to_string(),
    };
    let time = text(item, "mtime").split('.').next().unwrap_or_default().replace('T', " ");
    let path = escape(path_of(item));
    let target = match text(item, "type") {
        "symlink" => format!(" -> {}", escape(text(item, "target"))),
        "link" => format!(" link to {}", escape(text(item, "target"))),
        "whiteout" => " deleted".to_owned(),
        _ => String::new(),
    };
    format!("{} {owner:<11} {size:>11} {:<19} {path}{target}\n", mode_words(item), escape(&time))
}

/// `drwxr-xr-x`, with `s` and `t` as `ls` writes them.
fn mode_words(item: &Value) -> String {
    let kind = match text(item, "type") {
        "directory" => 'd',
        "symlink" => 'l',
        "link" => 'h',
        "fifo" => 'p',
        "block" => 'b',
        "character" => 'c',
        "whiteout" => 'w',
        _ => '-',
    };
    let mode = mode(item);
    let mut words = String::from(kind);
    for (shift, special, mark) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        words.push(if bits & 4 != 0 { 'r' } else { '-' });
        words.push(if bits & 2 != 0 { 'w' } else { '-' });
        words.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => mark,
            (true, false) => mark.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    words
}

fn mode(item: &Value) -> u32 {
    u32::from_str_radix(text(item, "mode"), 8).unwrap_or_default()
}

fn device(item: &Value) -> String {
    let part = |name: &str| item.pointer(&format!("/device/{name}")).and_then(Value::as_u64).unwrap_or(0);
    format!("{}:{}", part("major"), part("minor"))
}

fn text<'v>(item: &'v Value, name: &str) -> &'v str {
    item.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn number(item: &Value, name: &str) -> u64 {
    item.get(name).and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    fn item(path: &str, kind: &str, more: Value) -> Value {
        let mut item = json!({"path": path, "type": kind, "mode": "0644", "uid": 0, "gid": 0, "size": 0,
            "mtime": "2026-01-05T09:30:00.000000000Z"});
        for (name, value) in more.as_object().into_iter().flatten() {
            item[name] = value.clone();
        }
        item
    }

    fn items() -> Vec<Value> {
        let device = json!({"device": {"major": 1, "minor": 3}});
        vec![
            item("bin", "directory", json!({"mode": "0755"})),
            item("bin/sh", "file", json!({"mode": "4755", "size": 2048})),
            item("dev", "directory", json!({"mode": "1777"})),
            item("dev/d", "directory", json!({"opaque": true})),
            item("dev/d/log", "fifo", json!({})),
            item("dev/null", "character", device),
            item("etc\u{1b}", "directory", json!({})),
            item("etc\u{1b}/a", "link", json!({"target": "bin/b"})),
            item("etc\u{1b}/gone", "whiteout", json!({})),
            item("lib", "symlink", json!({"target": "usr/l\u{1b}ib"})),
        ]
    }

    #[test]
    fn a_tree_is_drawn_with_marks_sizes_and_targets() {
        let mut drawing = Drawing::default();
        for item in items() {
            drawing.add(path_of(&item).matches('/').count() as u64, &item);
        }
        assert_snapshot!(drawing.lines(), @r"
        ├── bin/
        │   └── sh*  2.0 KiB
        ├── dev/
        │   ├── d/  opaque
        │   │   └── log|
        │   └── null  character 1:3
        ├── etc\x1b/
        │   ├── a  further name of bin/b
        │   └── gone  deleted
        └── lib -> usr/l\x1bib
        ");
        assert_eq!(drawing.sum(), "4 directories, 1 file, 5 others");
    }

    #[test]
    fn a_line_has_all_that_there_is_to_know() {
        assert_snapshot!(items().iter().map(line).collect::<String>(), @r"
        drwxr-xr-x 0/0                   0 2026-01-05 09:30:00 bin
        -rwsr-xr-x 0/0                2048 2026-01-05 09:30:00 bin/sh
        drwxrwxrwt 0/0                   0 2026-01-05 09:30:00 dev
        drw-r--r-- 0/0                   0 2026-01-05 09:30:00 dev/d
        prw-r--r-- 0/0                   0 2026-01-05 09:30:00 dev/d/log
        crw-r--r-- 0/0                 1,3 2026-01-05 09:30:00 dev/null
        drw-r--r-- 0/0                   0 2026-01-05 09:30:00 etc\x1b
        hrw-r--r-- 0/0                   0 2026-01-05 09:30:00 etc\x1b/a link to bin/b
        wrw-r--r-- 0/0                   0 2026-01-05 09:30:00 etc\x1b/gone deleted
        lrw-r--r-- 0/0                   0 2026-01-05 09:30:00 lib -> usr/l\x1bib
        ");
    }
}
