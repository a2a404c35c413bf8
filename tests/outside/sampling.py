"""Checks sampling from outside: every draw computed again from the log-probabilities that came with it.

Temperature, top-k, top-p and min-p in the order of Hugging Face transformers, in plain float arithmetic; the
draw itself is SplitMix64 over seed and place. It works as long as top-k keeps no more tokens than are told.
"""

import math

from bulkhead.v1 import inference_pb2

MASK = (1 << 64) - 1
# A draw this close to a border between two tokens may fall on either side in other arithmetic.
NEAR = 1e-4
ALTERNATIVES = 20


def uniform(seed, place):
    """A number in [0, 1) for one place of an answer (SplitMix64)."""
    z = (seed + (place + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return ((z ^ (z >> 31)) >> 11) / (1 << 53)


def kept(scores, temperature, top_k, top_p, min_p):
    """Tokens that are left with their weights, in order of ids."""
    best = max(scores.values())
    weights = {token: math.exp((score - best) / temperature) for token, score in scores.items()}
    order = sorted(weights, key=lambda token: (-weights[token], token))[:top_k]
    total, sum_, head = sum(weights[token] for token in order), 0.0, []
    for token in order:
        head.append(token)
        sum_ += weights[token]
        if sum_ >= top_p * total:
            break
    return sorted((token, weights[token]) for token in head if weights[token] >= min_p)


def penalised(entry, before, presence, frequency):
    """Log-probabilities of the alternatives, less OpenAI's penalties for the answer so far."""
    scores = {}
    for one in entry.top:
        count = before.count(one.token)
        scores[one.token] = one.logprob - frequency * count - (presence if count else 0)
    return scores


def check_draws(entries, seed, temperature, top_k, top_p=1.0, min_p=0.0, presence=0.0, frequency=0.0):
    """Each token is the one that the draw for its place falls on."""
    before = []
    for place, entry in enumerate(entries):
        scores = penalised(entry, before, presence, frequency)
        left = kept(scores, temperature, top_k, top_p, min_p)
        goal = uniform(seed, place) * sum(weight for _, weight in left)
        sum_, hits = 0.0, []
        for token, weight in left:
            if sum_ - NEAR <= goal < sum_ + weight + NEAR:
                hits.append(token)
            sum_ += weight
        assert entry.token in hits, (place, entry.token, hits)
        before.append(entry.token)


def ask(stub, question, timeout, **numbers):
    """The text, its tokens and what came last."""
    message = inference_pb2.ChatMessage(role="user", content=question)
    request = inference_pb2.GenerateRequest(model="smollm2", messages=[message], **numbers)
    text, entries, done = "", [], None
    for piece in stub.Generate(request, timeout=timeout):
        text += piece.text
        entries += piece.logprobs
        told = b"".join(entry.bytes for entry in entries).decode(errors="replace")
        assert text.startswith(told.rstrip("\ufffd")) or numbers.get("stop"), (text, told)
        done = piece.done if piece.HasField("done") else done
    return text, entries, done


def check_sampling(stub, timeout):
    numbers = dict(temperature=0.8, top_k=12, top_p=0.9, min_p=0.05, max_tokens=24)
    question = "Write one sentence about ships."
    text, entries, done = ask(stub, question, timeout, logprobs=ALTERNATIVES, **numbers)
    again, _, _ = ask(stub, question, timeout, seed=done.seed, **numbers)
    assert text == again, "the seed that the server drew gives the same text again"
    numbers.pop("max_tokens")
    check_draws(entries, done.seed, **numbers)
    assert len(entries) == done.usage.output_tokens, done
    print(f"computed {len(entries)} draws again: {text!r}")


def check_penalties(stub, timeout):
    numbers = dict(temperature=0.7, top_k=5, seed=3)
    penalties = dict(presence_penalty=0.3, frequency_penalty=0.6)
    _, entries, _ = ask(
        stub, "Repeat the word ship.", timeout, max_tokens=24, logprobs=ALTERNATIVES, **numbers, **penalties
    )
    check_draws(entries, presence=0.3, frequency=0.6, **numbers)
    distinct = len({entry.token for entry in entries})
    print(f"penalties left {distinct} different tokens of {len(entries)}")


def check_stop(stub, timeout):
    question = "What is the capital of France?"
    text, entries, done = ask(stub, question, timeout, stop=["France"], logprobs=0)
    assert text == "The capital of ", text
    told = b"".join(entry.bytes for entry in entries).decode()
    assert told in (text, text + "France", "The capital of", "The capital of France"), told
    assert (done.finish_reason, done.stop_sequence) == ("stop", "France"), done
    _, _, done = ask(stub, question, timeout, max_tokens=3)
    assert (done.finish_reason, done.stop_sequence) == ("length", ""), done
    print("a stop string ends the answer, is named and is not shown")


def check_all(stub, timeout):
    check_sampling(stub, timeout)
    check_penalties(stub, timeout)
    check_stop(stub, timeout)
