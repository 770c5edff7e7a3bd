// First tokens over time, where their time goes, and decisions by reason.

import { el, keyed, say, share, svg } from "./dom.js";
import { STAGES, amount, seconds, spaced } from "./words.js";

const WIDTH = 600;
const HEIGHT = 100;

export function drawTtft(root, { ttft }) {
  const known = [...ttft.p50, ...ttft.p90].filter((value) => value != null);
  if (!known.length) return root.replaceChildren(el("p", { class: "none" }, "No stream began in this time."));
  const top = roundUp(Math.max(...known));
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    ...runs(ttft.p50, top).map((run) => svg("path", { class: "under", d: `${line(run)}L${run.at(-1)[0]} ${HEIGHT}L${run[0][0]} ${HEIGHT}Z` })),
    ...runs(ttft.p90, top).map((run) => svg("path", { class: "p90", d: line(run) })),
    ...runs(ttft.p50, top).map((run) => svg("path", { class: "p50", d: line(run) })));
  const last = (values) => seconds(values.findLast((value) => value != null));
  const label = `Half of the streams began within ${last(ttft.p50)}, nine of ten within ${last(ttft.p90)}; highest ${seconds(Math.max(...known))}.`;
  const marks = [0, 0.5, 1].map((part) => {
    const mark = el("span", { class: "y" }, part ? seconds(top * part) : "0");
    share(mark, "top", 1 - part);
    return mark;
  });
  root.replaceChildren(
    el("div", { class: "chart", role: "img", "aria-label": label }, picture, ...marks),
    el("div", { class: "axis", "aria-hidden": "true" }, el("span", {}, "5 min ago"),
      el("span", {}, el("span", { class: "key" }, "p50"), el("span", { class: "key dashed" }, "p90")), el("span", {}, "now")));
}

/** Unbroken stretches; a point that stands alone is a short dash. */
function runs(values, top) {
  const step = WIDTH / (values.length - 1);
  const found = [];
  values.forEach((value, place) => {
    if (value == null) return;
    const point = [place * step, HEIGHT - HEIGHT * value / top];
    if (place && values[place - 1] != null) found.at(-1).push(point);
    else found.push([[Math.max(0, point[0] - step / 2), point[1]], point]);
  });
  return found;
}

const line = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;

function roundUp(value) {
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * size).find((step) => step >= value) ?? value;
}

export function drawStages(root, { lately }) {
  const stages = Object.entries(STAGES).filter(([name]) => lately.stages_s[name] > 0).map(([name, [text, fill]]) => ({ name, text, fill, s: lately.stages_s[name] }));
  if (!stages.length) return root.replaceChildren(el("p", { class: "none" }, "No stream began in the last minute."));
  if (!root.querySelector(".stack")) root.replaceChildren(el("div", { class: "stack", "aria-hidden": "true" }), el("ol", { class: "stages" }));
  keyed(root.querySelector(".stack"), stages, ({ name }) => name, ({ fill }) => el("span", { class: fill }),
    (part, { s }) => part.style.setProperty("flex-grow", Math.round(1000 * s)));
  keyed(root.querySelector(".stages"), stages, ({ name }) => name,
    ({ fill, text }) => el("li", {}, el("span", { class: `swatch ${fill}`, "aria-hidden": "true" }), text, el("b")),
    (item, { s }) => say(item.lastChild, seconds(s)));
}

export function drawDecisions(root, { decisions }) {
  if (!decisions.length) return root.replaceChildren(el("li", { class: "none" }, "Nothing was decided in this time."));
  const most = decisions[0].count;
  root.querySelector(".none")?.remove();
  keyed(root, decisions, ({ route, reason }) => `${route} ${reason}`,
    ({ route, reason }) => el("li", {}, el("span", {}, spaced(reason), " ", el("small", {}, route === "none" ? "refused" : route)), el("b"),
      el("span", { class: `meter ${route === "none" ? "nowhere" : route}`, "aria-hidden": "true" }, el("i"))),
    (item, { count }) => { say(item.querySelector("b"), amount(count)); share(item.querySelector("i"), "width", count / most); });
}
