// Watch a model think, with openai-node.
//
//   npm install
//   node with-openai.mjs "Tom has 12 apples. He buys 3 bags of 8 apples each. How many apples does Tom have now?"

import OpenAI from "openai";

import { QUESTION, URL } from "./defaults.mjs";
import { show } from "./thinking.mjs";

const client = new OpenAI({ baseURL: URL, apiKey: process.env.DRR_API_KEY ?? "none" });

try {
  const chunks = await client.chat.completions.create({
    model: process.env.DRR_MODEL ?? "drr-reference",
    messages: [{ role: "user", content: process.argv[2] ?? QUESTION }],
    stream: true,
    drr: { max_lost_correct: 0.02 }, // openai-node sends fields that it does not know
  });
  await show(chunks);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
