"""A simulated vLLM engine: the protocol, the KV cache and the failures of a real one, without a GPU."""
