"""A Gannet function in Python that calls everything in `gannet:gpu` and reports what it saw, and uses key-value storage.

It responds with 200 and `{"ok": true, "doubled": [...], "gpu_ns": ..., "checks": [...]}`, or with 500
and the name of the check that failed. Assets and declared kernels are only checked when the query
names one from the manifest: `?asset=NAME` (an asset of at least 16 bytes) and `?kernel=NAME`.

A background job, which comes as a POST, tells its progress and responds with its id.
"""

import json
import struct
from urllib.parse import parse_qs, urlsplit

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import atomics, info, job, monotonic_clock, store

# `wasi:io` has an interface called `error` too, so componentize-py puts the package in the name.
from wit_world.imports import errors as error
from wit_world.imports.asset import Asset
from wit_world.imports.batch import (
    Batch,
    Grid,
    GridUpdate,
    InlineUpdate,
    OffsetUpdate,
    Update,
    Update_Grid,
    Update_Inline,
    Update_Offset,
    Update_Write,
    WriteUpdate,
)
from wit_world.imports.binding import (
    Binding,
    BufferRange,
    Source_Asset,
    Source_Buffer,
    Source_Inline,
)
from wit_world.imports.buffer import Buffer
from wit_world.imports.kernel import Constant, Kernel
from wit_world.imports.submission import Clock
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    Method_Post,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

# Two invocations per workgroup, so that four values need a grid of two and a grid update has an effect.
SCALE = """
struct Params { count: u32, add: u32, unused_a: u32, unused_b: u32 }

override factor: u32 = 1u;

@group(0) @binding(0) var<storage, read_write> values: array<u32>;
@group(0) @binding(1) var<uniform> params: Params;

@compute @workgroup_size(2)
fn scale(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < params.count) {
        values[id.x] = values[id.x] * factor + params.add;
    }
}
"""

FETCH = """
@group(0) @binding(0) var<storage, read_write> values: array<u32>;
@group(0) @binding(1) var<storage, read> table: array<u32>;

@compute @workgroup_size(4)
fn fetch(@builtin(global_invocation_id) id: vec3<u32>) {
    values[id.x] = table[id.x];
}
"""


class CheckFailed(Exception):
    """The message is the name of the check."""


class Checks:
    """The names of the checks that passed, in order."""

    def __init__(self) -> None:
        self.passed: list[str] = []

    def that(self, name: str, holds: bool, seen: object = None) -> None:
        if not holds:
            raise CheckFailed(name if seen is None else f"{name}: {seen!r}")
        self.passed.append(name)

    def refused(self, name: str, case: type, call) -> None:
        """Passes if `call` raises the error case `case`."""
        try:
            call()
        except Err as raised:
            self.that(name, isinstance(raised.value, case), raised.value)
        else:
            raise CheckFailed(f"{name}: nothing was raised")


