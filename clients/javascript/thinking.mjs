// What the chunks of a streamed answer tell, one after the other: the same for every way of getting them.

const STEP_ENDS = "\n\n"; // the server's usual step rule: a blank line

/** [kind, value] of everything in a chunk: "reasoning" and "content" (text), "step" (a score), "account" (the outcome). */
export function* told(chunk) {
  if (chunk.drr?.step) yield ["step", chunk.drr.step];
  for (const { delta } of chunk.choices ?? []) { // a chunk that tells of a step alone has none
    if (delta?.reasoning) yield ["reasoning", delta.reasoning];
    if (delta?.content) yield ["content", delta.content];
  }
  if (chunk.drr?.stop_cause) yield ["account", chunk.drr];
}

/** Write an answer as it comes: each step of the thinking behind its score, the answer, the account, which it returns. */
export async function show(chunks, out = process.stdout) {
  const scores = []; // of steps that are not written yet; a score may come before the last words of its step
  let thought = "", answer = "", account = null;

  function writeSteps() {
    for (let end; scores.length && (end = thought.indexOf(STEP_ENDS)) >= 0; thought = thought.slice(end + STEP_ENDS.length))
      out.write(`${scores.shift().p_now.toFixed(2)}  ${thought.slice(0, end).trim()}\n`);
  }

  for await (const chunk of chunks)
    for (const [kind, value] of told(chunk)) {
      if (kind === "reasoning") thought += value;
      else if (kind === "step") scores.push(value);
      else if (kind === "account") account = value;
      else {
        if (!answer && thought.trim()) out.write(`      ${thought.trim()}\n`); // what no score came for
        out.write(answer ? value : `\n${value.trimStart()}`);
        answer += value;
      }
      if (!answer) writeSteps();
    }
  if (account) out.write(`\n${account.stop_cause}: ${account.thinking_tokens} thinking tokens, ${account.discarded_tokens} thrown away\n`);
  return account;
}
