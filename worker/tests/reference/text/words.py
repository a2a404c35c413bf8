"""Makes words.json: how the reference library divides a hard corpus with the pre-tokenizers of Qwen 2 and Llama 3, and
with a tokenizer.json that writes spaces as its own character and falls back to bytes.

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


SPACED = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def words(digits):
    """The steps of the later families: words first, then bytes."""
    split = pre_tokenizers.Split(Regex(WORDS.replace("DIGITS", digits)), "isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


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
by_spaces = with_bytes(trained(metaspace("first"), vocab_size=280, limit_alphabet=90))
prepend = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
json.dump(
    {
        "texts": CORPUS,
        "by_bytes": by_bytes,
        "by_spaces": by_spaces,
        "qwen2": read(by_bytes, words(""), normalizers.NFC(), decoders.ByteLevel()),
        "llama-bpe": read(by_bytes, words("{1,3}"), None, decoders.ByteLevel()),
        "metaspace": read(by_spaces, metaspace("first"), None, SPACED),
        "prepended": read(by_spaces, None, prepend, SPACED),
    },
    sys.stdout,
    separators=(",", ":"),
)
print()
