"""A small llama with random weights, made on the spot.

The weights are large enough that an answer depends on the whole prompt: an engine that read wrong KV would answer
something else. Everything is float32, because the order of additions differs between a computed and a loaded prefix,
and in bfloat16 that alone can change an answer.
"""

import json
from pathlib import Path

import numpy as np

VOCABULARY = 4096
HIDDEN = 512
INTERMEDIATE = 1024
LAYERS = 4
HEADS = 8
KV_HEADS = 2
HEAD = 64
MAX_TOKENS = 16384


def make_model(directory: Path, seed: int = 7) -> None:
    """Writes config.json and model.safetensors into the directory."""
    directory.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": MAX_TOKENS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    _write_safetensors(directory / "model.safetensors", _weights(np.random.default_rng(seed)))


def _weights(random: np.random.Generator) -> dict[str, np.ndarray]:
    def linear(rows: int, columns: int, gain: float = 1.0) -> np.ndarray:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(gain / columns**0.5)

    ones = np.ones(HIDDEN, dtype=np.float32)
    weights = {
        "model.embed_tokens.weight": random.standard_normal((VOCABULARY, HIDDEN), dtype=np.float32),
        "model.norm.weight": ones,
        "lm_head.weight": linear(VOCABULARY, HIDDEN),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        weights |= {
            f"{at}.input_layernorm.weight": ones,
            f"{at}.post_attention_layernorm.weight": ones,
            # Sharper than usual, so that attention picks tokens out of the prompt instead of averaging all of them.
            f"{at}.self_attn.q_proj.weight": linear(HEADS * HEAD, HIDDEN, gain=3.0),
            f"{at}.self_attn.k_proj.weight": linear(KV_HEADS * HEAD, HIDDEN),
            f"{at}.self_attn.v_proj.weight": linear(KV_HEADS * HEAD, HIDDEN),
            f"{at}.self_attn.o_proj.weight": linear(HIDDEN, HEADS * HEAD, gain=2.0),
            f"{at}.mlp.gate_proj.weight": linear(INTERMEDIATE, HIDDEN),
            f"{at}.mlp.up_proj.weight": linear(INTERMEDIATE, HIDDEN),
            f"{at}.mlp.down_proj.weight": linear(HIDDEN, INTERMEDIATE),
        }
    return weights


def _write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """The format is a length, a JSON header with offsets, and the bytes."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).data)
