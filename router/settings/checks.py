"""Do settings fit each other, the environment and what is installed? What a value shows by itself its field checks."""

import re
from collections.abc import Iterator, Mapping

from router.settings.discovery import Discovery, DnsDiscovery
from router.settings.edge import API_KEY, Listen
from router.settings.engines import BackendSettings, Role
from router.settings.extras import NO_DNS, NO_KV_EVENTS, NO_TRACING, can_look_up, can_trace, kv_events_installed
from router.settings.faults import SettingsError, nearest
from router.settings.keys import CLIENTS_KEY, clients_key, fault_in
from router.settings.section import ENV_PREFIX
from router.settings.tree import Settings

OTHER_VARIABLES = frozenset({"CONFIG", "ENGINE_HOME", "API_KEY"})  # read by the commands, not part of the tree

Backends = tuple[BackendSettings, ...]


def unfit(settings: Settings, backends: Backends, environ: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with sections that are right by themselves; `backends` are all engines, those of flags too."""
    yield from _of_backends(backends, settings.discovery, environ)
    yield from _of_dns(settings.discovery.dns, environ)
    yield from _of_clients_key(settings.listen, environ)
    if settings.tracing.otlp_endpoint and not can_trace():
        yield f"tracing: {NO_TRACING}"
    if settings.ops.token_env and (why := fault_in(settings.ops.token_env, environ)):
        yield f"ops.token_env: {why}"


def unknown_variables(settings: Settings, backends: Backends, environ: Mapping[str, str]) -> Iterator[str]:
    """Misspelt `PD_ROUTER_*` variables; those that the settings name for a secret are not."""
    named = _secrets_of(settings, backends)
    for name, value in environ.items():
        bare = name.upper().removeprefix(ENV_PREFIX)  # settings are read from variables in either case
        if name.upper() == bare or bare in OTHER_VARIABLES or name in named or _is_of_a_service(bare, value):
            continue
        section = bare.split("__")[0].lower()
        if section not in Settings.model_fields:
            yield f"{name}: unknown setting{nearest(section, Settings.model_fields, ENV_PREFIX, str.upper)}"


def _secrets_of(settings: Settings, backends: Backends) -> set[str | None]:
    """The variables that settings name: those may be called as settings are."""
    pools = settings.discovery.dns.pools.values() if settings.discovery.dns else ()
    return {settings.listen.api_key_env, settings.ops.token_env, *(place.key_env for place in (*backends, *pools))}


def _is_of_a_service(name: str, value: str) -> bool:
    """Made by Kubernetes for a service that is called pd-router, or pd-router-something."""
    numbered = re.match(r"(\w+_)?(SERVICE_(HOST|PORT)|PORT_\d)", name) is not None
    return numbered or (name.endswith("PORT") and "://" in value)


def _of_backends(backends: Backends, discovery: Discovery, environ: Mapping[str, str]) -> Iterator[str]:
    seen: set[str] = set()
    for i, backend in enumerate(backends):
        if backend.url in seen:
            yield f"backends.{i}.url: {backend.url} is listed twice; an engine has one role"
        seen.add(backend.url)
        if backend.key_env and (why := fault_in(backend.key_env, environ)):
            yield f"backends.{i}.key_env: {why}"
        if backend.kv_events and not kv_events_installed():
            yield f"backends.{i}.kv_events: {NO_KV_EVENTS}"
    roles = {backend.role for backend in backends}
    if roles == {Role.PREFILL} and not discovery.on:
        yield "backends: there are prefill engines only; add a decode engine (--decode URL)"


def _of_dns(rules: DnsDiscovery | None, environ: Mapping[str, str]) -> Iterator[str]:
    if rules is None:
        return
    if not can_look_up():
        yield f"discovery.dns: {NO_DNS}"
    for role, pool in rules.pools.items():
        if pool.key_env and (why := fault_in(pool.key_env, environ)):
            yield f"discovery.dns.{role}.key_env: {why}"
        if pool.kv_events and not kv_events_installed():
            yield f"discovery.dns.{role}.kv_events: {NO_KV_EVENTS}"


def _of_clients_key(listen: Listen, environ: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the key for clients. Its value is in no message."""
    named = environ.get(listen.api_key_env)
    if listen.api_key_env != API_KEY and not named and listen.api_key_file is None:
        yield f"listen.api_key_env: the environment variable {listen.api_key_env} is not set"
    if listen.api_key_file is not None and named:
        yield f"listen.api_key_file: the environment variable {listen.api_key_env} is set as well; give one of them"
    try:
        key = clients_key(listen, environ)
    except SettingsError as error:
        yield from error.faults
        return
    if key is None and listen.api_key_file is not None:
        yield "listen.api_key_file: the file is empty"
    elif key is None and listen.require_key and not listen.on_loopback:
        yield (
            f"listen.require_key: clients on other machines could connect without a key: set {listen.api_key_env} or "
            "listen.api_key_file, or listen.require_key to false if something in front asks for one"
        )
    elif key is not None and not CLIENTS_KEY.fullmatch(key.get_secret_value()):
        yield "listen: the key for clients must be printable ASCII without spaces"
