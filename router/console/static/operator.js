// Changes, for who has the token. It is kept in this page's memory only, and goes along with changes only.

import { el, say } from "./dom.js";
import { percent } from "./words.js";

let token = null;
let unlocked = false;
let terms = "closed";
let compared = {};

const dialog = document.getElementById("operator");
const lock = document.getElementById("lock");
const mode = document.getElementById("mode");
const told = document.getElementById("told");

export const mayChange = () => unlocked;

/** Something went wrong or worked: said in a corner for a while. */
export function tell(text) {
  say(told, text);
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => say(told, ""), 5000);
}

/** Ask the gateway for a change. Throws with what it said when it refuses. */
export async function change(method, path, body) {
  const headers = body ? { "content-type": "application/json" } : {};
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401) set(false);
  if (!answer.ok) throw new Error(said.error?.message ?? `the gateway answered ${answer.status}`);
  return said;
}

function set(open) {
  unlocked = open;
  if (!open) token = null;
  lock.setAttribute("aria-pressed", String(open));
  say(lock, open ? "Changes allowed" : "Read-only");
  mode.disabled = !open;
}

/** Show the mode that is in force, and what changes need. What a mode is compared with stays when it is switched. */
export function drawOperator(state) {
  terms = state.changes;
  compared = { share: state.share, otherwise: state.otherwise };
  const radio = mode.querySelector(`[value="${CSS.escape(state.mode)}"]`);
  if (radio && !mode.contains(document.activeElement)) radio.checked = true;
}

export function startOperator(refresh) {
  set(false);
  lock.addEventListener("click", () => (unlocked ? set(false) : ask()));
  mode.addEventListener("change", async (event) => {
    try {
      await change("PUT", "/routing", { mode: event.target.value, ...compared });
      tell(`Routing is ${event.target.value} now${compared.share < 1 ? ` for ${percent(compared.share)} of requests` : ""}.`);
    } catch (error) { tell(`Not changed: ${error.message}`); }
    event.target.blur();
    refresh();
  });
}

const NEEDS = {
  token: "Draining engines and switching the routing need the token of the operations listener.",
  loopback: "No token is configured (ops.token_env). This listener is on loopback, so that changes are allowed from this machine.",
  closed: "No token is configured (ops.token_env), and this listener is not on loopback: changes are not possible here.",
};

function ask() {
  const input = el("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true });
  const error = el("p", { class: "error", role: "alert" });
  const close = () => dialog.close();
  const form = el("form", { class: "in", method: "dialog" },
    el("h2", { id: "operator-title" }, "Allow changes"), el("p", { class: "why" }, NEEDS[terms]),
    terms === "token" && el("label", { for: "token" }, "Token", input), error,
    el("div", { class: "acts" },
      terms !== "closed" && el("button", { class: "act strong", type: "submit" }, "Allow changes"),
      el("button", { class: "act", type: "button", onclick: close }, "Stay read-only")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    token = terms === "token" ? input.value : null;
    try {
      await change("POST", "/console/unlock");
      set(true);
      close();
    } catch (refused) {
      set(false);
      say(error, `Refused: ${refused.message}.`);
      input.select();
    }
  });
  dialog.replaceChildren(form);
  dialog.showModal();
  if (terms === "token") input.focus();
}
