// A Gannet function in JavaScript that calls everything in `gannet:gpu` and reports what it saw, and uses key-value storage.
//
// It responds with 200 and `{"ok": true, "doubled": [...], "gpu_ns": ..., "checks": [...]}`, or with 500
// and the name of the check that failed. Assets and declared kernels are only checked when the query
// names one from the manifest: `?asset=NAME` (an asset of at least 16 bytes) and `?kernel=NAME`.
//
// A background job, which comes as a POST, tells its progress and responds with its id.
//
// A u64 parameter takes a number or a BigInt; a u64 result is always a BigInt.

import { get as describeDevice } from 'gannet:gpu/info@0.1.0';
import { Buffer } from 'gannet:gpu/buffer@0.1.0';
import { Kernel } from 'gannet:gpu/kernel@0.1.0';
import { Asset } from 'gannet:gpu/asset@0.1.0';
import { Batch } from 'gannet:gpu/batch@0.1.0';
import { current, progress } from 'gannet:jobs/job@0.1.0';
import { open } from 'wasi:keyvalue/store@0.2.0-draft';
import { increment } from 'wasi:keyvalue/atomics@0.2.0-draft';
import { subscribeDuration } from 'wasi:clocks/monotonic-clock@0.2.12';
import { Fields, OutgoingBody, OutgoingResponse, ResponseOutparam } from 'wasi:http/types@0.2.12';

// Two invocations per workgroup, so that four values need a grid of two and a grid update has an effect.
const SCALE = `
struct Params { count: u32, add: u32, unused_a: u32, unused_b: u32 }

override factor: u32 = 1u;

@group(0) @binding(0) var<storage, read_write> values: array<u32>;
@group(0) @binding(1) var<uniform> params: Params;

@compute @workgroup_size(2)
fn scale(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < params.count) {
        values[id.x] = values[id.x] * factor + params.add;
    }
}
`;

const FETCH = `
@group(0) @binding(0) var<storage, read_write> values: array<u32>;
@group(0) @binding(1) var<storage, read> table: array<u32>;

@compute @workgroup_size(4)
fn fetch(@builtin(global_invocation_id) id: vec3<u32>) {
    values[id.x] = table[id.x];
}
`;

class CheckFailed extends Error {}

// The names of the checks that passed, in order.
class Checks {
  passed = [];

  that(name, holds, seen) {
    if (!holds) {
      throw new CheckFailed(seen === undefined ? name : `${name}: ${show(seen)}`);
    }
    this.passed.push(name);
  }

  same(name, seen, expected) {
    this.that(name, show(seen) === show(expected), seen);
  }

  // Passes if `call` throws the error case `tag`.
  refused(name, tag, call) {
    let error;
    try {
      call();
    } catch (thrown) {
      // An `err` is thrown as an object that holds the error variant in `payload`.
      error = thrown.payload ?? String(thrown);
    }
    this.that(name, error?.tag === tag && typeof error.val === 'string', error ?? 'nothing was thrown');
  }

  // The same for an error case without a text.
  refusedAs(name, tag, call) {
    let error;
    try {
      call();
    } catch (thrown) {
      error = thrown.payload ?? String(thrown);
    }
    this.that(name, error?.tag === tag, error ?? 'nothing was thrown');
  }
}

// Converts a value to JSON. JSON has no BigInt, so they become numbers.
function show(value) {
  return JSON.stringify(value, (_, part) => (typeof part === 'bigint' ? Number(part) : part));
}

function pack(...values) {
  return new Uint8Array(new Uint32Array(values).buffer);
}

// The copy makes the bytes start at a multiple of 4, which a list<u8> need not.
function unpack(bytes) {
  return Array.from(new Uint32Array(new Uint8Array(bytes).buffer));
}

// Drops resources now. A resource that is never dropped stays charged until the instance ends, unless
// the garbage collector happens to run.
function release(...resources) {
  for (const resource of resources) {
    resource[Symbol.dispose]();
  }
}

