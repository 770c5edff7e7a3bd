"""Which engine is it?"""

from collections.abc import Sequence
from typing import Literal

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.boards import board, values
from deploy.grafana.panels import Panel, Query, percentiles

POOL = '{pool=~"$pool"}'


def per_engine(metric: str, of_gateways: Literal["max", "min"] = "max") -> Sequence[Query]:
    """One line per engine; where several gateways tell, the highest, or the lowest."""
    return [Query(f"{of_gateways} by (pool, backend) (pd_router_{metric}{POOL})", "{{pool}} {{backend}}")]


def own(metric: str) -> Sequence[Query]:
    """One line per engine, of what the gateways have on it together."""
    return [Query(f"sum by (pool, backend) (pd_router_{metric}{POOL})", "{{pool}} {{backend}}")]


def rate_per_engine(metric: str) -> Sequence[Query]:
    """One line per engine, of a counter that every gateway has from the engine."""
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
        "Share of the permits of the pool's engines that can be used. At 100 % requests wait in line.",
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


LEARNT = (
    Panel(
        "Prompt tokens that it computes",
        "short",
        "Per second, as requests took. One engine well below its pool: it is throttled, or shared; it gets fewer "
        "requests already.",
        "Slow links",
        per_engine("learnt_prefill_tokens_per_second", "min"),
    ),
    Panel(
        "Tokens of one stream",
        "short",
        "Per second, as streams took. All fall together: larger batches. One alone: that engine, which gets fewer "
        "streams already.",
        "Slow links",
        per_engine("learnt_decode_tokens_per_second", "min"),
    ),
    Panel(
        "Hand-over over its best link",
        "s",
        "What 4,096 tokens would take to each decode engine. One engine slow: its own network. All: the fabric between "
        "the pools, or TCP where RDMA was meant. Single links: /fleet, slow_pairs.",
        "Slow links",
        per_engine("learnt_handover_seconds"),
    ),
)

KV_EVENTS = (
    Panel(
        "Tokens in its KV cache",
        "short",
        "By its KV events. Nothing: the engine has no kv_events in the settings. A fall to 0: it was "
        "restarted, or events are missing.",
        "KV events",
        per_engine("kv_held_tokens"),
        width=12,
    ),
    Panel(
        "Estimate less what it holds",
        "short",
        "Tokens that a gateway takes to be cached beyond those that are. Well above 0: events are missing, or tokens "
        "per byte are misjudged. Below: the engine holds what others sent.",
        "KV events",
        [Query(f"pd_router_kv_estimate_error_tokens{POOL}", "{{instance}} {{pool}} {{backend}}")],
        width=12,
        least=None,
    ),
    Panel(
        "Batches of KV events",
        "short",
        "Per second, one for each step of the engine that stores or evicts. None, with requests on it: its publisher, "
        "or the way to it, is broken; it is judged by the estimate alone.",
        "KV events",
        rate_per_engine("kv_event_batches_total"),
        width=12,
    ),
    Panel(
        "KV events missed",
        "short",
        "Gaps per second, how often the engine was asked to repeat, and its restarts. Gaps that go on: the gateway is "
        "short of CPU, or loses connections. More gaps than repeats: set a replay_endpoint.",
        "KV events",
        [
            Query(
                f"sum by (pool, backend) (rate(pd_router_kv_event_{what}_total{POOL}[$__rate_interval]))",
                f"{what} {{{{pool}}}} {{{{backend}}}}",
            )
            for what in ("gaps", "replays", "restarts")
        ],
        width=12,
    ),
)


def dashboard() -> Dashboard:
    """The dashboard *Pool detail*."""
    rows = {"State": STATE, "Load": LOAD, "Size": SIZE, "Work": WORK, "Learnt": LEARNT, "KV events": KV_EVENTS}
    about = "Engine by engine: which is out, slow, full, or cannot transfer KV?"
    variables = [values("pool", "Pool", "pd_router_backend_up")]
    return board("pd-router-pool-detail", "Pool detail", about, variables, rows)
