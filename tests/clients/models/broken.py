"""Deploys broken weights through the real binary: broken.py GANNET MODELS. `init` must refuse each at deploy with the
reason, and nothing may be left behind. The server and the key come from the environment, as for the CLI."""
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf

GANNET, MODELS = sys.argv[1], pathlib.Path(sys.argv[2])
ROOT = pathlib.Path(__file__).resolve().parents[3]
WHOLE = MODELS / "smollm2-135m-instruct-q4_1.gguf"


def cli(*arguments):
    return subprocess.run([GANNET, *map(str, arguments)], capture_output=True, text=True)


def told(field, value):
    """Returns the file's bytes with the end of a field replaced by `value`."""
    data = bytearray(WHOLE.read_bytes())
    end = field.offset + sum(part.nbytes for part in field.parts)
    data[end - len(value):end] = value
    return bytes(data)


def tensor(name, kind=None, offset=None):
    """Returns the file with another format or offset of a tensor. They are the last 12 bytes of its entry: 4 and 8."""
    reader = gguf.GGUFReader(WHOLE)
    field = next(t for t in reader.tensors if t.name == name).field
    data = bytearray(WHOLE.read_bytes())
    end = field.offset + sum(part.nbytes for part in field.parts)
    if kind is not None:
        data[end - 12:end - 8] = kind.to_bytes(4, "little")
    if offset is not None:
        data[end - 8:end] = offset.to_bytes(8, "little")
    return bytes(data)


def entry(name, value):
    """Returns the file with another value of a metadata entry, of the same length."""
    return told(gguf.GGUFReader(WHOLE).fields[name], value)


def cases():
    whole = WHOLE.read_bytes()
    yield "cut in its data", whole[:len(whole) // 2], "beyond the"
    yield "cut in its header", whole[:100_000], "not sound"
    yield "no GGUF", b"PK\3\4" + whole[4:1_000_000], "does not begin with GGUF"
    yield "an unknown format", tensor("token_embd.weight", kind=6), '"token_embd.weight" has the format 6'
    yield "another format", tensor("blk.7.attn_norm.weight", kind=1), "blk.7.attn_norm.weight: a tensor of F16"
    yield "a format without kernels", tensor("blk.3.ffn_up.weight", kind=2), "blk.3.ffn_up.weight: Q4_0; this function has kernels for"
    yield "a tensor out of range", tensor("blk.3.ffn_up.weight", offset=1 << 40), '"blk.3.ffn_up.weight"'
    yield "no heads", entry("llama.attention.head_count", bytes(4)), "llama.attention.head_count"
    yield "heads that are not the rotations'", entry("llama.embedding_length", (1152).to_bytes(4, "little")), "heads of this function have 128"
    yield "a width that is not the tensors'", entry("llama.feed_forward_length", (3072).to_bytes(4, "little")), "should be"


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    artifact = json.dumps(str(ROOT / "functions/prebuilt/chat.wasm"))
    for what, data, part in cases():
        (folder / "weights.gguf").write_bytes(data)
        put = cli("asset", "put", "broken", folder / "weights.gguf")
        assert put.returncode == 0, put.stderr
        (folder / "gannet.toml").write_text(
            f'name = "broken"\n[build]\nartifact = {artifact}\nsnapshot = true\n[limits]\nmemory_mib = 64\n[assets]\nweights = "broken"\n')
        deployed = cli("deploy", folder, "--no-build")
        assert deployed.returncode != 0 and part in deployed.stderr, (what, part, deployed.stdout, deployed.stderr)
        print(f"{what}: {deployed.stderr.strip().splitlines()[0]}")
    assert "broken" not in cli("list").stdout
    assert cli("asset", "delete", "broken").returncode == 0
print("broken weights: refused at deploy, with the reason")
