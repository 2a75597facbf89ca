// Server-sent events of a chat completion: from bytes to what they tell.

/** Something that a server refused, or that broke off, in plain words. */
export class AnswerError extends Error {
  constructor(message, { status = null, needsKey = false } = {}) {
    super(message);
    this.status = status;
    this.needsKey = needsKey;
  }
}

/** The data of each event in a stream of bytes. */
export async function* dataOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const TEXTS = { reasoning: "reasoning", reasoning_content: "reasoning", content: "content", refusal: "refusal" };

/** What one chunk tells: [kind, value] pairs in the order in which they are to be shown. */
export function eventsOf(chunk) {
  const found = [];
  const told = chunk.drr ?? {};
  if (told.step) found.push(["step", told.step]);
  let finish = null;
  for (const choice of chunk.choices ?? []) {
    const delta = choice.delta ?? {};
    for (const [name, kind] of Object.entries(TEXTS))
      if (typeof delta[name] === "string" && delta[name]) found.push([kind, delta[name]]);
    finish = choice.finish_reason ?? finish;
  }
  if (finish) found.push(["finish", finish]);
  if (told.stop_cause) found.push(["account", told]);
  if (chunk.usage) found.push(["usage", chunk.usage]);
  return found;
}

function messageOf(body) {
  const error = body?.error ?? body;
  const message = typeof error === "string" ? error : error?.message;
  return typeof message === "string" ? message : "";
}

/** The error that a response with a status other than 200 stands for. */
export async function refusalOf(response) {
  let said = "";
  try {
    said = messageOf(await response.json());
  } catch { /* no JSON: the status says enough */ }
  const status = response.status;
  if (status === 401 || status === 403)
    return new AnswerError("This server wants an API key. Put it in above; it is kept in this tab only.", { status, needsKey: true });
  if (status === 429) {
    const wait = Number(response.headers.get("retry-after"));
    const later = wait > 0 ? ` Try again in ${wait} ${wait === 1 ? "second" : "seconds"}.` : "";
    return new AnswerError(`The server is busy. ${said}${later}`, { status });
  }
  if (status === 400 || status === 422) return new AnswerError(`The server cannot do this: ${said || "it does not say why"}`, { status });
  if (status === 503) return new AnswerError(`The server takes no requests now. ${said}`, { status });
  if (status === 504) return new AnswerError(`The server gave up on this one. ${said}`, { status });
  return new AnswerError(`The server answered ${status}. ${said}`, { status });
}

const GONE = "The server cannot be reached. Is it still running?";
const CUT = "The connection broke off before the answer was complete. What had come is shown.";

/** Send a chat completion; yields [ms, kind, value] as it streams. AnswerError where it fails. */
export async function* ask(url, body, key, signal) {
  const begun = performance.now();
  let response;
  try {
    response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) },
      body: JSON.stringify(body),
      signal,
    });
  } catch (error) {
    throw signal?.aborted ? error : new AnswerError(GONE);
  }
  if (!response.ok) throw await refusalOf(response);
  let complete = false;
  try {
    for await (const data of dataOf(response.body)) {
      if (data === "[DONE]") {
        complete = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new AnswerError(`The server ended the answer: ${messageOf(chunk) || "it does not say why"}`);
      const ms = performance.now() - begun;
      for (const [kind, value] of eventsOf(chunk)) yield [ms, kind, value];
    }
  } catch (error) {
    if (signal?.aborted || error instanceof AnswerError) throw error;
    throw new AnswerError(error instanceof SyntaxError ? "The server sent something that is not JSON." : CUT);
  }
  if (!complete) throw new AnswerError(CUT);
}

/** GET a JSON document of the server's. AnswerError where that fails. */
export async function getJson(url, key) {
  let response;
  try {
    response = await fetch(url, { headers: key ? { authorization: `Bearer ${key}` } : {} });
  } catch {
    throw new AnswerError(GONE);
  }
  if (!response.ok) throw await refusalOf(response);
  return response.json();
}
