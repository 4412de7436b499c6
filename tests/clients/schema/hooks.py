"""Tells schemathesis how to generate and serialize bodies of type application/wasm."""

from pathlib import Path

import schemathesis
from hypothesis import strategies as st

HELLO = Path(__file__).parents[3].joinpath("functions", "prebuilt", "hello.wasm").read_bytes()

# A valid component, a core module, and text behind a component's magic bytes.
schemathesis.openapi.media_type(
    "application/wasm", st.sampled_from([HELLO, b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0nonsense"])
)


@schemathesis.serializer("application/wasm")
def wasm(ctx, value):
    return value if isinstance(value, bytes) else str(value).encode()
