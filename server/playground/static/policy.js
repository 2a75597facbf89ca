// From scores to a verdict: the rules of drr/loop/policy.py, for looking at recorded scores without a model.
// The tests run the same scores through both.

/**
 * What to do at the newest of `scores` (each {p_now, p_later}, or null where no score came in time).
 * `rule`: threshold, hopeless, min_gain, accept (null: never), patience, min_steps, max_steps, nudge, nudge_below.
 * Returns {verdict, cause}; cause is null where thinking goes on.
 */
export function decide(rule, scores, { closing = false, nudges = 0 } = {}) {
  const newest = scores[scores.length - 1];
  if (closing) {
    const doubted = newest !== null && newest.p_now < rule.nudge_below;
    if (doubted && nudges < rule.nudge) return { verdict: "nudge", cause: null };
    return { verdict: rejects(rule, newest) ? "rethink" : "continue", cause: null };
  }
  const ended = (cause) =>
    rejects(rule, newest) ? { verdict: "rethink", cause: null } : { verdict: "stop", cause };
  if (scores.length >= rule.min_steps && scores.length >= rule.patience) {
    const recent = scores.slice(-rule.patience);
    if (recent.every((score) => score !== null)) {
      if (rule.threshold !== null && recent.every((score) => score.p_now >= rule.threshold))
        return { verdict: "stop", cause: "sure" };
      if (recent.every((score) => willNotHelp(rule, score)))
        return ended(isHopeless(rule, newest) ? "hopeless" : "no_gain");
    }
  }
  if (rule.max_steps !== null && scores.length >= rule.max_steps) return ended("max_steps");
  return { verdict: "continue", cause: null };
}

function isHopeless(rule, score) {
  return rule.hopeless !== null && score.p_later <= rule.hopeless;
}

function willNotHelp(rule, score) {
  return isHopeless(rule, score) || (rule.min_gain !== null && score.p_later - score.p_now <= rule.min_gain);
}

function rejects(rule, newest) {
  return rule.accept !== null && newest !== null && newest.p_now < rule.accept;
}

const NEVER = {
  threshold: null, hopeless: null, min_gain: null, accept: null,
  patience: 1, min_steps: 1, max_steps: null, nudge: 0, nudge_below: 0.5,
};

/** The rule in the settings of an account; what is not told never ends thinking. */
export function ruleOf(settings) {
  const told = Object.entries(settings ?? {}).filter(([name, value]) => name in NEVER && value !== undefined);
  return { ...NEVER, ...Object.fromEntries(told) };
}

/**
 * Where a rule would have ended the thinking of one attempt. `steps` are its judged boundaries as the server tells of
 * them; `closed` says whether the model itself closed its thinking at the last one. A close that was refused (verdict
 * "nudge") counts as one here.
 * Returns {index, verdict, cause} of the boundary that ends it, or null where none of them does.
 */
export function firstEnd(rule, steps, closed) {
  const scores = [];
  let nudges = 0;
  for (const [index, step] of steps.entries()) {
    const known = typeof step.p_now === "number" && typeof step.p_later === "number";
    scores.push(known ? { p_now: step.p_now, p_later: step.p_later } : null);
    const closing = step.verdict === "nudge" || (closed && index === steps.length - 1);
    const { verdict, cause } = decide(rule, scores, { closing, nudges });
    if (verdict === "nudge") nudges += 1;
    else if (verdict !== "continue") return { index, verdict, cause };
    else if (step.verdict === "nudge") return { index, verdict: "close", cause: "natural" };
  }
  return null;
}
