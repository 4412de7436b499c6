// Checks functions/chat and functions/embed with OpenAI's JavaScript client: check.mjs URL KEY.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [url, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url.replace(/\/$/, "") + "/openai/v1", apiKey, timeout: 300_000 });
const messages = [{ role: "user", content: "What is the capital of France?" }];

const names = [];
for await (const model of client.models.list()) names.push(model.id);
assert.deepEqual(names.sort(), ["chat", "embed"]);

const whole = await client.chat.completions.create({ model: "chat", messages, temperature: 0, max_completion_tokens: 8 });
const text = whole.choices[0].message.content;
assert.ok(text.startsWith("The capital of France is Paris"), text);
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);

const stream = await client.chat.completions.create({
  model: "chat", messages, temperature: 0, max_completion_tokens: 8, stream: true, stream_options: { include_usage: true },
});
let streamed = "", usage = null, finish = null;
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  finish = chunk.choices[0]?.finish_reason ?? finish;
  usage = chunk.usage ?? usage;
}
assert.equal(streamed, text);
assert.deepEqual([usage, finish], [whole.usage, whole.choices[0].finish_reason]);

const legacy = await client.completions.create({ model: "chat", prompt: "One, two, three,", temperature: 0, max_tokens: 4 });
assert.equal(legacy.choices[0].finish_reason, "length");
const embedded = await client.embeddings.create({ model: "embed", input: ["a bird", "un oiseau"] });
assert.deepEqual(embedded.data.map((one) => one.embedding.length), [384, 384]);
assert.ok(Math.abs(embedded.data[0].embedding.reduce((sum, x) => sum + x * x, 0) - 1) < 1e-4);

await assert.rejects(client.chat.completions.create({ model: "none", messages }), (error) => error.status === 404 && error.code === "model_not_found");
await assert.rejects(client.chat.completions.create({ model: "chat", messages, n: 3 }), (error) => error.status === 400 && error.param === "n");
console.log("npm openai: models, chat, stream, completion, embeddings, errors");
