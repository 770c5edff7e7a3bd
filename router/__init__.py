"""pd-router: the gateway in front of disaggregated (prefill/decode) LLM fleets."""

__version__ = "0.1.0"
