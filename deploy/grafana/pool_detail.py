"""Which engine is it?"""

from collections.abc import Sequence

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.boards import board, values
from deploy.grafana.panels import Panel, Query, percentiles

POOL = '{pool=~"$pool"}'


def per_engine(metric: str) -> Sequence[Query]:
    """One line per engine; where several gateways tell, the highest."""
    return [Query(f"max by (pool, backend) (pd_router_{metric}{POOL})", "{{pool}} {{backend}}")]


def own(metric: str) -> Sequence[Query]:
    """One line per engine, of what the gateways have on it together."""
    return [Query(f"sum by (pool, backend) (pd_router_{metric}{POOL})", "{{pool}} {{backend}}")]


def rate_per_engine(metric: str) -> Sequence[Query]:
    """One line per engine, of a counter that every gateway copies from the engine."""
    rate = f"rate(pd_router_{metric}{POOL}[$__rate_interval])"
    return [Query(f"max by (pool, backend) ({rate})", "{{pool}} {{backend}}")]


STATE = (
    Panel(
        "Usable",
        "bool_yes_no",
        "Whether every gateway uses the engine. No: curl the operations listener's /fleet and read its `why`.",
        "PdRouterEngineOut",
        [Query(f"min by (pool, backend) (pd_router_backend_up{POOL})", "{{pool}} {{backend}}")],
        width=12,
        kind="number",
        good_from=1,
    ),
    Panel(
        "State",
        "short",
        "In how many gateways an engine is in which state. ejected: failed requests, probes may be fine. down: probes "
        "fail or connections are refused. trial: coming back. unknown: never answered.",
        "PdRouterEngineOut",
        [
            Query(
                'sum by (backend, state) (pd_router_backend_state{pool=~"$pool"}) > 0',
                "{{backend}} {{state}}",
            )
        ],
        width=12,
        kind="number",
    ),
)

LOAD = (
    Panel(
        "Requests that the gateway has on it",
        "short",
        "The gateway's own count. One engine far above its pool: it is slow or hangs, as requests pile up on it.",
        "PdRouterEngineOut",
        own("inflight_requests"),
    ),
    Panel(
        "Prompt tokens that the gateway has on it",
        "short",
        "Estimated. High with few requests: long prompts.",
        "PdRouterPrefillQueue",
        own("inflight_tokens"),
    ),
    Panel(
        "Running in the engine",
        "short",
        "As the engine tells. Well below what the gateway has on it: it waits inside, or the engine serves others too.",
        "PdRouterSaturated",
        per_engine("engine_running"),
    ),
    Panel(
        "Waiting in the engine",
        "short",
        "As the engine tells. A frozen engine shows a flat line here and in Running.",
        "PdRouterSaturated",
        per_engine("engine_waiting"),
    ),
    Panel(
        "KV cache in use",
        "percentunit",
        "As the engine tells. A prefill engine that stays high without load holds KV that nobody pulls: see stranded. "
        "A decode engine near 100 % preempts: scale out, or lower max_num_seqs.",
        "PdRouterKvStranded",
        per_engine("engine_kv_usage_ratio"),
        most=1,
    ),
    Panel(
        "Permits in use",
        "percentunit",
        "Share of the permits of the pool's engines. At 100 % requests wait in line.",
        "PdRouterSaturated",
        [
            Query(
                'sum by (pool) (pd_router_permits{pool=~"$pool", state="taken"})'
                " / sum by (pool) (pd_router_permits"
                f"{POOL})",
                "{{pool}}",
            )
        ],
        most=1,
        bad_from=0.95,
    ),
)

SIZE = (
    Panel(
        "Engines wanted",
        "short",
        "As /autoscale works it out from the pool's own load; its reasons are there. Above Engines usable for long: "
        "nothing acts on it, or new engines do not come up.",
        "Autoscaling",
        [
            Query(
                'max by (model, pool) (pd_router_desired_replicas{pool=~"$pool"})',
                "{{model}} {{pool}}",
            )
        ],
        width=12,
    ),
    Panel(
        "Engines usable",
        "short",
        "Engines of the pool that every gateway uses. Below what is wanted: some are out, or still loading.",
        "Autoscaling",
        [Query(f"sum by (pool) (min by (pool, backend) (pd_router_backend_up{POOL}))", "{{pool}}")],
        width=12,
    ),
)

WORK = (
    Panel(
        "Prefill leg",
        "s",
        "From sending the prompt to its hand-over, by model. Slow with an empty queue: engines are overcommitted or a "
        "prompt mix got longer.",
        "PdRouterPrefillQueue",
        percentiles("prefill_seconds", "model"),
    ),
    Panel(
        "KV transfer",
        "s",
        "Mean time of a transfer, as the pulling engine tells. One engine slow: its link.",
        "PdRouterTransferFailures",
        [
            Query(
                f"max by (pool, backend) (rate(pd_router_engine_kv_transfer_seconds_sum{POOL}[$__rate_interval]))"
                f" / max by (pool, backend) (rate(pd_router_engine_kv_transfer_seconds_count{POOL}[$__rate_interval]))",
                "{{pool}} {{backend}}",
            )
        ],
    ),
    Panel(
        "KV transfers that failed",
        "short",
        "Per second, as the engine tells. One engine: drain it. Several, of one rack: the network.",
        "PdRouterTransferFailures",
        rate_per_engine("engine_kv_transfer_failures_total"),
    ),
    Panel(
        "KV that expired",
        "short",
        "Hand-overs per second whose KV nobody pulled in time, as the prefill engine tells.",
        "PdRouterKvStranded",
        rate_per_engine("engine_kv_expired_total"),
    ),
)


def dashboard() -> Dashboard:
    """The dashboard *Pool detail*."""
    rows = {"State": STATE, "Load": LOAD, "Size": SIZE, "Work": WORK}
    about = "Engine by engine: which is out, slow, full, or cannot transfer KV?"
    variables = [values("pool", "Pool", "pd_router_backend_up")]
    return board("pd-router-pool-detail", "Pool detail", about, variables, rows)
