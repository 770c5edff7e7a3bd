// What the page says: numbers as people read them, states and reasons in words.

export const POOLS = {
  prefill: { name: "Prefill", does: "computes prompts" },
  decode: { name: "Decode", does: "produces tokens" },
  aggregated: { name: "Aggregated", does: "does both" },
};

export const STAGES = {
  wait_prefill: ["In line for prefill", "wait_prefill"],
  prefill: ["Prefill", "prefill-fill"],
  handoff: ["KV hand-over, first token", "handoff-fill"],
  wait_decode: ["In line for decode", "wait_decode"],
  alone: ["One engine alone", "alone-fill"],
};

export const spaced = (name) => String(name ?? "").replaceAll("_", " ");
export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
export const percent = (ratio) => (ratio == null ? "–" : `${Math.round(100 * ratio)}%`);

export function seconds(value) {
  if (value == null) return "–";
  if (value < 0.00995) return `${Number((1000 * value).toFixed(1))} ms`;
  if (value < 0.9995) return `${Math.round(1000 * value)} ms`;
  return value < 10 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`;
}

export function duration(value) {
  if (value < 60) return `${Math.round(value)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return value < 172800 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86400)} days`;
}

export function amount(value) {
  if (value == null) return "–";
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 1e4) return `${Math.round(value / 1e3)}k`;
  return value >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1);
}

/** How an engine is to be shown: its look, one word, the cause, what that means, and what to do. */
export function standing(engine) {
  if (engine.drained) {
    return {
      look: "paused", word: "drained", cause: `taken out by an operator; ${engine.requests ? plural(engine.requests, "request") : "nothing"} left on it`,
      means: "It gets no new requests, and finishes those that it has.",
      next: engine.requests ? "Wait until it has none; then it can be stopped." : "It can be stopped, or enabled again.",
    };
  }
  if (engine.state === "up" && engine.silent_s != null) {
    return {
      look: "out", word: "no sign of work", cause: `has ${plural(engine.requests, "request")}, its counters stand still for ${duration(engine.silent_s)}`,
      means: "Its port is open and probes may be answered, but nothing is computed: it may hang. It is left out as soon as requests on it have timed out.",
      next: "Drain it, keep what its developers need, then restart it.",
    };
  }
  const slow = engine.state === "up" && engine.share < 1;
  const found = STATES[slow ? "slow" : engine.state] ?? STATES.unknown;
  return { ...found, cause: slow ? `it came back, and gets ${percent(engine.share)} of its share` : engine.why };
}

const STATES = {
  up: { look: "up", word: "up", means: "It answers probes, and requests on it work.", next: "" },
  slow: { look: "cautious", word: "slow start", means: "It was out. Its caches are cold, so its share grows over half a minute.", next: "Nothing: it grows by itself." },
  trial: { look: "cautious", word: "on trial", means: "It was out for failed requests. It gets one request at a time, to see whether it works again.", next: "Nothing: it comes back by itself, or goes out for longer." },
  ejected: { look: "out", word: "ejected", means: "Requests on it failed or hung, so it is left out, even if it answers probes. It is tried again, ever more rarely.", next: "Look at its log. If it hangs, restart it; probes alone do not show that." },
  down: { look: "out", word: "down", means: "It does not answer probes, or takes no connections: the process is gone, or cannot be reached.", next: "Look whether its process runs, and whether this gateway reaches it." },
  unknown: { look: "unknown", word: "not seen yet", means: "It has not answered a probe yet, and gets no requests.", next: "Check its address, or wait until it has loaded its model." },
};
