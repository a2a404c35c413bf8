"""Makes pieces.json: a small SentencePiece BPE vocabulary, and how the reference library reads a hard corpus with it.

The model is trained here, from the texts below; only its vocabulary, its scores and the ids are kept. Run it with
an interpreter that has the package sentencepiece:

    python pieces.py > pieces.json
"""

import io
import json
import sys

import sentencepiece

from corpus import CORPUS, TRAINING

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def kind(model, token):
    """The number that GGUF gives to a kind of token."""
    for is_it, number in [
        (model.is_unknown, UNKNOWN),
        (model.is_control, CONTROL),
        (model.is_unused, UNUSED),
        (model.is_byte, BYTE),
    ]:
        if is_it(token):
            return number
    return USER_DEFINED if model.id_to_piece(token) in FIXED else NORMAL


FIXED = ["\n\n", "▁▁▁▁", "<think>"]
trained = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TRAINING * 2),
    model_writer=trained,
    model_type="bpe",
    vocab_size=700,
    byte_fallback=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    split_digits=True,
    allow_whitespace_only_pieces=True,
    user_defined_symbols=FIXED,
    character_coverage=0.98,
    num_threads=1,
    minloglevel=2,
)
model = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
tokens = range(model.get_piece_size())
json.dump(
    {
        "tokens": [model.id_to_piece(token) for token in tokens],
        "scores": [model.get_score(token) for token in tokens],
        "kinds": [kind(model, token) for token in tokens],
        # <think> looks like a mark, so Bulkhead never makes it of text.
        "cases": [{"text": text, "ids": model.encode(text)} for text in CORPUS if "<think>" not in text],
    },
    sys.stdout,
    ensure_ascii=True,
    separators=(",", ":"),
)
print()
