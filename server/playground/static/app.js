// The page: asks, shows what streams, replays, saves and loads.

import { Chart, sparkline } from "./chart.js";
import { Columns } from "./columns.js";
import { Controls } from "./controls.js";
import { byId, count, el, probability, seconds, show } from "./dom.js";
import { firstEnd, ruleOf } from "./policy.js";
import { snippet } from "./snippets.js";
import { AnswerError, ask, getJson } from "./sse.js";
import { explanation, figures, headline, named, spared, wasCut } from "./summary.js";
import { Run, parseTrace, runOf, traceOf } from "./trace.js";

const API = new URL("v1", document.baseURI).href;
const KEY = "drr-key";
const NEVER = 1.005; // beyond this the replayed threshold stops nothing

const controls = new Controls();
const columns = new Columns(byId("columns"), (hit) => point(hit?.step ?? null));
const chart = new Chart(byId("chart"), (hit) => point(hit?.step ?? null));

let result = null; // {question, runs, title}
let stopping = null; // the AbortController of what is under way
let replayed = null; // {threshold, futile} where the user has moved them
let drawing = false;

function point(step) {
  columns.highlight(step);
  chart.highlight(step);
}

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
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stopping?.abort();
});

// ---------------------------------------------------------------- the result

function open(next) {
  result = next;
  replayed = null;
  columns.clear();
  for (const card of document.querySelectorAll(".examples button")) card.setAttribute("aria-pressed", String(card.dataset.title === next.title));
  byId("asked").textContent = next.question;
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
  const { drr, full } = named(runs);
  byId("headline").textContent = headline(drr);
  byId("told").textContent = explanation(runs);
  byId("told").classList.toggle("error", Boolean(drr.error));
  byId("figures").replaceChildren(...figures(runs).map(([name, value, note]) => el("div", {}, el("dt", {}, name), el("dd", {}, value), note ? el("dd", { class: "note" }, note) : null)));
  columns.update(runs);
  const shown = drawReplay(drr, full);
  drawCuts(drr, full, shown);
  drawChart(drr, full, shown);
  byId("result").setAttribute("aria-busy", String(runs.some((run) => !run.done)));
  byId("headline").setAttribute("aria-live", drr.done ? "polite" : "off");
  if (byId("code").open) drawCode();
}

/** The attempt whose scores are replayed, and whether they reach to the thinking's own end. */
function replayBase(drr, full) {
  if (full?.done && full.judged) return { run: full, attempt: full.attempts[0], whole: full.state === "done" };
  if (drr.done && drr.judged) return { run: drr, attempt: drr.answering, whole: drr.closedByItself };
  return null;
}

function drawReplay(drr, full) {
  const base = replayBase(drr, full);
  const visible = Boolean(base) && Boolean(drr.account);
  show(byId("replay"), visible);
  if (!visible) return null;
  const recorded = ruleOf(drr.account.settings);
  const futile = recorded.hopeless !== null || recorded.min_gain !== null;
  show(byId("futile-label"), futile);
  if (!replayed) {
    byId("replay-threshold").value = String(recorded.threshold ?? 1.01);
    byId("replay-futile").checked = futile;
  }
  const threshold = Number(byId("replay-threshold").value);
  const never = threshold > NEVER;
  byId("replay-value").textContent = never ? "never" : probability(threshold);
  byId("replay-threshold").setAttribute("aria-valuetext", byId("replay-value").textContent);
  show(byId("replay-reset"), Boolean(replayed));
  const rule = { ...recorded, accept: null, nudge: 0, threshold: never ? null : threshold };
  if (!byId("replay-futile").checked) Object.assign(rule, { hopeless: null, min_gain: null });
  const end = firstEnd(rule, base.attempt.steps, base.whole && base.run.closedByItself);
  byId("replay-told").textContent = replayWords(base, end);
  return { ...base, end, threshold: rule.threshold };
}

