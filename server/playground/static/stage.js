// What a result shows below its headline: columns, chart, and the replay of its scores under another rule.

import { Chart } from "./chart.js";
import { Columns } from "./columns.js";
import { byId, count, probability, seconds, show } from "./dom.js";
import { firstEnd, ruleOf } from "./policy.js";
import { named, spared, wasCut } from "./summary.js";

const NEVER = 1.005; // a replayed threshold above this stops nothing
const WHY = { sure: "sure enough", hopeless: "hopeless", no_gain: "nothing to gain", max_steps: "limit of steps", natural: "its own close" };

export class Stage {
  constructor(onChange) {
    const point = (hit) => this.point(hit?.step ?? null);
    this.columns = new Columns(byId("columns"), point);
    this.chart = new Chart(byId("chart"), point);
    this.moved = false; // whether the user has moved the threshold or its companion
    this.usualThreshold = null; // what is drawn until the response tells its own
    byId("replay").addEventListener("input", () => {
      this.moved = true;
      onChange();
    });
    byId("replay").addEventListener("reset", (event) => {
      event.preventDefault();
      this.moved = false;
      onChange();
      byId("replay-threshold").focus();
    });
    byId("replay").addEventListener("submit", (event) => event.preventDefault());
  }

  point(step) {
    this.columns.highlight(step);
    this.chart.highlight(step);
  }

  clear() {
    this.moved = false;
    this.columns.clear();
  }

  draw(runs) {
    const { drr, full } = named(runs);
    this.columns.update(runs);
    const replay = this.drawReplay(drr, full);
    this.drawCuts(runs, drr, full, replay);
    this.drawChart(drr, full, replay);
  }

  drawReplay(drr, full) {
    const base = replayBase(drr, full);
    const visible = Boolean(base) && Boolean(drr.account);
    show(byId("replay"), visible);
    if (!visible) return null;
    const recorded = ruleOf(drr.account.settings);
    const futile = recorded.hopeless !== null || recorded.min_gain !== null;
    show(byId("futile-label"), futile);
    if (!this.moved) {
      byId("replay-threshold").value = String(recorded.threshold ?? 1.01);
      byId("replay-futile").checked = futile;
    }
    const threshold = Number(byId("replay-threshold").value);
    const never = threshold > NEVER;
    byId("replay-value").textContent = never ? "never" : probability(threshold);
    byId("replay-threshold").setAttribute("aria-valuetext", byId("replay-value").textContent);
    show(byId("replay-reset"), this.moved);
    const rule = { ...recorded, accept: null, nudge: 0, threshold: never ? null : threshold };
    if (!byId("replay-futile").checked) Object.assign(rule, { hopeless: null, min_gain: null });
    const end = firstEnd(rule, base.attempt.steps, base.whole && base.run.closedByItself);
    byId("replay-told").textContent = replayWords(base, end);
    return { ...base, end, threshold: rule.threshold };
  }

  drawCuts(runs, drr, full, shown) {
    for (const run of runs) for (const attempt of run.attempts) this.columns.of(attempt).cut(null, "");
    if (this.moved && shown) {
      const label = shown.end ? `Replayed: it would stop here${shown.whole ? `, ${count(Math.max(0, (shown.run.thinkingTokens ?? 0) - shown.attempt.steps[shown.end.index].to), "token")} early` : ""}.` : "";
      this.columns.of(shown.attempt).cut(shown.end?.index ?? null, label);
      return;
    }
    if (!wasCut(drr)) return;
    const saved = spared({ drr, full });
    const known = saved && saved.tokens > 0 && drr.attempts.length === 1;
    this.columns.of(drr.answering).cut(drr.answering.steps.length - 1, known ? `Stopped: ${count(saved.tokens, "token")} not generated.` : "Stopped here.");
    if (!known || !saved.same || !full.judged) return;
    const steps = full.attempts[0].steps;
    const index = steps.findIndex((step) => step.to >= drr.thinkingTokens);
    if (index >= 0 && index < steps.length - 1) this.columns.of(full.attempts[0]).cut(index, `DRR stopped here: ${count(saved.tokens, "token")} of what follows it never generated.`);
  }

  drawChart(drr, full, shown) {
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
    let threshold = drr.account ? drr.account.settings?.threshold ?? null : this.usualThreshold;
    if (this.moved && shown) {
      threshold = shown.threshold;
      const offsetOf = several && shown.run === drr ? series[shown.attempt.number].offset : 0;
      if (several && shown.run === full) series.splice(0, series.length, { offset: 0, steps: shown.attempt.steps }), (total = shown.attempt.tokens);
      if (shown.end) cut = { at: offsetOf + shown.attempt.steps[shown.end.index].to, total: offsetOf + shown.attempt.tokens, label: "would stop" };
      for (const one of series) one.faded = one.rejected && one.faded;
    } else if (wasCut(drr)) {
      const start = series[drr.answering.number].offset;
      cut = { at: start + drr.answering.tokens, total: several ? 0 : total, label: several ? "stopped" : total > offset ? `${count(total - offset - (drr.account.discarded_tokens ?? 0), "token")} not generated` : "stopped" };
    }
    this.chart.draw({ series, total, threshold, cut });
  }
}

/** The attempt whose scores are replayed, and whether they reach to the thinking's own end. */
function replayBase(drr, full) {
  if (full?.done && full.judged) return { run: full, attempt: full.attempts[0], whole: full.state === "done" };
  if (drr.done && drr.judged) return { run: drr, attempt: drr.answering, whole: drr.closedByItself };
  return null;
}

function replayWords({ run, attempt, whole }, end) {
  const all = run.thinkingTokens ?? attempt.tokens;
  if (!end) return whole ? `It would have thought to its own end: ${count(all, "token")}.` : `It would have gone on behind what is recorded, ${count(attempt.tokens, "token")}.`;
  const step = attempt.steps[end.index];
  const why = WHY[end.cause] ?? end.verdict;
  const at = `Step ${end.index + 1}, after ${count(step.to, "token")}: ${why}.`;
  if (!whole) return at;
  const rest = all - step.to;
  if (rest <= 0) return `${at} Nothing is spared.`;
  const time = run.answerAt !== null ? ` and ${seconds(Math.max(0, run.answerAt - step.ms_at))}` : "";
  return `${at} ${count(rest, "token")}${time} of thinking spared, less the few tokens that come while a verdict is on its way. What it would have answered there is not recorded.`;
}
