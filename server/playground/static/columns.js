// The thinking, attempt by attempt: a column each, every step coloured by its p_now.

import { count, el, probability } from "./dom.js";

const FATES = {
  accepted: "accepted", unjudged: "not judged", rejected: "rejected",
  answered: "rejected, and yet the best", abandoned: "given up: another was accepted first",
};

/** One attempt's column, kept up to date by `update`. */
class Column {
  constructor(run, attempt, several, onStep) {
    Object.assign(this, { run, attempt, several, onStep });
    this.steps = [];
    this.title = el("h3", {}, this.name());
    this.fate = el("p", { class: "fate" });
    this.list = el("ol", { class: "steps" });
    this.open = el("p", { class: "open" });
    this.mark = el("p", { class: "mark", hidden: true });
    this.answer = el("div", { class: "answer", hidden: true });
    this.node = el(
      "section", { class: `column ${run.name}`, "data-run": run.name, "data-attempt": attempt.number },
      el("header", {}, this.title, this.fate), el("div", { class: "thought" }, this.list, this.open, this.mark), this.answer,
    );
  }

  name() {
    if (this.run.name === "full") return "Full thinking";
    return this.several ? `Attempt ${this.attempt.number + 1}` : "DRR";
  }

  update() {
    const { attempt, run } = this;
    for (let index = this.steps.length; index < attempt.steps.length; index += 1) this.addStep(attempt.steps[index]);
    for (const [index, step] of attempt.steps.entries()) {
      const shown = this.steps[index];
      const text = step.text.trim();
      if (shown.text.textContent !== text) shown.text.textContent = text;
      shown.node.classList.toggle("silent", !text && run.done);
    }
    this.open.textContent = attempt.open.trimStart();
    const thinks = ["waiting", "thinking"].includes(run.state) && attempt === run.attempts[run.shown];
    this.open.hidden = !attempt.open.trim() && !thinks;
    this.open.classList.toggle("live", thinks);
    this.showFate();
    this.showAnswer();
  }

  addStep(step) {
    const score = probability(step.p_now);
    const text = el("span", { class: "text" }, step.text.trim());
    const figure = el("span", { class: "score", title: `p_now ${score}, p_later ${probability(step.p_later)}` }, score);
    const known = typeof step.p_now === "number";
    const node = el("li", { class: `step${known ? "" : " unscored"}`, "--p": known ? step.p_now : null, "data-step": step.index }, figure, text);
    for (const kind of ["pointerenter", "pointerleave"])
      node.addEventListener(kind, () => this.onStep(kind === "pointerenter" ? { run: this.run, attempt: this.attempt, step } : null));
    this.list.append(node);
    this.steps.push({ node, text, step });
  }

  showFate() {
    const { attempt, run } = this;
    const fate = attempt.details?.fate;
    const over = run.name === "drr" && attempt.number < run.shown;
    const rejected = fate ? fate === "rejected" : over || attempt.steps.at(-1)?.verdict === "rethink" && run.name === "drr";
    this.node.classList.toggle("rejected", Boolean(rejected));
    this.node.classList.toggle("abandoned", fate === "abandoned");
    const tokens = attempt.details?.thinking_tokens ?? (attempt === run.answering ? run.thinkingTokens : attempt.tokens);
    const verdict = fate ? FATES[fate] : rejected ? FATES.rejected : "";
    const parts = [tokens ? count(tokens, "token") : "", this.several ? verdict : ""].filter(Boolean);
    this.fate.textContent = parts.join(", ");
  }

  showAnswer() {
    const { run } = this;
    const text = (run.answer || run.refusal).trim();
    const mine = run.attempts[run.shown] === this.attempt || run.answering === this.attempt;
    const shows = Boolean(text) && (run.done ? run.answering === this.attempt : mine);
    this.answer.hidden = !shows;
    if (!shows) return;
    const verdict = run.right === null ? "" : run.right ? "right" : "wrong";
    this.answer.replaceChildren(
      el("h4", {}, run.refusal && !run.answer ? "Abstained" : "Answer", verdict ? el("span", { class: `grade ${verdict}` }, verdict) : null),
      el("p", { class: run.done ? "" : "live" }, text),
    );
  }

  /** Show what lies behind a boundary as not generated. `at` is the step's index (null: nothing). */
  cut(at, told) {
    this.steps.forEach(({ node }, index) => node.classList.toggle("beyond", at !== null && index > at));
    this.node.classList.toggle("has-cut", at !== null);
    this.mark.hidden = !told;
    this.mark.textContent = told;
    if (at !== null && at < this.steps.length - 1) {
      let mark = this.list.querySelector(".mark");
      mark ??= el("li", { class: "mark" });
      mark.textContent = told;
      this.steps[at].node.after(mark);
      this.mark.hidden = true;
    } else this.list.querySelector(".mark")?.remove();
  }

  highlight(step) {
    for (const shown of this.steps) shown.node.classList.toggle("hot", shown.step === step);
  }
}

/** All columns of a result. `onStep` is told which step the pointer is on. */
export class Columns {
  constructor(container, onStep) {
    Object.assign(this, { container, onStep });
    this.columns = new Map();
  }

  clear() {
    this.columns.clear();
    this.container.replaceChildren();
  }

  update(runs) {
    const wanted = runs.flatMap((run) => run.attempts.map((attempt) => [run, attempt]));
    for (const [run, attempt] of wanted) {
      let column = this.columns.get(attempt);
      if (!column) {
        column = new Column(run, attempt, false, this.onStep);
        this.columns.set(attempt, column);
        this.place(column, wanted);
      }
      column.several = run.attempts.length > 1;
      column.title.textContent = column.name();
      column.node.setAttribute("aria-label", column.name());
      column.update();
    }
    this.container.style.setProperty("--count", wanted.length);
    this.container.classList.toggle("many", wanted.length > 2);
    this.container.tabIndex = wanted.length > 2 ? 0 : -1; // so many may have to be scrolled, by the keyboard too
    this.container.parentElement.classList.toggle("wide", wanted.length > 2);
  }

  place(column, wanted) {
    const index = wanted.findIndex(([, attempt]) => attempt === column.attempt);
    this.container.insertBefore(column.node, this.container.children[index] ?? null);
  }

  of(attempt) {
    return this.columns.get(attempt);
  }

  highlight(step) {
    for (const column of this.columns.values()) column.highlight(step);
  }
}
