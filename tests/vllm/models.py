"""Tiny models with random weights from a fixed seed, made on the spot.

vLLM's own dummy weights will not do: all of them, norms included, are about 0.001, so what attention reads has no
effect on the answers, and wrong bytes would go unnoticed. These are drawn large enough that every block matters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_COMMON: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "hidden_act": "silu",
}

LLAMA = {
    **_COMMON, "architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 32,
}

HYBRID = {
    **_COMMON, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2",
    "num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 32, "query_pre_attn_scalar": 32,
    "sliding_window": 64, "attn_logit_softcapping": None, "final_logit_softcapping": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}

MLA = {
    **_COMMON, "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
    "num_hidden_layers": 2, "num_key_value_heads": 4, "kv_lora_rank": 512, "q_lora_rank": None,
    "qk_nope_head_dim": 32, "qk_rope_head_dim": 64, "v_head_dim": 32, "moe_intermediate_size": 64,
    "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 2,
    "moe_layer_freq": 1, "head_dim": 96,
}

# 8 KiB of KV a token, so that a short prompt fills a small host tier.
WIDE = {**LLAMA, "num_hidden_layers": 4, "num_key_value_heads": 4, "head_dim": 128}

MODELS = {"llama": LLAMA, "wide": WIDE, "hybrid": HYBRID, "mla": MLA}


def write_model(directory: Path, name: str) -> str:
    """Writes a model; the path is what vLLM loads."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {key: value for key, value in MODELS[name].items() if key not in ("model_type", "architectures")}
    config = AutoConfig.for_model(MODELS[name]["model_type"], initializer_range=0.12, **fields)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    path = directory / name
    model.save_pretrained(path)
    return str(path)


def write_lora(directory: Path, seed: int) -> str:
    """Writes a LoRA adapter for the llama with random matrices that change its answers visibly."""
    import torch
    from safetensors.torch import save_file

    path = directory / f"lora{seed}"
    path.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "bias": "none",
        "base_model_name_or_path": "llama", "task_type": "CAUSAL_LM", "lora_dropout": 0.0,
    }
    (path / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(LLAMA["num_hidden_layers"]):
        for module, width in (("q_proj", 128), ("v_proj", 64)):
            base = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{base}.lora_A.weight"] = torch.randn(8, 128, generator=generator) / 8
            tensors[f"{base}.lora_B.weight"] = torch.randn(width, 8, generator=generator) / 8
    save_file(tensors, str(path / "adapter_model.safetensors"))
    return str(path)
