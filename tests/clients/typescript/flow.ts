// What a TypeScript client generated from the contract does against a live server:
//
//     node flow.js BASE_URL PULL_REF
//
// Ingests a blob in two chunks with a wrong offset between them, commits it, reads a range of it,
// and pulls PULL_REF. Exits non-zero, with the answer that was not expected, at the first surprise.

import assert from "node:assert/strict";
import { createHash, randomUUID } from "node:crypto";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Pull = components["schemas"]["Pull"];

// With `wait` of 30 seconds each: ten minutes for a pull.
const MOST_WAITS = 20;

const [baseUrl, reference] = process.argv.slice(2);
assert(baseUrl && reference, "usage: flow.js BASE_URL PULL_REF");
const client = createClient<paths>({ baseUrl });

/** The data of an answer, which must have this status. */
function expect<T>(answer: { data?: T; error?: unknown; response: Response }, status: number): T {
  assert.equal(answer.response.status, status, JSON.stringify(answer.error ?? answer.data));
  return answer.data as T;
}

function append(id: string, offset: number, part: Uint8Array) {
  return client.PATCH("/api/v1/ingests/{id}/data", {
    params: { path: { id }, header: { "Upload-Offset": offset } },
    headers: { "Content-Type": "application/partial-upload" },
    // The contract can only say "binary", which the generator reads as a string.
    body: part as unknown as string,
    bodySerializer: (bytes) => bytes as unknown as Uint8Array,
  });
}

async function ingestInTwoChunks(): Promise<string> {
  // New bytes each time, so that the store cannot have them from an earlier run.
  const data = new TextEncoder().encode(`written by TypeScript ${randomUUID()}`);
  const digest = "sha256:" + createHash("sha256").update(data).digest("hex");
  const [first, second] = [data.slice(0, 10), data.slice(10)];

  const opened = expect(
    await client.POST("/api/v1/ingests", {
      body: { ref: `typescript-${randomUUID()}`, total: data.length, expected_digest: digest },
    }),
    201,
  );
  assert(opened?.id, "an open ingest has an id");
  assert.equal(opened.offset, 0);

  const taken = await append(opened.id, 0, first);
  expect(taken, 204);
  assert.equal(taken.response.headers.get("Upload-Offset"), "10");

  const refused = await append(opened.id, 7, second);
  expect(refused, 409);
  assert.equal(refused.error?.code, "offset-mismatch");
  assert.equal(refused.error.offset, 10);
  assert.equal(refused.response.headers.get("Upload-Offset"), "10");

  expect(await append(opened.id, refused.error.offset, second), 204);
  const content = expect(
    await client.POST("/api/v1/ingests/{id}/commit", {
      params: { path: { id: opened.id } },
      body: { expected_digest: digest, total: data.length },
    }),
    201,
  );
  assert.equal(content?.digest, digest);
  assert.equal(content.size, data.length);

  const part = await client.GET("/api/v1/content/{digest}/data", {
    params: { path: { digest }, header: { Range: "bytes=7-20" } },
    parseAs: "arrayBuffer",
  });
  expect(part, 206);
  assert.deepEqual(new Uint8Array(part.data as unknown as ArrayBuffer), data.slice(7, 21));
  return digest;
}

async function pullAndWait(): Promise<Pull> {
  const begun = await client.POST("/api/v1/pulls", { body: { ref: reference as string } });
  assert([200, 202].includes(begun.response.status), JSON.stringify(begun.error));
  let pull = begun.data as Pull;
  for (let wait = 0; wait < MOST_WAITS && !isFinal(pull); wait++) {
    const answer = await client.GET("/api/v1/pulls/{id}", {
      params: { path: { id: pull.id }, query: { wait: "30s" } },
    });
    pull = expect(answer, 200) as Pull;
  }
  assert.equal(pull.state, "succeeded", JSON.stringify(pull.error));
  assert.equal(pull.progress.bytes_done, pull.progress.bytes_total);
  return pull;
}

function isFinal(pull: Pull): boolean {
  return pull.state === "succeeded" || pull.state === "failed" || pull.state === "cancelled";
}

console.log(`typescript: ingested ${await ingestInTwoChunks()}`);
console.log(`typescript: pulled ${(await pullAndWait()).target?.digest}`);