function run(checks, query) {
  const device = describeDevice();
  checks.that('info.get', device.class !== '' && Number(device.limits.bufferSizeMax) > 0, device);
  checks.that('info.tuple', device.limits.workgroupSizeMax.length === 3);
  checks.that('info.features', typeof device.features.f16 === 'boolean');

  // The buffer has two blocks that can both be bound, so that an offset update has somewhere to go.
  const block = Math.max(device.limits.storageBindingAlignment, 16);
  const work = Buffer.create(2 * block);
  const out = Buffer.create(16);
  checks.that('buffer.size', Number(work.size()) === 2 * block, work.size());
  work.write(block, pack(5, 6, 7, 8));
  checks.same('buffer.write+read', unpack(work.read(block, 16)), [5, 6, 7, 8]);
  checks.same('buffer.zeroed', unpack(work.read(0, 16)), [0, 0, 0, 0]);
  checks.refused('buffer.create-3', 'invalid-argument', () => Buffer.create(3));

  checks.refused('kernel.open-missing', 'not-found', () => Kernel.open('no-such', []));
  checks.refused('kernel.syntax-error', 'kernel-rejected', () => Kernel.compile('fn scale( {', 'scale', []));
  checks.refused('asset.open-missing', 'not-found', () => Asset.open('no-such'));

  const kernel = Kernel.compile(SCALE, 'scale', [{ name: 'factor', value: 2 }]);
  checks.same('kernel.compile', kernel.workgroupSize(), [2, 1, 1]);
  const batch = new Batch();
  const result = runBatch(checks, kernel, batch, work, out, block);
  release(batch, kernel, out, work);

  runServices(checks);

  for (const name of query.getAll('kernel')) {
    const declared = Kernel.open(name, []);
    checks.that('kernel.open', Math.min(...declared.workgroupSize()) >= 1);
    release(declared);
  }
  for (const name of query.getAll('asset')) {
    runAsset(checks, name);
  }
  return result;
}

function runBatch(checks, kernel, batch, work, out, block) {
  const range = { buffer: work, offset: 0, size: block };
  const values = { group: 0, index: 0, source: { tag: 'buffer', val: range } };
  const params = { group: 0, index: 1, source: { tag: 'inline', val: pack(4, 0, 0, 0) } };
  checks.refused('batch.dispatch-unbound', 'invalid-argument', () =>
    batch.dispatch(kernel, [values], { x: 2, y: 1, z: 1 }),
  );
  const write = batch.write(work, 0, pack(1, 2, 3, 4));
  const dispatch = batch.dispatch(kernel, [values, params], { x: 2, y: 1, z: 1 });
  const recorded = [
    write,
    dispatch,
    batch.copy(work, 0, out, 0, 16),
    batch.clear(work, 0, 16),
    batch.read(out, 0, 16),
    batch.read(work, 0, 16),
    batch.read(work, block, 16),
  ];
  checks.same('batch.indices', recorded, [0, 1, 2, 3, 4, 5, 6]);

  let submission = batch.submit([]);
  const receipt = submission.wait();
  checks.that('submission.wait', ['gpu', 'wall'].includes(receipt.clock) && receipt.slices >= 1, receipt);
  checks.same('submission.wait-again', submission.wait(), receipt);
  const reads = submission.takeReads();
  // StarlingMonkey makes the arrays in another realm, so `instanceof Uint8Array` is false for them.
  checks.that('submission.reads-are-bytes', reads.every((read) => ArrayBuffer.isView(read)));
  const first = reads.map(unpack);
  checks.same('batch.submit', first, [[2, 4, 6, 8], [0, 0, 0, 0], [5, 6, 7, 8]]);
  checks.same('submission.take-reads-again', submission.takeReads(), []);
  release(submission);

  // The kernel now works on the first two values of the second block only, and adds one. So the
  // copy of the first block has what the batch wrote.
  submission = batch.submit([
    { tag: 'write', val: { command: write, data: pack(10, 20, 30, 40) } },
    { tag: 'inline', val: { command: dispatch, group: 0, index: 1, data: pack(4, 1, 0, 0) } },
    { tag: 'offset', val: { command: dispatch, group: 0, index: 0, offset: block } },
    { tag: 'grid', val: { command: dispatch, grid: { x: 1, y: 1, z: 1 } } },
  ]);
  // The pollable is dropped before the submission that it came from.
  const pollable = submission.subscribe();
  pollable.block();
  checks.that('submission.subscribe', pollable.ready());
  release(pollable);
  const second = submission.takeReads().map(unpack);
  checks.same('batch.submit-updates', second, [[10, 20, 30, 40], [0, 0, 0, 0], [11, 13, 7, 8]]);
  release(submission);

  submission = batch.submit([]);
  const third = submission.takeReads().map(unpack);
  checks.same('batch.updates-last', third, [[10, 20, 30, 40], [0, 0, 0, 0], [23, 27, 7, 8]]);
  release(submission);

  checks.refused('batch.submit-no-such-command', 'invalid-argument', () =>
    batch.submit([{ tag: 'grid', val: { command: 99, grid: { x: 1, y: 1, z: 1 } } }]),
  );
  return { doubled: first[0], gpu_ns: Number(receipt.gpuNs) };
}