def pack(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def unpack(data: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(data) // 4}I", data))


def run(checks: Checks, query: dict[str, list[str]]) -> dict:
    device = info.get()
    limits = device.limits
    checks.that("info.get", device.class_ != "" and limits.buffer_size_max > 0, device)
    checks.that("info.tuple", len(limits.workgroup_size_max) == 3)
    checks.that("info.features", isinstance(device.features.f16, bool))

    # The buffer has two blocks that can both be bound, so that an offset update has somewhere to go.
    block = max(limits.storage_binding_alignment, 16)
    with Buffer.create(2 * block) as work, Buffer.create(16) as out:
        checks.that("buffer.size", work.size() == 2 * block, work.size())
        work.write(block, pack(5, 6, 7, 8))
        checks.that("buffer.write+read", unpack(work.read(block, 16)) == [5, 6, 7, 8])
        checks.that("buffer.zeroed", unpack(work.read(0, 16)) == [0, 0, 0, 0])
        checks.refused("buffer.create-3", error.Error_InvalidArgument, lambda: Buffer.create(3))

        checks.refused("kernel.open-missing", error.Error_NotFound, lambda: Kernel.open("no-such", []))
        checks.refused(
            "kernel.syntax-error",
            error.Error_KernelRejected,
            lambda: Kernel.compile("fn scale( {", "scale", []),
        )
        checks.refused("asset.open-missing", error.Error_NotFound, lambda: Asset.open("no-such"))

        with Kernel.compile(SCALE, "scale", [Constant("factor", 2.0)]) as kernel, Batch() as batch:
            checks.that("kernel.compile", kernel.workgroup_size() == (2, 1, 1), kernel.workgroup_size())
            result = run_batch(checks, kernel, batch, work, out, block)

    run_services(checks)

    for name in query.get("kernel", []):
        with Kernel.open(name, []) as declared:
            checks.that("kernel.open", min(declared.workgroup_size()) >= 1)
    for name in query.get("asset", []):
        run_asset(checks, name)
    return result


def run_batch(checks: Checks, kernel: Kernel, batch: Batch, work: Buffer, out: Buffer, block: int) -> dict:
    values = Binding(0, 0, Source_Buffer(BufferRange(work, 0, block)))
    params = Binding(0, 1, Source_Inline(pack(4, 0, 0, 0)))
    checks.refused(
        "batch.dispatch-unbound",
        error.Error_InvalidArgument,
        lambda: batch.dispatch(kernel, [values], Grid(2, 1, 1)),
    )
    write = batch.write(work, 0, pack(1, 2, 3, 4))
    dispatch = batch.dispatch(kernel, [values, params], Grid(2, 1, 1))
    recorded = [
        write,
        dispatch,
        batch.copy(work, 0, out, 0, 16),
        batch.clear(work, 0, 16),
        batch.read(out, 0, 16),
        batch.read(work, 0, 16),
        batch.read(work, block, 16),
    ]
    checks.that("batch.indices", recorded == [0, 1, 2, 3, 4, 5, 6], recorded)

    with batch.submit([]) as submission:
        receipt = submission.wait()
        checks.that("submission.wait", receipt.clock in (Clock.GPU, Clock.WALL) and receipt.slices >= 1, receipt)
        checks.that("submission.wait-again", submission.wait() == receipt)
        reads = submission.take_reads()
        checks.that("submission.reads-are-bytes", all(type(read) is bytes for read in reads))
        first = [unpack(read) for read in reads]
        checks.that("batch.submit", first == [[2, 4, 6, 8], [0, 0, 0, 0], [5, 6, 7, 8]], first)
        checks.that("submission.take-reads-again", submission.take_reads() == [])

    # The kernel now works on the first two values of the second block only, and adds one. So the
    # copy of the first block has what the batch wrote.
    updates: list[Update] = [
        Update_Write(WriteUpdate(write, pack(10, 20, 30, 40))),
        Update_Inline(InlineUpdate(dispatch, 0, 1, pack(4, 1, 0, 0))),
        Update_Offset(OffsetUpdate(dispatch, 0, 0, block)),
        Update_Grid(GridUpdate(dispatch, Grid(1, 1, 1))),
    ]
    with batch.submit(updates) as submission:
        # The pollable is dropped before the submission that it came from.
        with submission.subscribe() as pollable:
            pollable.block()
            checks.that("submission.subscribe", pollable.ready())
        second = [unpack(read) for read in submission.take_reads()]
        checks.that("batch.submit-updates", second == [[10, 20, 30, 40], [0, 0, 0, 0], [11, 13, 7, 8]], second)

    with batch.submit([]) as submission:
        third = [unpack(read) for read in submission.take_reads()]
        checks.that("batch.updates-last", third == [[10, 20, 30, 40], [0, 0, 0, 0], [23, 27, 7, 8]], third)

    checks.refused(
        "batch.submit-no-such-command",
        error.Error_InvalidArgument,
        lambda: batch.submit([Update_Grid(GridUpdate(99, Grid(1, 1, 1)))]),
    )
    return {"doubled": first[0], "gpu_ns": receipt.gpu_ns}


def run_services(checks: Checks) -> None:
    with store.open("python") as bucket:
        bucket.set("key \u00e4", bytes(range(256)))
        checks.that("store.set+get", bucket.get("key \u00e4") == bytes(range(256)))
        before = atomics.increment(bucket, "number", 0)
        checks.that("atomics.increment", atomics.increment(bucket, "number", 2) == before + 2)
        checks.that("store.list-keys", sorted(bucket.list_keys(None).keys) == ["key \u00e4", "number"])
        bucket.delete("key \u00e4")
        checks.that("store.delete+exists", not bucket.exists("key \u00e4"))
        checks.that("store.get-missing", bucket.get("no such") is None)
    checks.refused("store.open-missing", store.Error_NoSuchStore, lambda: store.open("a/b"))
    checks.refused("job.progress-outside", job.Error_NotAJob, lambda: job.progress("1"))


def run_job() -> dict:
    job.progress(json.dumps({"percent": 50}))
    with monotonic_clock.subscribe_duration(2_000_000_000) as pause:
        pause.block()
    current = job.current()
    return {"job": current.id, "attempt": current.attempt}


def run_asset(checks: Checks, name: str) -> None:
    with (
        Asset.open(name) as asset,
        asset.view(0, 16) as view,
        Buffer.create(16) as out,
        Kernel.compile(FETCH, "fetch", []) as kernel,
        Batch() as batch,
    ):
        checks.that("asset.size", asset.size() >= 16)
        checks.that("view.size", view.size() == 16)
        # The buffer is bound without a size: up to its end.
        batch.dispatch(
            kernel,
            [Binding(0, 0, Source_Buffer(BufferRange(out, 0, None))), Binding(0, 1, Source_Asset(view))],
            Grid(1, 1, 1),
        )
        batch.read(out, 0, 16)
        with batch.submit([]) as submission:
            checks.that("asset.read+bind", submission.take_reads() == [asset.read(0, 16)])


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        query = parse_qs(urlsplit(request.path_with_query() or "/").query)
        checks = Checks()
        try:
            if isinstance(request.method(), Method_Post):
                respond(response_out, 200, json.dumps(run_job()).encode())
                return
            status, answer = 200, {"ok": True, **run(checks, query), "checks": checks.passed}
        except CheckFailed as failed:
            status, answer = 500, {"ok": False, "failed": str(failed), "checks": checks.passed}
        except Err as raised:
            status, answer = 500, {"ok": False, "failed": repr(raised.value), "checks": checks.passed}
        respond(response_out, status, json.dumps(answer).encode())


def respond(response_out: ResponseOutparam, status: int, content: bytes) -> None:
    response = OutgoingResponse(Fields.from_list([("content-type", b"application/json")]))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        # `blocking_write_and_flush` takes at most 4096 bytes.
        for start in range(0, len(content), 4096):
            stream.blocking_write_and_flush(content[start : start + 4096])
    OutgoingBody.finish(body, None)
