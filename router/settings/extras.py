"""Is what a setting needs installed, and how is it had? Some of it comes with an extra of the package."""

import importlib.util

OTLP_EXPORTER = "opentelemetry.exporter.otlp.proto.http"

NO_DNS = "needs dnspython, which is not installed: pip install 'pd-router[dns]'"
NO_KV_EVENTS = "needs pyzmq and msgspec, which are not installed: pip install 'pd-router[kv-events]'"
NO_TRACING = "needs OpenTelemetry's exporter, which is not installed: pip install 'pd-router[otel]'"


def can_look_up() -> bool:
    """Whether what asks DNS servers is installed."""
    return _is_installed("dns")


def kv_events_installed() -> bool:
    """Whether KV events can be followed."""
    return _is_installed("zmq") and _is_installed("msgspec")


def can_trace() -> bool:
    """Whether what sends traces is installed."""
    return _is_installed(OTLP_EXPORTER)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even what it is in
        return False
