// Checks the job API with Runpod's JavaScript client: check.mjs BASE_URL KEY FUNCTION. clients.py tells what BASE_URL
// and FUNCTION must be.
import assert from "node:assert/strict";
import runpodSdk from "runpod-sdk";

const [baseUrl, key, name] = process.argv.slice(2);
const endpoint = runpodSdk(key, { baseUrl: baseUrl.replace(/\/$/, "") }).endpoint(name);
const JOBS = ["completed", "failed", "inProgress", "inQueue", "retried"];
const WORKERS = ["idle", "initializing", "ready", "running", "throttled", "unhealthy"];
const LOOP_MAX_MS = 30_000, ALL_MAX_MS = 120_000, QUEUED = 8;
const sleeper = { input: { sleep_ms: 60_000 } };

// Some wrong answers make the client's loops endless.
setTimeout(() => {
  console.error(`not over after ${ALL_MAX_MS} ms`);
  process.exit(1);
}, ALL_MAX_MS).unref();

// Adds what the client itself adds to a final status.
const told = (status) => ({ status, started: true, completed: true, succeeded: status === "COMPLETED" });
const part = ({ status, started, completed, succeeded }) => ({ status, started, completed, succeeded });
const refused = (code, call) => assert.rejects(call, (error) => error.response.status === code);
const collect = async (stream) => {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
};

const whole = await endpoint.runSync({ input: { say: "x" } });
assert.deepEqual([part(whole), whole.output], [told("COMPLETED"), { said: "x" }]);
const queued = await endpoint.run({ input: { say: "é" } });
assert.equal(queued.status, "IN_QUEUE");
const waited = await endpoint.statusSync(queued.id, LOOP_MAX_MS);
assert.deepEqual([waited.id, part(waited), waited.output], [queued.id, told("COMPLETED"), { said: "é" }]);
const status = await endpoint.status(queued.id);
assert.deepEqual([status.id, part(status), status.output], [queued.id, told("COMPLETED"), { said: "é" }]);
for (const time of [status.delayTime, status.executionTime]) assert.ok(Number.isInteger(time) && time >= 0, time);
console.log("npm runpod-sdk: run, runSync, status, statusSync");

// A statusSync that does not wait would be asked again at once, without end.
const slow = await endpoint.run({ input: { sleep_ms: 1000 } });
assert.deepEqual(part(await endpoint.statusSync(slow.id, LOOP_MAX_MS)), told("COMPLETED"));
const began = Date.now();
const unfinished = await endpoint.runSync(sleeper, 1000);
const took = Date.now() - began;
assert.equal(unfinished.completed, false);
assert.ok(["IN_QUEUE", "IN_PROGRESS"].includes(unfinished.status), unfinished.status);
assert.ok(took >= 1000 && took < 10_000, `${took}`);
assert.equal((await endpoint.cancel(unfinished.id)).status, "CANCELLED");
console.log("npm runpod-sdk: statusSync and runSync wait, and no longer than they are told");

const failed = await endpoint.runSync({ input: { fail: "a reason" } });
assert.deepEqual(part(failed), told("FAILED"));
assert.ok(failed.error.includes("a reason"), failed.error);
assert.equal(failed.output, undefined);
assert.deepEqual(part(await endpoint.status(failed.id)), told("FAILED"));
console.log("npm runpod-sdk: a job that fails is FAILED and says why");

const chunks = [{ n: 1 }, { n: 2 }, { n: 3 }];
const streamed = await endpoint.run({ input: { stream: 3 } });
assert.deepEqual((await collect(endpoint.stream(streamed.id))).map((chunk) => chunk.output), chunks);
assert.deepEqual((await endpoint.status(streamed.id)).output, chunks);
// The client stops at the first final status, which must come with all chunks that are left.
const over = await endpoint.run({ input: { stream: 3 } });
assert.deepEqual((await endpoint.statusSync(over.id, LOOP_MAX_MS)).output, chunks);
assert.deepEqual((await collect(endpoint.stream(over.id))).map((chunk) => chunk.output), chunks);
console.log("npm runpod-sdk: stream");

const sleeping = await endpoint.run(sleeper);
for (const end = Date.now() + LOOP_MAX_MS; (await endpoint.status(sleeping.id)).status !== "IN_PROGRESS"; ) {
  assert.ok(Date.now() < end, "the job did not start");
  await new Promise((done) => setTimeout(done, 50));
}
const health = await endpoint.health();
for (const [group, names] of [["jobs", JOBS], ["workers", WORKERS]]) {
  for (const count of names.map((name) => health[group][name])) assert.ok(Number.isInteger(count) && count >= 0, JSON.stringify(health));
}
assert.ok(health.jobs.inProgress >= 1 && health.workers.running >= 1, JSON.stringify(health));
const cancelled = await endpoint.cancel(sleeping.id);
assert.deepEqual([cancelled.id, cancelled.status], [sleeping.id, "CANCELLED"]);
assert.deepEqual(part(await endpoint.status(sleeping.id)), told("CANCELLED"));
assert.deepEqual(await collect(endpoint.stream(sleeping.id)), []);
assert.deepEqual(part(await endpoint.status(sleeping.id)), told("CANCELLED"));
console.log("npm runpod-sdk: cancel, health, and a cancelled job's stream ends");

const jobs = [];
while (jobs.length < QUEUED) jobs.push(await endpoint.run(sleeper));
const purged = await endpoint.purgeQueue();
const states = [];
for (const job of jobs) states.push((await endpoint.status(job.id)).status);
const removed = states.filter((state) => state === "CANCELLED").length;
assert.deepEqual(purged, { removed, status: "completed" });
assert.ok(removed > 0, `all ${QUEUED} jobs ran at once, so none was left to purge`);
assert.ok(states.every((state) => state === "CANCELLED" || state === "IN_PROGRESS"), `${states}`);
for (const job of jobs) await endpoint.cancel(job.id);
console.log(`npm runpod-sdk: purgeQueue, ${removed} of ${QUEUED} removed`);

await refused(404, () => endpoint.status("no-such-job"));
await refused(404, () => runpodSdk(key, { baseUrl }).endpoint("no-such-function").run({ input: {} }));
await refused(401, () => runpodSdk("wrong", { baseUrl }).endpoint(name).health());
console.log("npm runpod-sdk: an unknown job, an unknown function and a wrong key are refused");
