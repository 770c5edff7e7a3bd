import pytest

from router.settings.loading import load


@pytest.mark.parametrize(
    ("section", "environ", "on"),
    [
        ({}, {}, False),
        ({"otlp_endpoint": "http://c:4318/v1/traces"}, {}, True),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"otlp_endpoint": "http://c:4318/v1/traces"}, {"OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_requests_are_traced_where_there_is_a_collector(
    section: dict[str, str], environ: dict[str, str], on: bool
) -> None:
    assert load(flags={"tracing": section}, environ=environ).tracing.on(environ) is on
