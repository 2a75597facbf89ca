// What the chunks of a streamed answer tell, one after the other: the same for every way of getting them.

/** [kind, value] of everything in a chunk: "reasoning" and "content" (text), "step" (a score), "account" (the outcome). */
export function* told(chunk) {
  if (chunk.drr?.step) yield ["step", chunk.drr.step];
  for (const { delta } of chunk.choices ?? []) { // a chunk that tells of a step alone has none
    if (delta?.reasoning) yield ["reasoning", delta.reasoning];
    if (delta?.content) yield ["content", delta.content];
  }
  if (chunk.drr?.stop_cause) yield ["account", chunk.drr];
}

/** Write an answer as it comes: thinking, each step's score as soon as it is there, the answer, the account. */
export async function show(chunks, out = process.stdout) {
  let account = null;
  for await (const chunk of chunks)
    for (const [kind, value] of told(chunk))
      if (kind === "step") out.write(`[p_now ${value.p_now.toFixed(2)}, ${value.verdict}] `);
      else if (kind === "account") account = value;
      else out.write(value);
  if (account) out.write(`\n${account.stop_cause}: ${account.thinking_tokens} thinking tokens, ${account.discarded_tokens} thrown away\n`);
  return account;
}
