"""What a user would otherwise run, measured beside Bulkhead in the same run.

Reads one JSON request a line and answers one JSON line: PyTorch through sentence-transformers for
embeddings, llama.cpp through llama-cpp-python for generation, both with the number of threads that
Bulkhead's engine gets. Times are of the library's own work, from text in to result out; loading and one
warm-up are never in them. Nothing is fetched: models are read from the folders that it is given.

    python peer.py THREADS
"""

import ctypes
import json
import os
import sys
import time

THREADS = int(sys.argv[1])
os.environ["OMP_NUM_THREADS"] = str(THREADS)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


class Embeddings:
    """sentence-transformers over PyTorch."""

    def __init__(self, folder):
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(THREADS)
        self.name = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
        self.model = SentenceTransformer(folder, device="cpu")
        # As the model's card has it, and as Bulkhead reads it.
        self.model.max_seq_length = 256

    def embed(self, texts, batch):
        started = time.perf_counter()
        vectors = self.model.encode(texts, batch_size=batch, show_progress_bar=False)
        taken = time.perf_counter() - started
        assert len(vectors) == len(texts)
        return {"seconds": taken}


class Generation:
    """llama.cpp, by its C interface: the high-level one cannot run sequences side by side."""

    def __init__(self, file, sequences, context):
        import llama_cpp as lib

        self.lib = lib
        self.name = f"llama.cpp (llama-cpp-python {lib.__version__}), {THREADS} threads"
        lib.llama_backend_init()
        model = lib.llama_model_default_params()
        model.n_gpu_layers = 0
        self.model = lib.llama_model_load_from_file(file.encode(), model)
        self.vocabulary = lib.llama_model_get_vocab(self.model)
        params = lib.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = 512
        params.n_ubatch = 512
        params.n_seq_max = sequences
        params.kv_unified = True
        params.n_threads = THREADS
        params.n_threads_batch = THREADS
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp made no context")
        self.batch = lib.llama_batch_init(512, 0, 1)
        self.width = lib.llama_vocab_n_tokens(self.vocabulary)

    def tokens(self, text):
        data = text.encode()
        ids = (self.lib.llama_token * (len(data) + 8))()
        count = self.lib.llama_tokenize(self.vocabulary, data, len(data), ids, len(ids), False, True)
        return list(ids[:count])

    def decode(self, rows):
        """Computes rows of (token, position, sequence, wants logits)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for at, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[at] = token
            batch.pos[at] = position
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = sequence
            batch.logits[at] = wanted
        if self.lib.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama.cpp could not decode")

    def greatest(self, row):
        """The greedy choice after a row of the last batch."""
        import numpy

        logits = self.lib.llama_get_logits_ith(self.context, row)
        values = numpy.ctypeslib.as_array(
            ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), shape=(self.width,)
        )
        return int(values.argmax())

    def clear(self):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def generate(self, prompts, answer):
        """Every prompt in its own sequence; `answer` tokens each, in step, greedy."""
        self.clear()
        ids = [self.tokens(prompt) for prompt in prompts]
        started = time.perf_counter()
        last = []
        for sequence, tokens in enumerate(ids):
            for first in range(0, len(tokens), 512):
                part = tokens[first : first + 512]
                end = first + len(part) == len(tokens)
                self.decode(
                    [
                        (token, first + at, sequence, end and at == len(part) - 1)
                        for at, token in enumerate(part)
                    ]
                )
            last.append(self.greatest(len(part) - 1))
        prefill = time.perf_counter() - started
        started = time.perf_counter()
        for step in range(answer - 1):
            self.decode(
                [(token, len(ids[s]) + step, s, True) for s, token in enumerate(last)]
            )
            last = [self.greatest(s) for s in range(len(last))]
        decode = time.perf_counter() - started
        return {
            "prompt_tokens": sum(map(len, ids)),
            "prefill_seconds": prefill,
            "decoded_tokens": len(ids) * (answer - 1),
            "decode_seconds": decode,
        }


def main():
    peers = {}
    for line in sys.stdin:
        ask = json.loads(line)
        what = ask.pop("do")
        if what == "open_embeddings":
            peers["embeddings"] = Embeddings(**ask)
            answer = {"name": peers["embeddings"].name}
        elif what == "open_generation":
            peers["generation"] = Generation(**ask)
            answer = {"name": peers["generation"].name}
        elif what == "embed":
            answer = peers["embeddings"].embed(**ask)
        elif what == "generate":
            answer = peers["generation"].generate(**ask)
        else:
            raise ValueError(f"no such request: {what}")
        print(json.dumps(answer), flush=True)


main()
