"""What schemathesis cannot know by itself about the contract."""

import schemathesis

# Answers that the connection itself gives, which the contract leaves to `default`.
OF_THE_PROTOCOL = {405, 408, 414, 431}


@schemathesis.serializer("application/partial-upload")
def serialize_chunk(ctx, value):
    """Bytes of an upload travel as they are."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.check
def status_is_listed(ctx, response, case):
    """`default` would let any status pass; only those of the protocol may use it."""
    listed = case.operation.definition.raw["responses"]
    if str(response.status_code) not in listed and response.status_code not in OF_THE_PROTOCOL:
        raise AssertionError(f"{response.status_code} is not listed for this operation")
