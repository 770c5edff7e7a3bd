"""What is told? `log` and `tracing`."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from router.settings.addresses import Collector
from router.settings.section import Section

OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Log(Section):
    """What is written to standard error."""

    format: Literal["pretty", "json"] = Field("pretty", description="`pretty` for people, `json` for collectors.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level written.")


class Tracing(Section):
    """Traces of requests; all else of them is set by OpenTelemetry's own variables (`OTEL_*`)."""

    otlp_endpoint: Collector | None = Field(
        None,
        description="Where spans are sent, OTLP over HTTP: `http://collector:4318/v1/traces`; default: what "
        "`OTEL_EXPORTER_OTLP_ENDPOINT` says, and no tracing without either.",
    )

    def on(self, environ: Mapping[str, str]) -> bool:
        """Whether requests are to be recorded."""
        off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
        return not off and (self.otlp_endpoint is not None or any(map(environ.get, OTLP_ENDPOINTS)))
