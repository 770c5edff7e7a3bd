"""How engines are spoken to: one dialect per kind of engine."""

from router.engines.dialect import Dialect, PairedDialect
from router.engines.plain import Plain
from router.engines.vllm import VllmNixl

PAIRED: dict[str, PairedDialect] = {VllmNixl.name: VllmNixl()}
"""Dialects of prefill and decode engines, by the name that settings use."""

PLAIN: Dialect = Plain()
"""The dialect of aggregated engines."""
