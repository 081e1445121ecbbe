// Runs the vectors of ../vectors that concern a client against gipc.mjs.
//   node spec/node/vectors.mjs
import { readFileSync, readdirSync, mkdtempSync, rmSync } from 'node:fs';
import { deepStrictEqual as same, ok } from 'node:assert';
import { fileURLToPath } from 'node:url';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import net from 'node:net';
import crypto, { createECDH, generateKeyPairSync, randomBytes } from 'node:crypto';
import { Call, Connection, GipcError, Input, Keys, Receiver, Wire, configure, handshake, head, parseHead, schedule } from './gipc.mjs';
import { decapsulate, keyGen } from '../vectors/mlkem.mjs';

const bytes = (s) => s === '-' ? Buffer.alloc(0) : Buffer.from(s, 'hex');
const hex = (b) => b.length ? Buffer.from(b).toString('hex') : '-';
const some = (s) => s === '-' ? null : bytes(s);
const KEYS = {
  handshake: 'name secret encryption client_encryption server_private client_private server_limit client_limit rekey_at kem_seed kem_randomness shared_x kem_key kem_ciphertext kem_secret transcript_hash client_confirm_key server_confirm_key client_traffic server_traffic client_key server_key server_hello client_hello server_finish frame* record*',
  client: 'name secret client_encryption client_private client_limit kem_randomness kem_ciphertext kem_secret server_sends then client_writes rest',
  frame: 'limit frame type id data fails_after',
  record: 'key sequence plaintext nonce sealed',
  receive: 'traffic_secret sequence rekey_at limit sent_close stream then delivers* fails_after',
  session: 'in_secret out_secret limit step*',
  config: 'name secret',
};

function parse(text) {
  const v = {};
  for (const line of text.trimEnd().split('\n')) {
    const [, key, value] = /^(\w+): (.*)$/.exec(line);
    (v[key] ??= []).push(value);
  }
  const wanted = KEYS[v.test[0]];
  if (!wanted) return { test: v.test[0] };
  const all = ['comment', 'cites', 'test', 'expect', ...wanted.split(' ')], lists = all.filter((k) => k.endsWith('*')).map((k) => k.slice(0, -1));
  for (const k of all) if (!k.endsWith('*')) ok(v[k]?.length === 1, `key ${k} is missing or repeated`);
  for (const k of lists) v[k] ??= [];
  for (const k of Object.keys(v)) ok(lists.includes(k) || all.includes(k), `unknown key ${k}`);
  return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, lists.includes(k) ? x : x[0]]));
}

/** What a vector calls the error. */
function named(e) {
  if (!(e instanceof GipcError)) throw e;
  const { code, part, reason } = e;
  return { refuse: `handshake refuse ${reason}`, refused: `handshake refused ${reason}`, unproven: 'handshake unproven', cut: 'handshake truncated', config: 'config invalid',
    goodbye: 'close received', malformed: `${part} malformed`, 'not-authentic': 'record not-authentic', 'cut-inside': 'frame truncated-inside', 'cut-boundary': 'frame truncated-boundary' }[code];
}

// ---- A socket, and a peer that follows a vector ----

const dir = mkdtempSync(join(tmpdir(), 'gipc-')), path = join(dir, 's');
let accepted;
const server = net.createServer({ allowHalfOpen: true }, (s) => accepted(s));

async function pair() {
  const wire = new Wire(), other = new Promise((r) => { accepted = r; });
  wire.connect({ path });
  const s = await other, peer = { socket: s, got: new Input(), ended: false, wake: () => {} };
  s.on('data', (b) => { peer.got.push(b); peer.wake(); }).on('end', () => { peer.ended = true; peer.wake(); }).on('error', () => {});
  peer.until = async (condition, what) => {
    const timer = setTimeout(() => { peer.late = true; peer.wake(); }, 3000);
    while (!condition()) { ok(!peer.late, `${what}: nothing was received`.slice(-200)); await new Promise((r) => { peer.wake = r; }); }
    clearTimeout(timer);
  };
  return { wire, peer };
}

/** A message or a request as vectors write it. */
const line = ({ type, data, request }) => `${type} ${hex(data)}${request === undefined ? '' : ` ${request}`}`;

/** What `ends` calls an error code. */
const STEPS = { close: 'goodbye', 'truncated-boundary': 'cut-boundary', 'truncated-inside': 'cut-inside', malformed: 'malformed', 'not-authentic': 'not-authentic' };

