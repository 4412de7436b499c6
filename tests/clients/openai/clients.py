"""Checks functions/chat and functions/embed with OpenAI's Python client, sync and async: clients.py URL KEY. It covers
ordinary use, chats that share the weights, a client that disconnects and invalid input. Then it opens many streams at
once, of which half disconnect, and checks that memory does not grow."""
import asyncio
import base64
import http.client
import json
import pathlib
import statistics
import struct
import sys
import time
import urllib.error
import urllib.request

import openai

URL, KEY = sys.argv[1].rstrip("/"), sys.argv[2]
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
BASE = URL + "/openai/v1"


def post(path, body, headers=None):
    """Sends a POST request. Returns the status, the JSON body and the headers, also of an error."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}", **(headers or {})}
    try:
        with urllib.request.urlopen(urllib.request.Request(BASE + path, data, headers), timeout=300) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


def ordinary():
    client = openai.OpenAI(base_url=BASE, api_key=KEY, timeout=300)
    assert sorted(model.id for model in client.models.list()) == ["chat", "embed"]
    ask = dict(model="chat", messages=MESSAGES, temperature=0, max_tokens=8)
    whole = client.chat.completions.create(**ask)
    text = whole.choices[0].message.content
    assert text.startswith("The capital of France is Paris"), text
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    stopped = client.chat.completions.create(**{**ask, "stop": [" France"]}).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("The capital of", "stop"), stopped
    # The same seed makes the same choices. Of several other seeds at least one makes different choices.
    drawn = [client.completions.create(model="chat", prompt="Once", max_tokens=6, temperature=1.5, seed=seed).choices[0].text
             for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1, drawn
    # Base64, which the client asks for by default, and numbers give the same values.
    found = client.embeddings.create(model="embed", input="a bird").data[0].embedding
    _, plain, _ = post("/embeddings", {"model": "embed", "input": "a bird", "encoding_format": "float"})
    _, packed, _ = post("/embeddings", {"model": "embed", "input": "a bird", "encoding_format": "base64"})
    values = struct.unpack("<384f", base64.b64decode(packed["data"][0]["embedding"]))
    assert max(abs(a - b) for a, b in zip(found, values)) < 1e-6
    assert max(abs(a - b) for a, b in zip(found, plain["data"][0]["embedding"])) < 1e-6
    both = client.embeddings.create(model="embed", input=["a bird", "un oiseau"])
    assert max(abs(a - b) for a, b in zip(both.data[0].embedding, found)) < 1e-5, "a text has the same embedding in a batch"


async def several(count):
    """Runs `count` chats at once. Returns the highest memory use of all processes together, and the receipts."""
    async with openai.AsyncOpenAI(base_url=BASE, api_key=KEY, timeout=300) as client:
        most, over = 0, False

        async def watch():
            nonlocal most
            while not over:
                most = max(most, memory())
                await asyncio.sleep(0.02)

        async def one():
            ask = dict(model="chat", messages=MESSAGES, temperature=0, max_tokens=4, stream=True)
            raw = await client.chat.completions.with_raw_response.create(**ask)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in raw.parse() if chunk.choices])
            assert text == "The capital of France", text
            return raw.headers["x-request-id"]

        watching = asyncio.create_task(watch())
        ids = await asyncio.gather(*(one() for _ in range(count)))
        over = True
        await watching
        return most, [receipt(id) for id in ids]


def shared():
    """Checks that ten chats share one copy of the weights: nine more add their own memory, far less than nine copies."""
    one, _ = asyncio.run(several(1))
    ten, receipts = asyncio.run(several(10))
    grown, peaks = (ten - one) / 2**20, [receipt["gpu_memory_peak_bytes"] / 2**20 for receipt in receipts]
    print(f"ten chats at once: {grown:.0f} MiB more than one; {max(peaks):.1f} MiB of GPU memory each beside the weights' 94 MiB")
    # Nine instances have at most 64 MiB each, plus their memory on the GPU. Another copy of the weights would take 94
    # MiB each.
    assert max(peaks) < 16 and grown < 9 * 64, (grown, peaks)
    assert all(receipt["assets_us"] == 0 for receipt in receipts), "the weights were on the gpu already"


def receipt(id):
    """Waits until a request has ended, and returns its receipt."""
    until = time.monotonic() + 120
    while True:
        ask = urllib.request.Request(f"{URL}/api/v1/requests/{id}", headers={"authorization": f"Bearer {KEY}"})
        try:
            return json.load(urllib.request.urlopen(ask))
        except urllib.error.HTTPError as error:
            assert error.code == 404 and time.monotonic() < until, error
        time.sleep(0.05)


def stream_of(tokens, leave_after):
    """Asks for `tokens` tokens, disconnects after `leave_after` pieces of text, and returns the receipt."""
    body = json.dumps({"model": "chat", "messages": MESSAGES, "temperature": 0, "max_tokens": tokens, "stream": True})
    connection = http.client.HTTPConnection(URL.removeprefix("http://"))
    connection.request("POST", "/openai/v1/chat/completions", body, {"content-type": "application/json", "authorization": f"Bearer {KEY}"})
    answer = connection.getresponse()
    pieces = 0
    while pieces < leave_after and (line := answer.readline()):
        pieces += line.startswith(b"data: {") and bool(json.loads(line[6:])["choices"][0]["delta"].get("content"))
    id = answer.headers["x-request-id"]
    answer.close()
    connection.close()
    return receipt(id)


def leaves():
    """Checks that a client that disconnects stops the generation within one token, and pays for what was done. A token
    is a submission to the GPU, so slices count tokens. GPU time would too, but for a software driver it is processor
    time, which varies by more than a token."""
    told = []
    for _ in range(3):
        two, six = (stream_of(tokens, 1000) for tokens in (2, 6))
        token = (six["slices"] - two["slices"]) / 4
        assert token >= 0.5, (two["slices"], six["slices"])
        left = stream_of(500, 2)
        assert left["error"] == "client_closed" and left["gpu_ms"] > 0, left
        told.append(2 + (left["slices"] - two["slices"]) / token)
    tokens = statistics.median(told)
    print(f"a client that left after 2 of 500 tokens pays for {tokens:.1f}, {left['gpu_ms']} ms, as a fault of the {left['fault']}")
    # One token may be in progress when the client disconnects, and one more may begin before the server notices. A
    # prompt may take a slice more or less.
    assert 1 <= tokens < 5, told


def wrong():
    chat = {"model": "chat", "messages": MESSAGES}
    long = [{"role": "user", "content": "word " * 9000}]
    for path, body, status, param, part in [
        ("/chat/completions", {**chat, "n": 2}, 400, "n", "one answer"),
        ("/chat/completions", {**chat, "tools": [{}]}, 400, "tools", "calls none"),
        ("/chat/completions", {**chat, "temperature": 3}, 400, "temperature", "0 to 2"),
        ("/chat/completions", {**chat, "response_format": {"type": "json_object"}}, 400, "response_format", "text"),
        ("/chat/completions", {**chat, "logit_bias": {"1": 1}}, 400, "logit_bias", ""),
        ("/chat/completions", {**chat, "messages": []}, 400, "messages", "empty"),
        ("/chat/completions", {**chat, "messages": [{"role": "cat", "content": "meow"}]}, 400, "messages[0].role", "cat"),
        ("/chat/completions", {**chat, "messages": long}, 400, "messages", "8192"),
        ("/chat/completions", {**chat, "max_tokens": 9000}, 400, "messages", "8192"),
        ("/chat/completions", {**chat, "max_tokens": 0}, 400, "max_tokens", "1 to"),
        ("/chat/completions", {**chat, "messages": [{"role": "user", "content": "\u6f22" * 150_000}]}, 400, "messages", "8192"),
        *(("/completions", {"model": "chat", "prompt": "word " * 9000, "max_tokens": 0, **more}, 400, "prompt", "8192")
          for more in ({}, {"stream": True}, {"echo": True, "logprobs": 1})),
        ("/embeddings", {"model": "embed", "input": "\u00e9" * 150_000}, 400, "input", "256 tokens"),
        ("/completions", {"model": "chat", "prompt": [49152]}, 400, "prompt", "49152"),
        ("/completions", {"model": "chat", "prompt": []}, 400, "prompt", ""),
        ("/completions", {"model": "chat", "prompt": "x", "best_of": 2}, 400, "best_of", ""),
        ("/embeddings", {"model": "embed", "input": []}, 400, "input", ""),
        ("/embeddings", {"model": "embed", "input": "x", "dimensions": 5}, 400, "dimensions", "384"),
        ("/embeddings", {"model": "embed", "input": [[30522]]}, 400, "input", "30522"),
        ("/embeddings", {"model": "embed", "input": [1] * 300}, 400, "input", "256"),
        ("/embeddings", {"model": "none", "input": "x"}, 404, "model", "none"),
        ("/images/generations", {"model": "chat"}, 404, None, ""),
    ]:
        found, answer, _ = post(path, body)
        error = answer["error"]
        assert (found, error["param"]) == (status, param) and part in error["message"], (path, body if len(str(body)) < 200 else "long", found, answer)
    for raw in (b'{"model": "chat", "messages": [{"role": "user", "content": "\xff\xfe"}]}', b"{", b"[]", b"\xff" * 100):
        found, answer, _ = post("/chat/completions", raw)
        assert found == 400 and answer["error"]["message"], answer
        found, answer, _ = post("", b"")
        assert found in (400, 404), answer
    # With max_tokens = 0 the prompt need not be run through the model.
    found, answer, _ = post("/completions", {"model": "chat", "prompt": "word", "max_tokens": 0})
    assert found == 200 and answer["usage"]["completion_tokens"] == 0, answer
    # Text after the last token that is read does not matter, however long it is.
    head = "a bird and a fish " * 100
    [first, second] = [post("/embeddings", {"model": "embed", "input": head + "zebra " * more})[1] for more in (0, 150_000)]
    assert first["data"] == second["data"] and first["usage"]["prompt_tokens"] == 256
    # With a path that names the function, the function itself checks the body.
    found, answer, _ = post("/../../v2/chat/openai/v1/chat/completions", b"\xff")
    assert found == 400, answer


def memory():
    """Returns the anonymous bytes of all workers and the front door together. Pages of files are left out: all
    instances share the pages of their first image, and the kernel counts such a page once for each instance."""
    total = 0
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"gannet") and words[1] in (b"__worker", b"serve"):
                status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
                total += int(status["RssAnon"].split()[0]) << 10
        except (OSError, KeyError):
            pass
    return total


async def crowd(count):
    """Starts `count` streams at once. Every second one disconnects, half of these before their first event."""
    host, port = URL.removeprefix("http://").split(":")
    body = json.dumps({"model": "chat", "prompt": "Hi", "max_tokens": 3, "stream": True}).encode()
    head = (f"POST /openai/v1/completions HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {KEY}\r\n"
            f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n").encode()

    async def one(n):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + body)
        await writer.drain()
        if n % 4 == 1:
            writer.close()
            return "left"
        answer = b""
        while part := await reader.read(65536):
            answer += part
            if n % 4 == 3 and b"data: " in answer:
                writer.close()
                return "left"
        writer.close()
        status = int(answer.split(b" ", 2)[1])
        if status == 200 and b"data: [DONE]" in answer:
            return "done"
        assert b'"error"' in answer and (status in (200, 429, 503)), answer
        return "refused"

    answers = await asyncio.gather(*(one(n) for n in range(count)))
    return {kind: answers.count(kind) for kind in sorted(set(answers))}


def receipts_settle():
    """Waits until no request is in flight any more."""
    limits = urllib.request.Request(URL + "/api/v1/limits", headers={"authorization": f"Bearer {KEY}"})
    until = time.monotonic() + 120
    while json.load(urllib.request.urlopen(limits))["used"]["concurrency"] > 0:
        assert time.monotonic() < until, "requests are still in flight"
        time.sleep(0.1)


ordinary()
print("python openai: sync, stream, stop, seed, base64")
shared()
leaves()
wrong()
print("invalid input: refused, and the error names it")
# Allocators and the slots of instances keep the memory that a crowd needed, and a later crowd may need more of them at
# once. That ends after some crowds. A leak does not end: 100 KiB lost in each request are 10 MiB in every crowd.
CROWDS, GROWN_MAX = 8, 4 << 20
grown = []
while not grown or (grown[-1] >= GROWN_MAX and len(grown) < CROWDS):
    before = memory()
    counts = asyncio.run(crowd(200))
    receipts_settle()
    grown.append(memory() - before)
    print(f"200 streams, of which half disconnect: {counts}; anonymous memory {grown[-1] / 2**20:+.1f} MiB of {before / 2**20:.0f}")
    assert counts.get("done", 0) > 0, counts
assert grown[-1] < GROWN_MAX, f"memory grew in each of {CROWDS} crowds: {grown}"
ordinary()
print("afterwards everything works as before")