function runServices(checks) {
  const bucket = open('javascript');
  const bytes = Uint8Array.from({ length: 256 }, (_, n) => n);
  bucket.set('key \u00e4', bytes);
  checks.same('store.set+get', Array.from(bucket.get('key \u00e4')), Array.from(bytes));
  const before = increment(bucket, 'number', 0n);
  checks.same('atomics.increment', increment(bucket, 'number', 2n), before + 2n);
  checks.same('store.list-keys', bucket.listKeys(undefined).keys.toSorted(), ['key \u00e4', 'number']);
  bucket.delete('key \u00e4');
  checks.that('store.delete+exists', !bucket.exists('key \u00e4'));
  checks.that('store.get-missing', bucket.get('no such') === undefined);
  release(bucket);
  checks.refusedAs('store.open-missing', 'no-such-store', () => open('a/b'));
  checks.refusedAs('job.progress-outside', 'not-a-job', () => progress('1'));
}

function runJob() {
  progress(JSON.stringify({ percent: 50 }));
  const pause = subscribeDuration(2_000_000_000n);
  pause.block();
  release(pause);
  const { id, attempt } = current();
  return { job: id, attempt };
}

function runAsset(checks, name) {
  const asset = Asset.open(name);
  const view = asset.view(0, 16);
  const out = Buffer.create(16);
  const kernel = Kernel.compile(FETCH, 'fetch', []);
  const batch = new Batch();
  checks.that('asset.size', Number(asset.size()) >= 16);
  checks.that('view.size', Number(view.size()) === 16);
  batch.dispatch(
    kernel,
    [
      // No size: up to the end of the buffer.
      { group: 0, index: 0, source: { tag: 'buffer', val: { buffer: out, offset: 0, size: undefined } } },
      { group: 0, index: 1, source: { tag: 'asset', val: view } },
    ],
    { x: 1, y: 1, z: 1 },
  );
  batch.read(out, 0, 16);
  const submission = batch.submit([]);
  checks.same('asset.read+bind', submission.takeReads().map(unpack), [unpack(asset.read(0, 16))]);
  release(submission, batch, kernel, out, view, asset);
}

function respond(responseOut, status, content) {
  const headers = Fields.fromList([['content-type', new TextEncoder().encode('application/json')]]);
  const response = new OutgoingResponse(headers);
  response.setStatusCode(status);
  const body = response.body();
  ResponseOutparam.set(responseOut, { tag: 'ok', val: response });
  const stream = body.write();
  // `blockingWriteAndFlush` takes at most 4096 bytes.
  const bytes = new TextEncoder().encode(content);
  for (let start = 0; start < bytes.length; start += 4096) {
    stream.blockingWriteAndFlush(bytes.slice(start, start + 4096));
  }
  // The stream is a child of the body, so it must be dropped first.
  release(stream);
  OutgoingBody.finish(body, undefined);
}

export const incomingHandler = {
  handle(request, responseOut) {
    const url = new URL(request.pathWithQuery() ?? '/', 'http://localhost');
    const checks = new Checks();
    let status = 200;
    let answer;
    try {
      if (request.method().tag === 'post') {
        respond(responseOut, 200, JSON.stringify(runJob()));
        return;
      }
      answer = { ok: true, ...run(checks, url.searchParams), checks: checks.passed };
    } catch (thrown) {
      const failed = thrown instanceof CheckFailed ? thrown.message : show(thrown?.payload) ?? String(thrown);
      status = 500;
      answer = { ok: false, failed, checks: checks.passed };
    }
    respond(responseOut, status, JSON.stringify(answer));
  },
};
