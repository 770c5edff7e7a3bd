"""How do real vLLM prefill and decode engines run on a machine without a GPU?"""
