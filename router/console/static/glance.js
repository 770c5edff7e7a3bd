// What one glance tells: which pool holds users back, the figures of the last minute, recent errors.

import { el, keyed, say } from "./dom.js";
import { POOLS, amount, duration, percent, seconds, spaced } from "./words.js";

const GOOD = new Set(["ok", "client_error", "client_gone"]);

export function drawVerdict(root, { verdict }) {
  root.className = `verdict ${verdict.level}`;
  const headline = root.querySelector(".headline");
  const name = POOLS[verdict.pool]?.name;
  const text = { ok: "No pool holds users back", tight: `${name} needs a look`, short: `${name} holds users back` }[verdict.level];
  if (headline.textContent !== text) {
    headline.replaceChildren(...(name ? [el("span", { class: verdict.pool }, name), text.slice(name.length)] : [text]));
  }
  say(root.querySelector(".why"), `${verdict.why[0].toUpperCase()}${verdict.why.slice(1)}.`);
}

export function drawFigures(root, { lately, inflight }) {
  const counts = Object.entries(lately.outcomes);
  const all = counts.reduce((sum, [, count]) => sum + count, 0);
  const failed = counts.filter(([outcome]) => !GOOD.has(outcome)).reduce((sum, [, count]) => sum + count, 0);
  const figures = [
    ["first token, p50", seconds(lately.ttft_p50_s)],
    ["first token, p90", seconds(lately.ttft_p90_s)],
    ["requests/s", amount(all / lately.window_s)],
    ["tokens/s", amount(lately.tokens_per_s)],
    ["in flight", amount(inflight)],
    ["failed, last minute", amount(failed), failed ? "bad" : ""],
  ];
  keyed(root, figures, ([name]) => name, ([name]) => el("div", {}, el("dt", {}, name), el("dd")),
    (item, [, value, look]) => { item.className = look ?? ""; say(item.lastChild, value); });
}

export function drawNotes(root, { notes, sources, mode, share, otherwise }) {
  const all = [...notes, ...Object.entries(sources).map(([name, why]) => `engines of ${name} cannot be looked up: ${why}`)];
  if (share < 1) all.push(`two modes are compared: ${mode} for ${percent(share)} of requests, ${otherwise} for the others`);
  else if (mode !== "auto") all.push(`routing is ${mode} for every request that allows it, not by the rule`);
  keyed(root, all, (note) => note, (note) => el("li", {}, note), () => {});
}

const SAID = { failed: "failed", retried: "tried again", fell_back: "fell back" };

export function drawTroubles(root, { troubles, at }) {
  if (!troubles.length) return root.replaceChildren(el("li", { class: "none" }, "None since this gateway started."));
  root.querySelector(".none")?.remove();
  const key = ({ at: then, request_id: id, what, leg, count }) => [then, id, what, leg, count].join(" ");
  keyed(root, troubles, key, entry, (item, { at: then }) => say(item.firstChild, `${duration(Math.max(0, at - then))} ago`));
}

function entry({ what, reason, leg, engine, status, count, request_id: id, model }) {
  const where = engine ? [` on ${leg} `, el("span", { class: "id" }, engine)] : [];
  return el("li", {}, el("time"), el("span", { class: what }, SAID[what] ?? what),
    el("span", { class: "said" }, spaced(reason), ...where, status ? ` (answered ${status})` : ""),
    el("small", {}, `${count > 1 ? `${count} times, last ` : ""}${model} · request ${id}`));
}
