// Runs the vectors of ../vectors that concern a client of version 3 against gipc.mjs.
//   node spec/node/vectors.mjs
import { readFileSync, readdirSync, mkdtempSync, rmSync } from 'node:fs';
import { deepStrictEqual as same, ok } from 'node:assert';
import { fileURLToPath } from 'node:url';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import net from 'node:net';
import { Connection, GipcError, Input, Keys, Receiver, Wire, configure, handshake, schedule, seal } from './gipc.mjs';

const bytes = (s) => s === '-' ? Buffer.alloc(0) : Buffer.from(s, 'hex');
const hex = (b) => b.length ? Buffer.from(b).toString('hex') : '-';
const some = (s) => s === '-' ? null : bytes(s);
const KEYS = {
  handshake: 'name secret encryption client_encryption server_private client_private server_limit client_limit rekey_at shared_x transcript_hash client_confirm_key server_confirm_key client_traffic server_traffic client_key server_key server_hello client_hello server_finish frame*',
  client: 'name secret client_encryption client_private client_limit server_sends then client_writes rest',
  receive: 'traffic_secret sequence rekey_at limit said_goodbye stream then delivers* fails_after',
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
  for (const k of all) if (!k.endsWith('*')) ok(v[k]?.length === 1, `key ${k} is missing or stands twice`);
  for (const k of lists) v[k] ??= [];
  for (const k of Object.keys(v)) ok(lists.includes(k) || all.includes(k), `unknown key ${k}`);
  return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, lists.includes(k) ? x : x[0]]));
}

/** What a vector calls the error. */
function named(e) {
  if (!(e instanceof GipcError)) throw e;
  const { code, part, reason } = e;
  return { refuse: `handshake refuse ${reason}`, refused: `handshake refused ${reason}`, unproven: 'handshake unproven', cut: 'handshake cut', config: 'config invalid',
    goodbye: 'close goodbye', malformed: `${part} malformed`, 'not-authentic': 'record not-authentic', 'cut-inside': 'frame cut-inside', 'cut-boundary': 'frame cut-boundary' }[code];
}

// ---- The other end of a socket, which does what a vector says ----

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
    while (!condition()) { ok(!peer.late, `${what} did not come`); await new Promise((r) => { peer.wake = r; }); }
    clearTimeout(timer);
  };
  return { wire, peer };
}

