// Verifies webhooks with npm's standardwebhooks: each line of the standard input is JSON with secret, headers and body.
import { createInterface } from "node:readline";
import { Webhook } from "standardwebhooks";

let count = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const { secret, headers, body } = JSON.parse(line);
  new Webhook(secret).verify(body, headers);
  console.log("ok");
  count += 1;
}
if (count === 0) throw new Error("nothing to verify");
