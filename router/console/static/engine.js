// The sheet about one engine: its state, why, what that means, what to do; and drain or enable for who may.

import { el, keyed, say } from "./dom.js";
import { change, mayChange, tell } from "./operator.js";
import { POOLS, amount, duration, percent, spaced, standing } from "./words.js";

const dialog = document.getElementById("engine");
let shown = null;
let last = null;
let refresh = () => {};

export function startEngine(again) {
  refresh = again;
  dialog.addEventListener("close", () => { shown = null; });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}

export function openEngine(id, state) {
  shown = id;
  dialog.replaceChildren(frame(id));
  drawEngineSheet(state);
  dialog.showModal();
}

function frame(id) {
  return el("div", { class: "in" },
    el("div", { class: "head" }, el("div", {}, el("h2", { id: "engine-title", class: "id" }, id), el("p", { class: "why role" })),
      el("button", { class: "shut", type: "button", "aria-label": "Close", onclick: () => dialog.close() }, "×")),
    el("div", { class: "about" }, el("p", { class: "status" }, el("span", { class: "mark", "aria-hidden": "true" }), el("span")), el("p", { class: "cause" })),
    el("h3", {}, "What that means"), el("p", { class: "means" }), el("h3", { class: "todo" }, "What to do"), el("p", { class: "next" }),
    el("h3", {}, "Facts"), el("dl", { class: "facts" }),
    el("div", { class: "acts" }, el("button", { class: "act strong", type: "button", onclick: act }), el("span")));
}

/** Bring the sheet up to date, if it is open. */
export function drawEngineSheet(state) {
  if (!shown) return;
  const [role, engine] = find(shown, state);
  const part = (name) => dialog.querySelector(name);
  if (!engine) return say(part(".cause"), "It has left the fleet.");
  last = engine;
  const { look, word, cause, means, next } = standing(engine);
  part(".about").className = `about ${look}`;
  say(part(".role"), `${POOLS[role].name} engine, ${POOLS[role].does}`);
  const since = word === engine.state ? ` for ${duration(engine.since_s)}` : `, ${spaced(engine.state)} for ${duration(engine.since_s)}`;
  say(part(".status span:last-child"), `${word[0].toUpperCase()}${word.slice(1)}${since}`);
  say(part(".cause"), `Why: ${cause}`);
  say(part(".means"), means);
  say(part(".next"), next);
  part(".todo").hidden = !next;
  keyed(part(".facts"), facts(engine, state), ([name]) => name, ([name]) => el("div", {}, el("dt", {}, name), el("dd")),
    (item, [, value]) => say(item.lastChild, value));
  const button = part(".acts button");
  say(button, engine.drained ? "Enable" : "Drain");
  button.disabled = !mayChange();
  say(part(".acts span"), mayChange() ? (engine.drained ? "It gets requests again." : "It gets no more requests; those it has go on.") : "Read-only: allow changes at the top of the page first.");
}

const find = (id, state) => Object.entries(state.pools).map(([role, pool]) => [role, pool.engines.find((engine) => engine.id === id)]).find(([, engine]) => engine) ?? [null, null];

function facts(engine, { flow, quarantined_pairs: cut }) {
  const mine = (pairs) => pairs.filter((pair) => Object.values(pair).includes(engine.id));
  const handoffs = mine(flow.pairs).reduce((sum, [, , count]) => sum + count, 0);
  const all = [
    ["Requests of this gateway", engine.requests], ["Their prompt tokens", amount(engine.tokens)],
    ["Running in the engine", amount(engine.running)], ["Waiting in the engine", amount(engine.waiting)],
    ["KV cache in use", percent(engine.kv_ratio)], ["Share of load", engine.usable ? percent(engine.share) : "none"],
    ["Hand-overs, last minute", handoffs], ["KV transfers failed", amount(engine.kv_transfer_failures)],
    ["KV expired unpulled", amount(engine.kv_expired)], ["Pairs left alone", mine(cut).length],
    ["Version", engine.version ?? "–"], ["Group", engine.group ?? "–"], ["Models", engine.models.join(", ") || "–"],
  ];
  return engine.local_tokens ? [...all, ["Prompts it computes itself, tokens", amount(engine.local_tokens)]] : all;
}

async function act() {
  const verb = last.drained ? "enable" : "drain";
  try {
    await change("POST", `/fleet/backends/${encodeURIComponent(last.id)}/${verb}`);
    tell(`${last.id} is ${verb}${verb === "enable" ? "d" : "ed"}.`);
  } catch (error) { tell(`Not changed: ${error.message}`); }
  refresh();
}
