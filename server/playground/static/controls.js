// What the user asks for, and what the server is known to take.

import { byId, el, p, percent, probability, show } from "./dom.js";

const STEPS_FULL = { mode: "shadow", report: "steps" };

export class Controls {
  constructor() {
    this.server = null; // {model, drr}: drr is null where the server judges nothing
    for (const radio of document.querySelectorAll("[name=rule]")) radio.addEventListener("change", () => this.refresh());
    for (const id of ["risk", "threshold", "attempts"]) byId(id).addEventListener("input", () => this.refresh());
    this.offer(null);
  }

  /** Offer what the server's judge supports. */
  offer(server) {
    this.server = server;
    const told = server?.drr;
    const judged = Boolean(told?.judge);
    const risks = told?.risks ?? [];
    const settings = told?.auto;
    byId("rule").disabled = !judged;
    byId("attempts-set").disabled = !judged || told.thinking_again === null;
    byId("beside").disabled = !judged;
    const [, atRisk] = document.querySelectorAll("[name=rule]");
    atRisk.disabled = !risks.length;
    if (!risks.length && atRisk.checked) document.querySelector("[name=rule]").checked = true;
    byId("risk").max = String(Math.max(0, risks.length - 1));
    byId("risk").value = String(Math.floor(risks.length / 2));
    if (typeof settings?.threshold === "number") byId("threshold").value = String(settings.threshold);
    byId("own-rule").replaceChildren(...ownRule(settings));
    const support = byId("support");
    show(support, Boolean(server) && !judged);
    support.textContent = told
      ? "This server was started without a judge: thinking is shown without scores, and nothing is stopped early."
      : "This server tells nothing of DRR: thinking is shown without scores.";
    if (judged && !risks.length) {
      show(support, true);
      support.textContent = "This judge is not calibrated, so no risk can be promised.";
    }
    this.refresh();
  }

  get rule() {
    return document.querySelector("[name=rule]:checked").value;
  }

  refresh() {
    for (const slider of document.querySelectorAll("[data-for]")) show(slider, slider.dataset.for === this.rule);
    const risks = this.server?.drr?.risks ?? [];
    byId("risk-value").textContent = risks.length ? percent(risks[Number(byId("risk").value)]) : "–";
    byId("threshold-value").textContent = probability(Number(byId("threshold").value));
    byId("attempts-value").textContent = byId("attempts").value;
  }

  /** Set what a request asked for, as far as it is offered here. */
  adopt({ drr = {}, seed } = {}) {
    const risk = (this.server?.drr?.risks ?? []).indexOf(drr.max_lost_correct);
    const rule = typeof drr.threshold === "number" ? "threshold" : risk >= 0 ? "risk" : "own";
    document.querySelector(`[name=rule][value=${rule}]`).checked = true;
    if (risk >= 0) byId("risk").value = String(risk);
    if (rule === "threshold") byId("threshold").value = String(drr.threshold);
    byId("attempts").value = String(1 + (Number.isInteger(drr.max_rethinks) ? drr.max_rethinks : 0));
    byId("seed").value = Number.isInteger(seed) ? String(seed) : "";
    this.refresh();
  }

  /** The `drr` object that is asked for; null where the server would not know it. */
  drr() {
    if (!this.server?.drr) return null;
    if (!this.server.drr.judge) return {};
    const asked = {};
    if (this.rule === "risk") asked.max_lost_correct = this.server.drr.risks[Number(byId("risk").value)];
    if (this.rule === "threshold") asked.threshold = Number(byId("threshold").value);
    const attempts = Number(byId("attempts").value);
    if (attempts > 1 && !byId("attempts-set").disabled) asked.max_rethinks = attempts - 1;
    return { mode: "auto", ...asked };
  }

  /** The requests to be made: [name, body]. */
  requests(question) {
    const seed = byId("seed").value === "" ? Math.floor(Math.random() * 2 ** 31) : Number(byId("seed").value);
    const shared = {
      model: this.server?.model ?? "",
      messages: [{ role: "user", content: question }],
      stream: true,
      stream_options: { include_usage: true },
      seed,
    };
    const drr = this.drr();
    const requests = [["drr", drr ? { ...shared, drr } : shared]];
    if (this.server?.drr?.judge && byId("beside").checked) requests.push(["full", { ...shared, drr: STEPS_FULL }]);
    return requests;
  }
}

/** The judge's rule in words. */
function ownRule(settings) {
  if (!settings || settings.threshold === undefined) return [];
  const { threshold, hopeless, min_gain: gain, patience } = settings;
  const parts = [];
  const part = (...children) => parts.push(el("span", { class: "part" }, ...children));
  if (threshold !== null) part(p("now"), ` ≥ ${probability(threshold)}`);
  if (hopeless !== null) part(p("later"), ` ≤ ${probability(hopeless)}`);
  if (gain !== null) part(p("later"), " − ", p("now"), ` ≤ ${probability(gain)}`);
  if (!parts.length) return ["Nothing ends thinking by default."];
  const joined = parts.flatMap((each, index) => (index ? [" or ", each] : [each]));
  return ["Stops at ", ...joined, patience > 1 ? `, ${patience} times in a row` : ""];
}
