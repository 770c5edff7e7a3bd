"""What should be done next? One sentence for each way in which an engine or a pair fails."""

from router.errors import (
    BadHandoff,
    ConnectFailed,
    ConnectionLost,
    EngineError,
    EngineFault,
    EngineTimeout,
    Leg,
    OutOfFiles,
)
from router.fleet.backend import Backend

CONNECTOR = """--kv-transfer-config '{"kv_connector":"NixlConnector","kv_role":"%s"}'"""

KEY_REFUSED = (401, 403, 407)

FOR_MISSING_DECODE = "bring a decode engine, by --decode, `backends` or `discovery`"
"""For a prefill engine of a fleet without any."""

LOOPBACK = ("127.", "localhost", "::1", "0.0.0.0")  # noqa: S104 - what an engine may tell, not where to listen


def for_engine(backend: Backend, why: str) -> str:
    """For one that cannot be used, with the reason that its standing gives."""
    if ConnectFailed.reason in why:
        return f"is it started, is {backend.id} its address, does a firewall let the gateway through?"
    if OutOfFiles.reason in why:
        return "nothing is wrong with it: let pd-router open more files (ulimit -n)"
    if EngineTimeout.reason in why:
        return "it is starting, frozen or overloaded; see its log, or set probes.timeout_s"
    if any(f"answered {status}" in why for status in KEY_REFUSED):
        return "name the variable with its API key in backends.key_env"
    if "does not serve" in why:
        return "correct backends.models, or start it with --served-model-name"
    if "/v1/models" in why:
        return "is this an engine with an OpenAI-compatible API? is the port right?"
    return "see its log"


def for_lone_engine(backend: Backend) -> str:
    """For one that has nobody to hand over to or from."""
    return (
        f"bring an engine of the other pool to {backend.group!r}, or set backends.group where engines are known to fit"
    )


def for_missing_connector(backend: Backend) -> str:
    """For one of a pair that was started without a KV connector."""
    return f"start it with {CONNECTOR % ('kv_producer' if backend.role == 'prefill' else 'kv_consumer')}"


def for_computed_prompt(prefill: Backend, decode: Backend) -> str:
    """For a decode engine that answered, but computed the prompt itself."""
    return f"its kv_load_failure_policy hides that the pull failed; {for_failed_pull(prefill, decode)}"


def for_failed_pull(prefill: Backend, decode: Backend) -> str:
    """For a decode engine that could not load what a prefill engine holds."""
    where = _side_channel(prefill)
    if where is not None and where.startswith(LOOPBACK) and _host(prefill) != _host(decode):
        return (
            f"{prefill.id} says its KV side channel is at {where}: start it with VLLM_NIXL_SIDE_CHANNEL_HOST set to "
            f"an address that {decode.id} can reach"
        )
    place = where or "VLLM_NIXL_SIDE_CHANNEL_HOST:PORT"
    return (
        f"from the host of {decode.id}, can {place} (KV side channel of {prefill.id}) be reached? "
        "do versions, models and dtypes agree? the log of the decode engine tells which it is"
    )


def for_fault(fault: EngineFault, prefill: Backend, decode: Backend) -> str:
    """For a hand-over that failed."""
    engine = prefill if fault.leg is Leg.PREFILL else decode
    match fault:
        case BadHandoff():
            return _for_bad_handoff(prefill, fault.detail or "")
        case EngineError(answered=answered) if answered in KEY_REFUSED:
            return f"name the variable with the API key of {engine.id} in backends.key_env"
        case ConnectFailed() | ConnectionLost():
            return f"is {engine.id} up? see its log"
        case EngineError() | EngineTimeout() if fault.leg is Leg.DECODE:
            return for_failed_pull(prefill, decode)
    return f"see the log of {engine.id}"


def _for_bad_handoff(prefill: Backend, detail: str) -> str:
    if "kv_hosts" in detail:
        return (
            f"add the host that {prefill.id} has as VLLM_NIXL_SIDE_CHANNEL_HOST to its backends.kv_hosts "
            f"(now {', '.join(prefill.settings.kv_hosts)}), or correct that variable"
        )
    return for_missing_connector(prefill).replace("it", prefill.id, 1)


def _side_channel(prefill: Backend) -> str | None:
    """Where its last hand-over said that KV can be pulled."""
    for host, port in reversed(list(prefill.kv_peers.values())):
        return f"{host}:{port}"
    return None


def _host(backend: Backend) -> str:
    return backend.id.rsplit(":", 1)[0]
