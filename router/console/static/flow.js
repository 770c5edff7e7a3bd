// The flow from prefill to decode: a line for each pair that handed over in the last minute, as wide as its part.

import { say, svg } from "./dom.js";
import { seconds } from "./words.js";

const WIDEST = 13;
const MOST_LINES = 64;

export function drawFlow(root, state) {
  const { flow } = state;
  const section = root.querySelector(".flow");
  section.classList.toggle("idle", !flow.handoffs);
  say(section.querySelector(".p"), flow.handoffs ? seconds(flow.handoff_p50_s) : "none");
  say(section.querySelector(".more"), flow.handoffs ? `p90 ${seconds(flow.handoff_p90_s)}, ${flow.handoffs} a minute` : "in the last minute");
  const picture = section.querySelector("svg") ?? section.appendChild(canvas());
  picture.replaceChildren(picture.querySelector("defs"), ...lines(section, root, state));
}

function canvas() {
  const stops = [["0", "prefill"], ["1", "decode"]].map(([offset, role]) => {
    const stop = svg("stop", { offset });
    stop.style.setProperty("stop-color", `var(--${role})`);
    return stop;
  });
  const gradient = svg("linearGradient", { id: "handover", gradientUnits: "userSpaceOnUse", x1: 0, y1: 0, x2: 200, y2: 0 }, stops);
  return svg("svg", { "aria-hidden": "true" }, svg("defs", {}, gradient));
}

function* lines(section, root, { flow, quarantined_pairs: cut }) {
  const box = section.getBoundingClientRect();
  const label = section.querySelector(".told-flow").getBoundingClientRect().bottom - box.top;
  const middle = (id) => {
    const card = root.querySelector(`[data-engine="${CSS.escape(id)}"]`)?.getBoundingClientRect();
    return card && Math.max(label + 6, card.top - box.top + card.height / 2);
  };
  const path = (from, to) => {
    const [y1, y2] = [middle(from), middle(to)];
    return y1 && y2 && `M0 ${y1}C${box.width / 2} ${y1} ${box.width / 2} ${y2} ${box.width} ${y2}`;
  };
  const most = Math.max(1, ...flow.pairs.map(([, , count]) => count));
  for (const [from, to, count] of flow.pairs.slice(0, MOST_LINES)) {
    const d = path(from, to);
    if (!d) continue;
    yield svg("path", { d, "stroke-width": 2 + (WIDEST - 2) * count / most });
    yield svg("path", { d, class: "runs" });
  }
  for (const { prefill, decode } of cut) {
    const d = path(prefill, decode);
    if (d) yield svg("path", { d, class: "cut" });
  }
}
