"""Checks the job API with Runpod's Python client, sync and async: clients.py BASE_URL KEY FUNCTION. BASE_URL ends in
/v2. FUNCTION gives {"said": x} for {"say": x}, streams {"n": 1} to {"n": n} for {"stream": n}, sleeps for
{"sleep_ms": n} and fails for {"fail": why}. Fewer than QUEUED of its jobs may run at once, and nobody else calls it."""
import asyncio
import faulthandler
import os
import sys
import time

BASE, KEY, FUNCTION = sys.argv[1].rstrip("/"), sys.argv[2], sys.argv[3]
os.environ["RUNPOD_ENDPOINT_BASE_URL"] = BASE  # read when the module is imported

import requests  # noqa: E402
import runpod  # noqa: E402
from runpod.http_client import AsyncClientSession  # noqa: E402

QUEUED = 8
# Some wrong answers make the client's loops endless.
LOOP_MAX_S, ALL_MAX_S = 30, 120
SLEEPER = {"input": {"sleep_ms": 60000}}
JOBS = {"completed", "failed", "inProgress", "inQueue", "retried"}
WORKERS = {"idle", "initializing", "ready", "running", "throttled", "unhealthy"}
endpoint = runpod.Endpoint(FUNCTION, api_key=KEY)


def ask(job):
    """Returns the whole status of a job, of which the client's methods give only parts."""
    return endpoint.rp_client.get(f"{FUNCTION}/status/{job.job_id}")


def until(job, wanted):
    """Waits until the server says `wanted` of a job."""
    end = time.monotonic() + LOOP_MAX_S
    while (state := ask(job)["status"]) != wanted:
        assert state in ("IN_QUEUE", "IN_PROGRESS") and time.monotonic() < end, (state, wanted)
        time.sleep(0.05)


def refused(code, call):
    """Checks that a call raises the client's error for an HTTP status."""
    try:
        answer = call()
    except requests.HTTPError as error:
        assert error.response.status_code == code, error
        return
    raise AssertionError(f"expected {code}, got {answer}")


def check_health(health, **least):
    assert set(health["jobs"]) >= JOBS and set(health["workers"]) >= WORKERS, health
    counts = {**health["jobs"], **health["workers"]}
    assert all(type(counts[name]) is int and counts[name] >= 0 for name in JOBS | WORKERS), health
    assert all(counts[name] >= least[name] for name in least), (health, least)


def check_purge(answer, jobs):
    """Checks that a purge cancelled what was queued, counted it, and left alone what ran. Cancels the rest."""
    states = [ask(job)["status"] for job in jobs]
    assert set(states) <= {"CANCELLED", "IN_PROGRESS"}, states
    assert answer == {"removed": states.count("CANCELLED"), "status": "completed"}, (answer, states)
    assert answer["removed"] > 0, f"all {QUEUED} jobs ran at once, so none was left to purge"
    for job, state in zip(jobs, states):
        if state == "IN_PROGRESS":
            endpoint.rp_client.post(f"{FUNCTION}/cancel/{job.job_id}", None)


def runs():
    assert endpoint.run_sync({"input": {"say": "x"}}) == {"said": "x"}
    # The client wraps an input that has no "input".
    assert endpoint.run_sync({"say": "é"}) == {"said": "é"}
    job = endpoint.run({"input": {"say": "y"}})
    assert job.output(timeout=LOOP_MAX_S) == {"said": "y"}
    assert job.status() == "COMPLETED"
    state = ask(job)
    assert (state["id"], state["status"], state["output"]) == (job.job_id, "COMPLETED", {"said": "y"}), state
    assert all(type(state[name]) is int and state[name] >= 0 for name in ("delayTime", "executionTime")), state
    assert state.get("error") is None, state
    print("python sync: run, run_sync, status, output")


def fails():
    # The client has no method that gives the error.
    assert endpoint.run_sync({"input": {"fail": "a reason"}}) is None
    job = endpoint.run({"input": {"fail": "a reason"}})
    assert job.output(timeout=LOOP_MAX_S) is None
    assert job.status() == "FAILED"
    assert "a reason" in ask(job)["error"], ask(job)
    print("python sync: a job that fails is FAILED and says why")


