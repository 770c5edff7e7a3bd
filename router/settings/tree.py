"""What can be set? All sections as one frozen tree, in the order in which they are shown."""

import yaml
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from router.settings.admission import Admission
from router.settings.discovery import Discovery
from router.settings.edge import Edge, Listen, Ops
from router.settings.engines import BackendSettings
from router.settings.exchange import HandoffSettings, Retries, Timeouts
from router.settings.fleet import Ejection, PairRules, Probes, Scrapes
from router.settings.process import Drain, Process
from router.settings.routing import Routing
from router.settings.scaling import Autoscale
from router.settings.section import ENV_PREFIX
from router.settings.telemetry import Log, Tracing


class Settings(BaseSettings):
    """The whole tree. Build it with `load`, which turns faults into `SettingsError`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    listen: Listen = Listen()
    ops: Ops = Ops()
    backends: tuple[BackendSettings, ...] = Field((), description="The engines; flags add to them.")
    discovery: Discovery = Discovery()
    routing: Routing = Routing()
    timeouts: Timeouts = Timeouts()
    handoff: HandoffSettings = HandoffSettings()
    admission: Admission = Admission()
    probes: Probes = Probes()
    scrapes: Scrapes = Scrapes()
    ejection: Ejection = Ejection()
    pairs: PairRules = PairRules()
    retries: Retries = Retries()
    autoscale: Autoscale = Autoscale()
    drain: Drain = Drain()
    edge: Edge = Edge()
    process: Process = Process()
    log: Log = Log()
    tracing: Tracing = Tracing()


def effective(settings: Settings) -> str:
    """The tree as YAML, as it would be written in a file. Secrets are not in it: it only names their variables."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