function replayWords({ run, attempt, whole }, end) {
  const all = run.thinkingTokens ?? attempt.tokens;
  if (!end) return whole ? `It would have thought to its own end: ${count(all, "token")}.` : `It would have gone on behind what is recorded, ${count(attempt.tokens, "token")}.`;
  const step = attempt.steps[end.index];
  const why = { sure: "sure enough", hopeless: "hopeless", no_gain: "nothing to gain", max_steps: "limit of steps", natural: "its own close" }[end.cause] ?? end.verdict;
  const at = `Step ${end.index + 1}, after ${count(step.to, "token")}: ${why}.`;
  if (!whole) return at;
  const rest = all - step.to;
  if (rest <= 0) return `${at} Nothing is spared.`;
  const time = run.answerAt !== null ? ` and ${seconds(Math.max(0, run.answerAt - step.ms_at))}` : "";
  return `${at} ${count(rest, "token")}${time} of thinking not generated. What it would have answered there is not recorded.`;
}

function drawCuts(drr, full, shown) {
  for (const run of result.runs) for (const attempt of run.attempts) columns.of(attempt).cut(null, "");
  if (replayed && shown) {
    const label = shown.end ? `Replayed: it would stop here${shown.whole ? `, ${count(Math.max(0, (shown.run.thinkingTokens ?? 0) - shown.attempt.steps[shown.end.index].to), "token")} early` : ""}.` : "";
    columns.of(shown.attempt).cut(shown.end?.index ?? null, label);
    return;
  }
  if (!wasCut(drr)) return;
  const saved = spared({ drr, full });
  const known = saved && saved.tokens > 0 && drr.attempts.length === 1;
  columns.of(drr.answering).cut(drr.answering.steps.length - 1, known ? `Stopped: ${count(saved.tokens, "token")} not generated.` : "Stopped here.");
  if (!known || !saved.same || !full.judged) return;
  const steps = full.attempts[0].steps;
  const index = steps.findIndex((step) => step.to >= drr.thinkingTokens);
  if (index >= 0 && index < steps.length - 1) columns.of(full.attempts[0]).cut(index, `DRR stopped here: it did not generate these ${count(saved.tokens, "token")}.`);
}

function drawChart(drr, full, shown) {
  const series = [];
  let offset = 0;
  for (const attempt of drr.attempts) {
    const rejected = ["rejected", "answered"].includes(attempt.details?.fate) || attempt.number < drr.shown;
    series.push({ offset, steps: attempt.steps, rejected, faded: rejected });
    offset += attempt.details?.thinking_tokens && attempt === drr.answering ? Math.max(attempt.tokens, attempt.details.thinking_tokens) : attempt.tokens;
  }
  let total = offset;
  const several = drr.attempts.length > 1;
  if (full?.judged && !several) {
    const own = drr.attempts[0];
    const behind = full.attempts[0].steps.filter((step) => step.to > own.tokens);
    series.push({ offset: 0, steps: behind, faded: true, from: own.steps.at(-1) ?? null });
    total = Math.max(total, full.attempts[0].tokens);
  }
  let cut = null;
  let threshold = drr.account ? drr.account.settings?.threshold ?? null : controls.server?.drr?.auto?.threshold ?? null;
  if (replayed && shown) {
    threshold = shown.threshold;
    const offsetOf = several && shown.run === drr ? series[shown.attempt.number].offset : 0;
    if (several && shown.run === full) series.splice(0, series.length, { offset: 0, steps: shown.attempt.steps }), (total = shown.attempt.tokens);
    if (shown.end) cut = { at: offsetOf + shown.attempt.steps[shown.end.index].to, total: offsetOf + shown.attempt.tokens, label: "would stop" };
    for (const one of series) one.faded = one.rejected && one.faded;
  } else if (wasCut(drr)) {
    const start = series[drr.answering.number].offset;
    cut = { at: start + drr.answering.tokens, total: several ? 0 : total, label: several ? "stopped" : total > offset ? `${count(total - offset, "token")} not generated` : "stopped" };
  }
  chart.draw({ series, total, threshold, cut });
}

byId("replay").addEventListener("input", () => {
  replayed = true;
  redraw();
});
byId("replay").addEventListener("reset", (event) => {
  event.preventDefault();
  replayed = null;
  redraw();
  byId("replay-threshold").focus();
});
byId("replay").addEventListener("submit", (event) => event.preventDefault());

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
      openTrace(trace);
    });
    return el("li", {}, button);
  });
  byId("examples").replaceChildren(...cards);
  if (!result && traces.length) openTrace(traces[0]);
}

findServer();
showExamples();