def streams():
    chunks = [{"n": 1}, {"n": 2}, {"n": 3}]
    job = endpoint.run({"input": {"stream": 3}})
    assert list(job.stream()) == chunks
    assert job.output(timeout=LOOP_MAX_S) == chunks and job.status() == "COMPLETED"
    # The stream of a job that failed ends too.
    assert list(endpoint.run({"input": {"fail": "a reason"}}).stream()) == []
    print("python sync: stream")


def cancels():
    job = endpoint.run(SLEEPER)
    until(job, "IN_PROGRESS")
    check_health(endpoint.health(), completed=1, failed=1, inProgress=1, running=1)
    for _ in range(2):
        answer = job.cancel()
        assert (answer["id"], answer["status"]) == (job.job_id, "CANCELLED"), answer
    assert job.status() == "CANCELLED"
    # The client does not know CANCELLED when it streams: only a 404 ends its loop.
    refused(404, lambda: list(job.stream()))
    assert ask(job)["status"] == "CANCELLED" and job.output() is None
    print("python sync: cancel, health, and a cancelled job's stream ends")


def purges():
    jobs = [endpoint.run(SLEEPER) for _ in range(QUEUED)]
    answer = endpoint.purge_queue()
    check_purge(answer, jobs)
    print(f"python sync: purge_queue, {answer['removed']} of {QUEUED} removed")


def wrong():
    refused(404, lambda: runpod.endpoint.Job(FUNCTION, "no-such-job", endpoint.rp_client).status())
    refused(404, lambda: runpod.Endpoint("no-such-function", api_key=KEY).run({"say": "x"}))
    try:
        runpod.Endpoint(FUNCTION, api_key="wrong").health()
        raise AssertionError("a wrong key was accepted")
    except RuntimeError as error:
        assert "401" in str(error), error
    print("python sync: an unknown job, an unknown function and a wrong key are refused")


async def listed(stream):
    return [chunk async for chunk in stream]


async def within(work):
    return await asyncio.wait_for(work, LOOP_MAX_S)


async def asynchronous():
    async with AsyncClientSession() as session:
        remote = runpod.AsyncioEndpoint(FUNCTION, session, api_key=KEY)
        # This client always wraps its input.
        job = await remote.run({"say": "x"})
        assert await job.output(timeout=LOOP_MAX_S) == {"said": "x"}
        assert await job.status() == "COMPLETED"
        print("python async: run, status, output")

        job = await remote.run({"fail": "a reason"})
        assert await job.output(timeout=LOOP_MAX_S) is None
        assert await job.status() == "FAILED"
        print("python async: a job that fails is FAILED")

        job = await remote.run({"stream": 3})
        assert await within(listed(job.stream())) == [{"n": 1}, {"n": 2}, {"n": 3}]
        assert await job.output(timeout=LOOP_MAX_S) == [{"n": 1}, {"n": 2}, {"n": 3}]
        print("python async: stream")

        job = await remote.run(SLEEPER["input"])
        answer = await job.cancel()
        assert (answer["id"], answer["status"]) == (job.job_id, "CANCELLED"), answer
        assert await job.status() == "CANCELLED"
        # This client ignores HTTP statuses. Its loop ends because the body of a 404 has no "status".
        try:
            raise AssertionError(f"the stream of a cancelled job gave {await within(listed(job.stream()))}")
        except KeyError as error:
            assert error.args == ("status",), error
        assert ask(job)["status"] == "CANCELLED"
        check_health(await remote.health())
        print("python async: cancel, health, and a cancelled job's stream ends")

        jobs = [await remote.run(SLEEPER["input"]) for _ in range(QUEUED)]
        answer = await remote.purge_queue()
        check_purge(answer, jobs)
        print(f"python async: purge_queue, {answer['removed']} of {QUEUED} removed")


sys.stdout.reconfigure(line_buffering=True)
faulthandler.dump_traceback_later(ALL_MAX_S, exit=True)
runs()
fails()
streams()
cancels()
purges()
wrong()
asyncio.run(asynchronous())
faulthandler.cancel_dump_traceback_later()
