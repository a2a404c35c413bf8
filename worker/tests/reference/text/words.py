"""Makes words.json: how the reference library divides a hard corpus with the pre-tokenizers of Qwen 2, Llama 3,
StableLM 2, Mistral's Tekken and OLMo, with the one that GGUF calls default, with a vocabulary that holds whole words,
and with a tokenizer.json that writes spaces as its own character and falls back to bytes.

The vocabularies are trained here; the patterns are those of the families' published tokenizer.json. Run it with an
interpreter that has the package tokenizers:

    python words.py > words.json
"""

import json
import sys

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from corpus import CORPUS, TRAINING

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CASED_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# GGUF's readers divide at one pattern behind the other.
DEFAULT = (
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
)


SPACED = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def divided(*patterns):
    """Words first, then bytes."""
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated", invert=False) for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def words(digits):
    """The steps of the later families."""
    return divided(WORDS.replace("DIGITS", digits))


def trained(pre_tokenizer, **trainer):
    """A model of these texts' merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(TRAINING * 2, trainers.BpeTrainer(show_progress=False, **trainer))
    return json.loads(tokenizer.to_str())["model"]


def with_bytes(model):
    """The same behind tokens of lone bytes."""
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return model | {"vocab": vocabulary, "byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}


def with_whole_words(model):
    """The same with words that no merge makes."""
    written = [" bulkhead", " the", "ship", " Harbour", "123", "!!!", "Étanche", " water", "don", " 12"]
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = ("".join(piece for piece, _ in alphabet.pre_tokenize_str(word)) for word in written)
    new = [piece for piece in pieces if piece not in model["vocab"]]
    numbers = {piece: len(model["vocab"]) + number for number, piece in enumerate(new)}
    return model | {"vocab": model["vocab"] | numbers, "ignore_merges": True}


def read(model, pre_tokenizer, normalizer, decoder):
    """What stands around the model, and the ids that the library reads with it."""
    file = json.loads(Tokenizer(models.BPE()).to_str()) | {"model": model}
    tokenizer = Tokenizer.from_str(json.dumps(file))
    tokenizer.decoder = decoder
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    steps = json.loads(tokenizer.to_str()) | {"model": None}
    return {"file": steps, "ids": [tokenizer.encode(text, add_special_tokens=False).ids for text in CORPUS]}


def metaspace(scheme):
    return pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=True)


by_bytes = trained(words("{1,3}"), vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
whole_words = with_whole_words(by_bytes)
by_spaces = with_bytes(trained(metaspace("first"), vocab_size=280, limit_alphabet=90))
prepend = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
json.dump(
    {
        "texts": CORPUS,
        "by_bytes": by_bytes,
        "whole_words": whole_words,
        "by_spaces": by_spaces,
        "qwen2": read(by_bytes, words(""), normalizers.NFC(), decoders.ByteLevel()),
        "llama-bpe": read(by_bytes, words("{1,3}"), None, decoders.ByteLevel()),
        "llama3": read(whole_words, words("{1,3}"), None, decoders.ByteLevel()),
        "tekken": read(whole_words, divided(CASED_WORDS), None, decoders.ByteLevel()),
        "stablelm2": read(by_bytes, words(""), None, decoders.ByteLevel()),
        "olmo": read(by_bytes, pre_tokenizers.ByteLevel(add_prefix_space=False), None, decoders.ByteLevel()),
        "default": read(by_bytes, divided(*DEFAULT), None, decoders.ByteLevel()),
        "metaspace": read(by_spaces, metaspace("first"), None, SPACED),
        "prepended": read(by_spaces, None, prepend, SPACED),
    },
    sys.stdout,
    separators=(",", ":"),
)
print()
