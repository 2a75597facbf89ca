// openai-node: plain, streamed, with its helpers. Arguments: the job's file, the file to write, as for the others.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [jobFile, outFile] = process.argv.slice(2);
const job = JSON.parse(readFileSync(jobFile, "utf8"));
const packages = createRequire(join(process.cwd(), "package.json"));
const from = (name) => import(pathToFileURL(packages.resolve(name)));
const { default: OpenAI } = await from("openai");
const { zodResponseFormat } = await from("openai/helpers/zod");
const { z } = await from("zod");
const { version } = JSON.parse(readFileSync(join(process.cwd(), "node_modules", "openai", "package.json"), "utf8"));

const THINKING = ["reasoning", "reasoning_content", "thinking"];
const [question, answer] = job.questions[0];
const newSeen = () => ({
  content: null, thinking: {}, account: {}, refusal: {}, header: null, usage: null, right: null, facts: {},
});

function add(seen, value, path = "") {
  if (Array.isArray(value)) value.forEach((own, index) => add(seen, own, `${path}[${index}]`));
  else if (value && typeof value === "object")
    for (const [key, own] of Object.entries(value)) {
      const below = path ? `${path}.${key}` : key;
      if (key === "drr" && own && "stop_cause" in own) seen.account[below] = own.stop_cause;
      else if (THINKING.includes(key) && typeof own === "string" && own) seen.thinking[below] = (seen.thinking[below] ?? "") + own;
      else if (key === "refusal" && typeof own === "string" && own) seen.refusal[below] = (seen.refusal[below] ?? "") + own;
      if (key !== "drr") add(seen, own, below);
    }
}

const says = (text) => text.match(/-?\d+(?:\.\d+)?/g)?.at(-1) === answer;

function count(seen, usage) {
  if (usage)
    seen.usage = {
      completion: usage.completion_tokens ?? null,
      reasoning: usage.completion_tokens_details?.reasoning_tokens ?? null,
    };
}

const connect = (variant) =>
  new OpenAI({ baseURL: `${job.root}/v1`, apiKey: "none", defaultHeaders: variant.headers, maxRetries: 0 });
const fields = (variant) => ({
  model: variant.model,
  messages: [{ role: "user", content: question }],
  temperature: 0,
  max_tokens: job.max_tokens,
  ...(variant.drr ? { drr: variant.drr } : {}),
});
const format = zodResponseFormat(z.object({ answer: z.string().regex(/^The answer is [0-9]{2}\.$/) }), "answer");

function whole(response) {
  const seen = newSeen();
  seen.content = response.choices[0].message.content;
  add(seen, response);
  count(seen, response.usage);
  return seen;
}

const calls = {
  async create(variant) {
    const { data, response } = await connect(variant).chat.completions.create(fields(variant)).withResponse();
    return { ...whole(data), header: response.headers.get("x-drr-outcome") };
  },
  async "create, stream"(variant) {
    const seen = newSeen();
    seen.facts.usage_asked = false;
    const request = connect(variant).chat.completions.create({ ...fields(variant), stream: true });
    const { data, response } = await request.withResponse();
    seen.header = response.headers.get("x-drr-outcome");
    for await (const chunk of data) {
      seen.content = (seen.content ?? "") + (chunk.choices[0].delta.content ?? "");
      add(seen, chunk, "chunk");
    }
    return seen;
  },
  async "create, stream, usage"(variant) {
    const seen = newSeen();
    const asked = { ...fields(variant), stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await connect(variant).chat.completions.create(asked)) {
      seen.content = (seen.content ?? "") + (chunk.choices[0]?.delta?.content ?? "");
      add(seen, chunk, "chunk");
      count(seen, chunk.usage);
    }
    return seen;
  },
  async ".stream()"(variant) {
    const asked = { ...fields(variant), stream_options: { include_usage: true } };
    const stream = connect(variant).chat.completions.stream(asked);
    const told = newSeen();
    stream.on("chunk", (chunk) => add(told, chunk, "chunk"));
    const seen = whole(await stream.finalChatCompletion());
    seen.facts.thinking_length = Math.max(0, ...Object.values(told.thinking).map((text) => text.length));
    return seen;
  },
  async ".parse()"(variant) {
    const response = await connect(variant).chat.completions.parse({ ...fields(variant), response_format: format });
    const seen = whole(response);
    seen.facts.parsed = response.choices[0].message.parsed;
    seen.right = says(seen.facts.parsed?.answer ?? "");
    return seen;
  },
  async "models.list"(variant) {
    const seen = newSeen();
    seen.facts.models = [];
    for await (const model of connect(variant).models.list()) seen.facts.models.push(model.id);
    return seen;
  },
};

const results = [];
for (const [call, ask] of Object.entries(calls))
  for (const variant of job.variants) {
    if (call === "models.list" && (variant.drr || variant.model !== job.variants[0].model)) continue;
    const row = { client: "openai-node", version, call, variant: variant.name };
    try {
      const seen = await ask(variant);
      if (variant.refuses) seen.right = says(seen.content ?? "") ? false : null;
      else if (seen.right === null && seen.content !== null) seen.right = says(seen.content);
      results.push({ ...row, seen });
    } catch (error) {
      const kind = error.status ? `${error.constructor.name} ${error.status}` : error.constructor.name;
      const text = `${kind}: ${error.message}`.replace(/\s+/g, " ");
      results.push({ ...row, error: text.slice(0, 400) });
    }
  }
writeFileSync(outFile, JSON.stringify(results));
