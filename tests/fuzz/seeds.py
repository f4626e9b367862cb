#!/usr/bin/env python3
"""Writes what the corpora begin with: a layer for each thing that layers have, and for some that they should not.

    seeds.py FOLDER…
"""
import gzip
import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile

TIME = 1_700_000_000


def tar(*entries, form=tarfile.PAX_FORMAT, pax=None):
    """Entries are (name, type, what): text of a file, target of a link, (major, minor) of a device."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, pax_headers=pax or {}) as archive:
        for name, kind, what, *more in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mtime, info.mode = kind, TIME, 0o644
            for key, value in (more[0] if more else {}).items():
                setattr(info, key, value)
            data = b""
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = what
            elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
                info.devmajor, info.devminor = what
            elif kind == tarfile.REGTYPE:
                data = what.encode()
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


FILE, DIR, LINK, SYM = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
FIFO, CHAR, BLOCK = tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE


def sparse(form):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "holes")
        with path.open("wb") as file:
            file.seek(70_000)
            file.write(b"middle")
            file.truncate(200_000)
        command = ["tar", "-C", folder, "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-S", f"--format={form}", "-c", "holes"]
        return subprocess.run(command, check=True, capture_output=True).stdout


def compressed(data, program):
    return subprocess.run([*program, "-c"], input=data, check=True, capture_output=True).stdout


def seeds():
    etc = [("etc", DIR, ""), ("etc/passwd", FILE, "root")]
    plain = tar(*etc, ("bin/sh", FILE, "sh"), ("bin/bash", LINK, "bin/sh"), ("lib", SYM, "usr/lib"))
    yield "plain", plain
    yield "empty", tar()
    yield "gzip", gzip.compress(plain, mtime=0)
    yield "gzip-members", gzip.compress(plain[:700], mtime=0) + gzip.compress(plain[700:], mtime=0)
    yield "gzip-zeros", gzip.compress(plain, mtime=0) + bytes(700)
    yield "gzip-cut", gzip.compress(plain, mtime=0)[:-9]
    yield "zstd", compressed(plain, ["zstd", "-q"])
    yield "zstd-skippable", b"\x50\x2a\x4d\x18\x03\0\0\0abc" + compressed(plain, ["zstd", "-q"])
    yield "whiteouts", tar(*etc, ("etc/.wh.shadow", FILE, ""), ("usr/.wh..wh..opq", FILE, ""), ("usr/x", FILE, "x"))
    yield "whiteout-nameless", tar(("etc/.wh..", FILE, ""))
    yield "replaced", tar(("a", FILE, "1"), ("a", DIR, ""), ("a/b", FILE, "2"), ("a", SYM, "b"), ("a", FILE, "3"))
    yield "through-links", tar(("a", SYM, "/b"), ("b", SYM, "../c/d"), ("a/e", FILE, "1"))
    yield "circle", tar(("a", SYM, "b"), ("b", SYM, "a"), ("a/c", FILE, ""))
    yield "up", tar(("../../x", FILE, "1"), ("/y", FILE, "2"), ("a/../z", FILE, "3"))
    yield "link-up", tar(("x", LINK, "../../etc/passwd"))
    yield "devices", tar(("dev/null", CHAR, (1, 3)), ("dev/sda", BLOCK, (8, 0)), ("run/pipe", FIFO, ""))
    yield "owners", tar(("x", FILE, "1", {"uid": 1_000_000, "gid": 2_097_152, "mode": 0o6755}))
    yield "old-times", tar(("x", FILE, "1", {"mtime": -1.5}), ("y", FILE, "2", {"mtime": 1.25}))
    yield "long-pax", tar(("d/" * 60 + "n" * 200, FILE, "1"), ("l", SYM, "t" * 300))
    yield "long-gnu", tar(("d/" * 60 + "n" * 200, FILE, "1"), ("l", SYM, "t" * 300), form=tarfile.GNU_FORMAT)
    yield "ustar", tar(("p" * 90 + "/" + "n" * 80, FILE, "1"), form=tarfile.USTAR_FORMAT)
    yield "xattrs", tar(("x", FILE, "1", {"pax_headers": {"SCHILY.xattr.user.a": "b", "SCHILY.xattr.trusted.overlay.opaque": "y"}}))
    yield "global-pax", tar(("x", FILE, "1"), pax={"comment": "cargo"})
    for form in ("gnu", "posix", "oldgnu"):
        yield f"sparse-{form}", sparse(form)
    yield "cut", plain[:700]
    yield "behind-the-end", plain + b"more"
    yield "one-block-of-zeros", tar(("a", FILE, ""))[:512] + bytes(512) + plain
    yield "no-tar", b"<html>404</html>" * 100
    yield "many", tar(*((f"f{number}", FILE, "x") for number in range(40)))


for folder in sys.argv[1:]:
    for name, layer in seeds():
        pathlib.Path(folder, name).write_bytes(layer)
