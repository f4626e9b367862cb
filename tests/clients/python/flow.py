"""What a Python client generated from the contract does against a live server.

    python flow.py BASE_URL PULL_REF

Ingests a blob in two chunks with a wrong offset between them, commits it, reads a range of it,
and pulls PULL_REF. Exits non-zero, with the answer that was not expected, at the first surprise.
"""

import hashlib
import sys
import uuid
from datetime import datetime
from io import BytesIO

import httpx
from orlop_client import Client
from orlop_client.api.content import read_content
from orlop_client.api.ingests import append_ingest, commit_ingest, open_ingest, stat_ingest
from orlop_client.api.pulls import create_pull, get_pull
from orlop_client.models import (
    Content,
    IngestCommit,
    IngestOpen,
    IngestOpened,
    Problem,
    Pull,
    PullCreate,
)
from orlop_client.types import File, Response

# Long enough for `wait`, which the server itself ends after 30 seconds.
TIMEOUT_SECONDS = 60.0
# With `wait` of 30 seconds each: ten minutes for a pull.
MOST_WAITS = 20


def expect(answer: Response, status: int, kind: type | None = None):
    """The parsed body of `answer`, which must have this status and be of this kind."""
    if answer.status_code != status or (kind is not None and not isinstance(answer.parsed, kind)):
        sys.exit(f"expected {status}, got {answer.status_code}: {answer.content[:2000]!r}")
    return answer.parsed


def chunk(data: bytes) -> File:
    return File(payload=BytesIO(data))


def ingest_in_two_chunks(client: Client) -> Content:
    # New bytes each time, so that the store cannot have them from an earlier run.
    data = f"written by Python {uuid.uuid4()}".encode()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    first, second = data[:10], data[10:]

    opened = expect(
        open_ingest.sync_detailed(
            client=client,
            body=IngestOpen(ref=f"python-{uuid.uuid4()}", total=len(data), expected_digest=digest),
        ),
        201,
        IngestOpened,
    )
    assert opened.offset == 0 and isinstance(opened.started_at, datetime), opened

    def append(offset: int, part: bytes) -> Response:
        return append_ingest.sync_detailed(
            opened.id, client=client, body=chunk(part), upload_offset=offset
        )

    answer = append(0, first)
    expect(answer, 204)
    assert answer.headers["Upload-Offset"] == "10", answer.headers

    answer = append(7, second)
    problem = expect(answer, 409, Problem)
    assert problem.code == "offset-mismatch", problem
    assert problem.offset == 10 and answer.headers["Upload-Offset"] == "10", problem

    standing = stat_ingest.sync_detailed(opened.id, client=client)
    expect(standing, 200)
    assert standing.headers["Upload-Offset"] == "10", standing.headers

    expect(append(problem.offset, second), 204)
    content = expect(
        commit_ingest.sync_detailed(
            opened.id, client=client, body=IngestCommit(expected_digest=digest, total=len(data))
        ),
        201,
        Content,
    )
    assert content.digest == digest and content.size == len(data), content

    part = expect(
        read_content.sync_detailed(digest, client=client, range_="bytes=7-20"), 206, File
    )
    assert part.payload.read() == data[7:21]
    return content


def pull_and_wait(client: Client, reference: str) -> Pull:
    answer = create_pull.sync_detailed(client=client, body=PullCreate(ref=reference))
    if answer.status_code not in (200, 202) or not isinstance(answer.parsed, Pull):
        sys.exit(f"expected 200 or 202, got {answer.status_code}: {answer.content[:2000]!r}")
    pull = answer.parsed
    for _ in range(MOST_WAITS):
        if pull.state in ("succeeded", "failed", "cancelled"):
            break
        pull = expect(get_pull.sync_detailed(pull.id, client=client, wait="30s"), 200, Pull)
    assert pull.state == "succeeded", pull
    assert pull.progress.bytes_done == pull.progress.bytes_total, pull.progress
    return pull


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: flow.py BASE_URL PULL_REF")
    base_url, reference = sys.argv[1].rstrip("/"), sys.argv[2]
    with Client(base_url=base_url, timeout=httpx.Timeout(TIMEOUT_SECONDS)) as client:
        content = ingest_in_two_chunks(client)
        print(f"python: ingested {content.digest}")
        pull = pull_and_wait(client, reference)
        print(f"python: pulled {pull.target.digest}")


if __name__ == "__main__":
    main()
