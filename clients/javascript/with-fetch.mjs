// Watch a model think, with nothing but fetch: Node 20 or later, Deno, Bun; in a browser, copy `chunks`.
//
//   node with-fetch.mjs "Tom has 12 apples. He buys 3 bags of 8 apples each. How many apples does Tom have now?"

import { QUESTION, URL } from "./defaults.mjs";
import { show } from "./thinking.mjs";

/** POST a streamed chat completion; yields its chunks. An Error with the server's own words where it refuses. */
async function* chunks(url, body, key) {
  const response = await fetch(`${url}/chat/completions`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` },
    body: JSON.stringify({ ...body, stream: true }),
  });
  if (!response.ok) throw new Error(`${response.status} ${(await response.json()).error?.message}`);
  let rest = "";
  for await (const bytes of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + bytes).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const chunk = JSON.parse(line.slice("data: ".length));
      if (chunk.error) throw new Error(chunk.error.message); // it broke off after it had begun
      yield chunk;
    }
  }
}

try {
  const body = {
    model: process.env.DRR_MODEL ?? "drr-reference",
    messages: [{ role: "user", content: process.argv[2] ?? QUESTION }],
    drr: { max_lost_correct: 0.02 },
  };
  await show(chunks(URL, body, process.env.DRR_API_KEY ?? "none"));
} catch (error) {
  console.error(error.cause ? `${URL}: ${error.cause.code}` : error.message);
  process.exitCode = 1;
}
