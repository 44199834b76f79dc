"""kvtier: a node-local, shared KV cache in tiers. `kvtier.client` binds the C library, `kvtier.vllm` serves vLLM."""

__version__ = "0.1.0"
