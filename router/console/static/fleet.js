// The pools with their engines. An engine is a button: a click, or Enter, tells why it is in its state.

import { el, keyed, say, share } from "./dom.js";
import { POOLS, amount, percent, plural, standing } from "./words.js";

const MOST_DOTS = 36;
const CROWD = 40;

/** Draw all pools; `open` is called with the id of the engine that somebody wants to know about. */
export function drawFleet(root, state, open) {
  const shown = Object.keys(POOLS).filter((role) => role !== "aggregated" || state.pools[role].engines.length);
  if (!root.querySelector(".pool")) root.append(pool("prefill"), flow(), pool("decode"));
  let aggregated = root.querySelector(".pool.aggregated");
  if (!shown.includes("aggregated")) aggregated?.remove();
  else if (!aggregated) root.append(pool("aggregated"));
  for (const role of shown) drawPool(root.querySelector(`.pool.${role}`), role, state, open);
}

function pool(role) {
  const title = `pool-${role}`;
  return el("section", { class: `pool ${role}`, "aria-labelledby": title },
    el("header", {}, el("h2", { id: title }, POOLS[role].name), el("span", { class: "does" }, POOLS[role].does), el("span", { class: "usable" })),
    el("div", { class: "line queue" }, el("span", { class: "label" }, "In line"), el("b"), el("span", { class: "crowd", "aria-hidden": "true" })),
    el("div", { class: "line load" }, el("span", { class: "label" }, "Load"), el("span", { class: "gauge", "aria-hidden": "true" }, el("i")), el("b")),
    el("ul", { class: "engines" }), el("p", { class: "none" }));
}

function flow() {
  return el("section", { class: "flow", "aria-labelledby": "flow-title" },
    el("span", { class: "down", "aria-hidden": "true" }),
    el("div", { class: "told-flow" }, el("h2", { id: "flow-title" }, "KV hand-over"), el("p", { class: "p" }), el("p", { class: "more" })));
}

function drawPool(section, role, state, open) {
  const told = state.pools[role];
  const usable = told.engines.filter((engine) => engine.usable && engine.silent_s == null).length;
  const culprit = state.verdict.pool === role;
  section.classList.toggle("culprit", culprit);
  section.classList.toggle("tight", culprit && state.verdict.level === "tight");
  const count = section.querySelector(".usable");
  say(count, `${usable} of ${plural(told.engines.length + told.left_out, "engine")} at work`);
  count.classList.toggle("bad", usable < told.engines.filter((engine) => !engine.drained).length);
  say(section.querySelector(".queue b"), told.waiting ? plural(told.waiting, "request") : "nobody");
  const crowd = section.querySelector(".crowd");
  keyed(crowd, [...Array(Math.min(CROWD, told.waiting)).keys()], String, () => el("i"), () => {});
  drawLoad(section.querySelector(".load"), told, usable);
  keyed(section.querySelector(".engines"), told.engines, (engine) => engine.id,
    (engine) => el("li", {}, card(engine.id, open)), (item, engine) => drawEngine(item.firstChild, engine));
  say(section.querySelector(".none"), told.left_out ? `and ${told.left_out} more, see /fleet` : told.engines.length ? "" : "There are no such engines.");
}

function drawLoad(row, told, usable) {
  const ratio = told.load_engines == null ? 0 : told.load_engines / Math.max(1, usable);
  share(row.querySelector("i"), "width", ratio);
  row.querySelector(".gauge").classList.toggle("over", ratio > 0.8);
  const wants = told.desired != null && told.desired !== told.engines.length ? `, wants ${plural(told.desired, "engine")}` : "";
  say(row.querySelector("b"), told.load_engines == null ? "not known yet" : `${percent(ratio)}${wants}`);
  row.title = "What there is to do, as a share of what its engines can; the mark is where it should grow.";
}

function card(id, open) {
  return el("button", { class: "engine", type: "button", "data-engine": id, "aria-haspopup": "dialog", onclick: () => open(id), onkeydown: step },
    el("span", { class: "mark", "aria-hidden": "true" }), el("span", { class: "id" }, id), el("span", { class: "state" }),
    el("span", { class: "reason" }),
    el("span", { class: "kv" }, el("span", {}, "KV"), el("span", { class: "tank", "aria-hidden": "true" }, el("i")), el("span")),
    el("span", { class: "streams" }, el("span", { class: "dots", "aria-hidden": "true" }), el("span", { class: "count" })));
}

/** Arrow keys go from engine to engine. */
function step(event) {
  const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  const all = [...document.querySelectorAll(".engine")];
  const next = all[all.indexOf(event.currentTarget) + by];
  if (next) { next.focus(); event.preventDefault(); }
}

function drawEngine(button, engine) {
  const { look, word, cause } = standing(engine);
  button.className = `engine ${look}`;
  say(button.querySelector(".state"), word);
  say(button.querySelector(".reason"), look === "up" ? "" : cause);
  share(button.querySelector(".tank i"), "width", engine.kv_ratio ?? 0);
  say(button.querySelector(".kv span:last-child"), percent(engine.kv_ratio));
  const waiting = Math.min(engine.requests, engine.waiting ?? 0);
  const dots = Array.from({ length: Math.min(MOST_DOTS, engine.requests) }, (_, place) => place >= engine.requests - waiting);
  keyed(button.querySelector(".dots"), dots.map((waits, place) => ({ waits, place })), ({ place }) => place, () => el("i"),
    (dot, { waits }) => dot.classList.toggle("waits", waits));
  say(button.querySelector(".count"), `${plural(engine.requests, "request")}${engine.tokens ? `, ${amount(engine.tokens)} tokens` : ""}`);
}
