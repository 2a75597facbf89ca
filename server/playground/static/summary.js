// What a response amounts to, in words and figures. What is not known is said to be unknown.

import { count, percent, seconds } from "./dom.js";

const ENDINGS = {
  natural: (run, t) => `Thought to its own end: ${t}.`,
  sure: (run, t) => `Sure enough after ${t}.`,
  hopeless: (run, t) => `Given up after ${t}: more thinking would hardly help.`,
  no_gain: (run, t) => `Stopped after ${t}: more thinking would gain nothing.`,
  max_steps: (run, t) => `Cut at the limit of steps, after ${t}.`,
  max_thinking_tokens: (run, t) => `Cut at the budget, after ${t}.`,
  thinking_token_budget: (run, t) => `Cut at the budget, after ${t}.`,
  answer_reserve: (run, t) => `Cut after ${t}, to leave room for the answer.`,
  context_length: (run, t) => `Cut after ${t}: the context is full.`,
  max_tokens: (run, t) => `Cut off after ${t}, before there was an answer.`,
  rethink_limit: (run) => `All ${count(run.account.attempts, "attempt")} rejected; the best one answers.`,
  rethink_room: () => "Every attempt was rejected, and there is no room for another.",
  abstained: () => "Abstained: no attempt was believed.",
  judge_unavailable: (run, t) => `The judge was not there: thought in full, ${t}.`,
  uncertified: (run, t) => `No rule is certified for this risk: thought in full, ${t}.`,
  off: (run, t) => `Nobody judged: ${t}.`,
  no_thinking: () => "Answered without thinking.",
  tool_call: (run, t) => `Called a tool after ${t}.`,
  stop_string: (run, t) => `Ended by a stop text after ${t}.`,
};

/** The runs of a result by name. */
export const named = (runs) => ({ drr: runs.find((run) => run.name !== "full"), full: runs.find((run) => run.name === "full") });

/** One sentence on where the response is. */
export function headline(run) {
  const tokens = run.thinkingTokens;
  const told = tokens === null ? "an unknown number of tokens" : count(tokens, "token");
  if (run.state === "failed") return run.attempts[0].text || run.answer ? "Broke off." : "No answer.";
  if (run.state === "stopped") return `Stopped by you${tokens ? ` after ${told}` : ""}.`;
  if (run.state === "waiting") return "Waiting for the first token …";
  if (run.state === "thinking") return `Thinking … ${tokens ? told : ""}`;
  if (run.state === "answering") return "Answering …";
  const accepted = run.account?.attempts > 1 && run.answering.details?.fate === "accepted";
  if (accepted) return `Attempt ${run.answering.number + 1} of ${run.account.attempts} was accepted.`;
  const ending = ENDINGS[run.account?.stop_cause];
  if (ending) return ending(run, told);
  return run.account ? `Ended (${run.account.stop_cause}) after ${told}.` : "Answered. This server tells no scores.";
}

const STOPS = new Set(["sure", "hopeless", "no_gain", "max_steps", "max_thinking_tokens", "thinking_token_budget", "answer_reserve", "context_length"]);

/** Whether the thinking of a response was cut from outside. */
export const wasCut = (run) => run.done && STOPS.has(run.account?.stop_cause);

/** Whether two runs thought the same as far as the shorter one goes; that is what makes them comparable. */
export function sameBeginning(drr, full) {
  const [one, other] = [drr.attempts[0].text, full.attempts[0].text];
  const length = Math.min(one.trimEnd().length, other.trimEnd().length);
  return one.slice(0, length) === other.slice(0, length);
}

/** When the thinking of a run had reached so many tokens, in ms; null where that is not known. */
function reached(run, tokens) {
  return run.attempts[0].steps.find((step) => step.to >= tokens)?.ms_at ?? null;
}

/**
 * What was spared, against full thinking on the same question; null where that is not known. Full thinking took `more`
 * tokens, of which `tokens` were not generated: the others came while the verdict was on its way.
 */
