#!/usr/bin/env python3
"""Hold the locked dependencies to the policy in deny.toml: licences, bans, floors, sources, duplicates.

    check-deps.py [--policy FILE]

The policy is written in cargo-deny's syntax, and this reads the part of it that needs no network and no
tool to be compiled first. Advisories are left to `cargo deny check advisories`, which wants a database.

What is judged is what cargo builds (features resolved, for the targets of [graph]), tests and build
scripts included; sources are judged over the whole of Cargo.lock.
"""
import argparse
import pathlib
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=pathlib.Path, default=ROOT / "deny.toml")
    policy = tomllib.loads(parser.parse_args().policy.read_text())
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    built = built_packages(policy["graph"]["targets"])

    findings = [
        *check_licenses(built, policy["licenses"]),
        *check_bans(built, policy["bans"]["deny"]),
        *check_duplicates(built, policy["bans"]["skip"]),
        *check_sources(lock, policy["sources"]),
        *check_wildcards(),
    ]
    for finding in findings:
        print(f"error: {finding}", file=sys.stderr)
    if findings:
        sys.exit(1)
    print(f"dependencies: {len(built)} packages keep the policy of deny.toml")


def built_packages(targets):
    """{(name, version): licence expression} of every package that cargo would compile."""
    command = ["cargo", "tree", "--locked", "--edges", "normal,build,dev", "--prefix", "none"]
    command += [word for target in targets for word in ("--target", target)]
    tree = subprocess.run([*command, "--format", "{p}|{l}"], cwd=ROOT, check=True, capture_output=True, text=True)
    built = {}
    for line in filter(None, tree.stdout.splitlines()):
        package, license_ = line.removesuffix(" (*)").rsplit("|", 1)
        name, version = package.split()[:2]
        built[name, version.removeprefix("v")] = license_
    return built


def check_licenses(built, policy):
    extra = {entry["crate"]: entry["allow"] for entry in policy.get("exceptions", [])}
    for (name, version), expression in sorted(built.items()):
        allowed = {*policy["allow"], *extra.get(name, [])}
        if not expression:
            yield f"{name} {version} names no licence"
        elif not license_holds(expression, allowed):
            yield f"{name} {version} is under `{expression}`, which the policy does not allow"
    for name in extra.keys() - {name for name, _ in built}:
        yield f"the licence exception for {name} is no longer needed"


def license_holds(expression, allowed):
    """Whether an SPDX expression can be met with the allowed licences; `/` is an old way to write OR."""
    words = re.findall(r"[()/]|[^\s()/]+", expression)

    def alternatives():
        holds = requirements()
        while words and words[0] in ("OR", "/"):
            words.pop(0)
            holds = requirements() or holds
        return holds

    def requirements():
        holds = single()
        while words and words[0] == "AND":
            words.pop(0)
            holds = single() and holds
        return holds

    def single():
        word = words.pop(0)
        if word == "(":
            holds = alternatives()
            words.pop(0)
            return holds
        if words and words[0] == "WITH":
            word = " ".join((word, words.pop(0), words.pop(0)))
        return word in allowed

    return alternatives() and not words


def check_bans(built, bans):
    for ban in bans:
        name, wanted = parse_spec(ban["crate"])
        for other, version in sorted(built):
            if other == name and matches(version, wanted):
                yield f"{name} {version} is banned ({ban['crate']}): {ban['reason']}"


def check_duplicates(built, skips):
    versions = defaultdict(set)
    for name, version in built:
        versions[name].add(version)
    for skip in skips:
        name, wanted = parse_spec(skip["crate"])
        excused = {version for version in versions[name] if matches(version, wanted)}
        if len(versions[name]) < 2 or not excused:
            yield f"the duplicate allowed for {skip['crate']} is no longer there: take it out of the policy"
        versions[name] -= excused
    for name, found in sorted(versions.items()):
        if len(found) > 1:
            yield f"{name} is built in {len(found)} versions: {', '.join(sorted(found, key=as_numbers))}"


def check_sources(lock, policy):
    """One registry for everything, and a checksum for every package from it.

    The registry is the one that most packages name: cargo's default, unless somebody replaced them all.
    """
    sources = Counter(package["source"] for package in lock if "source" in package)
    known = {None, sources.most_common(1)[0][0], *(f"registry+{url}" for url in policy.get("allow-registry", []))}
    for package in lock:
        source = package.get("source")
        if source not in known or (source or "").startswith("git+"):
            yield f"{package['name']} {package['version']} comes from {source}, which the policy does not know"
        elif source and "checksum" not in package:
            yield f"{package['name']} {package['version']} has no checksum in Cargo.lock"


def check_wildcards():
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    for table in ("dependencies", "dev-dependencies", "build-dependencies"):
        for name, wanted in manifest.get(table, {}).items():
            version = wanted if isinstance(wanted, str) else wanted.get("version", "*")
            if "*" in version:
                yield f"{name} is wanted in any version"


def parse_spec(spec):
    """`name`, `name@1.2.3` (that version) or `name:<1.2` (a requirement), as cargo-deny writes them."""
    name, mark, wanted = re.fullmatch(r"([\w-]+)([@:]?)(.*)", spec).groups()
    return name, f"={wanted}" if mark == "@" else wanted


def matches(version, wanted):
    if not wanted:
        return True
    operator, floor = re.fullmatch(r"(<|=)(\d+(?:\.\d+)*)", wanted).groups()
    if operator == "=":
        return version.split("+")[0] == floor
    return as_numbers(version) < as_numbers(floor)


def as_numbers(version):
    return tuple(int(part) for part in re.split(r"[-+]", version)[0].split("."))


if __name__ == "__main__":
    main()
