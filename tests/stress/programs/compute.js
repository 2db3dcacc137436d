// compute.js SIZE: work of many kinds for a JavaScript engine; prints digests only.
'use strict';
const { Worker, isMainThread, workerData } = require('worker_threads');
const size = Number(isMainThread ? process.argv[2] : workerData.size);

let seed = 88172645;
function draw() {
  seed ^= seed << 13; seed ^= seed >>> 17; seed ^= seed << 5;
  return seed >>> 0;
}

function digest(text) { // SHA-256
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
  const fraction = (x) => ((x - Math.floor(x)) * 0x100000000) >>> 0;
  const k = primes.map((p) => fraction(Math.cbrt(p)));
  const h = primes.slice(0, 8).map((p) => fraction(Math.sqrt(p)));
  const bytes = [...Buffer.from(text)];
  const bits = bytes.length * 8;
  bytes.push(0x80);
  while (bytes.length % 64 !== 56) bytes.push(0);
  for (let i = 7; i >= 0; i--) bytes.push(Math.floor(bits / 2 ** (8 * i)) & 255);
  const w = new Int32Array(64);
  const turn = (x, n) => (x >>> n) | (x << (32 - n));
  for (let at = 0; at < bytes.length; at += 64) {
    for (let i = 0; i < 16; i++) {
      const b = at + 4 * i;
      w[i] = bytes[b] << 24 | bytes[b + 1] << 16 | bytes[b + 2] << 8 | bytes[b + 3];
    }
    for (let i = 16; i < 64; i++) {
      const x = w[i - 15], y = w[i - 2];
      w[i] = w[i - 16] + w[i - 7] + (turn(x, 7) ^ turn(x, 18) ^ x >>> 3) + (turn(y, 17) ^ turn(y, 19) ^ y >>> 10);
    }
    let [a, b, c, d, e, f, g, z] = h;
    for (let i = 0; i < 64; i++) {
      const s = (z + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + (e & f ^ ~e & g) + k[i] + w[i]) | 0;
      const t = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + (a & b ^ a & c ^ b & c)) | 0;
      z = g; g = f; f = e; e = (d + s) | 0; d = c; c = b; b = a; a = (s + t) | 0;
    }
    [a, b, c, d, e, f, g, z].forEach((x, i) => { h[i] = (h[i] + x) | 0; });
  }
  return h.map((x) => (x >>> 0).toString(16).padStart(8, '0')).join('');
}