export function spared({ drr, full }) {
  if (!full || full.state !== "done" || !drr.done || drr.state !== "done") return null;
  const [own, whole] = [drr.thinkingTokens, full.thinkingTokens];
  if (own === null || whole === null) return null;
  const begun = reached(full, own);
  const ms = begun !== null && full.answerAt !== null && drr.attempts.length === 1 ? Math.max(0, full.answerAt - begun) : null;
  const [all, fullAll] = [drr.generatedTokens, full.generatedTokens];
  const more = whole - own;
  const discarded = drr.account?.discarded_tokens ?? 0;
  return { more, discarded, tokens: more - discarded, of: whole, ms, all, fullAll, same: sameBeginning(drr, full) };
}

/** What is said below the headline. */
export function explanation(runs) {
  const { drr, full } = named(runs);
  if (drr.error) return drr.error;
  if (!drr.done) return "";
  if (!drr.judged && !drr.account) return "Scores come from a judge, and no account came with this answer. What is shown is what any server tells.";
  const parts = [];
  const saved = spared({ drr, full });
  if (full && !full.done) parts.push("Full thinking is still going on.");
  else if (full?.error) parts.push(`Full thinking: ${full.error}`);
  else if (saved && drr.attempts.length > 1) parts.push(`All attempts together took ${count(saved.all ?? 0, "token")}, full thinking ${count(saved.fullAll ?? 0, "token")}.`);
  else if (saved && saved.tokens > 0) {
    const time = saved.ms === null ? "" : `, ${seconds(saved.ms)} of its time`;
    const rest = saved.discarded ? `, ${saved.discarded} came while the verdict was on its way and were thrown away` : "";
    parts.push(`Full thinking went on for ${count(saved.more, "more token")}${time}: ${saved.tokens.toLocaleString("en")} of them were never generated here${rest}.`);
    if (!saved.same) parts.push("The two thought differently from the start, so this is one comparison of two samples.");
  } else if (saved) parts.push("Nothing was spared: full thinking took no longer.");
  else if (wasCut(drr)) parts.push("What full thinking would have taken is not known: it was not run beside this.");
  const discarded = drr.account?.discarded_tokens;
  if (discarded && drr.attempts.length === 1 && !(saved?.tokens > 0)) parts.push(`${count(discarded, "token")} came while the verdict was on its way, and ${discarded === 1 ? "was" : "were"} thrown away.`);
  const risk = drr.account?.risk;
  if (risk) parts.push(promise(risk));
  if (drr.account?.judge?.late) parts.push(`${count(drr.account.judge.late, "verdict")} came too late to count.`);
  return parts.join(" ");
}

function promise(risk) {
  if (risk.certified === null) return `No rule is certified for ${percent(risk.max_lost_correct)}.`;
  const said = `Certified: of the questions that full thinking gets right, at most ${percent(risk.certified)} are lost, with ${percent(risk.confidence)} confidence (${risk.calibrated_on}).`;
  return risk.holds ? said : `${said} Not for this request: ${risk.broken_by.join("; ")}.`;
}

/** Figures worth a large type: [name, value, note]. */
export function figures(runs) {
  const { drr, full } = named(runs);
  const found = [];
  const tokens = drr.thinkingTokens;
  if (tokens !== null) found.push(["thinking", count(tokens, "token"), ""]);
  const saved = spared({ drr, full });
  if (saved && saved.tokens > 0 && drr.attempts.length === 1)
    found.push(["not generated", count(saved.tokens, "token"), `${percent(saved.tokens / saved.of)} of full thinking`]);
  const discarded = drr.account?.discarded_tokens;
  if (discarded) found.push(["thrown away", count(discarded, "token"), drr.attempts.length > 1 ? "rejected attempts and cuts" : "behind the cut"]);
  if (drr.account?.attempts > 1) found.push(["attempts", String(drr.account.attempts), `${drr.attempts.filter((a) => ["rejected", "answered"].includes(a.details?.fate)).length} rejected`]);
  if (drr.done && drr.ms) found.push(["time", seconds(drr.ms), full?.state === "done" ? `full thinking: ${seconds(full.ms)}` : ""]);
  return found;
}
