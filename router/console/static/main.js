// Asks for the state once a second, as long as somebody looks, and draws it.

import { say } from "./dom.js";
import { drawDecisions, drawStages, drawTtft } from "./charts.js";
import { drawEngineSheet, openEngine, startEngine } from "./engine.js";
import { drawFleet } from "./fleet.js";
import { drawFlow } from "./flow.js";
import { drawFigures, drawNotes, drawTroubles, drawVerdict } from "./glance.js";
import { drawOperator, startOperator } from "./operator.js";
import { duration } from "./words.js";

const EVERY_MS = 1000;
const PATIENCE_MS = 4000;

const $ = (id) => document.getElementById(id);
const link = $("link");
let state = null;
let timer = null;
let seen = Date.now();

async function look() {
  clearTimeout(timer);
  try {
    const answer = await fetch("/console/state", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(`it answered ${answer.status}`);
    state = await answer.json();
    seen = Date.now();
    draw();
  } catch {
    link.className = "link lost";
    say(link, `no answer from the gateway for ${duration((Date.now() - seen) / 1000)}; what is shown is from then`);
  }
  timer = document.hidden ? null : setTimeout(look, EVERY_MS);
}

function draw() {
  link.className = state.ready ? "link" : "link lost";
  say(link, state.ready ? "live" : "not ready");
  drawVerdict($("verdict"), state);
  drawFigures($("figures"), state);
  drawNotes($("notes"), state);
  drawFleet($("fleet"), state, (id) => openEngine(id, state));
  drawFlow($("fleet"), state);
  drawTtft($("ttft"), state);
  drawStages($("stages"), state);
  drawDecisions($("decisions"), state);
  drawTroubles($("troubles"), state);
  drawOperator(state);
  drawEngineSheet(state);
}

startOperator(look);
startEngine(look);
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
addEventListener("resize", () => { if (state) drawFlow($("fleet"), state); });
look();
