// A request as code that can be pasted.

const shellQuoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function curl({ base, body, hasKey }) {
  const key = hasKey ? ` \\\n  -H "Authorization: Bearer $DRR_API_KEY"` : "";
  return `curl -N ${shellQuoted(`${base}/chat/completions`)} \\\n  -H 'Content-Type: application/json'${key} \\\n  -d ${shellQuoted(JSON.stringify(body, null, 2))}\n`;
}

function python(value, indent = 0) {
  const pad = "    ".repeat(indent + 1);
  if (value === null) return "None";
  if (value === true || value === false) return value ? "True" : "False";
  if (Array.isArray(value)) return value.length ? `[\n${value.map((item) => `${pad}${python(item, indent + 1)},\n`).join("")}${"    ".repeat(indent)}]` : "[]";
  if (typeof value === "object") return `{${Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${python(item, indent)}`).join(", ")}}`;
  return JSON.stringify(value);
}

function pythonSdk({ base, body, hasKey }) {
  const { drr, ...rest } = body;
  const key = hasKey ? `os.environ["DRR_API_KEY"]` : `"none"`;
  const args = Object.entries(rest).map(([name, value]) => `    ${name}=${python(value, 1)},\n`).join("");
  const extra = drr ? `    extra_body={"drr": ${python(drr)}},\n` : "";
  return `${hasKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(base)}, api_key=${key})
stream = client.chat.completions.create(
${args}${extra})
for chunk in stream:
    told = getattr(chunk, "drr", None) or {}
    if "step" in told:
        print(f"\\n[{told['step']['p_now']}] ", end="")
    for choice in chunk.choices:
        print(getattr(choice.delta, "reasoning", None) or choice.delta.content or "", end="", flush=True)
    if "stop_cause" in told:
        print(f"\\n{told['stop_cause']}: {told['thinking_tokens']} thinking tokens")
`;
}

function javascriptSdk({ base, body, hasKey }) {
  const key = hasKey ? "process.env.DRR_API_KEY" : `"none"`;
  return `import OpenAI from "openai";

const client = new OpenAI({ baseURL: ${JSON.stringify(base)}, apiKey: ${key} });
const stream = await client.chat.completions.create(${JSON.stringify(body, null, 2)});
for await (const chunk of stream) {
  if (chunk.drr?.step) process.stdout.write(\`\\n[\${chunk.drr.step.p_now}] \`);
  for (const { delta } of chunk.choices) process.stdout.write(delta.reasoning ?? delta.content ?? "");
  if (chunk.drr?.stop_cause) console.log(\`\\n\${chunk.drr.stop_cause}: \${chunk.drr.thinking_tokens} thinking tokens\`);
}
`;
}

const LANGUAGES = { curl, python: pythonSdk, javascript: javascriptSdk };

/** The request \`body\` to the API at \`base\`, in a language of LANGUAGES. A key is named, never shown. */
export const snippet = (language, request) => LANGUAGES[language](request);
