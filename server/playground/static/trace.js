// A response as it grows: from events to attempts, steps with their texts, and the account.

const FORMAT = "drr-trace";
const KINDS = new Set(["reasoning", "content", "refusal", "step", "account", "usage", "finish"]);
const ENDS = { blank_line: /\n[ \t]*\n\s*/g, line: /\n\s*/g, sentence: /[.!?]["')\]]*\s+/g };
const USUAL_SEPARATOR = "\n\n[this attempt was rejected; here is another]\n\n";

class Attempt {
  constructor(number, rule) {
    this.number = number;
    this.pattern = ENDS[rule] ?? null;
    this.steps = []; // each: the server's object, with text, from, to (tokens) and ms_at
    this.text = "";
    this.placed = 0; // characters of the text that belong to closed steps
    this.waiting = 0; // steps whose end has not come yet
    this.details = null;
  }

  get tokens() {
    return this.steps.length ? this.steps[this.steps.length - 1].to : 0;
  }

  get open() {
    return this.text.slice(this.placed);
  }

  // A step's end is told in tokens, not in characters. Its last text comes just before it is told, or just after.
  addStep(step, ms) {
    const from = this.tokens;
    this.steps.push({ ...step, text: "", from, to: from + step.tokens, ms_at: ms });
    this.waiting += 1;
    if (this.waiting === 1 && this.open.trim() && this.endBehind(0) === this.text.length) this.place(this.text.length);
  }

  addText(text) {
    const before = this.text.length;
    this.text += text;
    while (this.waiting > 0) this.place(this.endBehind(this.waiting === 1 ? before : 0) ?? this.text.length);
  }

  place(end) {
    this.steps[this.steps.length - this.waiting].text = this.text.slice(this.placed, end);
    this.placed = end;
    this.waiting -= 1;
  }

  /** Where the step in progress ends, behind so many characters; null where nothing shows it. */
  endBehind(least) {
    if (!this.pattern) return this.open.trim() ? this.text.length : null;
    this.pattern.lastIndex = this.placed;
    for (let found = this.pattern.exec(this.text); found; found = this.pattern.exec(this.text)) {
      const end = found.index + found[0].length;
      if (end > least && this.text.slice(this.placed, found.index).trim()) return end;
    }
    return null;
  }

  finish() {
    while (this.waiting > 1) this.place(this.endBehind(0) ?? this.text.length);
    if (this.waiting > 0) this.place(this.text.length);
  }
}

/** One response. Feed it events in order; `name` is "drr", or "full" where nothing was to end the thinking. */
export class Run {
  constructor(name, request = {}, { right = null, rule = "blank_line" } = {}) {
    Object.assign(this, { name, request, right, rule });
    this.events = [];
    this.attempts = [new Attempt(0, rule)];
    this.shown = 0; // the attempt whose text comes
    this.answer = "";
    this.refusal = "";
    this.account = null;
    this.usage = null;
    this.finishReason = null;
    this.error = null;
    this.state = "waiting"; // waiting, thinking, answering, done, stopped, failed
    this.ms = 0;
    this.answerAt = null;
  }

  attempt(number) {
    while (this.attempts.length <= number) this.attempts.push(new Attempt(this.attempts.length, this.rule));
    return this.attempts[number];
  }

  feed(ms, kind, value) {
    this.events.push([Math.round(ms), kind, value]);
    this.ms = ms;
    switch (kind) {
      case "reasoning":
        this.state = "thinking";
        this.addThought(value);
        break;
      case "step":
        this.attempt(value.attempt ?? 0).addStep(value, ms);
        break;
      case "content":
        this.endThinking(ms);
        this.answer += value;
        break;
      case "refusal":
        this.endThinking(ms);
        this.refusal += value;
        break;
      case "finish":
        this.finishReason = value;
        break;
      case "account":
        this.account = value;
        this.addAccount(value, ms);
        break;
      case "usage":
        this.usage = value;
        break;
    }
  }

  endThinking(ms) {
    this.state = "answering";
    this.answerAt ??= ms;
  }

  addThought(text) {
    const separator = this.request.drr?.separator ?? USUAL_SEPARATOR;
    const [first, ...others] = separator ? text.split(separator) : [text];
    this.addTo(this.shown, first);
    for (const other of others) {
      this.attempt(this.shown).finish();
      this.shown += 1;
      this.addTo(this.shown, other);
    }
  }

  addTo(number, text) {
    const attempt = this.attempt(number);
    if (text) attempt.addText(text);
  }

  addAccount(account, ms) {
    if (!this.events.some(([, kind]) => kind === "step"))
      for (const step of account.steps ?? []) this.attempt(step.attempt ?? 0).addStep(step, ms);
    (account.attempt_details ?? []).forEach((details, number) => {
      this.attempt(number).details = details;
    });
    this.giveTextToAnswering();
  }

  // Attempts that run at the same time tell their scores as they come, and only one of them its text.
  giveTextToAnswering() {
    const answering = this.attempts.findIndex((a) => ["accepted", "answered", "unjudged"].includes(a.details?.fate));
    const [first] = this.attempts;
    if ((this.account.settings?.parallel ?? 1) < 2 || answering < 1 || !first.text) return;
    const { text } = first;
    const target = this.attempts[answering];
    for (const step of first.steps) step.text = "";
    Object.assign(first, { text: "", placed: 0, waiting: 0 });
    target.waiting = target.steps.length;
    target.text = text;
    target.finish();
  }

  end(state, error = null) {
    for (const attempt of this.attempts) attempt.finish();
    Object.assign(this, { state, error });
  }

  get done() {
    return ["done", "stopped", "failed"].includes(this.state);
  }

  /** The attempt that the answer rests on: the newest until that is known. */
  get answering() {
    const known = this.attempts.find((a) => ["accepted", "answered", "unjudged"].includes(a.details?.fate));
    return known ?? this.attempts[this.attempts.length - 1];
  }

  get judged() {
    return this.attempts.some((attempt) => attempt.steps.length > 0);
  }

  /** Tokens of thinking: those of the account, or of the steps so far; null where nobody tells. */
  get thinkingTokens() {
    if (Number.isInteger(this.account?.thinking_tokens)) return this.account.thinking_tokens;
    if (this.judged) return this.answering.tokens;
    return this.usage?.completion_tokens_details?.reasoning_tokens ?? null;
  }

  /** Every token that was generated for the response, and null where that is not known. */
  get generatedTokens() {
    return this.usage?.completion_tokens ?? null;
  }

  /** Whether the model itself closed its thinking at the last boundary. */
  get closedByItself() {
    return this.account?.stop_cause === "natural";
  }

  toJson() {
    const streamed = this.events.some(([, kind]) => kind === "step");
    const events = this.events.map(([ms, kind, value]) => {
      if (kind !== "account" || !streamed) return [ms, kind, value];
      const { steps, ...rest } = value;
      return [ms, kind, rest];
    });
    const known = this.right === null ? {} : { right: this.right };
    return { name: this.name, request: this.request, ...known, step_rule: this.rule, events };
  }
}

/** A run from its recorded events. */
export function runOf(json) {
  const run = new Run(json.name, json.request, { right: json.right ?? null, rule: json.step_rule ?? "blank_line" });
  for (const [ms, kind, value] of json.events) run.feed(ms, kind, value);
  run.end(run.finishReason ? "done" : "stopped");
  return run;
}

/** A trace as a file holds it. */
export function traceOf(question, runs, more = {}) {
  const recorded = new Date().toISOString();
  return { format: FORMAT, version: 1, recorded, ...more, question, runs: runs.map((run) => run.toJson()) };
}

/** A trace from the text of a file. An Error says, in plain words, why it is none. */
export function parseTrace(text) {
  let trace;
  try {
    trace = JSON.parse(text);
  } catch {
    throw new Error("This file is not JSON.");
  }
  if (trace?.format !== FORMAT) throw new Error("This file is no trace: one is saved here, or by drr chat.");
  if (trace.version !== 1) throw new Error(`This page reads traces of version 1, and this one is of version ${trace.version}.`);
  if (typeof trace.question !== "string" || !Array.isArray(trace.runs) || !trace.runs.length || !trace.runs.every(isRun))
    throw new Error("This trace is damaged: it does not hold what one should.");
  return trace;
}

const isText = (value) => typeof value === "string";
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function isRun(run) {
  return isObject(run) && isText(run.name) && isObject(run.request) && Array.isArray(run.events) && run.events.every(isEvent);
}

function isEvent(event) {
  if (!Array.isArray(event) || event.length !== 3) return false;
  const [ms, kind, value] = event;
  if (!Number.isFinite(ms) || !KINDS.has(kind)) return false;
  if (kind === "step") return isObject(value) && Number.isInteger(value.tokens) && Number.isInteger(value.attempt ?? 0) && (value.attempt ?? 0) >= 0 && (value.attempt ?? 0) < 64;
  return ["account", "usage"].includes(kind) ? isObject(value) : isText(value);
}
