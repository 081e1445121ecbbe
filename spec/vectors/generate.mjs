// Writes the vectors of this folder, from the text of ../README.md and with
// nothing but Node.js (20 or later). It shares no code with the library or with
// the client of ../node.
//
//   node generate.mjs           writes every file
//   node generate.mjs --check   fails if a file differs, is missing or is not generated

import { createCipheriv, createECDH, createHash, createHmac } from 'node:crypto'
import { readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { decapsulate, encapsulate, keyGen } from './mlkem.mjs'

// ---- Bytes

const cat = (...parts) => Buffer.concat(parts.map((p) => (typeof p === 'string' ? Buffer.from(p, 'latin1') : Buffer.from(p))))
const utf8 = (s) => Buffer.from(s, 'utf8')
const hex = (s) => Buffer.from(s.replace(/\s/g, ''), 'hex')
const show = (b) => (b.length === 0 ? '-' : Buffer.from(b).toString('hex'))
const zeros = (n) => Buffer.alloc(n)
const u16 = (n) => { const b = zeros(2); b.writeUInt16BE(n); return b }
const u32 = (n) => { const b = zeros(4); b.writeUInt32BE(n); return b }
const u64 = (n) => { const b = zeros(8); b.writeBigUInt64BE(BigInt(n)); return b }
const flip = (b, i, bit = 0) => { b = Buffer.from(b); b[i < 0 ? b.length + i : i] ^= 1 << bit; return b }
const sha384 = (...p) => createHash('sha384').update(cat(...p)).digest()
const hmac = (key, ...p) => createHmac('sha384', key).update(cat(...p)).digest()

// ---- Key schedule

const extract = (salt, ikm) => hmac(salt, ikm)

function expand(prk, info, n) {
  let block = zeros(0), out = zeros(0)
  for (let i = 1; out.length < n; i++) {
    block = hmac(prk, block, info, [i])
    out = cat(out, block)
  }
  return out.subarray(0, n)
}

function keyPair(scalar) {
  const ecdh = createECDH('secp384r1')
  ecdh.setPrivateKey(scalar)
  return {
    scalar, point: ecdh.getPublicKey(),
    shared(point) {
      const x = ecdh.computeSecret(point)
      return cat(zeros(48 - x.length), x)
    },
  }
}

// An ML-KEM-1024 key that is generated from d | z.
const kemKey = (seed) => ({ seed, ...keyGen(seed.subarray(0, 32), seed.subarray(32)) })

// hello is ClientHello without its confirmation.
function schedule(name, secret, z, serverHello, hello) {
  const th = sha384('gipc/3', u16(name.length), name, serverHello, hello)
  const early = extract(zeros(48), secret.length ? secret : zeros(48))
  const master = extract(expand(early, 'gipc/3 derived', 48), z)
  const k = (what) => expand(master, cat('gipc/3 ' + what, th), 48)
  const keys = { th, ck: k('client confirm'), sk: k('server confirm'), cs: k('client traffic'), ss: k('server traffic') }
  keys.clientConfirmation = hmac(keys.ck, th)
  keys.serverConfirmation = hmac(keys.sk, th, keys.clientConfirmation)
  return keys
}

const frameKey = (traffic) => expand(traffic, 'gipc/3 key', 32)

// ---- Frames and records

const LARGE = 16384 // bytes of data from which on a frame is large
const RECORD = 65536 // the most plaintext of a record of frames
const REQUEST = 2 ** 31 // added to the user's type in a frame with an id
const REPLY = 2n ** 63n // added to the number of the request in the id of a reply

// The head of a frame: length, type, and the id if there is one.
function head(type, size, id) {
  const behind = cat(u32(type), id === undefined ? [] : u64(id))
  return cat(u32(behind.length + size), behind)
}

const frame = (type, data, id) => { data = cat(data); return cat(head(type, data.length, id), data) }
const request = (number, type, data) => frame(REQUEST + type, data, number)
const reply = (number, type, data) => frame(REQUEST + type, data, REPLY + BigInt(number))

function sealRecord(key, nonce, ad, plain) {
  const c = createCipheriv('aes-256-gcm', key, nonce)
  c.setAAD(ad)
  return cat(u32(plain.length + 28), nonce, c.update(plain), c.final(), c.getAuthTag())
}

// One encrypted direction of a connection. Its nonces are fixed, so the files are too.
class Direction {
  constructor(label, traffic, { sequence = 0n, rekeyAt = 2 ** 32, early = false, late = false } = {}) {
    Object.assign(this, { label, traffic, rekeyAt, early, late, seq: BigInt(sequence), sum: 0, count: 0, key: frameKey(traffic) })
  }
  nonce() { return sha384('nonce', this.label, u32(this.count++)).subarray(0, 12) }
  rekey() {
    this.traffic = expand(this.traffic, 'gipc/3 update', 48)
    this.key = frameKey(this.traffic)
    this.sum = 0
  }
  // A record whose plaintext is given, with its nonce.
  seal(plain, { nonce, ad } = {}) {
    nonce ??= this.nonce()
    const length = plain.length + 28
    if (this.early && this.sum + length >= this.rekeyAt) this.rekey() // a fault: one record too early
    const wire = sealRecord(this.key, nonce, ad ?? u64(this.seq), plain)
    this.seq++
    this.sum += length
    if (!this.late && !this.early && this.sum >= this.rekeyAt) this.rekey()
    return { nonce, wire }
  }
  // A record of what is given: frames, heads, or the data of a large frame.
  record(...plain) { return this.seal(cat(...plain)).wire }
  // A record of one frame.
  frame(type, data, options) { return this.seal(frame(type, data), options).wire }
}

// ---- Files

const files = new Map()

function write(name, fields) {
  if (files.has(name)) throw new Error('twice: ' + name)
  let text = ''
  for (const [key, value] of Object.entries(fields)) {
    for (const v of Array.isArray(value) ? value : [value]) text += `${key}: ${typeof v === 'object' ? show(v) : v}\n`
  }
  files.set(name, text)
}

// ---- What scenarios are made of

const serverKey = keyPair(hex('0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30'))
const clientKey = keyPair(hex('3132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60'))
const counting = (first, size) => Buffer.from(Array.from({ length: size }, (_, i) => first + i))
const serverKem = kemKey(counting(0x61, 64))
const clientRandomness = counting(0xa1, 32)
const otherKem = kemKey(counting(0x62, 64))
const NAME = utf8('weather')
const SECRET = hex('000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f')
const OTHER = hex('ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f')
const NONE = zeros(0)
const LIMIT = 3145728

// The first client key behind clientKey's whose shared x-coordinate begins with a zero byte.
const zeroKey = (() => {
  for (let i = 0; ; i++) {
    const k = keyPair(cat(clientKey.scalar.subarray(0, 44), u32(i)))
    if (k.shared(serverKey.point)[0] === 0) return k
  }
})()

// The messages of both sides, and the keys that follow from them. kem is the ML-KEM key of a server that offers hybrid. m is the randomness of
// a client that has ML-KEM.
function conversation(o = {}) {
  const c = { name: NAME, secret: NONE, encrypted: true, server: serverKey, client: clientKey, kem: null, m: NONE, serverLimit: LIMIT, clientLimit: 1024, ...o }
  c.flags = (c.secret.length ? 3 : c.encrypted ? 1 : 0) | (c.kem ? 4 : 0)
  c.clientFlags = c.m.length ? c.flags : c.flags & ~4
  c.serverHello = cat([3, c.flags], u32(c.serverLimit), c.flags ? c.server.point : [], c.kem?.encapsulationKey ?? [])
  const { ciphertext, secret } = c.clientFlags & 4 ? encapsulate(c.kem.encapsulationKey, c.m) : { ciphertext: NONE, secret: NONE }
  c.ciphertext = ciphertext
  c.kemSecret = secret
  c.hello = cat([0, c.clientFlags], u32(c.clientLimit), c.flags ? c.client.point : [], ciphertext)
  if (c.flags) {
    c.x = c.server.shared(c.client.point)
    c.z = cat(c.x, c.kemSecret)
    c.keys = schedule(c.name, c.secret, c.z, c.serverHello, c.hello)
    c.clientHello = cat(c.hello, c.keys.clientConfirmation)
    c.serverFinish = cat([0], c.keys.serverConfirmation)
  } else {
    c.clientHello = c.hello
    c.serverFinish = Buffer.from([0])
  }
  return c
}

// Who sends, and then the frames of one record, each [type, data].
const ordinary = [
  ['client', [1, 'hello'], [2, 'world']],
  ['server', [2, 'hello, too']],
  ['client', [3, 'again']],
  ['server', [4, 'and again'], [5, ''], [6, 'and again']],
]

// The plaintexts of the records that these frames need: a large frame ends its record, and its data has one of its own.
function plaintexts(frames) {
  const all = []
  let open = NONE
  for (let [type, data] of frames) {
    data = cat(data)
    if (data.length < LARGE) { open = cat(open, frame(type, data)); continue }
    all.push(cat(open, head(type, data.length)), data)
    open = NONE
  }
  return open.length ? [...all, open] : all
}

function handshake(name, comment, cites, o = {}) {
  const c = conversation(o)
  const rekeyAt = o.rekeyAt ?? 2 ** 32
  const sends = o.sends ?? ordinary
  const fields = {
    comment, cites, test: 'handshake', expect: 'ok',
    name: c.name, secret: c.secret, encryption: c.flags ? 'on' : 'off', client_encryption: o.follow ? 'follow' : c.flags ? 'required' : 'follow',
    server_private: c.flags ? c.server.scalar : NONE, client_private: c.flags ? c.client.scalar : NONE,
    server_limit: c.serverLimit, client_limit: c.clientLimit, rekey_at: rekeyAt,
    kem_seed: c.kem?.seed ?? NONE, kem_randomness: c.m, shared_x: c.x ?? NONE,
    kem_key: c.kem?.encapsulationKey ?? NONE, kem_ciphertext: c.ciphertext, kem_secret: c.kemSecret, transcript_hash: c.keys?.th ?? NONE,
    client_confirm_key: c.keys?.ck ?? NONE, server_confirm_key: c.keys?.sk ?? NONE,
    client_traffic: c.keys?.cs ?? NONE, server_traffic: c.keys?.ss ?? NONE,
    client_key: c.keys ? frameKey(c.keys.cs) : NONE, server_key: c.keys ? frameKey(c.keys.ss) : NONE,
    server_hello: c.serverHello, client_hello: c.clientHello, server_finish: c.serverFinish,
  }
  if (c.keys) {
    const way = { client: new Direction(name + ' client', c.keys.cs, { rekeyAt }), server: new Direction(name + ' server', c.keys.ss, { rekeyAt }) }
    fields.record = sends.flatMap(([who, ...frames]) => plaintexts(frames).map((plain) => {
      const { nonce, wire } = way[who].seal(plain)
      return `${who} ${show(plain)} ${show(nonce)} ${show(wire)}`
    }))
  } else {
    fields.frame = sends.flatMap(([who, ...frames]) => frames.map(([type, data]) => `${who} ${type} ${show(cat(data))} ${show(frame(type, data))}`))
  }
  write(name, fields)
}

// The server under test, which is c's server; sends is what its client sends.
function server(name, comment, cites, expect, o, sends, reply, more = {}) {
  const c = conversation(o)
  if (typeof sends === 'function') sends = sends(c)
  if (typeof reply === 'function') reply = reply(c)
  sends = cat(sends)
  const hybrid = c.kem && sends[1] === c.flags && sends.length >= 1671 // the server gets a whole ciphertext
  write(name, {
    comment, cites, test: 'server', expect,
    name: c.name, secret: c.secret, encryption: c.flags ? 'on' : 'off',
    server_private: c.flags ? c.server.scalar : NONE, server_limit: c.serverLimit,
    kem_seed: c.kem?.seed ?? NONE, kem_key: c.kem?.encapsulationKey ?? NONE,
    kem_secret: hybrid ? decapsulate(c.kem.decapsulationKey, sends.subarray(103, 1671)) : NONE, admit: more.admit ?? 0,
    client_sends: sends, then: more.then ?? 'open', server_writes: cat(c.serverHello, reply ?? []), rest: more.rest ?? NONE,
  })
}

// The client under test; more has what its own configuration adds.
function client(name, comment, cites, expect, o, sends, writes, more = {}) {
  const c = conversation(o)
  if (typeof sends === 'function') sends = sends(c)
  if (typeof writes === 'function') writes = writes(c)
  writes = cat(writes)
  const hybrid = writes.length > 103 && writes[1] & 4 // the client writes a ciphertext
  write(name, {
    comment, cites, test: 'client', expect,
    name: c.name, secret: more.secret ?? c.secret, client_encryption: more.encryption ?? (c.flags ? 'required' : 'follow'),
    client_private: c.flags ? c.client.scalar : clientKey.scalar, client_limit: c.clientLimit,
    kem_randomness: c.m, kem_ciphertext: hybrid ? c.ciphertext : NONE, kem_secret: hybrid ? c.kemSecret : NONE,
    server_sends: cat(sends), then: more.then ?? 'open', client_writes: writes, rest: more.rest ?? NONE,
  })
}

const TRAFFIC = sha384('a traffic secret')
const BACK = sha384('the traffic secret of the other direction')

// The parser of one plaintext frame. got is [type, id, data], or how many bytes are enough to fail.
function frameTest(name, comment, cites, expect, bytes, got, limit = 1024) {
  const [type, id, data] = Array.isArray(got) ? got : []
  write('frame_' + name, {
    comment, cites, test: 'frame', expect, limit, frame: bytes,
    type: type ?? '-', id: id ?? '-', data: data === undefined ? NONE : cat(data), fails_after: Array.isArray(got) ? '-' : got,
  })
}

// One record under a key. Without a plaintext it must not open.
function recordTest(name, comment, cites, sequence, sealed, plain, nonce, key = frameKey(TRAFFIC)) {
  write('record_' + name, {
    comment, cites, test: 'record', expect: plain ? 'ok' : 'record not-authentic', key, sequence, plaintext: plain ?? NONE, nonce: nonce ?? NONE, sealed,
  })
}

// A receiver that is given stream. fails is how many of its bytes are enough to fail.
function receive(name, comment, cites, expect, stream, delivers, fails, o = {}) {
  write(name, {
    comment, cites, test: 'receive', expect,
    traffic_secret: o.sealed ? TRAFFIC : NONE, sequence: o.sequence ?? 0, rekey_at: o.rekeyAt ?? 2 ** 32, limit: o.limit ?? 1024,
    sent_close: o.sentClose ?? 'no', stream: cat(stream), then: o.then ?? 'open',
    delivers: delivers.map(([type, data, number]) => `${type} ${show(cat(data))}${number ? ' ' + number : ''}`), fails_after: fails ?? '-',
  })
}

function session(name, comment, cites, expect, steps, o = {}) {
  write(name, {
    comment, cites, test: 'session', expect,
    in_secret: o.sealed ? TRAFFIC : NONE, out_secret: o.sealed ? BACK : NONE, limit: o.limit ?? 1024,
    step: steps.map((s) => s.map((p) => (typeof p === 'object' ? show(p) : p)).join(' ')),
  })
}

function config(name, comment, cites, expect, n, secret = NONE) {
  write(name, { comment, cites, test: 'config', expect, name: n, secret })
}

// ---- Handshakes that succeed

const n = (k) => Buffer.alloc(k, 0x61)
handshake('handshake_plain', 'Everything in plaintext.', 'H-1 H-7 H-9 H-12 H-19', { encrypted: false })
handshake('handshake_encrypted', 'Encryption without a secret.', 'H-9 H-12 K-2 K-4 K-5 R-1 R-5')
handshake('handshake_follow', 'A client that does not require encryption follows the flags.', 'H-12', { follow: true })
handshake('handshake_secret', 'A secret, which begins with a zero byte.', 'H-9 H-10 K-2 K-5 R-1', { secret: SECRET })
handshake('handshake_secret_long', 'A secret of 200 bytes.', 'N-2 H-10', { secret: cat(sha384('1'), sha384('2'), sha384('3'), sha384('4'), zeros(8)) })
handshake('handshake_leading_zero', 'The x-coordinate of the shared point begins with a zero byte.', 'K-1', { client: zeroKey })
handshake('handshake_leading_zero_secret', 'The x-coordinate of the shared point begins with a zero byte, and there is a secret.', 'K-1', { client: zeroKey, secret: SECRET })
handshake('handshake_name_1', 'A name of one byte, "w".', 'N-1 K-3', { name: utf8('w') })
handshake('handshake_name_255', 'A name of 255 bytes that is not ASCII, with a secret.', 'N-1 K-3', { name: utf8('\u00e9'.repeat(126) + '\u2602'), secret: SECRET })
handshake('handshake_name_decomposed', 'A name with a combining accent, which is not composed.', 'N-1 K-3', { name: utf8('e\u0301te\u0301') })
handshake('handshake_name_space', 'A name with spaces at both ends and a capital letter.', 'N-1', { name: utf8(' Weather ') })
handshake('handshake_limits_least', 'The smallest limits, and data of that size.', 'H-2 F-2', {
  serverLimit: 1024, clientLimit: 1024, sends: [['client', [1, Buffer.alloc(1024, 7)]], ['server', [1, Buffer.alloc(1024, 8)]], ['client', [1, 'a']], ['server', [1, 'b']]],
})
handshake('handshake_limits_most', 'The largest limits.', 'H-2', { serverLimit: 2 ** 30, clientLimit: 2 ** 30 })
handshake('handshake_limits_plain', 'The largest limits in plaintext.', 'H-2', { encrypted: false, serverLimit: 2 ** 30, clientLimit: 2 ** 30 })
const types = [['client', [1, '']], ['server', [2147483647, '']], ['client', [2147483647, 'last']], ['server', [1, 'first']]]
handshake('handshake_types', 'The first and the last type, and empty data.', 'F-6 F-7', { sends: types })
handshake('handshake_types_plain', 'The first and the last type, and empty data, in plaintext.', 'F-6 F-7', { encrypted: false, sends: types })
handshake('handshake_large', 'Large frames, alone and behind a small one. The last frame is one byte too small to be large.', 'R-7 R-9', {
  clientLimit: 20000, sends: [
    ['client', [1, Buffer.alloc(LARGE, 1)]], ['server', [1, 'small'], [2, Buffer.alloc(LARGE, 2)]], ['client', [2, 'small']], ['server', [3, Buffer.alloc(LARGE - 1, 3)]],
  ],
})

// ---- Rekeying. A record with one frame and k bytes of data has the length 36 + k.

handshake('rekey_each', 'Each record reaches the threshold: each has a key of its own.', 'Y-1 Y-2', { rekeyAt: 1, secret: SECRET })
handshake('rekey_exact', 'Two records of 44 bring the sum to 88, the threshold: the third has the next key.', 'Y-1 Y-2 Y-3', {
  rekeyAt: 88, sends: [1, 2, 3, 4, 5].flatMap((i) => [['client', [i, n(8)]], ['server', [i, n(8)]]]),
})
handshake('rekey_one_short', 'Two records bring the sum to 87, one below the threshold: the fourth has the next key. The directions differ.', 'Y-1 Y-3', {
  rekeyAt: 88, sends: [['client', [1, n(8)]], ['client', [2, n(7)]], ['client', [3, n(1)]], ['client', [4, n(1)]], ['server', [1, n(1)]], ['server', [2, n(1)]]],
})
handshake('rekey_control', 'Records of control frames count.', 'Y-3', {
  rekeyAt: 88, sends: [['client', [1, n(7)]], ['client', [0, [5]]], ['client', [0, cat([2], n(8))]], ['client', [4, n(1)]], ['server', [0, [9, 9, 9]]], ['server', [1, 'x']]],
})
handshake('rekey_many', 'One record of three frames reaches the threshold: its last frame is still under the old key.', 'Y-1 Y-3', {
  rekeyAt: 80, sends: [['client', [1, n(8)], [2, n(8)], [3, n(20)]], ['client', [4, n(1)]], ['server', [1, n(1)]], ['server', [2, n(1)], [3, n(1)]]],
})
handshake('rekey_large', 'The record with the head of a large frame reaches the threshold: the data is under the next key.', 'Y-1 Y-2 R-9', {
  rekeyAt: 45, sends: [['client', [1, n(1)], [2, Buffer.alloc(LARGE, 4)], [3, 'x']], ['server', [1, 'x']], ['server', [2, 'y']], ['client', [4, 'y']]],
})
handshake('rekey_large_data', 'The record with the data of a large frame reaches the threshold: the next record is under the next key.', 'Y-1 Y-3', {
  rekeyAt: 16000, sends: [['server', [1, 'x']], ['client', [1, 'x'], [2, Buffer.alloc(LARGE, 5)]], ['client', [3, 'y']], ['server', [2, 'y']]],
})
handshake('rekey_plain', 'Plaintext has no keys: the threshold has no effect.', 'Y-1', { rekeyAt: 1, encrypted: false })
{
  const d = (o) => new Direction('rekey', TRAFFIC, { rekeyAt: 72, ...o })
  const three = (w) => [w.frame(1, 'a'), w.frame(2, 'b'), w.frame(3, 'c')]
  const o = { sealed: true, rekeyAt: 72 }
  let f = three(d({ late: true }))
  receive('rekey_late', 'The sender does not change its key.', 'Y-1', 'record not-authentic', cat(...f), [[1, 'a'], [2, 'b']], cat(...f).length, o)
  f = three(d({ early: true }))
  receive('rekey_early', 'The sender changes its key before the record that reaches the threshold.', 'Y-1', 'record not-authentic', cat(...f), [[1, 'a']], cat(f[0], f[1]).length, o)
  let w = d()
  f = [w.frame(1, 'a'), w.frame(2, 'b')]
  w.seq = 0n
  f.push(w.frame(3, 'c'))
  receive('rekey_sequence_restarts', 'The sender restarts its sequence numbers at 0 with the next key.', 'Y-2', 'record not-authentic', cat(...f), [[1, 'a'], [2, 'b']], cat(...f).length, o)
  w = d({ late: true })
  f = [w.record(frame(1, 'a'), frame(2, 'b'), frame(3, n(12)), head(4, LARGE)), w.record(n(LARGE))]
  receive('rekey_large_late', 'The record with the head reaches the threshold, and the sender seals the data under the same key.', 'Y-1', 'record not-authentic', cat(...f), [[1, 'a'], [2, 'b'], [3, n(12)]], cat(...f).length, { ...o, limit: LARGE })
}

// ---- The server against clients

const plain = { encrypted: false }, encrypted = {}, secret = { secret: SECRET }
const replied = (r) => 'handshake refused ' + r
const truncated = 'handshake truncated'
const refuses = (r) => 'handshake refuse ' + r
for (const [r, what] of [[1, 'another version'], [2, 'no encryption'], [4, 'a secret is required'], [5, 'no secret'], [9, 'malformed'], [3, 'the reserved reason'], [200, 'unknown']]) {
  server(`server_reply_${r}`, `The client refuses: ${what}. The server writes nothing more.`, r === 3 || r === 200 ? 'H-15 H-20' : 'H-15', replied(r), r === 5 ? encrypted : r === 2 ? plain : secret, [r])
}
server('server_reply_first', 'A refusal with bytes behind it: the server discards them.', 'H-14 H-15', replied(5), encrypted, [5, 0x77, 1, 2, 3, 4, 5])
server('server_flags_other', 'The flags differ from the server\'s. The server refuses before the limit arrives.', 'H-5 H-14', refuses(9), encrypted, [0, 0], [9])
server('server_flags_secret', 'The client sets bit 1, which the server did not set.', 'H-14', refuses(9), encrypted, [0, 3], [9])
server('server_flags_no_secret', 'The client clears bit 1, which the server set.', 'H-14', refuses(9), secret, [0, 1], [9])
server('server_flags_unknown', 'The client sets an unknown flag.', 'H-14', refuses(9), encrypted, [0, 0x81], [9])
server('server_flags_plain', 'The client sets bit 0 in plaintext.', 'H-14', refuses(9), plain, [0, 1], [9])
for (const [what, limit] of [['0', 0], ['1023', 1023], ['over', 2 ** 30 + 1], ['most', 2 ** 32 - 1]]) {
  server(`server_limit_${what}`, `The client's limit is ${limit}. The server refuses before the point arrives.`, 'H-2 H-5 H-14', refuses(9), encrypted, cat([0, 1], u32(limit)), [9])
  server(`server_limit_${what}_plain`, `The client's limit is ${limit}, in plaintext.`, 'H-2', refuses(9), plain, cat([0, 0], u32(limit)), [9])
}

// Invalid points. p is the prime, b the constant of P-384.
const p = 2n ** 384n - 2n ** 128n - 2n ** 96n + 2n ** 32n - 1n
const b = BigInt('0xb3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef')
const number48 = (v) => hex(v.toString(16).padStart(96, '0'))
function power(v, e) {
  let r = 1n
  for (v %= p; e > 0n; e >>= 1n, v = (v * v) % p) if (e & 1n) r = (r * v) % p
  return r
}
function smallPoint() { // the smallest x on the curve
  for (let x = 0n; ; x++) {
    const yy = (((x * x * x - 3n * x + b) % p) + p) % p
    const y = power(yy, (p + 1n) / 4n)
    if ((y * y) % p === yy) return [x, y]
  }
}
const [smallX, smallY] = smallPoint()
const X = clientKey.point.subarray(1, 49), Y = clientKey.point.subarray(49)
const badPoints = [
  ['compressed', 'A compressed point, padded to 97 bytes.', cat([2 + (Y[47] & 1)], X, zeros(48))],
  ['hybrid', 'The hybrid form of a valid point.', cat([6 + (Y[47] & 1)], X, Y)],
  ['infinity', 'The point at infinity, padded to 97 bytes.', zeros(97)],
  ['zero', 'Both coordinates are 0.', cat([4], zeros(96))],
  ['off_curve', 'One bit of y is changed.', flip(clientKey.point, -1)],
  ['x_not_reduced', 'x is a valid one with the prime added.', cat([4], number48(smallX + p), number48(smallY))],
  ['y_not_reduced', 'y is above the prime.', cat([4], X, Buffer.alloc(48, 0xff))],
]
for (const [what, comment, point] of badPoints) {
  server('server_point_' + what, comment + ' The server refuses before the confirmation arrives.', 'H-3 H-5 H-14', refuses(9), encrypted, cat([0, 1], u32(1024), point), [9])
  client('client_point_' + what, comment, 'H-3 H-13', refuses(9), encrypted, cat([3, 1], u32(LIMIT), point), [9])
}
const smallest = { ...clientKey, point: cat([4], number48(smallX), number48(smallY)) }
server('server_point_small_x', 'The point of server_point_x_not_reduced with x below the prime: it is valid, and the confirmation is wrong.', 'H-3 H-14', refuses(6), encrypted,
  cat([0, 1], u32(1024), smallest.point, zeros(48)), [6])

server('server_confirmation_first', 'One bit of the first byte of the confirmation is changed.', 'H-14 H-18', refuses(6), encrypted, (c) => flip(c.clientHello, 103), [6])
server('server_confirmation_last', 'One bit of the last byte of the confirmation is changed.', 'H-14 H-18', refuses(6), secret, (c) => flip(c.clientHello, 150, 7), [6])
server('server_confirmation_zero', 'The confirmation is zeros.', 'H-18', refuses(6), secret, (c) => cat(c.clientHello.subarray(0, 103), zeros(48)), [6])
server('server_confirmation_of_server', 'The confirmation is made with the server\'s key.', 'H-14 K-5', refuses(6), encrypted, (c) => cat(c.clientHello.subarray(0, 103), hmac(c.keys.sk, c.keys.th)), [6])
server('server_other_secret', 'The client has another secret.', 'H-14', refuses(6), secret, () => conversation({ secret: OTHER }).clientHello, [6])
server('server_other_name', 'The client has another name.', 'H-14 K-3', refuses(6), encrypted, () => conversation({ name: utf8('weathes') }).clientHello, [6])
server('server_name_normalised', 'The client has composed the name\'s accent.', 'N-1 K-3', refuses(6), { name: utf8('e\u0301te\u0301') }, () => conversation({ name: utf8('\u00e9t\u00e9') }).clientHello, [6])
server('server_name_case', 'The client has changed a letter to lower case.', 'N-1', refuses(6), { name: utf8('Weather') }, () => conversation({ name: utf8('weather') }).clientHello, [6])
const withSchedule = (o, f) => (c) => {
  const h = c.clientHello.subarray(0, 103)
  const keys = f(c, h)
  return cat(h, hmac(keys.ck, keys.th))
}
server('server_name_without_length', 'The client omits the length of the name from TH.', 'K-3', refuses(6), encrypted, withSchedule({}, (c, h) => {
  const th = sha384('gipc/3', c.name, c.serverHello, h)
  const master = extract(expand(extract(zeros(48), zeros(48)), 'gipc/3 derived', 48), c.z)
  return { th, ck: expand(master, cat('gipc/3 client confirm', th), 48) }
}), [6])
server('server_transcript_limit', 'The limit in ServerHello was changed on the way: the client\'s TH differs.', 'K-2', refuses(6), encrypted, withSchedule({}, (c, h) => schedule(c.name, c.secret, c.z, flip(c.serverHello, 5), h)), [6])
server('server_transcript_own_limit', 'The limit in ClientHello was changed on the way.', 'K-2', refuses(6), encrypted, (c) => flip(c.clientHello, 5), [6])
server('server_stripped_x', 'The client strips the leading zero byte of the shared x-coordinate.', 'K-1', refuses(6), { client: zeroKey }, withSchedule({}, (c, h) => schedule(c.name, c.secret, c.z.subarray(1), c.serverHello, h)), [6])
server('server_no_psk', 'The client has no secret and uses an empty psk instead of 48 zero bytes.', 'K-4', refuses(6), encrypted, withSchedule({}, (c, h) => {
  const th = sha384('gipc/3', u16(c.name.length), c.name, c.serverHello, h)
  const master = extract(expand(extract(zeros(48), zeros(0)), 'gipc/3 derived', 48), c.z)
  return { th, ck: expand(master, cat('gipc/3 client confirm', th), 48) }
}), [6])
server('server_full', 'The handshake is valid, and the server has reached its client limit.', 'H-14 L-4', refuses(7), secret, (c) => c.clientHello, [7], { admit: 7 })
server('server_full_plain', 'The server has reached its client limit, in plaintext.', 'H-14', refuses(7), plain, (c) => c.clientHello, [7], { admit: 7 })
server('server_full_wrong', 'The server has reached its client limit and the confirmation is wrong: the reason is the confirmation\'s.', 'H-14 L-4', refuses(6), secret, (c) => flip(c.clientHello, 120), [6], { admit: 7 })
server('server_unauthorized', 'The handshake is valid, and the client is not authorized.', 'H-14', refuses(8), secret, (c) => c.clientHello, [8], { admit: 8 })
server('server_order_flags', 'Flags and limit are invalid: the server refuses at the flags.', 'H-14 H-5', refuses(9), encrypted, cat([0, 0], u32(1)), [9])
server('server_order_limit', 'Limit and point are invalid: the server refuses at the limit.', 'H-14', refuses(9), encrypted, cat([0, 1], u32(1), zeros(97), zeros(48)), [9])
server('server_order_point', 'Point and confirmation are invalid: the server refuses at the point.', 'H-14', refuses(9), secret, cat([0, 3], u32(1024), zeros(97), zeros(48)), [9])
for (const k of [0, 1, 5, 6, 102, 103, 150]) {
  server(`server_truncated_${k}`, `The stream ends after ${k} bytes of ClientHello.`, 'H-14', truncated, secret, (c) => c.clientHello.subarray(0, k), [], { then: 'end' })
}
server('server_truncated_plain', 'The stream ends inside a ClientHello in plaintext.', 'H-14', truncated, plain, (c) => c.clientHello.subarray(0, 5), [], { then: 'end' })
{
  const c = conversation(secret)
  const behind = new Direction('behind client', c.keys.cs).frame(1, 'early')
  server('server_record_behind', 'A record follows ClientHello at once: it is kept.', 'H-6', 'ok', secret, cat(c.clientHello, behind), c.serverFinish, { rest: behind })
  const some = frame(1, 'early')
  server('server_frames_behind_plain', 'One and a half frames follow ClientHello at once, in plaintext: they are kept.', 'H-6', 'ok', plain, cat(conversation(plain).clientHello, some, some.subarray(0, 7)), [0], { rest: cat(some, some.subarray(0, 7)) })
}

// ---- The client against servers

for (const r of [0, 7, 8, 3, 200]) {
  client(`client_instead_${r}`, `The server refuses with ${r} instead of ServerHello. The client writes nothing.`, r === 0 ? 'H-16' : 'H-16 H-20', replied(r), secret, [0, r], [])
}
for (const [v, what] of [[1, 'an earlier protocol'], [2, 'an earlier protocol'], [4, 'a later version'], [0x16, 'TLS'], [0x48, 'HTTP'], [255, 'anything']]) {
  client(`client_version_${v}`, `The server's first byte is ${v}: ${what}.`, 'H-13', refuses(1), secret, [v], [1])
}
client('client_requires_encryption', 'The client requires encryption, and the server has it switched off.', 'H-12 H-13', refuses(2), plain, [3, 0], [2], { encryption: 'required' })
client('client_secret_plain', 'The client has a secret, and the server has encryption switched off.', 'H-10 H-13', refuses(2), plain, [3, 0], [2], { secret: SECRET })
client('client_secret_flag_alone', 'The server sets bit 1 without bit 0, and the client has a secret.', 'H-10 H-13', refuses(2), secret, [3, 2], [2])
client('client_server_secret', 'The server requires a secret and the client has none.', 'H-11', refuses(4), encrypted, [3, 3], [4])
client('client_server_secret_follow', 'The server requires a secret, and the client neither has one nor requires encryption.', 'H-11', refuses(4), plain, [3, 3], [4])
client('client_server_secret_alone', 'The server sets bit 1 without bit 0, and the client requires nothing.', 'H-11 H-13', refuses(4), plain, [3, 2], [4])
client('client_own_secret', 'The client has a secret, and the server requires none.', 'H-10', refuses(5), secret, [3, 1], [5])
for (const f of [8, 16, 32, 64, 128]) {
  client(`client_flags_${f}`, `Flag ${f} is unknown.`, 'H-13 H-5', refuses(9), encrypted, [3, 1 | f], [9])
}
client('client_flags_plain', 'An unknown flag, in plaintext.', 'H-13', refuses(9), plain, [3, 8], [9])
client('client_order_version', 'Version and flags are invalid: the client refuses at the version.', 'H-13', refuses(1), secret, [5, 0xff, 0, 0, 0, 0], [1])
client('client_order_encryption', 'No encryption, a secret required, an unknown flag: the reason is encryption.', 'H-13', refuses(2), encrypted, [3, 0x82], [2])
client('client_order_server_secret', 'A secret required and an unknown flag: the reason is the secret.', 'H-13', refuses(4), encrypted, [3, 0x83], [4])
client('client_order_own_secret', 'No secret required and an unknown flag: the reason is the secret.', 'H-13', refuses(5), secret, [3, 0x81], [5])
client('client_order_flags', 'An unknown flag and an invalid limit: the client refuses at the flags.', 'H-13 H-5', refuses(9), encrypted, cat([3, 0x81], u32(0)), [9])
client('client_order_limit', 'Limit and point are invalid: the client refuses at the limit.', 'H-13', refuses(9), encrypted, cat([3, 1], u32(0), zeros(97)), [9])
for (const [what, limit] of [['0', 0], ['1023', 1023], ['over', 2 ** 30 + 1], ['most', 2 ** 32 - 1]]) {
  client(`client_limit_${what}`, `The server's limit is ${limit}.`, 'H-2 H-5 H-13', refuses(9), encrypted, cat([3, 1], u32(limit)), [9])
  client(`client_limit_${what}_plain`, `The server's limit is ${limit}, in plaintext.`, 'H-2', refuses(9), plain, cat([3, 0], u32(limit)), [9])
}
for (const r of [6, 7, 8, 9, 3, 200]) {
  client(`client_finish_${r}`, `The server refuses with ${r} instead of ServerFinish.`, r === 3 || r === 200 ? 'H-20' : 'H-14', replied(r), secret, (c) => cat(c.serverHello, [r]), (c) => c.clientHello)
}
client('client_finish_plain_7', 'The server refuses with 7 in plaintext.', 'H-14 H-19', replied(7), plain, (c) => cat(c.serverHello, [7]), (c) => c.clientHello)
const unproven = 'handshake unproven'
client('client_unproven_first', 'One bit of the first byte of the server\'s confirmation is changed. The client writes nothing.', 'H-17 H-18', unproven, secret, (c) => cat(c.serverHello, flip(c.serverFinish, 1)), (c) => c.clientHello)
client('client_unproven_last', 'One bit of the last byte of the server\'s confirmation is changed.', 'H-17 H-18', unproven, encrypted, (c) => cat(c.serverHello, flip(c.serverFinish, -1)), (c) => c.clientHello)
client('client_unproven_reflected', 'The server sends the client\'s confirmation back.', 'H-17', unproven, secret, (c) => cat(c.serverHello, [0], c.keys.clientConfirmation), (c) => c.clientHello)
client('client_unproven_other_secret', 'The server has another secret and accepts every client.', 'H-17', unproven, secret, (c) => {
  const k = schedule(c.name, OTHER, c.z, c.serverHello, c.clientHello.subarray(0, 103))
  return cat(c.serverHello, [0], hmac(k.sk, k.th, c.keys.clientConfirmation))
}, (c) => c.clientHello)
client('client_unproven_other_name', 'The server has another name and accepts every client.', 'H-17 K-3', unproven, encrypted, (c) => {
  const k = schedule(utf8('Weather'), c.secret, c.z, c.serverHello, c.clientHello.subarray(0, 103))
  return cat(c.serverHello, [0], hmac(k.sk, k.th, c.keys.clientConfirmation))
}, (c) => c.clientHello)
client('client_unproven_without_client', 'The server\'s confirmation does not cover the client\'s.', 'H-17', unproven, secret, (c) => cat(c.serverHello, [0], hmac(c.keys.sk, c.keys.th)), (c) => c.clientHello)
client('client_unproven_record', 'A valid record behind a wrong confirmation: it is not opened.', 'H-17', unproven, secret, (c) => cat(c.serverHello, flip(c.serverFinish, 9), new Direction('unproven', c.keys.ss).frame(1, 'x')), (c) => c.clientHello)
client('client_follows', 'A client that requires nothing connects to a server that encrypts.', 'H-12', 'ok', encrypted, (c) => cat(c.serverHello, c.serverFinish), (c) => c.clientHello, { encryption: 'follow' })
{
  const c = conversation(secret)
  const w = new Direction('behind server', c.keys.ss)
  const behind = cat(w.frame(1, 'early'), w.frame(2, 'birds').subarray(0, 20))
  client('client_records_behind', 'One and a half records follow ServerFinish at once: they are kept.', 'H-6', 'ok', secret, cat(c.serverHello, c.serverFinish, behind), c.clientHello, { rest: behind })
  client('client_frames_behind_plain', 'A frame follows ServerFinish at once, in plaintext: it is kept.', 'H-6', 'ok', plain, (d) => cat(d.serverHello, d.serverFinish, frame(1, 'early')), (d) => d.clientHello, { rest: frame(1, 'early') })
}
for (const [k, writes] of [[0, false], [1, false], [2, false], [5, false], [102, false], [103, true], [104, true], [151, true]]) {
  client(`client_truncated_${k}`, `The stream ends after ${k} bytes of the server's two messages.`, 'H-13', truncated, secret, (c) => cat(c.serverHello, c.serverFinish).subarray(0, k), (c) => (writes ? c.clientHello : []), { then: 'end' })
}
client('client_truncated_instead', 'The stream ends behind the byte 0 of a refusal.', 'H-16', truncated, secret, [0], [], { then: 'end' })

// ---- The hybrid key agreement

const offered = { kem: serverKem } // the client has no ML-KEM
const capable = { m: clientRandomness } // the server does not offer hybrid
const hybrid = { ...offered, ...capable }, hybridSecret = { ...hybrid, ...secret }
handshake('handshake_hybrid', 'P-384 and ML-KEM-1024, without a secret.', 'H-21 H-22 H-23 K-1 K-2 K-4', hybrid)
handshake('handshake_hybrid_secret', 'P-384 and ML-KEM-1024, with a secret.', 'H-9 H-10 H-21 K-2', hybridSecret)
handshake('handshake_hybrid_leading_zero', 'The x-coordinate of the shared point begins with a zero byte: Z has 80 bytes.', 'K-1', { ...hybrid, client: zeroKey })
handshake('handshake_hybrid_follow', 'A client that does not require encryption follows bit 0 and bit 2.', 'H-12 H-21', { ...hybrid, follow: true })
handshake('handshake_hybrid_rekey', 'Two records of 44 reach the threshold: the third has the next key, in each direction.', 'K-5 Y-1 Y-3', {
  ...hybrid, rekeyAt: 88, sends: [1, 2, 3].flatMap((i) => [['client', [i, n(8)]], ['server', [i, n(8)]]]),
})
handshake('handshake_hybrid_classical', 'A client without ML-KEM clears bit 2. TH is over the whole ServerHello, with the encapsulation key.', 'H-21 K-2', offered)
handshake('handshake_hybrid_not_offered', 'The client has ML-KEM, and the server does not offer it.', 'H-21', { ...capable, ...secret })
handshake('handshake_hybrid_plain', 'The client has ML-KEM, and the server has encryption switched off.', 'H-12 H-21', { ...capable, ...plain })

server('server_hybrid_not_offered', 'The client sets bit 2, which the server did not set. The server refuses before the limit arrives.', 'H-5 H-14 H-21', refuses(9), encrypted, [0, 5], [9])
server('server_hybrid_not_offered_plain', 'The client sets bit 2 in plaintext.', 'H-14 H-21', refuses(9), plain, [0, 4], [9])
server('server_hybrid_flags_none', 'The client clears bit 0 together with bit 2.', 'H-5 H-14 H-21', refuses(9), hybrid, [0, 0], [9])
server('server_hybrid_flags_alone', 'The client clears bit 0 and keeps bit 2.', 'H-14 H-21', refuses(9), hybrid, [0, 4], [9])
server('server_hybrid_flags_no_secret', 'The client clears bit 1 together with bit 2.', 'H-14 H-21', refuses(9), hybridSecret, [0, 1], [9])
server('server_hybrid_flags_unknown', 'The client keeps bit 2 and sets an unknown flag.', 'H-14 H-21', refuses(9), hybrid, [0, 0x0d], [9])
client('client_hybrid_plain', 'The server sets bit 2 without bit 0, and the client requires nothing.', 'H-5 H-13 H-21', refuses(9), { ...capable, ...plain }, [3, 4], [9])
client('client_hybrid_plain_required', 'The server sets bit 2 without bit 0, and the client requires encryption: the reason is encryption.', 'H-12 H-13', refuses(2), hybrid, [3, 4], [2])
client('client_hybrid_server_secret', 'The server requires a secret and offers hybrid. The client has no secret.', 'H-11 H-13', refuses(4), hybrid, [3, 7], [4])
client('client_hybrid_own_secret', 'The client has a secret. The server offers hybrid and requires no secret.', 'H-10 H-13', refuses(5), hybridSecret, [3, 5], [5])
client('client_hybrid_flags_unknown', 'The server offers hybrid and sets an unknown flag.', 'H-5 H-13', refuses(9), hybrid, [3, 0x0d], [9])

// Points and encapsulation keys. Two coefficients of a key share three bytes.
function withCoefficient(key, i, value) {
  const at = 3 * (i >> 1), shift = 12 * (i % 2)
  key = Buffer.from(key)
  key.writeUIntLE((key.readUIntLE(at, 3) & ~(0xfff << shift)) | (value << shift), at, 3)
  return key
}
server('server_hybrid_order_point', 'The point is invalid. The server refuses before the ciphertext arrives.', 'H-3 H-5 H-14', refuses(9), hybrid, cat([0, 5], u32(1024), zeros(97)), [9])
client('client_hybrid_order_point', 'The point is invalid. The client refuses before the encapsulation key arrives.', 'H-3 H-5 H-13', refuses(9), hybrid, cat([3, 5], u32(LIMIT), zeros(97)), [9])
for (const [what, i] of [['first', 0], ['middle', 512], ['last', 1023]]) {
  for (const value of [3329, 4095]) {
    client(`client_hybrid_key_${what}_${value}`, `The ${what} coefficient of the encapsulation key is ${value}${value === 3329 ? ', the modulus' : ''}.`, 'H-13 H-23', refuses(9), hybrid,
      (c) => cat(c.serverHello.subarray(0, 103), withCoefficient(serverKem.encapsulationKey, i, value)), [9])
  }
}
{
  const most = [0, 512, 1023].reduce((key, i) => withCoefficient(key, i, 3328), cat(serverKem.encapsulationKey.subarray(0, 1536), Buffer.alloc(32, 0xff)))
  client('client_hybrid_key_valid', 'Coefficients of the encapsulation key are 3328, which is below the modulus, and the 32 bytes behind the coefficients are ff.', 'H-23', 'ok',
    { ...hybrid, kem: { encapsulationKey: most } }, (c) => cat(c.serverHello, c.serverFinish), (c) => c.clientHello)
  client('client_hybrid_key_unchecked', 'Every coefficient of the encapsulation key is 4095, and the client has no ML-KEM: it does not check the key.', 'H-21 K-2', 'ok',
    { kem: { encapsulationKey: Buffer.alloc(1568, 0xff) } }, (c) => cat(c.serverHello, c.serverFinish), (c) => c.clientHello)
}

// Complete and truncated messages.
{
  const c = conversation(hybridSecret), behind = new Direction('hybrid client', c.keys.cs).frame(1, 'early')
  server('server_hybrid_record_behind', 'A record follows ClientHello at once: it is kept.', 'H-6 H-21', 'ok', hybridSecret, cat(c.clientHello, behind), c.serverFinish, { rest: behind })
}
{
  const c = conversation(hybridSecret), w = new Direction('hybrid server', c.keys.ss)
  const behind = cat(w.frame(1, 'early'), w.frame(2, 'birds').subarray(0, 20))
  client('client_hybrid_records_behind', 'One and a half records follow ServerFinish at once: they are kept.', 'H-6 H-21', 'ok', hybridSecret, cat(c.serverHello, c.serverFinish, behind), c.clientHello, { rest: behind })
}
server('server_hybrid_classical', 'The client has no ML-KEM and clears bit 2: no ciphertext precedes its confirmation.', 'H-21 K-2', 'ok', { ...offered, ...secret }, (c) => c.clientHello, (c) => c.serverFinish)
client('client_hybrid_classical', 'The server offers hybrid, and the client has no ML-KEM.', 'H-21 K-2', 'ok', { ...offered, ...secret }, (c) => cat(c.serverHello, c.serverFinish), (c) => c.clientHello)
for (const [k, what] of [[103, 'before the ciphertext'], [1670, 'inside the ciphertext, before its last byte']]) {
  server(`server_hybrid_truncated_${k}`, `The stream ends ${what}.`, 'H-14 H-21', truncated, hybrid, (c) => c.clientHello.subarray(0, k), [], { then: 'end' })
}
for (const [k, what, writes] of [[103, 'before the encapsulation key', false], [1670, 'inside the encapsulation key, before its last byte', false], [1671, 'before ServerFinish', true]]) {
  client(`client_hybrid_truncated_${k}`, `The stream ends ${what}.`, 'H-5 H-13', truncated, hybrid, (c) => c.serverHello.subarray(0, k), (c) => (writes ? c.clientHello : []), { then: 'end' })
}

// Ciphertexts that do not belong to the key. The server decapsulates each of them to a secret.
for (const [what, i, bit] of [['first', 103, 0], ['middle', 887, 3], ['last', 1670, 7]]) {
  server(`server_hybrid_ciphertext_${what}`, `One bit of the ${what} byte of the ciphertext is changed on the way.`, 'H-14 H-23', refuses(6), hybrid, (c) => flip(c.clientHello, i, bit), [6])
}
const helloOf = (c, z, serverHello, hello) => cat(c.hello, schedule(c.name, c.secret, z, serverHello, hello).clientConfirmation) // c's ClientHello with another confirmation
const finishOf = (c, z, serverHello, hello) => { // of a server that computes other keys and accepts every client
  const k = schedule(c.name, c.secret, z, serverHello, hello)
  return cat([0], hmac(k.sk, k.th, c.keys.clientConfirmation))
}
server('server_hybrid_ciphertext_other_key', 'The client encapsulates to another key. Everything else in its ClientHello is correct.', 'H-14 H-23', refuses(6), hybridSecret, (c) => {
  const { ciphertext, secret } = encapsulate(otherKem.encapsulationKey, c.m), hello = cat(c.hello.subarray(0, 103), ciphertext)
  return cat(hello, schedule(c.name, c.secret, cat(c.x, secret), c.serverHello, hello).clientConfirmation)
}, [6])
server('server_hybrid_ciphertext_zeros', 'The ciphertext is zeros, and the stream ends before the confirmation: the server has not refused the ciphertext.', 'H-23', truncated, hybrid,
  (c) => cat(c.hello.subarray(0, 103), zeros(1568)), [], { then: 'end' })
{
  const c = conversation(hybrid), hello = flip(c.hello, 887, 3)
  const keys = schedule(c.name, c.secret, cat(c.x, decapsulate(serverKem.decapsulationKey, hello.subarray(103))), c.serverHello, hello)
  server('server_hybrid_ciphertext_implicit', 'One bit of the ciphertext is changed, and the confirmation is computed with the secret that decapsulation then gives: it matches.', 'H-23', 'ok', hybrid,
    cat(hello, keys.clientConfirmation), cat([0], keys.serverConfirmation))
}
server('server_hybrid_replayed', 'The client repeats the ClientHello of an earlier connection, in which only the ML-KEM key of the server was another.', 'H-14 H-22', refuses(6), hybridSecret,
  () => conversation({ ...hybridSecret, kem: otherKem }).clientHello, [6])
client('client_hybrid_replayed', 'The server repeats the ServerFinish of an earlier connection, in which only the randomness of the client was another.', 'H-17 H-22', unproven, hybridSecret,
  (c) => cat(c.serverHello, conversation({ ...hybridSecret, m: counting(0xa2, 32) }).serverFinish), (c) => c.clientHello)

// Confirmations of a peer that computes Z or TH in another way.
const cleared = (hello) => flip(hello, 1, 2) // bit 2 of the flags
for (const [what, comment, cites, derived] of [
  ['z_order', 'Z is the ML-KEM secret and then the x-coordinate.', 'K-1', (c) => [cat(c.kemSecret, c.x), c.serverHello, c.hello]],
  ['z_classical', 'Z is the x-coordinate alone.', 'K-1', (c) => [c.x, c.serverHello, c.hello]],
  ['z_kem', 'Z is the ML-KEM secret alone.', 'K-1', (c) => [c.kemSecret, c.serverHello, c.hello]],
  ['th_key', 'TH leaves out the encapsulation key.', 'K-2', (c) => [c.z, c.serverHello.subarray(0, 103), c.hello]],
  ['th_ciphertext', 'TH leaves out the ciphertext.', 'K-2', (c) => [c.z, c.serverHello, c.hello.subarray(0, 103)]],
  ['th_flags', 'TH has the flags of ClientHello with bit 2 cleared.', 'K-2', (c) => [c.z, c.serverHello, cleared(c.hello)]],
]) {
  server('server_hybrid_' + what, 'The confirmation of the client is wrong: ' + comment, 'H-14 ' + cites, refuses(6), hybridSecret, (c) => helloOf(c, ...derived(c)), [6])
  client('client_hybrid_' + what, 'The confirmation of the server is wrong: ' + comment, 'H-17 ' + cites, unproven, hybridSecret, (c) => cat(c.serverHello, finishOf(c, ...derived(c))), (c) => c.clientHello)
}
server('server_hybrid_stripped_x', 'The client strips the leading zero byte of the x-coordinate: Z has 79 bytes.', 'H-14 K-1', refuses(6), { ...hybrid, client: zeroKey },
  (c) => helloOf(c, c.z.subarray(1), c.serverHello, c.hello), [6])
server('server_hybrid_classical_th_key', 'The client has no ML-KEM, and its TH leaves out the encapsulation key.', 'H-14 K-2', refuses(6), offered,
  (c) => helloOf(c, c.z, c.serverHello.subarray(0, 103), c.hello), [6])
client('client_hybrid_classical_th_key', 'The client has no ML-KEM, and the TH of the server leaves out the encapsulation key.', 'H-17 K-2', unproven, offered,
  (c) => cat(c.serverHello, finishOf(c, c.z, c.serverHello.subarray(0, 103), c.hello)), (c) => c.clientHello)

// A man in the middle. Each confirmation is the one that its sender computes from the bytes that it has sent and received.
{
  const direct = conversation(hybridSecret) // without a man in the middle
  const stripped = conversation({ ...capable, ...secret }) // the client receives a ServerHello with bit 2 cleared and the key removed
  server('server_hybrid_mitm_server_hello', 'On the way, bit 2 of ServerHello was cleared and the encapsulation key removed: the client answers without ML-KEM.', 'H-14 H-21 K-2', refuses(6), hybridSecret,
    stripped.clientHello, [6])
  client('client_hybrid_mitm_server_hello', 'On the way, bit 2 of ServerHello was cleared and the encapsulation key removed.', 'H-17 H-21 K-2', unproven, { ...capable, ...secret },
    cat(stripped.serverHello, finishOf(stripped, stripped.x, direct.serverHello, stripped.hello)), stripped.clientHello)
  const hello = cleared(direct.hello.subarray(0, 103)) // the server receives this, and then the confirmation
  server('server_hybrid_mitm_client_hello', 'On the way, bit 2 of ClientHello was cleared and the ciphertext removed.', 'H-14 H-21 K-2', refuses(6), hybridSecret, cat(hello, direct.keys.clientConfirmation), [6])
  client('client_hybrid_mitm_client_hello', 'On the way, bit 2 of ClientHello was cleared and the ciphertext removed: the server answers without ML-KEM.', 'H-17 H-21 K-2', unproven, hybridSecret,
    cat(direct.serverHello, finishOf(direct, direct.x, direct.serverHello, hello)), direct.clientHello)
  const swapped = conversation({ ...hybridSecret, kem: otherKem }) // the client receives the encapsulation key of the man in the middle
  const { ciphertext, secret: kemSecret } = encapsulate(serverKem.encapsulationKey, counting(0xa3, 32)) // of the man in the middle, to the key of the server
  const forwarded = cat(swapped.hello.subarray(0, 103), ciphertext)
  server('server_hybrid_mitm_key', 'On the way, the encapsulation key was replaced, and then the ciphertext by one for the key of the server.', 'H-14 K-2', refuses(6), hybridSecret,
    cat(forwarded, swapped.keys.clientConfirmation), [6])
  client('client_hybrid_mitm_key', 'On the way, the encapsulation key was replaced, and then the ciphertext by one for the key of the server.', 'H-17 K-2', unproven, { ...hybridSecret, kem: otherKem },
    cat(swapped.serverHello, finishOf(swapped, cat(swapped.x, kemSecret), direct.serverHello, forwarded)), swapped.clientHello)
}

// ---- One frame in plaintext

const frameBad = 'frame malformed', typeBad = 'type malformed', idBad = 'id malformed', recordBad = 'record malformed', controlBad = 'control malformed', closeBad = 'close malformed'
const notAuthentic = 'record not-authentic'
frameTest('message', 'A message.', 'F-1', 'ok', frame(1, 'hello'), [1, undefined, 'hello'])
frameTest('empty', 'A message without data.', 'F-1 F-7', 'ok', frame(7, ''), [7, undefined, ''])
frameTest('type_last', 'The last type of a message.', 'F-6', 'ok', frame(REQUEST - 1, 'x'), [REQUEST - 1, undefined, 'x'])
frameTest('control', 'A control frame.', 'F-1', 'ok', frame(0, [3, 0]), [0, undefined, [3, 0]])
frameTest('id', 'A frame with an id.', 'F-1 F-6', 'ok', frame(REQUEST + 1, 'hello', 1), [REQUEST + 1, 1, 'hello'])
frameTest('id_empty', 'A frame with an id and without data.', 'F-1', 'ok', frame(REQUEST + 1, '', 2), [REQUEST + 1, 2, ''])
frameTest('id_high', 'Bit 63 of the id is 1.', 'F-1', 'ok', frame(REQUEST + 5, 'x', 2n ** 63n + 1n), [REQUEST + 5, 2n ** 63n + 1n, 'x'])
frameTest('id_type_last', 'The last type of a frame with an id.', 'F-6', 'ok', frame(2 ** 32 - 1, 'x', 2n ** 63n - 1n), [2 ** 32 - 1, 2n ** 63n - 1n, 'x'])
frameTest('at_limit', 'The most data that the limit allows.', 'F-2', 'ok', frame(1, n(1024)), [1, undefined, n(1024)])
frameTest('id_at_limit', 'The most data that the limit allows, in a frame with an id: the length is the largest that is valid.', 'F-2', 'ok', frame(REQUEST + 1, n(1024), 3), [REQUEST + 1, 3, n(1024)])
for (const k of [0, 1, 2, 3]) frameTest(`length_${k}`, `A length of ${k}.`, 'F-1 F-4', frameBad, cat(u32(k), zeros(8)), 4)
for (const k of [4, 5, 11]) {
  frameTest(`id_length_${k}`, `A length of ${k} with bit 31 of the type set. The receiver refuses it at the type.`, 'F-1 F-4', frameBad, cat(u32(k), u32(REQUEST + 1), zeros(8)), 8)
}
frameTest('over_limit', 'A length of 13 + limit. The receiver refuses it at the length.', 'F-2 F-4', frameBad, cat(u32(1024 + 13), u32(REQUEST + 1), u64(1), n(1025)), 4)
frameTest('data_over_limit', 'A message with one byte of data more than the limit. The receiver refuses it at the type.', 'F-2 F-4', frameBad, frame(1, n(1025)), 8)
frameTest('data_over_limit_8', 'A message with the length 12 + limit, which is 8 bytes of data too many.', 'F-2 F-4', frameBad, frame(1, n(1032)), 8)
frameTest('control_over_limit', 'A control frame with one byte of data more than the limit.', 'F-2 F-4', frameBad, frame(0, cat([9], n(1024))), 8)
frameTest('length_most', 'The largest length.', 'F-2 F-4', frameBad, cat(u32(2 ** 32 - 1), u32(1)), 4)
frameTest('length_sign', 'A length with the highest bit set.', 'F-2 F-4', frameBad, cat(u32(2 ** 31), u32(1)), 4)
frameTest('limit_most', 'The largest limit, and one byte of data more. The receiver refuses it at the type.', 'F-2 F-4', frameBad, cat(u32(5 + 2 ** 30), u32(1), 'abc'), 8, 2 ** 30)
frameTest('type_id_0', 'Type 2147483648. The receiver refuses it at the type.', 'F-4 F-6', typeBad, frame(REQUEST, 'x', 1), 8)
for (const k of [4, 11]) {
  frameTest(`type_id_0_length_${k}`, `Type 2147483648 with a length of ${k}, which is too small as well: the type is checked first.`, 'F-1 F-4 F-6', typeBad, cat(u32(k), u32(REQUEST), zeros(8)), 8)
}

// ---- One record

{
  const key = frameKey(TRAFFIC), at = (i) => sha384('record', u32(i)).subarray(0, 12)
  const good = (name, comment, cites, sequence, i, plain, nonce = at(i)) => recordTest(name, comment, cites, sequence, sealRecord(key, nonce, u64(sequence), plain), plain, nonce)
  good('message', 'A message.', 'R-1 R-5', 0, 1, frame(1, 'hello'))
  good('two', 'Two messages.', 'R-1', 1, 2, cat(frame(1, 'hello'), frame(2, 'world')))
  good('least', 'The smallest record of frames.', 'R-6', 2, 3, frame(7, ''))
  good('head', 'A message, and the head of a large frame.', 'R-7', 3, 4, cat(frame(1, 'hello'), head(2, LARGE)))
  good('data', 'The data of that large frame.', 'R-6 R-9', 4, 5, n(LARGE))
  good('number_high', 'A sequence number above 2^32.', 'R-1', 2n ** 40n + 5n, 6, frame(1, 'hello'))
  good('number_last', 'The last sequence number.', 'R-4', 2n ** 64n - 2n, 7, frame(1, 'hello'))
  good('nonce_zeros', 'A nonce of zeros: a receiver accepts any.', 'R-2', 0, 8, frame(1, 'hello'), zeros(12))
  const plain = frame(1, 'hello'), wire = sealRecord(key, at(9), u64(5), plain)
  const wrong = (name, comment, cites, sealed, k) => recordTest(name, comment, cites, 5, sealed, undefined, undefined, k)
  for (const [what, i] of [['nonce', 4], ['nonce_end', 15], ['length', 19], ['type', 23], ['data', 24], ['tag', -16], ['tag_end', -1]]) {
    wrong(`flip_${what}`, `One bit is changed: ${what.replace('_end', ', last byte')}.`, i < 0 ? 'R-3 R-5' : 'R-3', flip(wire, i, 7))
  }
  wrong('tag_zeros', 'The tag is zeros.', 'R-5', cat(wire.subarray(0, -16), zeros(16)))
  wrong('tag_short', 'The tag is 15 bytes, and the length one less.', 'R-5', cat(u32(wire.length - 5), wire.subarray(4, -1)))
  wrong('tag_behind', 'The tag is followed by one byte, and the length is one more.', 'R-5', cat(u32(wire.length - 3), wire.subarray(4), [0]))
  wrong('other_key', 'The record is opened with the key of the other direction.', 'K-5', wire, frameKey(BACK))
  wrong('number_before', 'The record is sealed with the sequence number before.', 'R-1', sealRecord(key, at(9), u64(4), plain))
  wrong('number_behind', 'The record is sealed with the sequence number behind.', 'R-1', sealRecord(key, at(9), u64(6), plain))
  wrong('number_none', 'The record is sealed without additional data.', 'R-1', sealRecord(key, at(9), NONE, plain))
  wrong('number_32_bit', 'The sequence number has 4 bytes.', 'R-1', sealRecord(key, at(9), u32(5), plain))
  wrong('number_little_endian', 'The sequence number is little-endian.', 'R-1', sealRecord(key, at(9), hex('0500000000000000'), plain))
  wrong('length_sealed', 'The additional data has the length as well.', 'R-1', sealRecord(key, at(9), cat(u64(5), u32(wire.length - 4)), plain))
}

// ---- A receiver of plaintext

const one = frame(1, 'one'), two = frame(2, 'two'), three = frame(3, 'three')
receive('plain_two', 'Two frames, and the beginning of a third.', 'F-8', 'ok', cat(one, two, one.subarray(0, 6)), [[1, 'one'], [2, 'two']])
receive('plain_empty', 'Empty data.', 'F-7', 'ok', frame(7, ''), [[7, '']])
receive('plain_type_last', 'The last type of a message.', 'F-6', 'ok', frame(2147483647, 'x'), [[2147483647, 'x']])
receive('plain_at_limit', 'The most data that the limit allows.', 'F-2', 'ok', frame(1, n(1024)), [[1, n(1024)]])
for (const k of [0, 1, 2, 3]) {
  receive(`plain_length_${k}`, `A length of ${k}, behind a valid frame and before another.`, 'F-1 F-4 F-9', frameBad, cat(one, u32(k), two), [[1, 'one']], one.length + 4)
}
for (const k of [4, 11]) {
  receive(`plain_id_length_${k}`, `A length of ${k} with bit 31 of the type set.`, 'F-1 F-4 F-9', frameBad, cat(one, u32(k), u32(REQUEST + 1), zeros(8), two), [[1, 'one']], one.length + 8)
}
receive('plain_over_limit', 'One byte of data more than the limit. The receiver refuses it at the type.', 'F-2 F-4 F-9', frameBad, cat(one, frame(1, n(1025)), two), [[1, 'one']], one.length + 8)
receive('plain_over_limit_12', 'A length of 13 + limit. The receiver refuses it at the length.', 'F-2 F-4 F-9', frameBad, cat(one, u32(1024 + 13), u32(REQUEST + 1), u64(1), n(1025)), [[1, 'one']], one.length + 4)
receive('plain_length_most', 'The largest length.', 'F-2 F-4', frameBad, u32(2 ** 32 - 1), [], 4)
receive('plain_length_sign', 'A length with the highest bit set.', 'F-2 F-4', frameBad, u32(2 ** 31), [], 4)
receive('plain_type_id_0', 'Type 2147483648, behind a valid frame and before another.', 'F-4 F-6 F-9', typeBad, cat(one, frame(REQUEST, 'x', 1), two), [[1, 'one']], one.length + 8)
receive('plain_type_id_0_length_4', 'Type 2147483648 with a length of 4, which is too small as well: the type is checked first.', 'F-1 F-4 F-6', typeBad, cat(one, u32(4), u32(REQUEST), two), [[1, 'one']], one.length + 8)
for (const [what, type, data] of [['first', 1, 'x'], ['last', 2 ** 31 - 1, 'x'], ['empty', 1, ''], ['at_limit', 1, n(1024)]]) {
  receive(`plain_id_${what}`, `A request of type ${type}, between two messages.`, 'F-1 F-2 F-6 F-7 Q-1 Q-2', 'ok', cat(one, request(1, type, data), two), [[1, 'one'], [type, data, 1], [2, 'two']])
}
receive('plain_announced', 'The length of the largest frame, and nothing of it: the receiver waits and takes little memory.', 'F-5', 'ok', cat(one, u32(4 + 2 ** 30)), [[1, 'one']], undefined, { limit: 2 ** 30 })
receive('plain_announced_begun', 'The length of the largest frame, its type and 3 bytes of its data.', 'F-5', 'ok', cat(u32(4 + 2 ** 30), u32(1), 'abc'), [], undefined, { limit: 2 ** 30 })
for (const k of [1, 3, 4, 7, 8, 10]) {
  receive(`plain_truncated_${k}`, `The stream ends after ${k} bytes of a frame of 11.`, 'F-10 G-9', 'frame truncated-inside', cat(one, two.subarray(0, k)), [[1, 'one']], undefined, { then: 'end' })
}
receive('plain_truncated_boundary', 'The stream ends behind a frame, without a close.', 'F-10 G-9', 'frame truncated-boundary', one, [[1, 'one']], undefined, { then: 'end' })
receive('plain_truncated_at_once', 'The stream ends before the first frame.', 'F-10 G-9', 'frame truncated-boundary', [], [], undefined, { then: 'end' })
{
  const big = [1, 2].map((i) => frame(i, Buffer.alloc(20000, i)))
  receive('plain_large', 'Two frames of 20,000 bytes. In plaintext their data follows their heads.', 'F-8', 'ok', cat(...big), [1, 2].map((i) => [i, Buffer.alloc(20000, i)]), undefined, { limit: 20000 })
  receive('plain_large_request', 'A request with 20,000 bytes of data.', 'F-8 Q-1', 'ok', cat(request(1, 3, big[0].subarray(8)), two), [[3, big[0].subarray(8), 1], [2, 'two']], undefined, { limit: 20000 })
  receive('plain_large_reply', 'A reply with 20,000 bytes of data, which nobody waits for.', 'F-8 Q-4', 'ok', cat(reply(1, 3, big[0].subarray(8)), two), [[2, 'two']], undefined, { limit: 20000 })
  const gap = request(2, 3, big[0].subarray(8))
  receive('plain_large_request_gap', 'The first request has the number 2 and 20,000 bytes of data. In plaintext the receiver refuses it when it is complete.', 'F-4 Q-1', idBad, cat(one, gap, two), [[1, 'one']], one.length + gap.length, { limit: 20000 })
  receive('plain_large_truncated', 'The stream ends before the last byte of a frame of 20,000.', 'F-10', 'frame truncated-inside', big[0].subarray(0, -1), [], undefined, { limit: 20000, then: 'end' })
}

// ---- A receiver of records

function sealed(name, comment, cites, expect, make, o = {}) {
  const { stream, delivers, fails } = make(new Direction('record', TRAFFIC, o))
  receive(name, comment, cites, expect, stream, delivers, fails, { sealed: true, ...o })
}
// Valid records with the message "one", or none; what is wrong; and what is behind it. whole is all that it takes to fail.
const fault = (good, wrong, behind = NONE, fails = good.length + wrong.length) => ({ stream: cat(good, wrong, behind), delivers: good.length ? [[1, 'one']] : [], fails })
const all3 = [[1, 'one'], [2, 'two'], [3, 'three']]
sealed('sealed_each', 'Three records of one frame.', 'R-1 F-7', 'ok', (w) => ({ stream: cat(w.frame(1, 'one'), w.frame(2, ''), w.frame(3, 'three')), delivers: [[1, 'one'], [2, ''], [3, 'three']] }))
sealed('sealed_together', 'One record of three frames.', 'R-1 R-7', 'ok', (w) => ({ stream: w.record(one, two, three), delivers: all3 }))
sealed('sealed_mixed', 'A record of two frames, one of one, and the beginning of a third.', 'R-1 F-8', 'ok', (w) => ({ stream: cat(w.record(one, two), w.record(three), w.record(one).subarray(0, 30)), delivers: all3 }))
sealed('sealed_replay', 'The first record comes twice.', 'R-1 F-9', notAuthentic, (w) => { const f = w.frame(1, 'one'); return fault(f, f, w.frame(2, 'two')) })
sealed('sealed_lost', 'The first record is missing.', 'R-1', notAuthentic, (w) => { w.frame(1, 'one'); return fault(NONE, w.frame(2, 'two')) })
sealed('sealed_lost_between', 'The second of three records is missing.', 'R-1', notAuthentic, (w) => { const f = w.frame(1, 'one'); w.frame(2, 'two'); return fault(f, w.frame(3, 'three')) })
sealed('sealed_reordered', 'Two records are exchanged.', 'R-1 F-9', notAuthentic, (w) => { const f = w.frame(1, 'one'), g = w.frame(2, 'two'); return fault(NONE, g, f) })
sealed('sealed_reflected', 'The record is one of the other direction.', 'K-5', notAuthentic, () => fault(NONE, new Direction('record', BACK).frame(1, 'one')))
sealed('sealed_no_additional_data', 'The record is sealed without additional data.', 'R-1', notAuthentic, (w) => fault(NONE, w.frame(1, 'one', { ad: NONE })))
sealed('sealed_number_from_1', 'The sender numbers from 1.', 'R-1', notAuthentic, (w) => fault(NONE, w.frame(1, 'one', { ad: u64(1) })))
sealed('sealed_number_of_frame', 'The sender numbers frames: the second record is sealed with 2, as two frames come before it.', 'R-1', notAuthentic, (w) => {
  const f = w.record(one, two)
  return { stream: cat(f, w.frame(3, 'three', { ad: u64(2) })), delivers: [[1, 'one'], [2, 'two']], fails: f.length + w.frame(3, 'three').length }
})
for (const [what, i] of [['nonce', 4], ['length', 19], ['type', 23], ['data', 24], ['tag', -16], ['tag_end', -1]]) {
  sealed(`sealed_flip_${what}`, `One bit of the second record is changed: ${what.replace('_end', ', last byte')}.`, i < 0 ? 'R-3 R-5 F-9' : 'R-3 F-9', notAuthentic, (w) => fault(w.frame(1, 'one'), flip(w.frame(2, 'two'), i, 7), w.frame(3, 'three')))
}
sealed('sealed_flip_last_frame', 'One bit of the last of three frames is changed: none of the record is delivered.', 'R-3 R-10', notAuthentic, (w) => fault(NONE, flip(w.record(one, two, three), -17), w.frame(4, 'four')))
sealed('sealed_plain', 'A frame in plaintext, whose length is one of a record.', 'R-3', notAuthentic, (w) => fault(w.frame(1, 'one'), frame(2, n(40))))
sealed('sealed_nonces', 'Nonces of zeros, and equal ones: a receiver accepts any.', 'R-2', 'ok', (w) => ({ stream: cat(w.frame(1, 'one', { nonce: zeros(12) }), w.frame(2, 'two', { nonce: zeros(12) })), delivers: [[1, 'one'], [2, 'two']] }))
sealed('sealed_length_more', 'The length is 4 more, which takes 4 bytes of the next record.', 'R-3', notAuthentic, (w) => { const f = w.frame(1, 'one'), g = w.frame(2, 'two'); return { stream: cat(u32(f.length), f.subarray(4), g), delivers: [], fails: f.length + 4 } })
sealed('sealed_length_less', 'The length is one less.', 'R-3', notAuthentic, (w) => { const f = w.frame(1, 'one'); return { stream: cat(u32(f.length - 5), f.subarray(4)), delivers: [], fails: f.length - 1 } })
sealed('sealed_length_waits', 'The length is more than what arrives: the receiver waits.', 'F-8', 'ok', (w) => ({ stream: flip(w.frame(1, 'one'), 2, 0), delivers: [] }))

// The length of a record.
sealed('sealed_no_frame', 'A record of no frame, sealed correctly: its length is 28.', 'R-6 R-7 F-4', recordBad, (w) => { const f = w.frame(1, 'one'); return fault(f, w.record(), w.frame(2, 'two'), f.length + 4) })
for (const k of [0, 4, 27, 35, 28 + RECORD + 1, 2 ** 31, 2 ** 32 - 1]) {
  sealed(`sealed_length_${k}`, `A record with the length ${k}. The receiver refuses it at the length.`, 'R-6 F-4', recordBad, (w) => { const f = w.frame(1, 'one'); return fault(f, cat(u32(k), zeros(40)), NONE, f.length + 4) })
}
const ignored = (k) => frame(0, cat([9], Buffer.alloc(k - 9, 9))) // a control frame that is ignored, of k bytes in all
sealed('sealed_most', 'A record of 65,536 bytes of plaintext, at a receiver with a limit of 1,024.', 'R-6', 'ok', (w) => ({ stream: cat(w.record(...Array(64).fill(ignored(1024))), w.frame(1, 'one')), delivers: [[1, 'one']] }))
sealed('sealed_over_most', 'A record of 65,537 bytes of plaintext, sealed correctly.', 'R-6 F-4', recordBad, (w) => fault(NONE, w.record(...Array(63).fill(ignored(1024)), ignored(1025)).subarray(0, 100), NONE, 4), { limit: 20000 })
sealed('sealed_announced', 'The length of the largest record, and nothing of it: the receiver waits.', 'F-5', 'ok', (w) => ({ stream: cat(w.frame(1, 'one'), u32(28 + RECORD)), delivers: [[1, 'one']] }))

// The frames of a record.
const broken = (name, comment, cites, expect, ...frames) => sealed('sealed_' + name, comment, cites, expect, (w) => fault(NONE, w.record(...frames), w.frame(4, 'four')), { limit: 20000 })
const brokenBehind = (name, comment, cites, expect, ...frames) => sealed('sealed_' + name, comment, cites, expect, (w) => { const f = w.record(one, ...frames); return { stream: cat(f, w.frame(4, 'four')), delivers: [[1, 'one']], fails: f.length } })
for (const [what, k] of [['length', 3], ['type', 6], ['data', 10]]) brokenBehind(`half_${what}`, `A record ends with ${k} bytes of a frame of 11.`, 'R-7 F-9', recordBad, two.subarray(0, k))
for (const k of [4, 7]) {
  for (const [length, what, id] of [[3, '3', 'F-1'], [1024 + 13, '13 + limit', 'F-2']]) {
    brokenBehind(`half_${k}_length_${length}`, `A record ends with ${k} bytes of a frame whose length is ${what}: the length is checked, though the type is not complete.`, id + ' R-7', frameBad, cat(u32(length), zeros(4)).subarray(0, k))
  }
}
brokenBehind('half_id', 'A record ends before the last byte of a request whose number is 2 and should be 1: whether the frame fits is checked first.', 'Q-1 R-7', recordBad, request(2, 1, 'x').subarray(0, -1))
brokenBehind('half_id_7', 'A record ends inside the id of a request.', 'R-7', recordBad, request(1, 1, '').subarray(0, -1))
brokenBehind('half_kind_16', 'A record ends before the last byte of a critical control frame: whether the frame fits is checked first.', 'C-3 R-7', recordBad, frame(0, [16, 1]).subarray(0, -1))
broken('half_alone', 'A record of one frame ends before the last byte of the frame.', 'R-7', recordBad, two.subarray(0, -1))
sealed('sealed_half_continued', 'A frame begins in one record and ends in the next.', 'R-7', recordBad, (w) => { const f = w.record(one, two.subarray(0, 8)); return { stream: cat(f, w.record(two.subarray(8), three)), delivers: [[1, 'one']], fails: f.length } })
broken('half_head', 'A record ends inside the head of a large frame with an id.', 'R-7', recordBad, head(REQUEST + 1, LARGE, 1).subarray(0, 12))
brokenBehind('length_of_frame_3', 'A frame with the length 3, between two valid ones: those before the fault are delivered.', 'F-1 R-7 F-9', frameBad, u32(3), three)
brokenBehind('id_length_11', 'A frame with the length 11 with bit 31 of its type set, between two valid ones.', 'F-1 R-7', frameBad, u32(11), u32(REQUEST + 1), zeros(7), three)
brokenBehind('over_limit', 'A frame with one byte of data more than the limit.', 'F-2 R-7', frameBad, frame(2, n(1025)), three)
brokenBehind('over_limit_12', 'A frame with the length 13 + limit.', 'F-2 R-7', frameBad, frame(REQUEST + 2, n(1025), 1), three)
brokenBehind('type_id_0', 'A frame with type 2147483648, between two valid ones.', 'F-6 R-7', typeBad, frame(REQUEST, 'x', 1), three)
brokenBehind('type_id_0_length_11', 'A frame with type 2147483648 and the length 11, between two valid ones: the type is checked first.', 'F-1 F-6 R-7', typeBad, u32(11), u32(REQUEST), zeros(7), three)
sealed('sealed_id', 'A request between two messages, in one record.', 'Q-1 Q-2 R-7', 'ok', (w) => ({ stream: w.record(one, request(1, 5, 'x'), three), delivers: [[1, 'one'], [5, 'x', 1], [3, 'three']] }))
brokenBehind('control_fault', 'A ping without its 8 bytes, between two valid frames.', 'C-1 R-7', controlBad, frame(0, [1]), three)
sealed('sealed_at_limit', 'The most data that the limit allows, twice.', 'F-2', 'ok', (w) => ({ stream: w.record(frame(1, n(1024)), frame(2, n(1024))), delivers: [[1, n(1024)], [2, n(1024)]] }))

// Large frames.
const big = Buffer.alloc(LARGE, 0x62), limit = { limit: 20000 }
sealed('large_alone', 'A large frame, and a message behind it.', 'R-7 R-9', 'ok', (w) => ({ stream: cat(w.record(head(1, LARGE)), w.record(big), w.frame(2, 'two')), delivers: [[1, big], [2, 'two']] }), limit)
sealed('large_behind', 'The head of a large frame behind two messages.', 'R-7 R-9', 'ok', (w) => ({ stream: cat(w.record(one, two, head(3, LARGE)), w.record(big)), delivers: [[1, 'one'], [2, 'two'], [3, big]] }), limit)
sealed('large_over_most', 'The data of a large frame is more than the plaintext of a record of frames may be: only records of frames have that bound.', 'R-6', 'ok', (w) => ({ stream: cat(w.record(head(1, RECORD + 1)), w.record(Buffer.alloc(RECORD + 1, 0x62))), delivers: [[1, Buffer.alloc(RECORD + 1, 0x62)]] }), { limit: 70000 })
sealed('large_not', 'A frame with 16,383 bytes of data is not large, and shares its record.', 'R-7', 'ok', (w) => ({ stream: w.record(one, frame(2, big.subarray(1)), three), delivers: [[1, 'one'], [2, big.subarray(1)], [3, 'three']] }), limit)
sealed('large_not_head', 'The head of a frame with 16,383 bytes of data ends a record: it is not large, so this is a part of a frame.', 'R-7', recordBad, (w) => { const f = w.record(one, head(2, LARGE - 1)); return { stream: cat(f, w.record(big.subarray(1))), delivers: [[1, 'one']], fails: f.length } }, limit)
brokenLarge('inside', 'The data of a large frame is in the record of its head.', recordBad, [head(2, LARGE), big])
brokenLarge('byte_behind', 'One byte is behind the head of a large frame.', recordBad, [head(2, LARGE), [0x62]])
brokenLarge('frame_behind', 'A frame is behind the head of a large frame.', recordBad, [head(2, LARGE), three])
brokenLarge('over_limit', 'The head of a large frame whose data is more than the limit: the data is not waited for.', frameBad, [head(2, 20001)], 'F-2 F-4 R-7')
brokenLarge('over_limit_12', 'The head of a large frame with the length 13 + limit.', frameBad, [head(REQUEST + 2, 20001, 1)], 'F-2 R-7')
brokenLarge('type_id_0', 'The head of a large frame with type 2147483648.', typeBad, [head(REQUEST, LARGE, 1)], 'F-4 F-6 R-7')
sealed('large_id', 'A large request behind a small one, and another small one behind it.', 'Q-1 R-7 R-9', 'ok', (w) => ({
  stream: cat(w.record(one, request(1, 5, 'x'), head(REQUEST + 6, LARGE, 2)), w.record(big), w.record(request(3, 5, 'y'))), delivers: [[1, 'one'], [5, 'x', 1], [6, big, 2], [5, 'y', 3]],
}), limit)
sealed('large_id_reply', 'A large reply that nobody waits for.', 'Q-4 R-7', 'ok', (w) => ({ stream: cat(w.record(one, head(REQUEST + 6, LARGE, REPLY + 7n)), w.record(big), w.record(two)), delivers: [[1, 'one'], [2, 'two']] }), limit)
brokenLarge('id_gap', 'The head of a large request whose number is 2 and should be 1: it is refused with the record that holds the head, and the data is not waited for.', idBad, [head(REQUEST + 1, LARGE, 2)], 'Q-1 F-4 R-7')
brokenLarge('id_0', 'The head of a large request with the number 0.', idBad, [head(REQUEST + 1, LARGE, 0)], 'Q-1 F-4 R-7')
brokenLarge('id_reply_0', 'The head of a large reply to the number 0.', idBad, [head(REQUEST + 1, LARGE, REPLY)], 'Q-1 F-4 R-7')
brokenLarge('id_byte_behind', 'One byte is behind the head of a large request whose number is 2 and should be 1: whether the head ends the record is checked first.', recordBad, [head(REQUEST + 1, LARGE, 2), [0x62]], 'Q-1 R-7')
sealed('large_id_twice', 'The number of a large request comes again behind its data.', 'Q-1', idBad, (w) => {
  const f = cat(w.record(one, head(REQUEST + 1, LARGE, 1)), w.record(big)), g = w.record(request(1, 1, 'x'))
  return { stream: cat(f, g, w.record(two)), delivers: [[1, 'one'], [1, big, 1]], fails: f.length + g.length }
}, limit)
function brokenLarge(name, comment, expect, plain, cites = 'R-7') {
  sealed('large_' + name, comment, cites, expect, (w) => { const f = w.record(one, ...plain); return { stream: cat(f, w.frame(4, 'four')), delivers: [[1, 'one']], fails: f.length } }, { limit: 20000 })
}
for (const [what, comment, size] of [['less', 'one byte less', LARGE - 1], ['more', 'one byte more', LARGE + 1]]) {
  sealed('large_data_' + what, `The record behind the head of a large frame is ${comment} than its data, sealed correctly. The receiver refuses it at the length.`, 'R-6 F-4', recordBad, (w) => { const f = w.record(one, head(2, LARGE)); return fault(f, w.record(n(size)).subarray(0, 100), NONE, f.length + 4) }, limit)
}
sealed('large_data_frames', 'A record of frames where the data of a large frame is due.', 'R-6 R-9 F-4', recordBad, (w) => { const f = w.record(one, head(2, LARGE)); return fault(f, w.record(three), NONE, f.length + 4) }, limit)
sealed('large_data_pong', 'A pong where the data of a large frame is due.', 'R-6 R-9', recordBad, (w) => { const f = w.record(one, head(2, LARGE)); return fault(f, w.record(frame(0, cat([2], zeros(8)))), NONE, f.length + 4) }, limit)
sealed('large_data_head', 'A whole frame in the record behind its head.', 'R-6', recordBad, (w) => { const f = w.record(one, head(2, LARGE)); return fault(f, w.frame(2, big).subarray(0, 100), NONE, f.length + 4) }, limit)
sealed('large_data_looks_like_frames', 'The data of a large frame has the bytes of a frame: it is still data.', 'R-7', 'ok', (w) => { const d = frame(5, n(LARGE - 8)); return { stream: cat(w.record(head(2, LARGE)), w.record(d)), delivers: [[2, d]] } }, limit)
sealed('large_flip', 'One bit of the data of a large frame is changed: the frames before its head are delivered, and it is not.', 'R-3 R-10', notAuthentic, (w) => { const f = w.record(one, head(2, LARGE)); return fault(f, flip(w.record(big), 3000), w.frame(3, 'three')) }, limit)
sealed('large_flip_head', 'One bit of the head of a large frame is changed: nothing of its record is delivered.', 'R-3 R-10', notAuthentic, (w) => fault(NONE, flip(w.record(one, head(2, LARGE)), -17), w.record(big).subarray(0, 50)), limit)
sealed('large_exchanged', 'The data of two large frames of one length is exchanged.', 'R-1', notAuthentic, (w) => {
  const h = w.record(one, head(2, LARGE)), d = w.record(big), h2 = w.record(head(3, LARGE)), d2 = w.record(n(LARGE))
  return fault(h, d2, cat(h2, d).subarray(0, 50))
}, limit)
sealed('large_announced', 'The head of the largest frame and the length of its record, and nothing of its data: the receiver waits and takes little memory.', 'F-5', 'ok', (w) => ({ stream: cat(w.record(one, head(2, 2 ** 30)), u32(28 + 2 ** 30)), delivers: [[1, 'one']] }), { limit: 2 ** 30 })
sealed('large_control', 'A large control frame of an unknown kind below 16 is ignored.', 'C-2 R-7', 'ok', (w) => ({ stream: cat(w.record(one, head(0, LARGE)), w.record([9], big.subarray(1)), w.record(two)), delivers: [[1, 'one'], [2, 'two']] }), limit)
for (const [what, kind, id] of [['ping', 1, 'C-1'], ['close', 3, 'C-1'], ['kind_16', 16, 'C-3']]) {
  sealed(`large_control_${what}`, `A large control frame of kind ${kind}. The receiver refuses it with its data.`, id + ' F-4', controlBad, (w) => { const f = w.record(one, head(0, LARGE)); return fault(f, w.record([kind], big.subarray(1)), w.record(two)) }, limit)
}

// The end of the stream.
sealed('sealed_truncated_inside', 'The stream ends before the last byte of the tag.', 'F-10 R-5', 'frame truncated-inside', (w) => ({ stream: w.record(one, two).subarray(0, -1), delivers: [] }), { then: 'end' })
sealed('sealed_truncated_boundary', 'The stream ends behind a record, without a close.', 'F-10 G-9', 'frame truncated-boundary', (w) => ({ stream: w.record(one, two), delivers: [[1, 'one'], [2, 'two']] }), { then: 'end' })
sealed('sealed_truncated_at_once', 'The stream ends before the first record.', 'F-10 G-9', 'frame truncated-boundary', () => ({ stream: NONE, delivers: [] }), { then: 'end' })
sealed('large_truncated_head', 'The stream ends behind the record with the head of a large frame: that is inside a frame.', 'F-10 G-9', 'frame truncated-inside', (w) => ({ stream: w.record(one, head(2, LARGE)), delivers: [[1, 'one']] }), { ...limit, then: 'end' })
sealed('large_truncated_data', 'The stream ends inside the data of a large frame.', 'F-10 G-9', 'frame truncated-inside', (w) => ({ stream: cat(w.record(one, head(2, LARGE)), w.record(big).subarray(0, 40)), delivers: [[1, 'one']] }), { ...limit, then: 'end' })
sealed('large_truncated_behind', 'The stream ends behind the data of a large frame, without a close.', 'F-10 G-9', 'frame truncated-boundary', (w) => ({ stream: cat(w.record(head(2, LARGE)), w.record(big)), delivers: [[2, big]] }), { ...limit, then: 'end' })

// The last sequence number.
const LAST = 2n ** 64n - 2n
sealed('number_high', 'A sequence number above 2^32.', 'R-1', 'ok', (w) => ({ stream: w.frame(1, 'one'), delivers: [[1, 'one']] }), { sequence: 2n ** 40n + 5n })
sealed('number_last', 'A message with the last sequence number.', 'R-4', 'ok', (w) => ({ stream: w.frame(1, 'one'), delivers: [[1, 'one']] }), { sequence: LAST })
sealed('number_last_close', 'A close with the last sequence number.', 'R-4', 'close received', (w) => ({ stream: w.frame(0, [3, 0]), delivers: [] }), { sequence: LAST })
sealed('number_behind_last', 'A record behind the last sequence number, sealed correctly with 2^64-1.', 'R-4', notAuthentic, (w) => fault(w.frame(1, 'one'), w.frame(2, 'two')), { sequence: LAST })
sealed('number_behind_last_first', 'The first record has the sequence number 2^64-1.', 'R-4', notAuthentic, (w) => fault(NONE, w.frame(1, 'one')), { sequence: LAST + 1n })
sealed('number_wraps', 'A record behind the last sequence number, sealed with 0.', 'R-4', notAuthentic, (w) => fault(w.frame(1, 'one'), w.frame(2, 'two', { ad: u64(0) })), { sequence: LAST })
sealed('number_behind_last_length', 'The length of a record behind the last sequence number is checked like any other.', 'R-4 R-6 F-4', recordBad, (w) => { const f = w.frame(1, 'one'); return fault(f, cat(u32(28), zeros(28)), NONE, f.length + 4) }, { sequence: LAST })
sealed('number_last_head', 'The head of a large frame has the last sequence number: its data is not authentic.', 'R-4 R-10', notAuthentic, (w) => fault(w.record(one, head(2, LARGE)), w.record(big)), { ...limit, sequence: LAST })

// ---- Control frames

const bytes8 = utf8('ping 123')
const control = (...d) => frame(0, cat(...d.map((x) => (typeof x === 'number' ? [x] : x))))
const close = control(3, 0), ack = control(4, 0)
function controlTest(name, comment, cites, expect, bytes) {
  const fails = expect === 'ok' ? undefined : one.length + bytes.length
  receive('control_' + name, comment, cites, expect, cat(one, bytes, two), expect === 'ok' ? [[1, 'one'], [2, 'two']] : [[1, 'one']], fails)
}
controlTest('empty', 'A control frame without data has no kind.', 'C-1', controlBad, control())
for (const [what, kind, right] of [['ping', 1, 9], ['pong', 2, 9], ['close', 3, 2], ['close_ack', 4, 2]]) {
  for (const [how, size] of [['alone', 1], ['short', right - 1], ['long', right + 1]]) {
    if (how === 'short' && size === 1) continue
    controlTest(`${what}_${how}`, `A ${what.replace('_', '-')} with ${size} ${size === 1 ? 'byte' : 'bytes'} of data.`, 'C-1', controlBad, control(kind, zeros(size - 1)))
  }
}
for (const kind of [0, 5, 15]) {
  controlTest(`kind_${kind}`, `Kind ${kind} is unknown and ignored, with 1 byte of data, with 101, and with the most that the limit allows.`, 'C-2', 'ok', cat(control(kind), control(kind, n(100)), control(kind, n(1023))))
}
for (const kind of [16, 17, 255]) controlTest(`kind_${kind}`, `Kind ${kind} is critical and unknown.`, 'C-3', controlBad, control(kind, 1))
controlTest('pong_unsolicited', 'A pong without a ping.', 'C-6', 'ok', control(2, bytes8))
sealed('control_sealed', 'A pong and an unknown kind among messages, in records of their own and in one with others.', 'C-2 C-6 R-1', 'ok', (w) => ({ stream: cat(w.frame(1, 'one'), w.record(control(2, bytes8)), w.record(control(9), two, control(2, bytes8)), w.record(control(9)), w.record(three)), delivers: all3 }))
sealed('control_sealed_malformed', 'A ping without its 8 bytes, sealed correctly.', 'C-1', controlBad, (w) => fault(w.frame(1, 'one'), w.record(control(1)), w.frame(2, 'two')))

session('control_ping', 'Two pings, and a pong for each.', 'C-4', 'ok', [
  ['peer', control(1, bytes8)], ['writes', 0, cat([2], bytes8)], ['peer', cat(one, control(1, zeros(8)))], ['delivers', 1, cat('one')], ['writes', 0, cat([2], zeros(8))],
])

// ---- Closing

receive('close_received', 'A close, and a frame behind it, which is discarded.', 'G-4 F-10', 'close received', cat(one, close, two), [[1, 'one']])
receive('close_ack_unexpected', 'A close-ack at a receiver that has sent no close.', 'G-7', closeBad, cat(one, ack, two), [[1, 'one']], one.length + 10)
receive('close_ack_first', 'A close-ack whose sender has sent no close, at a receiver that has sent one.', 'G-7', closeBad, cat(one, ack, close), [[1, 'one']], one.length + 10, { sentClose: 'yes' })
receive('close_ack_twice', 'A close and two close-acks.', 'G-7', closeBad, cat(close, ack, ack), [], 30, { sentClose: 'yes' })

// The rest of a record that holds a close. behindClose tests it at a receiver that has sent a close.
function behindClose(name, comment, expect, ...frames) {
  sealed('close_record_' + name, comment, expect === closeBad ? 'G-4 G-7' : 'G-4', expect, (w) => fault(w.frame(1, 'one'), w.record(close, ...frames)), { sentClose: 'yes', limit: 20000 })
}
sealed('close_record', 'A message, a close and another message in one record.', 'G-4 R-7', 'close received', (w) => ({ stream: w.record(one, close, two), delivers: [[1, 'one']] }))
sealed('close_record_own', 'A close and a close-ack in one record, at a receiver that has sent a close.', 'G-4', 'ok', (w) => ({ stream: w.record(one, close, two, ack, three), delivers: [[1, 'one']] }), { sentClose: 'yes' })
sealed('close_record_large', 'The head of a large frame ends the record with the close: it is valid, and its data is not read.', 'G-4 R-7', 'close received', (w) => ({ stream: w.record(one, close, head(2, LARGE)), delivers: [[1, 'one']] }), limit)
behindClose('length', 'A frame with the length 3 behind a close, in one record.', frameBad, u32(3), two)
behindClose('half', 'A part of a frame behind a close, in one record.', recordBad, two.subarray(0, 9))
behindClose('over_limit', 'A frame with more data than the limit behind a close, in one record.', frameBad, head(2, 20001))
behindClose('type_id_0', 'A frame with type 2147483648 behind a close, in one record.', typeBad, frame(REQUEST, 'x', 1))
sealed('close_record_id', 'A request before a close, and the next one behind it, in one record with a reply.', 'G-4 Q-1', 'ok', (w) => ({ stream: w.record(request(1, 5, 'x'), close, request(2, 5, 'y'), reply(9, 5, 'z'), ack), delivers: [[5, 'x', 1]] }), { sentClose: 'yes' })
behindClose('id_gap', 'A request with the number 2, which should be 1, behind a close, in one record.', idBad, request(2, 1, 'x'))
behindClose('id_twice', 'Two requests with the number 1 behind a close, in one record: those behind it are counted.', idBad, request(1, 1, 'x'), request(1, 1, 'x'))
behindClose('id_0', 'A request with the number 0 behind a close, in one record.', idBad, request(0, 1, 'x'))
behindClose('id_reply_0', 'A reply to the number 0 behind a close, in one record.', idBad, reply(0, 1, 'x'))
behindClose('id_ack', 'A request with the number 2, which should be 1, behind a close-ack, in one record.', idBad, ack, request(2, 1, 'x'))
behindClose('id_large_gap', 'The head of a large request with the number 2, which should be 1, behind a close, in one record.', idBad, head(REQUEST + 1, LARGE, 2))
sealed('close_record_id_large', 'The head of a large request ends the record with the close: it is valid, and its data is not read.', 'G-4 Q-1 R-7', 'close received', (w) => ({ stream: w.record(one, close, request(1, 1, 'x'), head(REQUEST + 2, LARGE, 2)), delivers: [[1, 'one']] }), limit)
sealed('close_record_id_before', 'A request before a close has its number again behind it, in one record.', 'G-4 Q-1', idBad, (w) => {
  const f = w.record(request(1, 5, 'x'), close, request(1, 5, 'x'))
  return { stream: f, delivers: [[5, 'x', 1]], fails: f.length }
}, { sentClose: 'yes' })
behindClose('kind_16', 'A critical control frame behind a close, in one record.', controlBad, control(16))
behindClose('ping', 'A ping without its 8 bytes behind a close, in one record.', controlBad, control(1))
behindClose('large_behind', 'A byte behind the head of a large frame, behind a close.', recordBad, head(2, LARGE), [0])
behindClose('ack_twice', 'A close and two close-acks in one record.', closeBad, ack, ack)
behindClose('ack_half', 'A part of a frame behind a close-ack, in one record.', recordBad, ack, two.subarray(0, 5))
behindClose('ack_kind_16', 'A critical control frame behind a close-ack, in one record.', controlBad, ack, control(16))
sealed('close_record_ack_first', 'A close-ack before the close in one record.', 'G-4 G-7', closeBad, (w) => fault(w.frame(1, 'one'), w.record(ack, close)), { sentClose: 'yes' })
sealed('close_record_ack_unexpected', 'A message and a close-ack in one record, at a receiver that has sent no close.', 'G-7 R-7', closeBad, (w) => { const f = w.record(one, ack, two); return { stream: f, delivers: [[1, 'one']], fails: f.length } })

// What a side does when its peer closes, and when it closes itself.
const writesClose = [['writes', 0, [3, 0]], ['writes', 0, [4, 0]]]
const sent = [['sends', 1, cat('one')], ['writes', 1, cat('one')]]
const closes = [['closes'], ['writes', 0, [3, 0]]]
session('close_by_peer', 'The peer closes: the side writes its close and the close-ack, and ends its stream.', 'G-2 G-3 G-11', 'close received', [
  ['peer', cat(one, close)], ['delivers', 1, cat('one')], ['ends', 'close'], ...writesClose, ['writes-end'],
])
session('close_by_peer_ack', 'The peer closes and acknowledges the close of the side.', 'G-2 G-3 G-11', 'close received', [
  ['sends', 2, cat('two')], ['writes', 2, cat('two')], ['peer', close], ['ends', 'close'], ...writesClose, ['peer', ack], ['writes-end'],
])
session('close_by_peer_shutdown', 'The peer closes because it is shutting down.', 'G-2 G-8', 'close received', [['peer', control(3, 1)], ['ends', 'close'], ...writesClose, ['writes-end']])
session('close_by_peer_unknown', 'A close with an unknown byte is read as 0.', 'G-8', 'close received', [['peer', control(3, 77)], ['ends', 'close'], ...writesClose, ['writes-end']])
session('close_by_peer_behind', 'Frames behind the peer\'s close are discarded, and a ping among them gets no pong.', 'G-1 G-4', 'close received', [
  ['peer', cat(close, two, control(1, bytes8))], ['ends', 'close'], ...writesClose, ['writes-end'],
])
session('close_own', 'The side closes, and then the peer: the side writes its close-ack and ends its stream.', 'G-1 G-3 G-6 G-11', 'ok', [
  ...sent, ...closes, ['peer', cat(close, ack)], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
session('close_own_discarded', 'The peer\'s close-ack is 1: it has discarded messages.', 'G-3 G-9', 'close undelivered', [
  ...sent, ...closes, ['peer', cat(close, control(4, 1))], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'undelivered'],
])
session('close_own_unknown', 'A close-ack with an unknown byte is read as 1.', 'G-8', 'close undelivered', [
  ...sent, ...closes, ['peer', cat(close, control(4, 2))], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'undelivered'],
])
session('close_own_late', 'A message arrives after the close of the side: the side discards it, and its close-ack is 1.', 'G-5', 'ok', [
  ...closes, ['peer', cat(one, close, ack)], ['writes', 0, [4, 1]], ['writes-end'], ['closed', 'ok'],
])
session('close_crossing', 'The closes cross. The peer\'s close acknowledges nothing: the side reads on until the close-ack.', 'G-3 G-6', 'ok', [
  ...sent, ...closes, ['peer', close], ['writes', 0, [4, 0]], ['peer', ack], ['writes-end'], ['closed', 'ok'],
])
session('close_crossing_truncated', 'The closes cross, and the stream ends without a close-ack.', 'G-3 G-9', 'close undelivered', [
  ...sent, ...closes, ['peer', close], ['writes', 0, [4, 0]], ['peer-ends'], ['writes-end'], ['closed', 'undelivered'],
])
session('close_own_behind', 'A message and a ping between the peer\'s close and its close-ack are discarded: they do not change the close-ack, and there is no pong.', 'G-1 G-4 G-5', 'ok', [
  ...closes, ['peer', cat(close, two, control(1, bytes8), ack)], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
session('close_own_close_twice', 'A second close is a frame behind the first: it is discarded.', 'G-4', 'ok', [...sent, ...closes, ['peer', cat(close, close, ack)], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok']])
session('close_own_ping', 'A ping after the close of the side gets no pong.', 'C-4 G-1', 'ok', [
  ...sent, ...closes, ['peer', control(1, bytes8)], ['peer', cat(close, ack)], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
session('close_own_truncated', 'The side closes, and the stream ends without a close-ack.', 'G-9', 'close undelivered', [...sent, ...closes, ['peer-ends'], ['writes-end'], ['closed', 'undelivered']])
session('close_own_malformed', 'The side closes, and the peer\'s bytes are malformed.', 'F-9 G-9 G-10', 'close undelivered', [...sent, ...closes, ['peer', cat(u32(3), close, ack)], ['writes-end'], ['closed', 'undelivered']])
session('close_own_nothing_sent', 'The side has sent no message: its close has succeeded without a close-ack.', 'G-6', 'ok', [...closes, ['peer-ends'], ['writes-end'], ['closed', 'ok']])
session('close_own_nothing_sent_ack_1', 'The side has sent no message: a close-ack of 1 does not matter.', 'G-6', 'ok', [...closes, ['peer', cat(close, control(4, 1))], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok']])
session('close_own_nothing_sent_malformed', 'The side has sent no message: malformed bytes do not change the outcome of its close, and it writes no close-ack.', 'F-9 G-6 G-10', 'ok', [...closes, ['peer', cat(u32(3), close, ack)], ['writes-end'], ['closed', 'ok']])
session('close_truncated', 'The stream ends behind a frame: the side writes no close.', 'G-9 G-10 G-11 F-10', 'frame truncated-boundary', [
  ['peer', one], ['delivers', 1, cat('one')], ['peer-ends'], ['ends', 'truncated-boundary'], ['writes-end'],
])
session('close_truncated_inside', 'The stream ends inside a frame: the side writes no close.', 'G-9 G-10 F-10', 'frame truncated-inside', [
  ['peer', cat(one, two.subarray(0, 9))], ['delivers', 1, cat('one')], ['peer-ends'], ['ends', 'truncated-inside'], ['writes-end'],
])
session('close_malformed', 'A length of 3: the side writes no close, and reads nothing behind it as a frame.', 'F-9 G-10 G-11 F-10', frameBad, [
  ['peer', cat(one, u32(3), two, control(1, bytes8))], ['delivers', 1, cat('one')], ['ends', 'malformed'], ['writes-end'],
])
session('close_malformed_ack', 'A close-ack at a side that has sent no close: it writes no close.', 'G-7 G-10', closeBad, [['peer', cat(one, ack)], ['delivers', 1, cat('one')], ['ends', 'malformed'], ['writes-end']])

// Sessions over an encrypted connection. make gets the direction of the peer.
function sealedSession(name, comment, cites, expect, make, o = {}) {
  session('session_' + name, comment, cites, expect, make(new Direction('session ' + name, TRAFFIC)), { sealed: true, ...o })
}
sealedSession('messages', 'Messages in both directions, a ping, and the peer\'s close, each in a record of its own.', 'C-4 G-2', 'close received', (w) => [
  ['peer', w.record(one)], ['delivers', 1, cat('one')], ['sends', 2, cat('two')], ['writes', 2, cat('two')],
  ['peer', w.record(control(1, bytes8))], ['writes', 0, cat([2], bytes8)], ['peer', w.record(close)], ['ends', 'close'], ...writesClose, ['writes-end'],
])
sealedSession('together', 'Two messages, an ignored control frame and the peer\'s close in one record.', 'C-2 G-2 R-7', 'close received', (w) => [
  ['peer', w.record(one, control(9), two, close)], ['delivers', 1, cat('one')], ['delivers', 2, cat('two')], ['ends', 'close'], ...writesClose, ['writes-end'],
])
sealedSession('order', 'Messages are sealed in the order in which they were accepted, and a large one keeps its place.', 'R-8 R-9', 'ok', () => [
  ['sends', 1, cat('one')], ['sends', 2, n(LARGE)], ['sends', 3, cat('three')], ['writes', 1, cat('one')], ['writes', 2, n(LARGE)], ['writes', 3, cat('three')],
], { limit: 20000 })
sealedSession('ping', 'A ping between two messages in one record.', 'C-4 R-7', 'ok', (w) => [
  ['peer', w.record(one, control(1, bytes8), two)], ['delivers', 1, cat('one')], ['delivers', 2, cat('two')], ['writes', 0, cat([2], bytes8)],
])
sealedSession('large', 'A large message each way.', 'R-7 R-9', 'ok', (w) => [
  ['peer', w.record(one, head(2, LARGE))], ['delivers', 1, cat('one')], ['peer', w.record(big)], ['delivers', 2, big], ['sends', 3, n(LARGE)], ['writes', 3, n(LARGE)], ['sends', 4, cat('four')], ['writes', 4, cat('four')],
], { limit: 20000 })
sealedSession('close_own', 'The side closes. The peer\'s close and close-ack are in one record.', 'G-1 G-3', 'ok', (w) => [
  ...sent, ...closes, ['peer', w.record(close, ack)], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
sealedSession('close_own_behind', 'A message and a ping between the peer\'s close and its close-ack, all in one record, are discarded: they do not change the close-ack, and there is no pong.', 'G-1 G-4 G-5', 'ok', (w) => [
  ...closes, ['peer', w.record(close, two, control(1, bytes8), ack)], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
sealedSession('close_own_ping', 'A ping after the close of the side gets no pong.', 'C-4 G-1', 'ok', (w) => [
  ...sent, ...closes, ['peer', w.record(control(1, bytes8))], ['peer', w.record(close, ack)], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
sealedSession('not_authentic', 'A record that is not authentic: the side writes no close.', 'F-9 F-10 G-10 R-3', notAuthentic, (w) => [
  ['peer', cat(w.record(one), flip(w.record(two), 25), w.record(three))], ['delivers', 1, cat('one')], ['ends', 'not-authentic'], ['writes-end'],
])
sealedSession('malformed', 'A fault in a record: the side delivers the frame before it and writes no close.', 'R-7 F-9 G-10', frameBad, (w) => [
  ['peer', w.record(one, u32(3), two)], ['delivers', 1, cat('one')], ['ends', 'malformed'], ['writes-end'],
])
sealedSession('truncated_head', 'The stream ends behind the head of a large frame.', 'F-10 G-9 G-10', 'frame truncated-inside', (w) => [
  ['peer', w.record(one, head(2, LARGE))], ['delivers', 1, cat('one')], ['peer-ends'], ['ends', 'truncated-inside'], ['writes-end'],
], { limit: 20000 })
const closeFaults = [
  ['length', 'A frame with the length 3', [u32(3), two]], ['half', 'A part of a frame', [two.subarray(0, 9)]], ['type_id_0', 'A frame with type 2147483648', [frame(REQUEST, 'x', 1)]],
  ['id', 'A request with the number 2, which should be 1,', [request(2, 1, 'x')]],
  ['kind_16', 'A critical control frame', [control(16)]], ['ack', 'A close-ack at a side that has sent no close', [ack]],
]
for (const [what, comment, frames] of closeFaults) {
  sealedSession('behind_close_' + what, `${comment} behind the peer's close, in one record: the application gets the close, and the side writes nothing.`, 'G-4 G-10', 'close received', (w) => [
    ['peer', w.record(one, close, ...frames)], ['delivers', 1, cat('one')], ['ends', 'close'], ['writes-end'],
  ])
}
sealedSession('behind_close_large', 'The head of a large frame ends the record with the peer\'s close: it is valid, and the side does not wait for its data.', 'G-4 R-7', 'close received', (w) => [
  ['peer', w.record(close, head(2, LARGE))], ['ends', 'close'], ...writesClose, ['writes-end'],
], { limit: 20000 })
sealedSession('behind_ack', 'A critical control frame behind the peer\'s close-ack, in one record: the close-ack counts, and the side writes nothing.', 'G-4 R-7', 'ok', (w) => [
  ...sent, ...closes, ['peer', w.record(close, ack, control(16))], ['writes-end'], ['closed', 'ok'],
])

// ---- Requests and replies

// A receiver, which has no requests open: in plaintext, and with all in one record.
function ids(name, comment, cites, frames, delivers, expect = 'ok', o = {}) {
  const failing = expect !== 'ok', all = cat(one, ...frames)
  receive('id_' + name, comment, cites, expect, failing ? cat(all, two) : all, [[1, 'one'], ...delivers], failing ? all.length : undefined, o)
  sealed('id_' + name + '_sealed', comment + ' All in one record.', cites + ' R-7', expect, (w) => {
    const f = w.record(one, ...frames, ...(failing ? [two] : []))
    return { stream: cat(f, failing ? w.frame(3, 'three') : []), delivers: [[1, 'one'], ...delivers], fails: failing ? f.length : undefined }
  }, o)
}
const ask = (number) => request(number, 1, 'q' + number), asked = (number) => [1, 'q' + number, number]
ids('three', 'Requests with the numbers 1, 2 and 3, and messages between them.', 'Q-1 Q-2', [ask(1), two, ask(2), three, ask(3)], [asked(1), [2, 'two'], asked(2), [3, 'three'], asked(3)])
ids('many', 'Requests with the numbers 1 to 300.', 'Q-1', Array.from({ length: 300 }, (_, i) => ask(i + 1)), Array.from({ length: 300 }, (_, i) => asked(i + 1)), 'ok', { limit: 20000 })
ids('first_2', 'The first request has the number 2.', 'F-4 Q-1 F-9', [ask(2)], [], idBad)
ids('0', 'A request with the number 0.', 'F-4 Q-1 F-9', [ask(0)], [], idBad)
ids('0_behind', 'A request with the number 0 behind one with the number 1.', 'Q-1', [ask(1), ask(0)], [asked(1)], idBad)
ids('gap', 'The number 3 behind the number 1.', 'Q-1', [ask(1), ask(3)], [asked(1)], idBad)
ids('twice', 'The number 2 comes twice.', 'Q-1', [ask(1), ask(2), ask(2)], [asked(1), asked(2)], idBad)
ids('back', 'The number 1 behind the number 2.', 'Q-1', [ask(1), ask(2), ask(1)], [asked(1), asked(2)], idBad)
ids('high', 'The number 2^32 + 1, which should be 1.', 'Q-1', [ask(2 ** 32 + 1)], [], idBad)
ids('most', 'The number 2^63 - 1, which should be 2.', 'Q-1', [ask(1), request(2n ** 63n - 1n, 1, 'x')], [asked(1)], idBad)
ids('types', 'The numbers do not depend on the type.', 'Q-1', [request(1, 7, 'a'), request(2, 8, 'b'), request(1, 9, 'c')], [[7, 'a', 1], [8, 'b', 2]], idBad)
ids('reply_0', 'A reply to the number 0.', 'Q-1', [reply(0, 1, 'x')], [], idBad)
ids('reply_0_behind', 'A reply to the number 0 behind a request.', 'Q-1', [ask(1), reply(0, 1, 'x')], [asked(1)], idBad)
ids('reply_nothing', 'Replies to requests that were never made are ignored. They do not count among the requests.', 'Q-1 Q-4', [reply(1, 1, 'x'), ask(1), reply(1, 1, 'x'), reply(2n ** 63n - 1n, 2, ''), reply(7, 3, 'z'), ask(2)], [asked(1), asked(2)])
ids('closing', 'A receiver that has sent a close discards requests, but it counts them.', 'G-5 Q-1', [ask(1), ask(2), ask(2)], [asked(1), asked(2)], idBad, { sentClose: 'yes' })
receive('id_truncated', 'The stream ends inside the id of a request.', 'F-10', 'frame truncated-inside', cat(one, ask(1).subarray(0, 12)), [[1, 'one']], undefined, { then: 'end' })
sealed('id_records', 'Requests in records of their own.', 'Q-1 Q-2', 'ok', (w) => ({ stream: cat(w.record(ask(1)), w.record(one), w.record(ask(2))), delivers: [asked(1), [1, 'one'], asked(2)] }))
sealed('id_records_gap', 'Requests with the numbers 1 and 3 in records of their own.', 'Q-1', idBad, (w) => { const f = cat(w.record(ask(1)), w.record(ask(3))); return { stream: cat(f, w.record(one)), delivers: [asked(1)], fails: f.length } })
sealed('id_control_fault', 'A request whose number is 2 and should be 1 before a critical control frame: the frames are checked in order.', 'Q-1 R-7', idBad, (w) => { const f = w.record(one, ask(2), control(16)); return { stream: f, delivers: [[1, 'one']], fails: f.length } })

// A session, in plaintext and over an encrypted connection. make gets what makes the peer's bytes of frames.
function exchange(name, comment, cites, expect, make, o = {}) {
  session('request_' + name, comment, cites, expect, make((...frames) => ['peer', cat(...frames)]), o)
  sealedSession('request_' + name, comment, cites, expect, (w) => make((...frames) => ['peer', w.record(...frames)]), o)
}
const own = (number) => [['requests', 1, cat('q' + number)], ['writes', 1, cat('q' + number), number]] // the side's request
const replied2 = (number) => ['replied', number, 2, cat('r' + number)], reply2 = (number) => reply(number, 2, 'r' + number)
const writesReply = (number, type, data) => ['writes', type, cat(data), REPLY + BigInt(number)]
const delivered = (number) => ['delivers', 1, cat('q' + number), number]
exchange('call', 'A request of the side, and the reply.', 'Q-1 Q-3 Q-5', 'ok', (peer) => [['requests', 1, cat('hello')], ['writes', 1, cat('hello'), 1], peer(reply(1, 2, 'hi')), ['replied', 1, 2, cat('hi')]])
exchange('calls', 'Three requests of the side. The replies come in another order, and messages between them.', 'Q-1 Q-5', 'ok', (peer) => [
  ...own(1), ...own(2), ...own(3), peer(reply2(3)), replied2(3), peer(one, reply2(1), two), replied2(1), ['delivers', 1, cat('one')], ['delivers', 2, cat('two')], peer(reply2(2)), replied2(2), ...own(4), peer(reply2(4)), replied2(4),
])
exchange('answer', 'A request of the peer, and the reply.', 'Q-2 Q-3', 'ok', (peer) => [peer(one, request(1, 1, 'hello'), two), ['delivers', 1, cat('one')], ['delivers', 1, cat('hello'), 1], ['delivers', 2, cat('two')], ['replies', 1, 2, cat('hi')], writesReply(1, 2, 'hi')])
exchange('answers', 'Three requests of the peer: the side answers the third and then the first, and not the second.', 'Q-2 Q-3 Q-7', 'ok', (peer) => [
  peer(ask(1), ask(2), ask(3)), delivered(1), delivered(2), delivered(3), ['replies', 3, 2147483647, cat('last')], writesReply(3, 2147483647, 'last'), ['replies', 1, 1, NONE], writesReply(1, 1, ''),
])
exchange('both', 'Both sides send requests: each direction has its own numbers.', 'Q-1 Q-3', 'ok', (peer) => [
  ...own(1), peer(ask(1)), delivered(1), ...own(2), ['replies', 1, 3, cat('r')], writesReply(1, 3, 'r'), peer(ask(2), reply2(1)), delivered(2), replied2(1), ['replies', 2, 3, cat('s')], writesReply(2, 3, 's'), peer(reply2(2)), replied2(2),
])
exchange('order', 'Messages, requests and replies are written in the order in which they were accepted.', 'R-8 Q-1', 'ok', (peer) => [
  peer(ask(1)), delivered(1), ['sends', 1, cat('one')], ['requests', 1, cat('q1')], ['sends', 2, cat('two')], ['replies', 1, 2, cat('r')], ['requests', 1, cat('q2')],
  ['writes', 1, cat('one')], ['writes', 1, cat('q1'), 1], ['writes', 2, cat('two')], writesReply(1, 2, 'r'), ['writes', 1, cat('q2'), 2],
])
exchange('empty', 'A request and a reply without data.', 'F-7 Q-2 Q-5', 'ok', (peer) => [
  ['requests', 9, NONE], ['writes', 9, NONE, 1], peer(reply(1, 2147483647, ''), request(1, 7, '')), ['replied', 1, 2147483647, NONE], ['delivers', 7, NONE, 1], ['replies', 1, 7, NONE], writesReply(1, 7, ''),
])
session('request_large', 'A large request and a large reply each way.', 'Q-1 Q-3', 'ok', [
  ['requests', 1, n(LARGE)], ['writes', 1, n(LARGE), 1], ['peer', cat(reply(1, 2, big), request(1, 3, big))], ['replied', 1, 2, big], ['delivers', 3, big, 1], ['replies', 1, 4, n(LARGE)], writesReply(1, 4, n(LARGE)),
], limit)
sealedSession('request_large', 'A large request and a large reply each way.', 'Q-1 Q-3 R-7 R-9', 'ok', (w) => [
  ['requests', 1, n(LARGE)], ['writes', 1, n(LARGE), 1], ['peer', cat(w.record(one, head(REQUEST + 2, LARGE, REPLY + 1n)), w.record(big), w.record(two, head(REQUEST + 3, LARGE, 1)), w.record(big))],
  ['replied', 1, 2, big], ['delivers', 1, cat('one')], ['delivers', 2, cat('two')], ['delivers', 3, big, 1], ['replies', 1, 4, n(LARGE)], writesReply(1, 4, n(LARGE)),
], limit)
exchange('second_reply', 'A second reply to a request is ignored, and so is one to a request that was never made.', 'Q-4', 'ok', (peer) => [
  ...own(1), peer(reply2(1), reply(1, 3, 'again'), reply(2, 3, 'never'), one), replied2(1), ['delivers', 1, cat('one')], ...own(2), peer(reply2(2)), replied2(2),
])
exchange('given_up', 'The side gives a request up: it writes nothing, the late reply is ignored, and the next request has the next number.', 'Q-1 Q-4 Q-7', 'ok', (peer) => [
  ...own(1), ['gives-up', 1], ...own(2), peer(reply2(1), one), ['delivers', 1, cat('one')], peer(reply2(2)), replied2(2),
])
exchange('gap', 'A request with the number 3 behind the number 1: the side writes no close.', 'Q-1 F-9 G-10', idBad, (peer) => [peer(ask(1), ask(3), two), delivered(1), ['ends', 'malformed'], ['writes-end']])
exchange('reply_0', 'A reply to the number 0, at a side with an open request: the request fails.', 'Q-1 Q-6 G-10', idBad, (peer) => [...own(1), peer(one, reply(0, 2, 'x'), reply2(1)), ['delivers', 1, cat('one')], ['fails', 1], ['ends', 'malformed'], ['writes-end']])
exchange('fails_truncated', 'The stream ends without a close: open requests fail.', 'Q-6 G-10', 'frame truncated-boundary', (peer) => [...own(1), ...own(2), ...own(3), peer(reply2(2)), replied2(2), ['peer-ends'], ['fails', 1], ['fails', 3], ['ends', 'truncated-boundary'], ['writes-end']])
sealedSession('request_fails_not_authentic', 'A record that is not authentic: open requests fail.', 'Q-6 G-10', notAuthentic, (w) => [...own(1), ['peer', flip(w.record(reply2(1)), -1)], ['fails', 1], ['ends', 'not-authentic'], ['writes-end']])
exchange('fails_close', 'The peer closes: open requests fail. A reply behind the close is discarded.', 'G-2 G-4 Q-6', 'close received', (peer) => [...own(1), ...own(2), peer(reply2(2), close, reply2(1)), replied2(2), ['fails', 1], ['ends', 'close'], ...writesClose, ['writes-end']])
exchange('unanswered', 'The peer closes while its request is open: it gets no reply.', 'G-2 Q-3 Q-7', 'close received', (peer) => [peer(ask(1), close), delivered(1), ['ends', 'close'], ...writesClose, ['writes-end']])
exchange('close_reply', 'A reply arrives after the close of the side: it is handed over and not discarded, so the close-ack is 0.', 'G-5 G-6 Q-6', 'ok', (peer) => [
  ...own(1), ...closes, peer(reply2(1)), replied2(1), peer(close, ack), ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
exchange('close_reply_together', 'The reply, the peer\'s close and its close-ack arrive together after the close of the side.', 'G-5 Q-6', 'ok', (peer) => [
  ...own(1), ...closes, peer(reply2(1), close, ack), replied2(1), ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
exchange('close_reply_nothing', 'Replies to no open request arrive after the close of the side: they do not count as discarded, so the close-ack is 0.', 'G-5 Q-4', 'ok', (peer) => [
  ...closes, peer(reply2(1), reply2(7), close, ack), ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
exchange('close_reply_second', 'A second reply arrives after the close of the side: the close-ack is 0.', 'G-5 Q-4', 'ok', (peer) => [
  ...own(1), peer(reply2(1)), replied2(1), ...closes, peer(reply2(1), close, ack), ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
exchange('close_discarded', 'A request arrives after the close of the side: it is discarded, and the close-ack is 1.', 'G-5', 'ok', (peer) => [
  ...closes, peer(ask(1), close, ack), ['writes', 0, [4, 1]], ['writes-end'], ['closed', 'ok'],
])
exchange('close_counts', 'Requests that are discarded after the close of the side, and one behind the peer\'s close, have their numbers.', 'G-5 Q-1', 'ok', (peer) => [
  peer(ask(1)), delivered(1), ...closes, peer(ask(2), ask(3), close, ask(4), ack), ['writes', 0, [4, 1]], ['writes-end'], ['closed', 'ok'],
])
exchange('close_twice', 'The number of a request that is discarded after the close of the side comes again: the side writes no close-ack.', 'G-10 Q-1', 'close undelivered', (peer) => [
  ...sent, peer(ask(1)), delivered(1), ...closes, peer(ask(2), ask(2), close, ack), ['writes-end'], ['closed', 'undelivered'],
])
exchange('close_behind', 'A request and a reply between the peer\'s close and its close-ack are discarded: the close-ack is 0, and the request of the side fails.', 'G-4 G-5 Q-6', 'ok', (peer) => [
  ...own(1), ...closes, peer(close, ask(1), reply2(1), ack), ['fails', 1], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
exchange('close_fails', 'The side closes with a request open. The peer closes without a reply: the request fails when the peer\'s close is read, before the close-ack.', 'Q-6 G-6', 'ok', (peer) => [
  ...own(1), ...closes, peer(close), ['writes', 0, [4, 0]], ['fails', 1], peer(ack), ['writes-end'], ['closed', 'ok'],
])
exchange('close_fails_malformed', 'The side closes with a request open, and the peer\'s bytes are malformed: the request fails.', 'F-9 G-10 Q-6', 'close undelivered', (peer) => [
  ...own(1), ...closes, peer(u32(3), reply2(1), close, ack), ['fails', 1], ['writes-end'], ['closed', 'undelivered'],
])
exchange('close_gap', 'Requests with the numbers 1 and 3 arrive after the close of the side: they are checked, though they are discarded, and the side writes no close-ack.', 'G-10 Q-1', 'close undelivered', (peer) => [
  ...sent, ...closes, peer(ask(1), ask(3), close, ack), ['writes-end'], ['closed', 'undelivered'],
])
exchange('close_behind_gap', 'Requests with the numbers 1 and 3 behind the peer\'s close: they are checked, and the close-ack behind them does not count.', 'G-4 Q-1', 'close undelivered', (peer) => [
  ...sent, ...closes, peer(close), ['writes', 0, [4, 0]], peer(ask(1), ask(3), ack), ['writes-end'], ['closed', 'undelivered'],
])
exchange('close_undelivered', 'The side has sent a request and no message. The stream ends without a close-ack: closing cannot report success.', 'G-6 G-9 Q-6', 'close undelivered', () => [
  ...own(1), ...closes, ['peer-ends'], ['fails', 1], ['writes-end'], ['closed', 'undelivered'],
])
exchange('close_undelivered_reply', 'The side has sent a reply and no message. The stream ends without a close-ack.', 'G-6 G-9', 'close undelivered', (peer) => [
  peer(ask(1)), delivered(1), ['replies', 1, 2, cat('r')], writesReply(1, 2, 'r'), ...closes, ['peer-ends'], ['writes-end'], ['closed', 'undelivered'],
])
exchange('close_1', 'The peer discarded the request of the side: its close-ack is 1.', 'G-5 G-6 Q-6', 'close undelivered', (peer) => [
  ...own(1), ...closes, peer(close, control(4, 1)), ['fails', 1], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'undelivered'],
])

// ---- Names and secrets

const invalid = 'config invalid'
config('config_name_1', 'A name of one byte.', 'N-1', 'ok', utf8('w'))
config('config_name_255', 'A name of 255 bytes.', 'N-1', 'ok', utf8('\u00e9'.repeat(126) + '\u2602'))
config('config_name_empty', 'No name.', 'N-1', invalid, NONE)
config('config_name_256', 'A name of 256 bytes and 128 characters.', 'N-1', invalid, utf8('\u00e9'.repeat(128)))
config('config_name_latin1', 'Not UTF-8: a byte e9 alone.', 'N-1', invalid, hex('e974e9'))
config('config_name_truncated', 'Not UTF-8: the name ends inside a character.', 'N-1', invalid, hex('77e298'))
config('config_name_overlong', 'Not UTF-8: an overlong form.', 'N-1', invalid, hex('77c181'))
config('config_name_surrogate', 'Not UTF-8: half of a surrogate pair.', 'N-1', invalid, hex('77eda080'))
config('config_secret_32', 'A secret of 32 bytes.', 'N-2', 'ok', NAME, SECRET)
config('config_secret_one_bit', 'A secret with one bit that is not zero.', 'N-2', 'ok', NAME, flip(zeros(32), -1))
config('config_secret_31', 'A secret of 31 bytes.', 'N-2', invalid, NAME, SECRET.subarray(1))
config('config_secret_zeros', 'A secret of zeros.', 'N-2', invalid, NAME, zeros(48))

// ---- Write or compare

const folder = dirname(fileURLToPath(import.meta.url))
const present = readdirSync(folder).filter((f) => f.endsWith('.txt'))
if (process.argv[2] === '--check') {
  const wrong = present.filter((f) => !files.has(f.slice(0, -4))).map((f) => 'not generated: ' + f)
  for (const [name, text] of files) {
    const f = name + '.txt'
    if (!present.includes(f)) wrong.push('missing: ' + f)
    else if (readFileSync(join(folder, f), 'utf8') !== text) wrong.push('differs: ' + f)
  }
  for (const w of wrong) console.error(w)
  console.log(`${files.size} vectors, ${wrong.length} wrong`)
  process.exitCode = wrong.length ? 1 : 0
} else {
  for (const f of present) if (!files.has(f.slice(0, -4))) rmSync(join(folder, f))
  for (const [name, text] of files) writeFileSync(join(folder, name + '.txt'), text)
  console.log(`${files.size} vectors`)
}
