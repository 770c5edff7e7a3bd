"""Is it the gateway itself?"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.boards import board, values
from deploy.grafana.panels import Panel, Query, percentiles, rates

POOL = '{pool=~"$pool"}'

PROCESS = (
    Panel(
        "Event loop lag",
        "s",
        "How late timers fire: what every request waits for its turn. Over 50 ms the CPU is used up: add gateways.",
        "PdRouterLoopLag",
        percentiles("loop_lag_seconds", "instance", quantiles=(0.5, 0.99)),
        bad_from=0.1,
    ),
    Panel(
        "Clients connected",
        "short",
        "By gateway. Near edge.max_connections new ones are turned away: see the panel beside.",
        "PdRouterShedding",
        [Query("pd_router_connections", "{{instance}}")],
    ),
    Panel(
        "Turned away before being a request",
        "reqps",
        "For want of room, and for sending what is no request. Much of the latter is a scanner, or a broken client.",
        "PdRouterShedding",
        [
            Query("sum by (reason) (rate(pd_router_shed_total[$__rate_interval]))", "no room: {{reason}}"),
            Query("sum by (code) (rate(pd_router_refused_total[$__rate_interval]))", "no request: {{code}}"),
        ],
        kind="stack",
    ),
)

ROOM = (
    Panel(
        "Permits taken",
        "short",
        "Room in the pools' engines that requests hold. It must fall to 0 without load; else see the invariants.",
        "PdRouterSaturated",
        [Query('sum by (instance, pool) (pd_router_permits{pool=~"$pool", state="taken"})', "{{instance}} {{pool}}")],
    ),
    Panel(
        "Permits free",
        "short",
        "Room that is left on engines that can be used. 0 for long: the pool is full, and requests wait in line.",
        "PdRouterSaturated",
        [Query('sum by (instance, pool) (pd_router_permits{pool=~"$pool", state="free"})', "{{instance}} {{pool}}")],
    ),
    Panel(
        "Prompt tokens that decode computes",
        "short",
        "In prefill's stead, or because prompts are short. High: streams stall, see Time between tokens.",
        "PdRouterFallbackInUse",
        [Query("sum by (instance) (pd_router_local_tokens_inflight)", "{{instance}}")],
    ),
)

TROUBLE = (
    Panel(
        "Retries",
        "reqps",
        "Tries on another engine, by the leg that failed and why. connect_failed: an engine is gone. timeout: it "
        "hangs. engine_error: its log says more.",
        "PdRouterEngineOut",
        [rates("retries_total", "pool", "reason", selector=POOL)],
        kind="stack",
    ),
    Panel(
        "Fallbacks",
        "reqps",
        "Requests whose prompt decode computed because the hand-over failed.",
        "PdRouterFallbackInUse",
        [rates("fallback_total", "pool", "reason")],
        kind="stack",
    ),
    Panel(
        "Engines by state",
        "short",
        "The breaker of each engine, counted. Any ejected, trial or down: which one is in Pool detail.",
        "PdRouterEngineOut",
        [Query(f"sum by (state) (max by (backend, state) (pd_router_backend_state{POOL}))", "{{state}}")],
        kind="stack",
    ),
    Panel(
        "Sources of engines",
        "bool_yes_no",
        "Whether the file, or each DNS name, that lists engines can be read. No: engines that come are not seen; "
        "/fleet says why.",
        "PdRouterDiscoveryStale",
        [Query("min by (instance, source) (pd_router_discovery_ok)", "{{instance}} {{source}}")],
        kind="number",
        good_from=1,
        width=24,
    ),
    Panel(
        "Pairs made acquainted",
        "short",
        "Tiny hand-overs per second between engines that were new to each other, by outcome. Other than ok for long: "
        "the pair cannot hand over, see /fleet.",
        "PdRouterPairQuarantined",
        [rates("warm_ups_total", "outcome")],
        kind="stack",
    ),
    Panel(
        "Pairs in quarantine",
        "short",
        "Pairs of engines whose hand-overs fail though both work. Which: /fleet, quarantined_pairs.",
        "PdRouterPairQuarantined",
        [Query("max by (instance) (pd_router_quarantined_pairs)", "{{instance}}")],
        bad_from=1,
    ),
    Panel(
        "Slow pairs",
        "short",
        "Pairs of engines between which a hand-over takes longer than computing the prompt, as learnt from requests. "
        "Which: /fleet, slow_pairs. The fleet's network is meant to be fast: look for the link.",
        "Slow links",
        [Query("max by (instance) (pd_router_slow_pairs)", "{{instance}}")],
    ),
    Panel(
        "KV given back early",
        "short",
        "Hand-overs per second that were not used, by why. Much client_gone: clients give up, look at first tokens.",
        "PdRouterKvStranded",
        [rates("kv_released_total", "reason")],
        width=12,
        kind="stack",
    ),
    Panel(
        "KV left to its lease",
        "short",
        "Hand-overs per second that could not be given back, by why. Prefill keeps their KV until the lease ends.",
        "PdRouterKvStranded",
        [rates("kv_stranded_total", "reason")],
        width=12,
        kind="stack",
    ),
    Panel(
        "Invariants violated",
        "short",
        "Bookkeeping that does not add up; must be 0. Any: keep the log, restart this gateway, report it.",
        "PdRouterInvariantViolated",
        [Query("sum by (instance, rule) (increase(pd_router_invariant_violations_total[$__range]))", "{{rule}}")],
        width=16,
        kind="number",
        bad_from=1,
    ),
    Panel(
        "Ready",
        "bool_yes_no",
        "Whether a gateway has a usable route. One of several without: its network, as the engines are the same.",
        "PdRouterNoUsableRoute",
        [Query("pd_router_ready", "{{instance}}")],
        kind="number",
        good_from=1,
    ),
)


def dashboard() -> Dashboard:
    """The dashboard *Gateway internals*."""
    rows = {"Process": PROCESS, "Room": ROOM, "Trouble": TROUBLE}
    about = "Is it the gateway itself: CPU, room, retries, breakers, bookkeeping?"
    variables = [values("pool", "Pool", "pd_router_backend_up")]
    return board("pd-router-gateway-internals", "Gateway internals", about, variables, rows)
