"""Compares functions/embed and functions/chat with the same models computed by numpy in f32 on the CPU, over OpenAI's client:
check.py URL KEY MODELS [--sentences N] [--positions N] [--texts N] [--tokens N]. Needs numpy, gguf, tokenizers and openai."""
import argparse
import json
import math
import pathlib
import struct

import gguf
import numpy as np
import openai
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).parent
PROMPTS = [
    "What is the capital of France?", "Write one sentence about birds.", "How do I boil an egg?", "Name three colours.",
    "What is 2 + 2?", "Who wrote Hamlet?", "Explain gravity to a child.", "Give me a recipe for pancakes.",
    "What do bees do?", "Translate 'good morning' to French.", "Why is the sky blue?", "List the planets.",
    "What is a computer?", "Tell me a short story about a fox.", "How many days has a year?", "What is the opposite of hot?",
    "Describe the sea.", "What is music?", "How do plants grow?", "Write a haiku about winter.",
]


class Bert:
    """BERT with mean pooling, as sentence-transformers runs it."""

    def __init__(self, path):
        data = path.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        self.weights = {}
        for name, entry in json.loads(data[8:8 + length]).items():
            if entry.get("dtype") == "F32":
                start, end = entry["data_offsets"]
                flat = np.frombuffer(data, np.float32, (end - start) // 4, 8 + length + start)
                self.weights[name] = flat.reshape(entry["shape"])

    def dense(self, x, name):
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def norm(self, x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12)
        return x * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def embed(self, ids):
        w, n = self.weights, len(ids)
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x + w["embeddings.position_embeddings.weight"][:n], "embeddings.LayerNorm")
        erf = np.vectorize(math.erf)
        for layer in range(6):
            at = f"encoder.layer.{layer}."
            q, k, v = (self.dense(x, f"{at}attention.self.{part}").reshape(n, 12, 32).transpose(1, 0, 2)
                       for part in ("query", "key", "value"))
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(32)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            found = (scores / scores.sum(-1, keepdims=True)) @ v
            found = found.transpose(1, 0, 2).reshape(n, 384)
            x = self.norm(x + self.dense(found, at + "attention.output.dense"), at + "attention.output.LayerNorm")
            middle = self.dense(x, at + "intermediate.dense")
            middle = 0.5 * middle * (1 + erf(middle / math.sqrt(2))).astype(np.float32)
            x = self.norm(x + self.dense(middle, at + "output.dense"), at + "output.LayerNorm")
        mean = x.mean(0)
        return mean / np.linalg.norm(mean)


