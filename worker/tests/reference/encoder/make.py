"""Makes the tokenizers and reference vectors of the tiny encoders in worker/tests/models/encoders.rs.

The models' weights are the output of a generator that exists twice: here and in the tests. So no weights
are kept, and both sides compute with the same numbers, which are exact in float32, bfloat16 and float16.

Needs torch, transformers, sentence-transformers, tokenizers, sentencepiece, protobuf and numpy:

    python worker/tests/reference/encoder/make.py
"""

import io
import json
import pathlib
import tempfile

import numpy as np
import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize, Pooling, Transformer
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

HERE = pathlib.Path(__file__).parent

# What the tokenizers learn from.
CORPUS = """
A ship's bulkheads keep one flooded compartment from sinking the rest of her.
The harbour lights went out one after the other while the tide came in.
Eleven sailors and a cat shared the after cabin all through the winter.
Das Schott hält das Wasser in einer Kammer; der Rest des Schiffes bleibt trocken.
La cloison étanche garde l'eau dans un seul compartiment du navire.
水密隔壁は浸水を一つの区画にとどめる。
Переборка удерживает воду в одном отсеке корабля.
Every cargo has its own hold, its own lock, and its own page in the log.
Numbers such as 12, 345 and 6789 are written in the log by the second mate.
""".strip().splitlines()

# What is embedded: short, long, other scripts, a token for padding written out, more than fits.
TEXTS = [
    "ship",
    "A ship's bulkheads keep one flooded compartment from sinking the rest.",
    "Überflutet: 水密隔壁, étanche, переборка!",
    "the <pad> is a word of the user here, and [PAD] too",
    "0123456789 " * 3,
    "the harbour lights went out one after the other " * 6,
    " ",
    "Ａll the ﬁsh，\u3000Cafe\u0301 Überfahrt",
]

HIDDEN, HEADS, INNER, LAYERS, CONTEXT = 32, 4, 64, 3, 40


def numbers(name, count):
    """FNV-1a of the name seeds a splitmix64; each number gives 8 bits, from -127 to 127."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & (2**64 - 1)
    steps = (np.arange(1, count + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    z = steps + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(56)).astype(np.int64) % 255 - 127


def weight(name, shape):
    """Norms' weights lie around 1; everything else within a quarter of 0. A name counts from the model
    on, so that a prefix changes nothing."""
    values = numbers(name, int(np.prod(shape))).astype(np.float32)
    if name.endswith("LayerNorm.weight"):
        values = 1 + np.trunc(values / 2) / 128
    else:
        values = values / 512
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def fill(model):
    model.load_state_dict({name: weight(name, tuple(t.shape)) for name, t in model.state_dict().items()})
    return model.eval()


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=240, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def around(tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def charsmap():
    """A map of characters as SentencePiece writes it; XLM-R's own has a quarter of a megabyte."""
    pairs = {"A": "a", "Ü": "ü", "ﬁ": "fi", "，": ",", "\u3000": " ", "e\u0301": "é"}
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        for source, target in pairs.items():
            points = [" ".join(f"{ord(c):X}" for c in text) for text in (source, target)]
            rules.write("\t".join(points) + "\n")
        rules.flush()
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS),
            model_writer=model,
            vocab_size=120,
            hard_vocab_limit=False,
            normalization_rule_tsv=rules.name,
            minloglevel=2,
        )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    return proto.normalizer_spec.precompiled_charsmap


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(charsmap()), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=260, special_tokens=ROBERTA_SPECIAL, unk_token="<unk>", show_progress=False
        ),
    )
    return around(tokenizer)


def bytes_bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=ROBERTA_SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return around(tokenizer)


def sizes(vocabulary, activation):
    return dict(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        hidden_act=activation,
    )


def bert(tokenizer, activation):
    config = BertConfig(
        **sizes(tokenizer.get_vocab_size(), activation), max_position_embeddings=CONTEXT, pad_token_id=0
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    return fill(BertModel(config, add_pooling_layer=False)), fast


def xlm_roberta(tokenizer, activation):
    config = XLMRobertaConfig(
        **sizes(tokenizer.get_vocab_size(), activation),
        max_position_embeddings=CONTEXT + 2,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        layer_norm_eps=1e-5,
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    return fill(XLMRobertaModel(config, add_pooling_layer=False)), fast


# Every pooling with the exact GELU, every other activation with the mean.
VARIANTS = [
    ("gelu", "mean", True),
    ("gelu", "mean", False),
    ("gelu", "cls", True),
    ("gelu", "max", False),
    ("gelu", "lasttoken", False),
    ("gelu_new", "mean", False),
    ("relu", "mean", False),
    ("silu", "mean", False),
]


def embed(make, tokenizer, activation, pooling, normalise):
    model, fast = make(tokenizer, activation)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        fast.save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=CONTEXT)
        modules = [transformer, Pooling(HIDDEN, pooling_mode=pooling)]
        if normalise:
            modules.append(Normalize())
        sentences = SentenceTransformer(modules=modules, device="cpu")
        # One by one: padding would be computed along.
        vectors = [sentences.encode([text])[0] for text in TEXTS]
    return [[float(f"{x:.7g}") for x in vector] for vector in vectors]


def main():
    torch.manual_seed(0)
    families = [
        ("bert", "wordpiece", bert, wordpiece, VARIANTS),
        ("xlm-roberta", "unigram", xlm_roberta, unigram, VARIANTS),
        ("roberta", "bytes", xlm_roberta, bytes_bpe, VARIANTS[:1]),
    ]
    cases = []
    for model_type, name, make, tokenizer, variants in families:
        tokenizer = tokenizer()
        (HERE / f"{name}.json").write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False))
        for activation, pooling, normalise in variants:
            cases.append(
                dict(
                    model_type=model_type,
                    tokenizer=name,
                    activation=activation,
                    pooling=pooling,
                    normalise=normalise,
                    vectors=embed(make, tokenizer, activation, pooling, normalise),
                )
            )
    lines = ",\n".join(json.dumps(case) for case in cases)
    texts = json.dumps(TEXTS, ensure_ascii=False)
    (HERE / "vectors.json").write_text(f'{{"texts": {texts},\n"cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
