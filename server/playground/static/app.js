// The page: asks, shows what streams, replays, saves and loads.

import { sparkline } from "./chart.js";
import { Controls } from "./controls.js";
import { byId, count, el, show } from "./dom.js";
import { snippet } from "./snippets.js";
import { AnswerError, ask, getJson } from "./sse.js";
import { Stage } from "./stage.js";
import { explanation, figures, headline, named, wasCut } from "./summary.js";
import { Run, parseTrace, runOf, traceOf } from "./trace.js";

const API = new URL("v1", document.baseURI).href;
const KEY = "drr-key";

const controls = new Controls();
const stage = new Stage(redraw);

let result = null; // {question, runs, title}
let stopping = null; // the AbortController of what is under way
let drawing = false;

// ---------------------------------------------------------------- the server

const key = () => sessionStorage.getItem(KEY) ?? "";

async function findServer() {
  const status = byId("server");
  try {
    const { data } = await getJson(`${API}/models`, key());
    const card = data.find((one) => one.drr) ?? data[0];
    if (!card) throw new AnswerError("This server has no model.");
    controls.offer({ model: card.id, drr: card.drr ?? null });
    status.replaceChildren(el("b", {}, card.id), card.drr?.judge ? el("span", {}, `judged by ${card.drr.judge}`) : el("span", {}, "without a judge"));
    status.dataset.state = "ok";
    show(byId("key-form"), Boolean(key()));
  } catch (error) {
    if (!(error instanceof AnswerError)) throw error;
    status.textContent = error.needsKey ? (key() ? "This key is not taken." : "An API key is needed to ask.") : `${error.message} Recorded examples can be seen all the same.`;
    status.dataset.state = error.needsKey ? "key" : "gone";
    show(byId("key-form"), error.needsKey);
  }
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = byId("key").value.trim();
  if (given) sessionStorage.setItem(KEY, given);
  else sessionStorage.removeItem(KEY);
  byId("key").value = "";
  findServer();
});

// ---------------------------------------------------------------- asking

async function follow(run, signal, events) {
  try {
    for await (const [ms, kind, value] of events) {
      run.feed(ms, kind, value);
      redraw();
    }
    run.end("done");
  } catch (error) {
    if (signal.aborted) run.end("stopped");
    else {
      run.end("failed", error instanceof AnswerError ? error.message : "Something on this page went wrong; the browser's console says what.");
      if (!(error instanceof AnswerError)) console.error(error);
      if (error.needsKey) findServer();
    }
  }
  redraw();
}

async function followAll(runs, eventsOf) {
  stopping?.abort();
  const controller = new AbortController();
  stopping = controller;
  busy(true);
  await Promise.all(runs.map((run) => follow(run, controller.signal, eventsOf(run, controller.signal))));
  if (stopping !== controller) return;
  stopping = null;
  busy(false);
}

async function askNow() {
  const question = byId("question").value.trim();
  if (!question) {
    byId("question").focus();
    return;
  }
  if (!controls.server) await findServer();
  const runs = controls.requests(question).map(([name, body]) => new Run(name, body, { rule: controls.server?.drr?.step_rule }));
  open({ question, runs, title: null });
  const hidden = byId("headline").getBoundingClientRect().top > innerHeight - 160;
  if (hidden) byId("result").scrollIntoView({ block: "start" });
  await followAll(runs, (run, signal) => ask(`${API}/chat/completions`, run.request, key(), signal));
}

function busy(is) {
  show(byId("go"), !is);
  show(byId("stop"), is);
  byId("play").disabled = is;
  document.body.classList.toggle("busy", is);
  redraw();
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  askNow();
});
byId("stop").addEventListener("click", () => stopping?.abort());
byId("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!stopping) askNow();
});
byId("question").addEventListener("input", redraw);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stopping?.abort();
});

// ---------------------------------------------------------------- the result

function open(next) {
  result = next;
  stage.clear();
  for (const card of document.querySelectorAll(".examples button")) card.setAttribute("aria-pressed", String(card.dataset.title === next.title));
  byId("asked").textContent = next.question;
  byId("result").setAttribute("aria-busy", "true"); // until it is drawn
  show(byId("result"), true);
  redraw();
}

