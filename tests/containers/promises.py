#!/usr/bin/env python3
"""What orlop promises of its container files: promises.py DOCKERFILE DOCKERIGNORE < resolved-compose.json"""
import json
import pathlib
import re
import sys
import tomllib


def main():
    dockerfile, ignore = (pathlib.Path(path).read_text() for path in sys.argv[1:])
    findings = [*check_dockerfile(dockerfile), *check_ignore(ignore), *check_compose(json.load(sys.stdin))]
    for finding in findings:
        print(f"error: {finding}", file=sys.stderr)
    print("container files: hadolint and compose accept them" + ("" if findings else ", and they keep our promises"))
    sys.exit(bool(findings))


def check_dockerfile(text):
    steps = [line.split(None, 1) for line in text.replace("\\\n", " ").splitlines() if line[:1].isalpha()]
    stages = [argument for word, argument in steps if word == "FROM"]
    final = dict(steps[max(i for i, (word, _) in enumerate(steps) if word == "FROM"):])
    toolchain = tomllib.loads(pathlib.Path("Cargo.toml").read_text())["package"]["rust-version"]

    if len(stages) < 2:
        yield "Dockerfile: the compiler belongs in a stage of its own"
    if f"rust:{toolchain}-" not in stages[0]:
        yield f"Dockerfile: builds with {stages[0]}, but Cargo.toml names Rust {toolchain}"
    for stage in stages:
        if not is_pinned(stage.split()[0]):
            yield f"Dockerfile: {stage} names no version"
    if re.match(r"(0|root)\b", final.get("USER", "root")):
        yield "Dockerfile: runs as root"
    for word, wanted in (("VOLUME", "/data"), ("EXPOSE", "7070"), ("ENTRYPOINT", '["orlop"]')):
        if final.get(word) != wanted:
            yield f"Dockerfile: {word} is {final.get(word)}, not {wanted}"
    if 'CMD ["orlop", "health"]' not in final.get("HEALTHCHECK", ""):
        yield "Dockerfile: the health check does not ask orlop"
    if "INSECURE" in final.get("ENV", ""):
        yield "Dockerfile: plain HTTP must be asked for by whoever runs the image"


def check_ignore(text):
    kept = {line[1:] for line in text.splitlines() if line.startswith("!")}
    for needed in ("Cargo.toml", "Cargo.lock", "server", "web", "migrations", "openapi.yaml"):
        if needed not in kept:
            yield f".dockerignore: keeps {needed} from the build"


def check_compose(project):
    services, volumes = project["services"], project["volumes"]
    if set(services) != {"orlop", "postgres"}:
        yield f"docker-compose.yml: services are {sorted(services)}"
        return
    for name, service in services.items():
        where = f"docker-compose.yml: {name}"
        if not service.get("healthcheck", {}).get("test"):
            yield f"{where} has no health check"
        if not is_pinned(service["image"]):
            yield f"{where} names no version of {service['image']}"
        if not any(mount["type"] == "volume" and mount["source"] in volumes for mount in service.get("volumes", [])):
            yield f"{where} keeps nothing in a named volume"
        if service.get("privileged"):
            yield f"{where} is privileged"
        for port in service.get("ports", []):
            if port.get("host_ip") != "127.0.0.1":
                yield f"{where} is published beyond this machine"

    orlop, postgres = services["orlop"], services["postgres"]
    if orlop["depends_on"].get("postgres", {}).get("condition") != "service_healthy":
        yield "docker-compose.yml: orlop does not wait for Postgres"
    if postgres.get("ports") or any(not project["networks"][n].get("internal") for n in postgres["networks"]):
        yield "docker-compose.yml: Postgres is reachable from outside its network"
    if postgres["environment"]["POSTGRES_PASSWORD"] not in orlop["environment"]["ORLOP_DATABASE_URL"]:
        yield "docker-compose.yml: orlop and Postgres disagree about the password"
    if not postgres["image"].startswith("postgres:17"):
        yield "docker-compose.yml: Postgres 17 is what we document"
    if not orlop.get("read_only") or orlop.get("cap_drop") != ["ALL"]:
        yield "docker-compose.yml: orlop needs neither a writable root nor capabilities"


def is_pinned(image):
    name, _, tag = image.rpartition("/")[2].partition(":")
    return bool(tag) and tag != "latest"


if __name__ == "__main__":
    main()
