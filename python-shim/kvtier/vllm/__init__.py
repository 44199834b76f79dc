"""A KV connector for vLLM: `"kv_connector": "KVTierConnector", "kv_connector_module_path": "kvtier.vllm"`."""

from .connector import KVTierConnector

__all__ = ["KVTierConnector"]