const options = (v) => ({ name: bytes(v.name), secret: some(v.secret), requireEncryption: v.client_encryption === 'required', limit: +v.client_limit, key: some(v.client_private), rekeyAt: +v.rekey_at || undefined });

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
      try { await handshake(wire, options(v)); } catch (e) { result = named(e); }
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
    const made = await handshake(wire, options(v));
    await peer.until(() => peer.got.length >= bytes(v.client_hello).length, 'ClientHello');
    wire.destroy(); peer.socket.destroy();
    same(hex(peer.got.take(peer.got.length)), v.client_hello);
    same(made.peerLimit, +v.server_limit);
    const s = made.schedule;
    const derived = s ? [s.th, s.ck, s.sk, s.cs, s.ss, made.sending.key, made.receiving.key].map(hex) : Array(7).fill('-');
    same(derived, [v.transcript_hash, v.client_confirm_key, v.server_confirm_key, v.client_traffic, v.server_traffic, v.client_key, v.server_key]);
    if (s) same(hex(schedule(bytes(v.name), some(v.secret), bytes(v.server_hello), bytes(v.client_hello).subarray(0, 103), bytes(v.shared_x)).th), v.transcript_hash);
    const receiver = new Receiver({ keys: made.receiving, limit: made.limit });
    for (const f of v.frame) {
      const [who, type, data, nonce, wired] = f.split(' ');
      if (who === 'client') { same(hex(seal(made.sending, +type, bytes(data), bytes(nonce))), wired); continue; }
      receiver.input.push(bytes(wired));
      const m = receiver.next();
      if (+type !== 0) same([m.type, hex(m.data)], [+type, data]);
    }
  },

  async receive(v) {
    const stream = bytes(v.stream);
    const run = (n, piece, end) => {
      const delivered = [], r = new Receiver({ limit: +v.limit, saidGoodbye: v.said_goodbye === 'yes',
        keys: v.traffic_secret === '-' ? null : new Keys(bytes(v.traffic_secret), { number: BigInt(v.sequence), rekeyAt: +v.rekey_at }) });
      try {
        for (let i = 0; i < n; i += piece) {
          r.input.push(stream.subarray(i, Math.min(n, i + piece)));
          for (let m; (m = r.next());) {
            if (m.type !== 0) delivered.push(`${m.type} ${hex(m.data)}`);
            else if (m.data[0] === 3 && !r.saidGoodbye) throw new GipcError('goodbye', 'goodbye');
          }
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
    const out = new Receiver({ input: peer.got, keys: keys(v.out_secret), limit: +v.limit, saidGoodbye: true });
    const raw = out.keys ? () => { // as Receiver, but control frames too
      const n = peer.got.take(4).readUInt32BE(), plain = out.keys.open(peer.got.take(n));
      ok(plain, 'a frame of the client does not verify');
      return plain;
    } : () => peer.got.take(peer.got.take(4).readUInt32BE());
    const messages = [], ends = [], closed = [];
    const wake = () => peer.wake();
    const c = new Connection(wire, { sending: keys(v.out_secret), receiving: keys(v.in_secret), limit: +v.limit, peerLimit: +v.limit },
      { message: (m) => { messages.push(m); wake(); }, full: () => false, ended: (e) => { ends.push(e); wake(); } });
    let result = 'ok';
    for (const step of v.step) {
      const [what, a, b] = step.split(' ');
      if (what === 'peer') peer.socket.write(bytes(a));
      else if (what === 'peer-ends') peer.socket.end();
      else if (what === 'delivers') { await peer.until(() => messages.length, step); const m = messages.shift(); same([m.type, hex(m.data)], [+a, b]); }
      else if (what === 'sends') await new Promise((resolve, reject) => { c.queue.push({ type: +a, data: bytes(b), resolve, reject }); c.pump(); });
      else if (what === 'closes') c.close().then((held) => { closed.push(held ? 'ok' : 'undelivered'); wake(); });
      else if (what === 'writes') {
        await peer.until(() => peer.got.length >= 4 && peer.got.length >= 4 + peer.got.peek(4).readUInt32BE(), step);
        const body = raw();
        same([body.readUInt32BE(), hex(body.subarray(4))], [+a, b]);
      } else if (what === 'writes-end') { await peer.until(() => peer.ended, step); same(peer.got.length, 0); peer.socket.end(); }
      else if (what === 'ends') { await peer.until(() => ends.length, step); same(ends[0].code, a); result = named(ends[0]); }
      else if (what === 'closed') { await peer.until(() => closed.length, step); same(closed[0], a); if (a !== 'ok') result = `close ${a}`; }
      else throw new Error(`unknown step ${step}`);
    }
    same(result, v.expect);
    same(messages, []);
    same(peer.got.length, 0);
    wire.destroy(); peer.socket.destroy();
  },

  async config(v) {
    let result = 'ok';
    try { configure({ name: bytes(v.name), secret: some(v.secret), address: '/x/s' }); } catch (e) { result = named(e); }
    same(result, v.expect);
  },
};

const vectors = fileURLToPath(new URL('../vectors/', import.meta.url)), skipped = {};
const files = readdirSync(vectors).filter((f) => f.endsWith('.txt')).sort();
let run = 0, failed = files.length === 0 ? 1 : 0;
await new Promise((r) => server.listen(path, r));
for (const file of files) {
  try {
    const v = parse(readFileSync(join(vectors, file), 'utf8'));
    const why = v.test === 'server' ? 'the server\'s role' : /^legacy-(handshake|server|client|receive)$/.test(v.test) ? 'version 2' : '';
    if (why) { skipped[why] = (skipped[why] ?? 0) + 1; continue; }
    ok(tests[v.test], `unknown test ${v.test}`);
    run++;
    await tests[v.test](v);
  } catch (e) { failed++; console.log(`FAIL ${file}: ${e.message}`); }
}
server.close();
rmSync(dir, { recursive: true });
console.log(`${run} run, ${failed} failed; ${Object.entries(skipped).map(([why, n]) => `${n} skipped: ${why}`).join('; ')}`);
process.exit(failed ? 1 : 0);
