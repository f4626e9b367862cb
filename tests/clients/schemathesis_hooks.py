"""What schemathesis cannot know by itself about the contract."""

from urllib.parse import urlencode

import schemathesis

# Answers that the connection itself gives, which the contract leaves to `default`.
OF_THE_PROTOCOL = {405, 408, 414, 431}

# No server reads a target of 64 KiB (the limit of the URI type), nor does ours read much more in all.
LONGEST_READ = 60_000


@schemathesis.serializer(
    "application/partial-upload", "application/x-tar", "application/gzip", "application/zstd"
)
def serialize_bytes(ctx, value):
    """Bytes travel as they are."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def filter_case(context, case):
    """A head beyond what can be read at all is answered by a status alone: that is tested elsewhere. So is the plan of a
    pull, which asks registries of the Internet."""
    written = urlencode(case.query or {}, doseq=True) + str(case.headers or "")
    query = case.query or {}
    plans = case.operation.path == "/api/v1/pulls" and case.method == "POST" and str(query.get("dry_run")).lower() == "true"
    return len(written) < LONGEST_READ and not plans


@schemathesis.check
def status_is_listed(ctx, response, case):
    """`default` would let any status pass; only those of the protocol may use it."""
    listed = case.operation.definition.raw["responses"]
    if str(response.status_code) not in listed and response.status_code not in OF_THE_PROTOCOL:
        raise AssertionError(f"{response.status_code} is not listed for this operation")