function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (result) draw();
  });
}

function draw() {
  const { runs } = result;
  const { drr } = named(runs);
  show(byId("asked"), byId("question").value.trim() !== result.question);
  byId("headline").textContent = headline(drr);
  byId("told").textContent = explanation(runs);
  byId("told").classList.toggle("error", Boolean(drr.error));
  byId("figures").replaceChildren(...figures(runs).map(([name, value, note]) => el("div", {}, el("dt", {}, name), el("dd", {}, value), note ? el("dd", { class: "note" }, note) : null)));
  stage.usualThreshold = controls.server?.drr?.auto?.threshold ?? null;
  stage.draw(runs);
  byId("result").setAttribute("aria-busy", String(runs.some((run) => !run.done)));
  byId("headline").setAttribute("aria-live", drr.done ? "polite" : "off");
  if (byId("code").open) drawCode();
}

// ---------------------------------------------------------------- tools

async function* paced(events, signal) {
  const begun = performance.now();
  for (const [ms, kind, value] of events) {
    const wait = ms - (performance.now() - begun);
    if (wait > 4) await new Promise((resolve) => setTimeout(resolve, wait));
    signal.throwIfAborted();
    yield [ms, kind, value];
  }
}

byId("play").addEventListener("click", () => {
  const recorded = new Map();
  const runs = result.runs.map((old) => {
    const run = new Run(old.name, old.request, { right: old.right, rule: old.rule });
    recorded.set(run, old.events);
    return run;
  });
  open({ ...result, runs });
  followAll(runs, (run, signal) => paced(recorded.get(run), signal));
});

byId("save").addEventListener("click", () => {
  const { question, runs, title } = result;
  const text = JSON.stringify(traceOf(question, runs, { model: runs[0].request.model, ...(title ? { title } : {}) }), null, 1);
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  el("a", { href: url, download: `drr-trace-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
});

byId("load").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", async () => {
  const [file] = byId("file").files;
  byId("file").value = "";
  if (!file) return;
  try {
    openTrace(parseTrace(await file.text()));
    problem("");
  } catch (error) {
    problem(`${file.name}: ${error.message}`);
  }
});

function openTrace(trace) {
  stopping?.abort();
  open({ question: trace.question, runs: trace.runs.map(runOf), title: trace.title ?? null });
}

function problem(text) {
  byId("problem").textContent = text;
  show(byId("problem"), Boolean(text));
}

function drawCode() {
  const language = document.querySelector("[name=language]:checked").value;
  byId("snippet").textContent = snippet(language, { base: API, body: named(result.runs).drr.request, hasKey: Boolean(key()) });
}

byId("code").addEventListener("toggle", () => byId("code").open && drawCode());
for (const radio of document.querySelectorAll("[name=language]")) radio.addEventListener("change", drawCode);
byId("copy").addEventListener("click", async () => {
  const button = byId("copy");
  try {
    await navigator.clipboard.writeText(byId("snippet").textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(byId("snippet"));
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => (button.textContent = "Copy"), 2500);
});

// ---------------------------------------------------------------- recorded examples

async function showExamples() {
  const traces = await getJson(new URL("playground/examples.json", document.baseURI).href, "");
  const cards = traces.map((trace) => {
    const runs = trace.runs.map(runOf);
    const { drr, full } = named(runs);
    const cut = wasCut(drr) && drr.attempts.length === 1 ? drr.thinkingTokens : null;
    const told = drr.attempts.length > 1 ? count(drr.attempts.length, "attempt") : `${drr.thinkingTokens} of ${count(full.thinkingTokens, "token")}`;
    const button = el("button", { type: "button", "data-title": trace.title, "aria-pressed": "false" },
      el("b", {}, trace.title), sparkline(full.attempts[0].steps, cut), el("span", {}, told));
    button.addEventListener("click", () => {
      byId("question").value = trace.question;
      controls.adopt(trace.runs[0].request);
      openTrace(trace);
    });
    return el("li", {}, button);
  });
  byId("examples").replaceChildren(...cards);
  if (!result && traces.length) openTrace(traces[0]);
}

findServer();
showExamples();