class Llama:
    """Llama with the dequantised weights of a GGUF file. It keeps all keys and values since `begin`."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.weights = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
        self.tokens = reader.fields["tokenizer.ggml.tokens"].contents()
        self.begin()

    def begin(self):
        self.keys, self.values = [None] * 30, [None] * 30

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * self.weights[name]

    def rotate(self, x, first):
        n, heads, _ = x.shape
        pairs = np.arange(32)
        angles = (first + np.arange(n))[:, None] * 100000.0 ** (-2.0 * pairs / 64)
        cos, sin = (np.float32(f(angles))[:, None, :] for f in (np.cos, np.sin))
        a, b = x[..., 0::2], x[..., 1::2]
        return np.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(n, heads, 64)

    def read(self, ids):
        w, n = self.weights, len(ids)
        first = 0 if self.keys[0] is None else len(self.keys[0])
        x = w["token_embd.weight"][ids]
        for layer in range(30):
            at = f"blk.{layer}."
            h = self.norm(x, at + "attn_norm.weight")
            q = self.rotate((h @ w[at + "attn_q.weight"].T).reshape(n, 9, 64), first)
            k = self.rotate((h @ w[at + "attn_k.weight"].T).reshape(n, 3, 64), first)
            v = (h @ w[at + "attn_v.weight"].T).reshape(n, 3, 64)
            if first:
                k, v = np.concatenate([self.keys[layer], k]), np.concatenate([self.values[layer], v])
            self.keys[layer], self.values[layer] = k, v
            k, v = (np.repeat(part, 3, 1).transpose(1, 0, 2) for part in (k, v))
            scores = q.transpose(1, 0, 2) @ k.transpose(0, 2, 1) / 8
            scores = np.where(np.arange(first + n)[None, None, :] > first + np.arange(n)[None, :, None], -np.inf, scores)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            found = (scores / scores.sum(-1, keepdims=True)) @ v
            x = x + found.transpose(1, 0, 2).reshape(n, 576) @ w[at + "attn_output.weight"].T
            h = self.norm(x, at + "ffn_norm.weight")
            gate = h @ w[at + "ffn_gate.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w[at + "ffn_up.weight"].T)) @ w[at + "ffn_down.weight"].T
        return self.norm(x, "output_norm.weight") @ w["token_embd.weight"].T


def letters():
    """Returns the byte for which each letter of a byte-level vocabulary stands."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def embeddings(client, models):
    tokenizer = Tokenizer.from_file(str(models / "all-minilm-l6-v2-tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    sentences = (HERE / "sentences.txt").read_text().splitlines()
    sentences = sentences[:ARGUMENTS.sentences] + [" ".join(sentences)]
    reference = Bert(models / "all-minilm-l6-v2.safetensors")
    answer = client.embeddings.create(model="embed", input=sentences)
    ids = [tokenizer.encode(sentence).ids for sentence in sentences]
    assert max(map(len, ids)) == 256 and answer.usage.prompt_tokens == sum(map(len, ids))
    cosines = [float(reference.embed(own) @ np.array(found.embedding)) for own, found in zip(ids, answer.data)]
    print(f"embeddings: {len(cosines)} sentences, least cosine {min(cosines):.7f}")
    assert min(cosines) >= 0.9999


def chat(client, models, positions, texts, tokens):
    model = Llama(models / "smollm2-135m-instruct-q4_1.gguf")
    of_letters = letters()
    ids = encode(model, (HERE / "sentences.txt").read_text() * 2)[:positions + 1]
    answer = client.completions.create(model="chat", prompt=ids, max_tokens=1, logprobs=1, echo=True, temperature=0)
    assert answer.usage.prompt_tokens == len(ids)
    told = answer.choices[0].logprobs
    logits = model.read(ids[:-1])
    as_text = [bytes(of_letters.get(letter, 0) for letter in token).decode(errors="replace") for token in model.tokens]
    same = [as_text[row.argmax()] in top for row, top in zip(logits, told.top_logprobs[1:len(ids)])]
    print(f"chat: likeliest token the same at {sum(same)} of {len(same)} positions")
    assert len(same) == positions and sum(same) >= 0.995 * len(same)

    equal = 0
    for prompt in PROMPTS[:texts]:
        answer = client.chat.completions.create(model="chat", messages=[{"role": "user", "content": prompt}], temperature=0,
                                                max_tokens=tokens, logprobs=True, top_logprobs=2)
        found = [entry.token for entry in answer.choices[0].logprobs.content]
        asked = template(model, prompt)
        assert len(asked) == answer.usage.prompt_tokens, (len(asked), answer.usage.prompt_tokens)
        model.begin()
        logits = model.read(asked)[-1]
        for token in found:
            best = np.argsort(logits)[-2:][::-1]
            if as_text[best[0]] != token:
                margin = logits[best[0]] - logits[best[1]]
                assert margin <= 0.02, f"{prompt!r}: {as_text[best[0]]!r} by {margin}, not {token!r}"
                break
            logits = model.read([best[0]])[-1]
        else:
            equal += 1
    print(f"chat: {equal} of {texts} answers the same, the others only where two tokens are as likely")


def counts(client):
    """Checks that prompts have as many tokens as llama.cpp finds. `yardsticks.py counts` printed token-counts.txt, with
    version 0.3.36."""
    expected = [int(count) for count in (HERE / "token-counts.txt").read_text().split()]
    sentences = (HERE / "sentences.txt").read_text().splitlines()
    found = [client.completions.create(model="chat", prompt=text, max_tokens=0).usage.prompt_tokens for text in sentences]
    assert len(found) == len(expected) and found == expected, [(text, *pair) for text, *pair in zip(sentences, found, expected)]
    print(f"chat: {len(found)} prompts with as many tokens as llama.cpp finds")


def encode(model, text):
    if not hasattr(model, "tokenizer"):
        from tokenizers import AddedToken, models as kinds, pre_tokenizers
        reader = gguf.GGUFReader(next(pathlib.Path(ARGUMENTS.models).glob("*.gguf")))
        merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
        model.tokenizer = Tokenizer(kinds.BPE({token: n for n, token in enumerate(model.tokens)}, merges))
        model.tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
        model.tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in model.tokens[:17]])
    return model.tokenizer.encode(text, add_special_tokens=False).ids


def template(model, prompt):
    return encode(model, "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                         f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")


def main():
    client = openai.OpenAI(base_url=ARGUMENTS.url.rstrip("/") + "/openai/v1", api_key=ARGUMENTS.key, timeout=1800)
    models = pathlib.Path(ARGUMENTS.models)
    embeddings(client, models)
    counts(client)
    chat(client, models, ARGUMENTS.positions, ARGUMENTS.texts, ARGUMENTS.tokens)


PARSER = argparse.ArgumentParser()
for name in ("url", "key", "models"):
    PARSER.add_argument(name)
for name, default in (("sentences", 100), ("positions", 1000), ("texts", 20), ("tokens", 64)):
    PARSER.add_argument(f"--{name}", type=int, default=default)
ARGUMENTS = PARSER.parse_args()
main()