const parts = {
  bodies() { // floating point in objects
    const all = Array.from({ length: 5 }, (_, i) => ({ x: i * 1.5, y: i * i * 0.3, z: 2 - i, u: 0.01 * i, v: -0.02, w: 0.005 * i, m: 1 / (i + 1) }));
    for (let step = 0; step < size * 4000; step++) {
      for (let i = 0; i < 5; i++) {
        const a = all[i];
        for (let j = i + 1; j < 5; j++) {
          const b = all[j], dx = a.x - b.x, dy = a.y - b.y, dz = a.z - b.z;
          const f = 0.001 / Math.pow(dx * dx + dy * dy + dz * dz + 0.01, 1.5);
          a.u -= dx * b.m * f; a.v -= dy * b.m * f; a.w -= dz * b.m * f;
          b.u += dx * a.m * f; b.v += dy * a.m * f; b.w += dz * a.m * f;
        }
      }
      for (const a of all) { a.x += 0.001 * a.u; a.y += 0.001 * a.v; a.z += 0.001 * a.w; }
    }
    return JSON.stringify(all);
  },
  shapes() { // calls that change their target
    class Shape { area() { return 0; } get name() { return this.constructor.name; } }
    class Square extends Shape { constructor(n) { super(); this.n = n; } area() { return this.n * this.n; } }
    class Circle extends Shape { constructor(r) { super(); this.r = r; this.extra = {}; } area() { return Math.PI * this.r ** 2; } }
    class Odd extends Square { area() { return super.area() + (this.n & 1 ? 0.5 : -0.5); } }
    const kinds = [Square, Circle, Odd], sums = {};
    for (let i = 0; i < size * 20000; i++) {
      const s = new kinds[draw() % 3](i % 100);
      if (i % 5000 === 4999) Shape.prototype['more' + i] = i; // what was assumed of the prototype ends
      sums[s.name] = (sums[s.name] || 0) + s.area();
    }
    return JSON.stringify(sums);
  },
  text() {
    let s = '';
    for (let i = 0; i < size * 1500; i++) s += String.fromCharCode(97 + draw() % 26) + (draw() % 9 ? '' : ' ') + (draw() % 200 ? '' : '\u03b1\u{1f600}');
    const words = s.split(/\s+/u), counts = new Map();
    for (const w of words) counts.set(w.slice(0, 2), (counts.get(w.slice(0, 2)) || 0) + 1);
    const found = [...s.matchAll(/([aeiou])(?=([^aeiou ]{2}))(?:.)\b/gu)].length;
    const turned = s.replace(/(\w)(\w+)/g, (_, a, b) => b.toUpperCase() + a).normalize('NFKD');
    return JSON.stringify([[...counts].sort(), found, turned.length, digest(turned)]);
  },
  numbers() { // overflow from small integers to doubles, conversions
    let a = 1, b = 0.1, out = [];
    for (let i = 1; i < size * 30000; i++) {
      a = (Math.imul(a, 1664525) + 1013904223) | 0;
      b = (b + a / (i + 0.5)) % 1e9;
      if (i % 1000 === 0) out.push(a, b, a >>> 3, ~~b, b.toString(36), (b * 1e-7).toExponential(9), Math.fround(b), Math.hypot(a, b),
        Math.sin(b), Math.exp(b % 7), Math.atan2(a, b), Math.log1p(Math.abs(b)), Number(String(b)), parseInt(b, 10), a % 7, -a % 11);
    }
    return out.join();
  },
  large() { // BigInt
    let f = 1n, sum = 0n;
    for (let i = 1n; i <= BigInt(size * 100); i++) { f *= i; sum += f % (i * i + 1n); sum ^= BigInt.asIntN(64, f); }
    return f.toString(16) + sum + (f * f - f / 12345678901234567890n).toString();
  },
  arrays() {
    const floats = new Float64Array(size * 5000), bytes = new Uint8ClampedArray(floats.length), ints = new BigUint64Array(floats.length);
    for (let i = 0; i < floats.length; i++) { floats[i] = draw() / 977; bytes[i] = floats[i] % 300; ints[i] = BigInt(draw()) ** 3n; }
    floats.sort();
    const mixed = Array.from(floats.slice(0, 2000), (x, i) => (i % 3 ? x : i % 2 ? String(x) : { x }));
    mixed.sort((p, q) => Number(p.x ?? p) - Number(q.x ?? q) || 0);
    const holes = []; for (let i = 0; i < 3000; i += 1 + draw() % 5) holes[i] = i * 1.5;
    return JSON.stringify([floats.reduce((x, y) => x + y), bytes.reduce((x, y) => x * 31 + y | 0, 7), ints.reduce((x, y) => x ^ y).toString(),
      mixed.slice(0, 50), holes.length, holes.flatMap((x) => [x, x]).length, new DataView(floats.buffer).getInt32(1, true)]);
  },
  control() { // generators, exceptions, closures, destructuring
    function* tree(depth) { if (depth) { yield* tree(depth - 1); yield depth; try { yield* tree(depth - 1); } finally { seed ^= depth; } } }
    let sum = 0, thrown = 0;
    for (const d of tree(9 + size)) { sum = sum * 3 + d | 0; if (sum === 1) break; }
    for (let i = 0; i < size * 5000; i++) {
      try { if (draw() % 3 === 0) throw new RangeError('r' + i); if (draw() % 7 === 0) null.x; sum += i; } catch (e) {
        thrown += e instanceof RangeError ? e.message.length : 1;
      } finally { sum ^= thrown; }
    }
    const add = (...all) => all.reduce((f, g) => (x) => g(f(x)));
    const chain = add(...Array.from({ length: 50 }, (_, i) => (x) => (x * (i + 2) + i) % 10007));
    for (let i = 0; i < size * 300; i++) { const { [`k${i % 5}`]: v = i, ...rest } = { k1: 5, k2: sum, other: i }; sum += chain(v) + Object.keys(rest).length; }
    return [sum, thrown].join();
  },
  garbage() {
    let list = null, kept = new Map(), sum = 0;
    for (let i = 0; i < size * 40000; i++) {
      list = { next: i % 1000 ? list : null, value: i, data: i % 50 ? null : new Array(20).fill(i) };
      if (draw() % 100 === 0) kept.set(draw() % 500, list);
    }
    for (const [key, node] of kept) for (let n = node; n; n = n.next) sum = (sum * 31 + n.value + key + (n.data ? n.data[7] : 0)) | 0;
    return String(sum);
  },
  wasm() { // f(n): the sum of i * i ^ (i << 3) for i < n, in 64 bits
    const code = [0x42, 0, 0x21, 1, 0x42, 0, 0x21, 2, 0x03, 0x40, 0x20, 2, 0x20, 1, 0x20, 1, 0x7e, 0x20, 1, 0x42, 3, 0x86, 0x85, 0x7c, 0x21, 2,
      0x20, 1, 0x42, 1, 0x7c, 0x22, 1, 0x20, 0, 0x53, 0x0d, 0, 0x0b, 0x20, 2, 0x0b];
    const body = [1, 2, 0x7e, ...code];
    const bytes = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 6, 1, 0x60, 1, 0x7e, 1, 0x7e, 3, 2, 1, 0, 7, 5, 1, 1, 0x66, 0, 0,
      10, body.length + 2, 1, body.length, ...body];
    const { f } = new WebAssembly.Instance(new WebAssembly.Module(new Uint8Array(bytes))).exports;
    return [10n, 1000n, BigInt(size * 100000)].map((n) => f(n)).join();
  },
};

function shared(view) { // what the workers do: counting and a lock in shared memory
  for (let i = 0; i < size * 3000; i++) {
    Atomics.add(view, 0, 1);
    while (Atomics.compareExchange(view, 1, 0, 1) !== 0) Atomics.wait(view, 1, 1, 1);
    view[2] += 1; view[3] ^= i;
    Atomics.store(view, 1, 0); Atomics.notify(view, 1, 1);
  }
}

if (!isMainThread) {
  shared(new Int32Array(workerData.memory));
} else {
  for (const [name, part] of Object.entries(parts)) console.log(name, digest(part()));
  const memory = new SharedArrayBuffer(64), view = new Int32Array(memory);
  const workers = [1, 2, 3].map(() => new Worker(__filename, { workerData: { memory, size } }));
  let left = workers.length;
  for (const w of workers) w.on('exit', () => { if (--left === 0) console.log('workers', view.join()); });
}