/** The frames that the client writes, one by one. */
class Output {
  #plain = Buffer.alloc(0);
  constructor(input, keys) { Object.assign(this, { input, keys }); }
  get left() { return this.#plain.length + this.input.length; }
  next() {
    for (;;) {
      const n = this.#plain.length >= 4 ? 4 + this.#plain.readUInt32BE() : Infinity;
      if (n <= this.#plain.length) {
        const frame = this.#plain.subarray(0, n);
        this.#plain = this.#plain.subarray(n);
        return frame;
      }
      if (!this.keys) { if (!this.input.length) return null; this.#plain = Buffer.concat([this.#plain, this.input.take(this.input.length)]); continue; }
      const size = this.input.length >= 4 ? 4 + this.input.peek(4).readUInt32BE() : Infinity;
      if (size > this.input.length) return null;
      const plain = this.keys.open(this.input.take(size).subarray(4)), large = this.#plain.length >= 8;
      ok(plain, 'a record of the client is not authentic');
      ok(large ? n === this.#plain.length + plain.length && plain.length >= 16384 : plain.length >= 8 && plain.length <= 65536, 'a record of the client has another length');
      this.#plain = Buffer.concat([this.#plain, plain]);
    }
  }
}

/** What replaces ML-KEM in the client: it encapsulates to this key alone, and with the values of the vector, because Node.js accepts no given randomness. */
const kem = (v, kemKey) => v.kem_randomness === '-' ? null : (key) => {
  same(hex(key), kemKey);
  ok(v.kem_ciphertext !== '-', 'the client encapsulates');
  return { ciphertext: bytes(v.kem_ciphertext), secret: bytes(v.kem_secret) };
};
const options = (v, kemKey) => ({ kem: kem(v, kemKey), name: bytes(v.name), secret: some(v.secret), requireEncryption: v.client_encryption === 'required', limit: +v.client_limit, key: some(v.client_private), rekeyAt: +v.rekey_at || undefined });

/** The handshake of the client. If it waits for more than the peer sends, it ends after 3 s as truncated. */
async function shake(wire, o) {
  const timer = setTimeout(() => wire.destroy(), 3000);
  try { return await handshake(wire, o); } finally { clearTimeout(timer); }
}

// ---- The tests ----

const tests = {
  async client(v) {
    for (const piece of [Infinity, 1]) { // [F-8]
      const { wire, peer } = await pair(), sends = bytes(v.server_sends);
      peer.socket.setNoDelay(true);
      const sending = (async () => {
        for (let i = 0; i < sends.length; i += piece) { peer.socket.write(sends.subarray(i, i + piece)); if (piece === 1) await new Promise(setImmediate); }
        if (v.then === 'end') peer.socket.end();
      })();
      let result = 'ok';
      try { await shake(wire, options(v, hex(sends.subarray(103, 1671)))); } catch (e) { result = named(e); }
      await sending;
      if (result === 'ok') { const rest = bytes(v.rest); while (wire.input.length < rest.length) await new Promise((r) => { wire.wake = r; }); }
      const rest = hex(wire.input.peek(wire.input.length));
      wire.finish();
      await peer.until(() => peer.ended, 'the end');
      peer.socket.end();
      same(result, v.expect);
      same(hex(peer.got.take(peer.got.length)), v.client_writes);
      if (result === 'ok') same(rest, v.rest);
    }
  },

  async handshake(v) {
    const { wire, peer } = await pair();
    peer.socket.write(Buffer.concat([bytes(v.server_hello), bytes(v.server_finish)]));
    const made = await shake(wire, options(v, v.kem_key));
    await peer.until(() => peer.got.length >= bytes(v.client_hello).length, 'ClientHello');
    wire.destroy(); peer.socket.destroy();
    same(hex(peer.got.take(peer.got.length)), v.client_hello);
    same(made.peerLimit, +v.server_limit);
    const s = made.schedule;
    const derived = s ? [s.th, s.ck, s.sk, s.cs, s.ss, made.sending.key, made.receiving.key].map(hex) : Array(7).fill('-');
    same(derived, [v.transcript_hash, v.client_confirm_key, v.server_confirm_key, v.client_traffic, v.server_traffic, v.client_key, v.server_key]);
    if (s) same(hex(schedule(bytes(v.name), some(v.secret), bytes(v.server_hello), bytes(v.client_hello).subarray(0, -48), Buffer.concat([bytes(v.shared_x), bytes(v.kem_secret)])).th), v.transcript_hash);
    ok(v[s ? 'record' : 'frame'].length >= 4 && v[s ? 'frame' : 'record'].length === 0, 'records if it is encrypted, else frames');
    const side = (keys, limit) => ({ receiver: new Receiver({ keys, limit }), expected: Buffer.alloc(0), got: [] });
    const sides = { client: side(s && new Keys(s.cs, { rekeyAt: +v.rekey_at }), made.peerLimit), server: side(made.receiving, made.limit) };
    const add = (to, plain, wire) => {
      to.expected = Buffer.concat([to.expected, plain]);
      to.receiver.input.push(bytes(wire));
      for (let m; (m = to.receiver.next());) to.got.push(`${m.type} ${hex(m.data)}`);
    };
    for (const line of v.record) {
      const [who, plain, nonce, wire] = line.split(' ');
      if (who === 'client') same(hex(made.sending.seal(bytes(plain), bytes(nonce))), wire);
      add(sides[who], bytes(plain), wire);
    }
    for (const line of v.frame) {
      const [who, type, data, wire] = line.split(' '), frame = Buffer.concat([head(+type, bytes(data).length), bytes(data)]);
      same(hex(frame), wire);
      add(sides[who], frame, wire);
    }
    for (const { expected, got } of Object.values(sides)) {
      const frames = [];
      for (let b = expected, n; b.length; b = b.subarray(n)) { n = 4 + b.readUInt32BE(); if (b.readUInt32BE(4) !== 0) frames.push(`${b.readUInt32BE(4)} ${hex(b.subarray(8, n))}`); }
      same(got, frames);
    }
  },

  async frame(v) {
    const frame = bytes(v.frame), run = (n) => { try { return parseHead(frame.subarray(0, n), +v.limit) ?? 'ok'; } catch (e) { return named(e); } };
    if (v.expect !== 'ok') {
      same(run(+v.fails_after), v.expect);
      same(run(+v.fails_after - 1), 'ok');
      return same(run(frame.length), v.expect);
    }
    const { type, size, data } = run(frame.length);
    const id = size === 16 ? frame.readBigUInt64BE(8) : undefined;
    same([type, String(id ?? '-'), hex(frame.subarray(size))], [+v.type, v.id, v.data]);
    same(size + data, frame.length);
    same(hex(head(type % 2 ** 31, data, id)), hex(frame.subarray(0, size)));
  },

  async record(v) {
    const keys = () => Object.assign(new Keys(Buffer.alloc(48)), { key: bytes(v.key), sequence: BigInt(v.sequence) }), sealed = bytes(v.sealed);
    const plain = keys().open(sealed.subarray(4));
    if (v.expect !== 'ok') return same([plain, v.expect], [null, 'record not-authentic']);
    same(hex(plain), v.plaintext);
    same(hex(keys().seal(bytes(v.plaintext), bytes(v.nonce))), v.sealed);
  },

  async receive(v) {
    const stream = bytes(v.stream);
    const run = (n, piece, end) => {
      const delivered = [], r = new Receiver({ limit: +v.limit, sentClose: v.sent_close === 'yes',
        keys: v.traffic_secret === '-' ? null : new Keys(bytes(v.traffic_secret), { sequence: BigInt(v.sequence), rekeyAt: +v.rekey_at }) });
      try {
        for (let i = 0; i < n; i += piece) {
          r.input.push(stream.subarray(i, Math.min(n, i + piece)));
          for (let m; (m = r.next());) if (m.type !== 0 && m.reply === undefined) delivered.push(line(m));
          if (r.closed && !r.sentClose) throw new GipcError('goodbye', 'a close');
        }
        if (end) throw r.eof();
      } catch (e) { return { result: named(e), delivered }; }
      return { result: 'ok', delivered };
    };
    for (const piece of [Infinity, 1, 7]) same(run(stream.length, piece, v.then === 'end'), { result: v.expect, delivered: v.delivers });
    if (v.fails_after === '-') return;
    const at = +v.fails_after;
    same(run(at, Infinity, false).result, v.expect);
    same(run(at - 1, Infinity, false).result, 'ok');
  },

  async session(v) {
    const { wire, peer } = await pair(), keys = (s) => s === '-' ? null : new Keys(bytes(s));
    const out = new Output(peer.got, keys(v.out_secret));
    const messages = [], ends = [], closed = [], asked = {}, calls = [];
    const wake = () => peer.wake();
    const c = new Connection(wire, { sending: keys(v.out_secret), receiving: keys(v.in_secret), limit: +v.limit, peerLimit: +v.limit },
      { message: (m) => { messages.push(m); wake(); }, full: () => false, ended: (e) => { ends.push(e); wake(); } });
    let result = 'ok';
    for (const step of v.step) {
      const [what, a, b, d] = step.split(' '), call = calls[a - 1];
      if (what === 'peer') peer.socket.write(bytes(a));
      else if (what === 'peer-ends') peer.socket.end();
      else if (what === 'delivers') { await peer.until(() => messages.length, step); const m = messages.shift(); same(line({ ...m, request: m.number }), step.slice(9)); asked[m.number] = m; }
      else if (what === 'sends') await new Promise((resolve, reject) => { c.add({ type: +a, data: bytes(b), resolve, reject }); c.pump(); });
      else if (what === 'requests') {
        const call = new Call(+a, bytes(b)), settled = (result) => { call.result = result; wake(); };
        call.reply.then((m) => settled(line(m)), (e) => settled(e.code));
        calls.push(call);
        c.add(call);
      } else if (what === 'replies') {
        await asked[a].reply(+b, bytes(d));
        same(await asked[a].reply(+b, bytes(d)).catch((e) => e.code), 'replied'); // [Q-3]
      } else if (what === 'replied') { await peer.until(() => call.result, step); same(call.result, `${b} ${d}`); }
      else if (what === 'gives-up') { call.reject(new GipcError('timeout', 'given up')); await peer.until(() => call.result, step); same(call.result, 'unknown'); }
      else if (what === 'fails') { const at = Date.now(); await peer.until(() => call.result, step); same(call.result, 'unknown'); ok(Date.now() - at < 900, 'it fails late'); }
      else if (what === 'closes') c.close().then((received) => { closed.push(received ? 'ok' : 'undelivered'); wake(); });
      else if (what === 'writes') {
        let frame;
        await peer.until(() => (frame = out.next()), step);
        const { type, size } = parseHead(frame, 2 ** 30), id = size === 16 ? String(frame.readBigUInt64BE(8)) : undefined;
        same([type % 2 ** 31, hex(frame.subarray(size)), id], [+a, b, d]);
      } else if (what === 'writes-end') { await peer.until(() => peer.ended, step); same(out.next(), null); same(out.left, 0); peer.socket.end(); }
      else if (what === 'ends') { await peer.until(() => ends.length, step); same(STEPS[a], ends[0].code); result = named(ends[0]); }
      else if (what === 'closed') { await peer.until(() => closed.length, step); same(closed[0], a); if (a !== 'ok') result = `close ${a}`; }
      else throw new Error(`unknown step ${step}`);
    }
    same(result, v.expect);
    same(messages, []);
    same(out.left, 0);
    wire.destroy(); peer.socket.destroy();
  },

  async config(v) {
    let result = 'ok';
    try { configure({ name: bytes(v.name), secret: some(v.secret), address: '/x/s' }); } catch (e) { result = named(e); }
    same(result, v.expect);
  },
};

function hasMLKEM() {
  try { return typeof crypto.encapsulate === 'function' && !!generateKeyPairSync('ml-kem-1024'); } catch { return false; }
}

/** A hybrid handshake with random keys and the ML-KEM of this Node.js, against a server that decapsulates with ../vectors/mlkem.mjs. */
async function randomHybrid() {
  const { wire, peer } = await pair(), ecdh = createECDH('secp384r1'), name = randomBytes(9), secret = randomBytes(32);
  const { encapsulationKey, decapsulationKey } = keyGen(randomBytes(32), randomBytes(32));
  const serverHello = Buffer.concat([Buffer.from('030700300000', 'hex'), ecdh.generateKeys(), encapsulationKey]);
  peer.socket.write(serverHello);
  const made = shake(wire, { name, secret, requireEncryption: true, limit: 1024 });
  made.catch(() => {});
  await peer.until(() => peer.got.length >= 1719, 'ClientHello');
  const hello = peer.got.take(1671), shared = decapsulate(decapsulationKey, hello.subarray(103));
  const keys = schedule(name, secret, serverHello, hello, Buffer.concat([ecdh.computeSecret(hello.subarray(6, 103)), shared]));
  same(hello[1], 7);
  same(hex(peer.got.take(48)), hex(keys.confirmation));
  peer.socket.write(Buffer.concat([Buffer.of(0), keys.serverConfirmation]));
  const { sending, receiving } = await made;
  same([sending.secret, receiving.secret].map(hex), [keys.cs, keys.ss].map(hex));
  wire.destroy(); peer.socket.destroy();
}

const vectors = fileURLToPath(new URL('../vectors/', import.meta.url)), skipped = {};
const files = readdirSync(vectors).filter((f) => f.endsWith('.txt')).sort();
let run = 0, failed = files.length === 0 ? 1 : 0;
await new Promise((r) => server.listen(path, r));
for (const file of files) {
  try {
    const v = parse(readFileSync(join(vectors, file), 'utf8'));
    const why = v.test === 'server' ? 'the server\'s role' : '';
    if (why) { skipped[why] = (skipped[why] ?? 0) + 1; continue; }
    ok(tests[v.test], `unknown test ${v.test}`);
    run++;
    await tests[v.test](v);
  } catch (e) { failed++; console.log(`FAIL ${file}: ${e.message}`); }
}
if (hasMLKEM()) try { run++; await randomHybrid(); } catch (e) { failed++; console.log(`FAIL a random hybrid handshake: ${e.message}`); }
else skipped['this Node.js has no ML-KEM'] = 1;
server.close();
rmSync(dir, { recursive: true });
console.log(`${run} run, ${failed} failed; ${Object.entries(skipped).map(([why, n]) => `${n} skipped: ${why}`).join('; ')}`);
process.exit(failed ? 1 : 0);
