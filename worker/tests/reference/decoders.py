"""Makes decoders.json: what transformers computes, in float32 on the CPU, with tiny models of every family.

The weights come from a generator that tests/models/decoders/model.rs has too, so none are stored. Run it with
an interpreter that has numpy, torch and transformers:

    python decoders.py > decoders.json
"""

import copy
import json

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

VOCABULARY = 97
PROMPT_TOKENS = [5, 23, 40]
ANSWER_TOKENS = 12
MASK = (1 << 64) - 1
CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}

# name, number of bits of a weight, what differs from the sizes above
CASES = [
    (
        "llama_linear",
        24,
        {
            "model_type": "llama",
            "rope_theta": 10000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        },
    ),
    (
        "llama_llama3_tied_bias",
        7,
        {
            "model_type": "llama",
            "tie_word_embeddings": True,
            "attention_bias": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    (
        "mistral_window",
        24,
        {"model_type": "mistral", "rope_theta": 10000.0, "sliding_window": 7, "head_dim": 16},
    ),
    (
        "qwen2_yarn_window",
        7,
        {
            "model_type": "qwen2",
            "rope_theta": 10000.0,
            "rope_scaling": {
                "type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            "use_sliding_window": True,
            "sliding_window": 9,
            "max_window_layers": 2,
        },
    ),
    (
        "qwen3_wide_heads_tied",
        24,
        {
            "model_type": "qwen3",
            "tie_word_embeddings": True,
            "head_dim": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "use_sliding_window": True,
            "sliding_window": 11,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
]


def words(name: str, count: int) -> np.ndarray:
    """SplitMix64 from the FNV-1a hash of the name."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 & MASK
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def weights(name: str, shape, bits: int) -> np.ndarray:
    """Between -1/2 and 1/2 in steps of 2^-bits; norms around 1; all but the table half as large."""
    count = int(np.prod(shape))
    levels = (words(name, count) >> np.uint64(64 - bits)).astype(np.float32)
    values = levels / np.float32(1 << bits) - np.float32(0.5)
    if "norm" in name:
        values = values + np.float32(1.0)
    elif "embed_tokens" not in name:
        values = values * np.float32(0.5)
    return values.reshape(shape)


def case(name: str, bits: int, changes: dict) -> dict:
    config = SIZES | changes
    # A copy, since the library completes what it is given.
    kinds = {key: copy.deepcopy(value) for key, value in config.items() if key != "model_type"}
    made = CONFIGS[config["model_type"]](**kinds, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.copy_(torch.from_numpy(weights(key, tuple(value.shape), bits)))
    prompts = [(words(f"{name} {length}", length) % np.uint64(VOCABULARY)).tolist() for length in PROMPT_TOKENS]
    logits, answers = [], []
    for prompt in prompts:
        ids = list(prompt)
        for step in range(ANSWER_TOKENS):
            with torch.no_grad():
                last = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            if step == 0:
                logits.append([float(f"{x:.6g}") for x in last.tolist()])
            ids.append(int(last.argmax()))
        answers.append(ids[len(prompt) :])
    return {
        "name": name,
        "bits": bits,
        "config": config,
        "prompts": prompts,
        "logits": logits,
        "answers": answers,
    }


if __name__ == "__main__":
    cases = [case(*arguments) for arguments in CASES]
    lines = ",\n".join(json.dumps(one) for one in cases)
    print('{"cases": [\n' + lines + "\n]}")
