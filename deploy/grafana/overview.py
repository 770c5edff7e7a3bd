"""Are users served well, by which pool not, and what does it cost?"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.boards import Variable, board, text, values
from deploy.grafana.panels import Panel, Query, percentiles, rates

MODEL = '{model=~"$model"}'

PRICES = {"prefill": "2.40", "decode": "4.54", "aggregated": "2.40"}
"""US dollars per engine and hour: H100, H200 and H100 on demand, 2026-04-03. Typed over on the dashboard."""

SPENT = " + ".join(
    f'(count(max by (backend) (pd_router_backend_up{{pool="{pool}"}})) or vector(0)) * ${pool}_usd_per_h'
    for pool in PRICES
)
TOKENS = 'sum(rate(pd_router_tokens_total{kind="generated"}[$__rate_interval]))'
BAD = 'outcome=~"upstream_error|timeout|rejected|internal_error"'
ERRORS = f'sum(rate(pd_router_requests_total{{model=~"$model", {BAD}}}[$__rate_interval]))'
REQUESTS = f"sum(rate(pd_router_requests_total{MODEL}[$__rate_interval]))"
EXPIRED = "pd_router_engine_kv_expired_total"
TRANSFER = "max by (backend) (rate(pd_router_engine_kv_transfer_seconds_{}[$__rate_interval]))"

NOW = (
    Panel(
        "Ready",
        "bool_yes_no",
        "Whether every gateway has a usable route. No: nobody is served; go to the engines' states in Pool detail.",
        "PdRouterNoUsableRoute",
        [Query("min(pd_router_ready)", "ready")],
        width=3,
        kind="number",
        good_from=1,
    ),
    Panel(
        "Requests",
        "reqps",
        "Requests that ended, per second. A fall to nothing with errors beside it is the gateway; without, it is in "
        "front of it.",
        "PdRouterGatewayDown",
        [Query(REQUESTS, "requests")],
        width=5,
        kind="number",
    ),
    Panel(
        "Failed",
        "percentunit",
        "Share of requests that ended in an error of the fleet or were turned away. Which: the panel Errors.",
        "PdRouterErrors",
        [Query(f"({ERRORS} or vector(0)) / {REQUESTS}", "failed")],
        width=4,
        kind="number",
        bad_from=0.05,
    ),
    Panel(
        "Objective: error budget burnt",
        "x",
        "How many times faster than allowed slow first tokens use up the budget; over 14.4 for an hour pages. Find the "
        "slow route below, then its pool.",
        "PdRouterTtftBurnFast",
        [Query("pd_router:ttft_burn:rate5m", "5 min"), Query("pd_router:ttft_burn:rate1h", "1 h")],
        width=6,
        kind="number",
        bad_from=14.4,
    ),
    Panel(
        "Usable engines",
        "short",
        "Engines that get requests, by pool. Fewer than there are: Pool detail says which is out, /fleet says why.",
        "PdRouterEngineOut",
        [Query("sum by (pool) (min by (pool, backend) (pd_router_backend_up))", "{{pool}}")],
        width=6,
        kind="number",
        good_from=1,
    ),
)

USERS = (
    Panel(
        "Time to first token",
        "s",
        "Streams, from arrival to the first byte. Only disaggregated slow: see the prefill queue and the hand-over. "
        "Only local slow: decode computes prompts in prefill's stead. Both: the decode queue.",
        "PdRouterTtftBurnFast",
        percentiles("ttft_seconds", "route", MODEL),
    ),
    Panel(
        "Time between tokens",
        "s",
        "As clients see it. p99 far above p50 is decode being stalled, mostly by prompts that it computes itself: "
        "see Decisions for why they were not handed over.",
        "PdRouterFallbackInUse",
        percentiles("inter_token_seconds", "route", MODEL, (0.5, 0.99)),
    ),
    Panel(
        "Errors",
        "reqps",
        "Requests that ended badly. rejected: no room, see the queues. upstream_error, timeout: engines, see Pool "
        "detail. client_error: theirs. internal_error: the gateway's, see its log.",
        "PdRouterErrors",
        [rates("requests_total", "outcome", selector='{model=~"$model", outcome!~"ok|client_gone"}')],
        kind="stack",
    ),
    Panel(
        "Tokens",
        "short",
        "Per second. generated falling while requests do not: answers get shorter, or decode slower.",
        "PdRouterDecodeQueue",
        [rates("tokens_total", "kind", selector=MODEL)],
    ),
    Panel(
        "Requests by route",
        "reqps",
        "Requests that ended, by the way they went. none: turned away before an engine had them.",
        "PdRouterErrors",
        [rates("requests_total", "route", selector=MODEL)],
        kind="stack",
    ),
    Panel(
        "Cost of a million generated tokens",
        "currencyUSD",
        "What all engines cost by the hour (the prices on top), over what they generate at this pace. It rises when "
        "pools idle: a pool whose permits in use stay low may shrink.",
        "Scaling",
        [Query(f"({SPENT}) / ({TOKENS} * 3600) * 1e6", "$ per million tokens")],
    ),
)

POOLS = (
    Panel(
        "Waiting in the gateway",
        "short",
        "Requests in line, by the pool that is short. prefill: long prompts, scale prefill out. decode: many or long "
        "answers, scale decode out. The two grow independently.",
        "PdRouterPrefillQueue",
        [Query("sum by (pool) (pd_router_queue_depth)", "{{pool}}")],
        kind="stack",
    ),
    Panel(
        "Time in line",
        "s",
        "90 % of those that had to wait and got room waited less. Near admission.queue_timeout_s they are turned away.",
        "PdRouterDecodeQueue",
        percentiles("queue_seconds", "pool", quantiles=(0.9,)),
    ),
    Panel(
        "Waiting inside engines",
        "short",
        "As the engines tell. Not 0 for long: the gateway lets more in than they take; lower the pool's permits.",
        "PdRouterSaturated",
        [Query("sum by (pool) (max by (pool, backend) (pd_router_engine_waiting))", "{{pool}}")],
        kind="stack",
    ),
)

HAND_OVER = (
    Panel(
        "Decisions",
        "reqps",
        "Routes chosen, by reason. prefill_unavailable and prefill_saturated mean that decode computes prompts in "
        "prefill's stead: streams stall; of the route none, that requests are refused. Hand-overs that fail after "
        "this: Fallbacks and retries.",
        "PdRouterFallbackInUse",
        [rates("decisions_total", "route", "reason")],
        kind="stack",
    ),
    Panel(
        "KV hand-over as users feel it",
        "s",
        "From the prefill answer to decode's first event. Slow while the engines' transfers are fast: decode is busy. "
        "Both slow: the network between the pools.",
        "PdRouterTransferFailures",
        percentiles("handoff_seconds", "model", MODEL),
    ),
    Panel(
        "KV transfer as engines time it",
        "s",
        "Mean of a transfer, by the engine that pulls. One engine slow: its link. All: the fabric, or TCP where RDMA "
        "was meant.",
        "PdRouterTransferFailures",
        [Query(f"{TRANSFER.format('sum')} / {TRANSFER.format('count')}", "{{backend}}")],
    ),
    Panel(
        "Prefix reuse",
        "percentunit",
        "Share of prompt tokens that were in an engine's cache. A fall after a deployment: caches are cold. A lasting "
        "one: prompts no longer begin alike, or requests of one conversation are spread.",
        "Prefix reuse",
        [
            Query(
                'sum by (pool) (rate(pd_router_prefix_tokens_total{kind="reused"}[$__rate_interval]))'
                " / sum by (pool) (rate(pd_router_prefix_tokens_total[$__rate_interval]))",
                "{{pool}}",
            )
        ],
        most=1,
    ),
    Panel(
        "Fallbacks and retries",
        "reqps",
        "Hand-overs given up and tries elsewhere, by the leg that failed. Any for long: one engine or one pair, see "
        "Pool detail.",
        "PdRouterFallbackInUse",
        [
            Query(query.expr, f"{name} {query.legend}")
            for name in ("fallback", "retries")
            for query in [rates(f"{name}_total", "pool", "reason")]
        ],
    ),
    Panel(
        "KV left behind",
        "short",
        "Hand-overs per second given back early (harmless), left to their lease by the gateway, and expired on "
        "engines. The latter two take prefill's KV room: see why in the runbook.",
        "PdRouterKvStranded",
        [
            Query("sum(rate(pd_router_kv_released_total[$__rate_interval]))", "given back"),
            Query("sum(rate(pd_router_kv_stranded_total[$__rate_interval])) or vector(0)", "stranded"),
            Query(f"sum(max by (backend) (rate({EXPIRED}[$__rate_interval])))", "expired on engines"),
        ],
    ),
)


ARMS = (
    Panel(
        "Time to first token by mode",
        "s",
        "Streams of all models, while two modes are compared. auto below local: hand-overs are worth it. Above: they "
        "cost more than they save, see Slow pairs, and Decisions for the reasons.",
        "Two modes compared",
        percentiles("arm_ttft_seconds", "arm"),
    ),
    Panel(
        "Time between tokens by mode",
        "s",
        "As clients see it. Both modes share the engines, and so the stalls that one of them causes: two fleets would "
        "differ by more.",
        "Two modes compared",
        percentiles("arm_inter_token_seconds", "arm", quantiles=(0.5, 0.99)),
    ),
    Panel(
        "Streams by mode",
        "reqps",
        "What the two panels beside stand on. Nothing: one mode is in force. A hundred streams of each mode before a "
        "p90 is believed, a thousand before a p99.",
        "Two modes compared",
        [rates("arm_ttft_seconds_count", "arm")],
        kind="stack",
    ),
)


def dashboard() -> Dashboard:
    """The dashboard *Overview*."""
    prices = [text(f"{pool}_usd_per_h", f"{pool} $/h", price) for pool, price in PRICES.items()]
    variables: list[Variable] = [values("model", "Model", "pd_router_requests_total"), *prices]
    rows = {
        "Now": NOW,
        "Users": USERS,
        "Two pools, two queues": POOLS,
        "Hand-over": HAND_OVER,
        "Two modes compared": ARMS,
    }
    about = "Are users served well, which pool is short, does the hand-over work, what does a token cost?"
    return board("pd-router-overview", "Overview", about, variables, rows)
