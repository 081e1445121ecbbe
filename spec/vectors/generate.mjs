// Writes the vectors of this folder, from the text of ../README.md and with
// nothing but Node.js (20 or later). It shares no code with what it tests.
//
//   node generate.mjs           writes every file
//   node generate.mjs --check   fails where one differs, is missing or is too many

import { createCipheriv, createECDH, createHash, createHmac } from 'node:crypto'
import { readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

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

function schedule(name, secret, z, serverHello, hello103) {
  const th = sha384('gipc/3', u16(name.length), name, serverHello, hello103)
  const early = extract(zeros(48), secret.length ? secret : zeros(48))
  const master = extract(expand(early, 'gipc/3 derived', 48), z)
  const k = (what) => expand(master, cat('gipc/3 ' + what, th), 48)
  const keys = { th, ck: k('client confirm'), sk: k('server confirm'), cs: k('client traffic'), ss: k('server traffic') }
  keys.clientConfirmation = hmac(keys.ck, th)
  keys.serverConfirmation = hmac(keys.sk, th, keys.clientConfirmation)
  return keys
}

const frameKey = (traffic) => expand(traffic, 'gipc/3 key', 32)

// ---- Frames

const body = (type, data) => cat(u32(type), data)
const plainFrame = (type, data) => { const b = body(type, data); return cat(u32(b.length), b) }

function sealBody(key, nonce, ad, plain) {
  const c = createCipheriv('aes-256-gcm', key, nonce)
  c.setAAD(ad)
  return cat(nonce, c.update(plain), c.final(), c.getAuthTag())
}

// One direction of a connection. Nonces are fixed, so that files are.
class Direction {
  constructor(label, traffic, { sequence = 0n, rekeyAt = 2 ** 32, early = false, late = false } = {}) {
    Object.assign(this, { label, traffic, rekeyAt, early, late, seq: BigInt(sequence), sum: 0, count: 0 })
    if (traffic) this.key = frameKey(traffic)
  }
  nonce() { return sha384('nonce', this.label, u32(this.count++)).subarray(0, 12) }
  rekey() {
    this.traffic = expand(this.traffic, 'gipc/3 update', 48)
    this.key = frameKey(this.traffic)
    this.sum = 0
  }
  seal(plain, { nonce, ad } = {}) {
    if (!this.traffic) return { nonce: zeros(0), wire: cat(u32(plain.length), plain) }
    nonce ??= this.nonce()
    const length = plain.length + 28
    if (this.early && this.sum + length >= this.rekeyAt) this.rekey() // a mistake: one frame too early
    const wire = cat(u32(length), sealBody(this.key, nonce, ad ?? u64(this.seq), plain))
    this.seq++
    this.sum += length
    if (!this.late && !this.early && this.sum >= this.rekeyAt) this.rekey()
    return { nonce, wire }
  }
  frame(type, data, options) { return this.seal(body(type, data), options).wire }
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

// Both sides' messages, and the keys behind them.
function conversation(o = {}) {
  const c = { name: NAME, secret: NONE, encrypted: true, server: serverKey, client: clientKey, serverLimit: LIMIT, clientLimit: 1024, ...o }
  c.flags = c.secret.length ? 3 : c.encrypted ? 1 : 0
  c.serverHello = cat([3, c.flags], u32(c.serverLimit), c.flags ? c.server.point : [])
  const hello = cat([0, c.flags], u32(c.clientLimit), c.flags ? c.client.point : [])
  if (c.flags) {
    c.z = c.server.shared(c.client.point)
    c.keys = schedule(c.name, c.secret, c.z, c.serverHello, hello)
    c.clientHello = cat(hello, c.keys.clientConfirmation)
    c.serverFinish = cat([0], c.keys.serverConfirmation)
  } else {
    c.clientHello = hello
    c.serverFinish = Buffer.from([0])
  }
  return c
}

const ordinary = [['client', 1, 'hello'], ['server', 2, 'hello, too'], ['client', 3, 'again'], ['server', 4, 'and again']]

function handshake(name, comment, cites, o = {}) {
  const c = conversation(o)
  const rekeyAt = o.rekeyAt ?? 2 ** 32
  const way = {
    client: new Direction(name + ' client', c.keys?.cs, { rekeyAt }),
    server: new Direction(name + ' server', c.keys?.ss, { rekeyAt }),
  }
  const frames = (o.frames ?? ordinary).map(([who, type, data]) => {
    const f = way[who].seal(body(type, cat(data)))
    return `${who} ${type} ${show(cat(data))} ${show(f.nonce)} ${show(f.wire)}`
  })
  write(name, {
    comment, cites, test: 'handshake', expect: 'ok',
    name: c.name, secret: c.secret, encryption: c.flags ? 'on' : 'off', client_encryption: o.follow ? 'follow' : c.flags ? 'required' : 'follow',
    server_private: c.flags ? c.server.scalar : NONE, client_private: c.flags ? c.client.scalar : NONE,
    server_limit: c.serverLimit, client_limit: c.clientLimit, rekey_at: rekeyAt,
    shared_x: c.z ?? NONE, transcript_hash: c.keys?.th ?? NONE,
    client_confirm_key: c.keys?.ck ?? NONE, server_confirm_key: c.keys?.sk ?? NONE,
    client_traffic: c.keys?.cs ?? NONE, server_traffic: c.keys?.ss ?? NONE,
    client_key: c.keys ? frameKey(c.keys.cs) : NONE, server_key: c.keys ? frameKey(c.keys.ss) : NONE,
    server_hello: c.serverHello, client_hello: c.clientHello, server_finish: c.serverFinish,
    frame: frames,
  })
}

// The server under test, which is c's server; sends is what its client does.
function server(name, comment, cites, expect, o, sends, reply, more = {}) {
  const c = conversation(o)
  if (typeof sends === 'function') sends = sends(c)
  if (typeof reply === 'function') reply = reply(c)
  write(name, {
    comment, cites, test: 'server', expect,
    name: c.name, secret: c.secret, encryption: c.flags ? 'on' : 'off',
    server_private: c.flags ? c.server.scalar : NONE, server_limit: c.serverLimit, admit: more.admit ?? 0,
    client_sends: cat(sends), then: more.then ?? 'open', server_writes: cat(c.serverHello, reply ?? []), rest: more.rest ?? NONE,
  })
}

// The client under test; insists is what its own configuration says.
function client(name, comment, cites, expect, o, sends, writes, more = {}) {
  const c = conversation(o)
  if (typeof sends === 'function') sends = sends(c)
  if (typeof writes === 'function') writes = writes(c)
  write(name, {
    comment, cites, test: 'client', expect,
    name: c.name, secret: more.secret ?? c.secret, client_encryption: more.encryption ?? (c.flags ? 'required' : 'follow'),
    client_private: c.flags ? c.client.scalar : clientKey.scalar, client_limit: c.clientLimit,
    server_sends: cat(sends), then: more.then ?? 'open', client_writes: cat(writes), rest: more.rest ?? NONE,
  })
}

const TRAFFIC = sha384('a traffic secret')
const BACK = sha384('the traffic secret of the other direction')

// A receiver that is given stream. fails is how much of it is enough to fail.
function receive(name, comment, cites, expect, stream, delivers, fails, o = {}) {
  write(name, {
    comment, cites, test: 'receive', expect,
    traffic_secret: o.sealed ? TRAFFIC : NONE, sequence: o.sequence ?? 0, rekey_at: o.rekeyAt ?? 2 ** 32, limit: o.limit ?? 1024,
    said_goodbye: o.said ?? 'no', stream: cat(stream), then: o.then ?? 'open',
    delivers: delivers.map(([type, data]) => `${type} ${show(cat(data))}`), fails_after: fails ?? '-',
  })
}

function session(name, comment, cites, expect, steps, o = {}) {
  write(name, {
    comment, cites, test: 'session', expect,
    in_secret: o.sealed ? TRAFFIC : NONE, out_secret: o.sealed ? BACK : NONE, limit: 1024,
    step: steps.map((s) => s.map((p) => (typeof p === 'object' ? show(p) : p)).join(' ')),
  })
}

function config(name, comment, cites, expect, n, secret = NONE) {
  write(name, { comment, cites, test: 'config', expect, name: n, secret })
}

// ---- Handshakes that succeed

handshake('handshake_plain', 'Everything in plaintext.', 'H-1 H-7 H-9 H-12 H-19', { encrypted: false })
handshake('handshake_encrypted', 'Encryption without a secret.', 'H-9 H-12 K-2 K-4 K-5 R-1 R-5')
handshake('handshake_follow', 'A client that does not insist on encryption follows the flags.', 'H-12', { follow: true })
handshake('handshake_secret', 'With a secret, which begins with a zero byte.', 'H-9 H-10 K-2 K-5 R-1', { secret: SECRET })
handshake('handshake_secret_long', 'A secret of 200 bytes.', 'N-2 H-10', { secret: cat(sha384('1'), sha384('2'), sha384('3'), sha384('4'), zeros(8)) })
handshake('handshake_leading_zero', 'The x-coordinate of the shared point begins with a zero byte.', 'K-1', { client: zeroKey })
handshake('handshake_leading_zero_secret', 'The same with a secret.', 'K-1', { client: zeroKey, secret: SECRET })
handshake('handshake_name_1', 'A name of one byte, "w".', 'N-1 K-3', { name: utf8('w') })
handshake('handshake_name_255', 'A name of 255 bytes that is not ASCII, with a secret.', 'N-1 K-3', { name: utf8('\u00e9'.repeat(126) + '\u2602'), secret: SECRET })
handshake('handshake_name_decomposed', 'A name with a combining accent, used as it stands.', 'N-1 K-3', { name: utf8('e\u0301te\u0301') })
handshake('handshake_name_space', 'A name with spaces at its ends and capitals.', 'N-1', { name: utf8(' Weather ') })
handshake('handshake_limits_least', 'The smallest limits, and data of that size.', 'H-2 F-2', {
  serverLimit: 1024, clientLimit: 1024, frames: [['client', 1, Buffer.alloc(1024, 7)], ['server', 1, Buffer.alloc(1024, 8)], ['client', 1, 'a'], ['server', 1, 'b']],
})
handshake('handshake_limits_most', 'The largest limits.', 'H-2', { serverLimit: 2 ** 30, clientLimit: 2 ** 30 })
handshake('handshake_limits_plain', 'The largest limits in plaintext.', 'H-2', { encrypted: false, serverLimit: 2 ** 30, clientLimit: 2 ** 30 })
handshake('handshake_types', 'The first and the last type, and empty data.', 'F-6 F-7', {
  frames: [['client', 1, ''], ['server', 2147483647, ''], ['client', 2147483647, 'last'], ['server', 1, 'first']],
})
handshake('handshake_types_plain', 'The same in plaintext.', 'F-6 F-7', {
  encrypted: false, frames: [['client', 1, ''], ['server', 2147483647, ''], ['client', 2147483647, 'last'], ['server', 1, 'first']],
})

// ---- Rekeying. A frame with n bytes of data has the length 32 + n.

const n = (k) => Buffer.alloc(k, 0x61)
handshake('rekey_each', 'A new key after each frame.', 'Y-1 Y-2', { rekeyAt: 1, secret: SECRET })
handshake('rekey_exact', 'Two frames of 40 bring the sum to 80, the threshold: the third has a new key.', 'Y-1 Y-2 Y-3', {
  rekeyAt: 80, frames: [1, 2, 3, 4, 5].flatMap((i) => [['client', i, n(8)], ['server', i, n(8)]]),
})
handshake('rekey_one_short', 'Two frames bring the sum to 79, one below the threshold: the fourth has a new key, and the directions differ.', 'Y-1 Y-3', {
  rekeyAt: 80, frames: [['client', 1, n(8)], ['client', 2, n(7)], ['client', 3, n(1)], ['client', 4, n(1)], ['server', 1, n(1)], ['server', 2, n(1)]],
})
handshake('rekey_control', 'Control frames count.', 'Y-3', {
  rekeyAt: 80, frames: [['client', 1, n(7)], ['client', 0, [5]], ['client', 0, cat([2], n(8))], ['client', 4, n(1)], ['server', 0, [9, 9, 9]], ['server', 1, 'x']],
})
handshake('rekey_plain', 'Plaintext has no keys to change.', 'Y-1', { rekeyAt: 1, encrypted: false })
{
  const d = (o) => new Direction('rekey', TRAFFIC, { rekeyAt: 64, ...o })
  const three = (w) => [w.frame(1, 'a'), w.frame(2, 'b'), w.frame(3, 'c')]
  let f = three(d({ late: true }))
  receive('rekey_late', 'The sender does not change its key.', 'Y-1', 'record not-authentic', cat(...f), [[1, 'a'], [2, 'b']], cat(...f).length, { sealed: true, rekeyAt: 64 })
  f = three(d({ early: true }))
  receive('rekey_early', 'The sender changes its key before the frame that reaches the threshold.', 'Y-1', 'record not-authentic', cat(...f), [[1, 'a']], cat(f[0], f[1]).length, { sealed: true, rekeyAt: 64 })
  const w = d()
  f = [w.frame(1, 'a'), w.frame(2, 'b')]
  w.seq = 0n
  f.push(w.frame(3, 'c'))
  receive('rekey_numbers_restart', 'The sender sets its numbers back to 0 with the new key.', 'Y-2', 'record not-authentic', cat(...f), [[1, 'a'], [2, 'b']], cat(...f).length, { sealed: true, rekeyAt: 64 })
}

// ---- The server against clients

const plain = { encrypted: false }, encrypted = {}, secret = { secret: SECRET }
const replied = (r) => 'handshake refused ' + r
const refuses = (r) => 'handshake refuse ' + r
for (const [r, what] of [[1, 'another version'], [2, 'no encryption'], [4, 'a secret is required'], [5, 'no secret'], [9, 'malformed'], [3, 'the reserved reason'], [200, 'unknown']]) {
  server(`server_reply_${r}`, `The client refuses: ${what}. The server writes nothing more.`, r === 3 || r === 200 ? 'H-15 H-20' : 'H-15', replied(r), r === 5 ? encrypted : r === 2 ? plain : secret, [r])
}
server('server_reply_first', 'A refusal with bytes behind it: only the reply counts.', 'H-14 H-15', replied(5), encrypted, [5, 0x77, 1, 2, 3, 4, 5])
server('server_flags_other', 'Other flags than the server\'s. It refuses before the limit comes.', 'H-5 H-14', refuses(9), encrypted, [0, 0], [9])
server('server_flags_secret', 'The client sets bit 1 and the server did not.', 'H-14', refuses(9), encrypted, [0, 3], [9])
server('server_flags_no_secret', 'The client clears bit 1.', 'H-14', refuses(9), secret, [0, 1], [9])
server('server_flags_unknown', 'The client sets an unknown flag.', 'H-14', refuses(9), encrypted, [0, 0x81], [9])
server('server_flags_plain', 'The client sets bit 0 in plaintext.', 'H-14', refuses(9), plain, [0, 1], [9])
for (const [what, limit] of [['0', 0], ['1023', 1023], ['over', 2 ** 30 + 1], ['most', 2 ** 32 - 1]]) {
  server(`server_limit_${what}`, `The client's limit is ${limit}. The server refuses before the point comes.`, 'H-2 H-5 H-14', refuses(9), encrypted, cat([0, 1], u32(limit)), [9])
  server(`server_limit_${what}_plain`, `The client's limit is ${limit}, in plaintext.`, 'H-2', refuses(9), plain, cat([0, 0], u32(limit)), [9])
}

// Points that are none. p is the prime, b the constant of P-384.
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
  ['compressed', 'A compressed point, filled up to 97 bytes.', cat([2 + (Y[47] & 1)], X, zeros(48))],
  ['hybrid', 'The hybrid form of a good point.', cat([6 + (Y[47] & 1)], X, Y)],
  ['infinity', 'The point at infinity, filled up to 97 bytes.', zeros(97)],
  ['zero', 'Both coordinates are 0.', cat([4], zeros(96))],
  ['off_curve', 'One bit of y is changed.', flip(clientKey.point, -1)],
  ['x_not_reduced', 'x is a good one with the prime added.', cat([4], number48(smallX + p), number48(smallY))],
  ['y_not_reduced', 'y is above the prime.', cat([4], X, Buffer.alloc(48, 0xff))],
]
for (const [what, comment, point] of badPoints) {
  server('server_point_' + what, comment + ' The server refuses before the confirmation comes.', 'H-3 H-5 H-14', refuses(9), encrypted, cat([0, 1], u32(1024), point), [9])
  client('client_point_' + what, comment, 'H-3 H-13', refuses(9), encrypted, cat([3, 1], u32(LIMIT), point), [9])
}
const smallest = { ...clientKey, point: cat([4], number48(smallX), number48(smallY)) }
server('server_point_small_x', 'The same point as in server_point_x_not_reduced, with x below the prime: it is good, and the confirmation is wrong.', 'H-3 H-14', refuses(6), encrypted,
  cat([0, 1], u32(1024), smallest.point, zeros(48)), [6])

server('server_confirmation_first', 'One bit of the first byte of the confirmation is changed.', 'H-14 H-18', refuses(6), encrypted, (c) => flip(c.clientHello, 103), [6])
server('server_confirmation_last', 'One bit of its last byte is changed.', 'H-14 H-18', refuses(6), secret, (c) => flip(c.clientHello, 150, 7), [6])
server('server_confirmation_zero', 'The confirmation is zeros.', 'H-18', refuses(6), secret, (c) => cat(c.clientHello.subarray(0, 103), zeros(48)), [6])
server('server_confirmation_of_server', 'The confirmation is made with the server\'s key.', 'H-14 K-5', refuses(6), encrypted, (c) => cat(c.clientHello.subarray(0, 103), hmac(c.keys.sk, c.keys.th)), [6])
server('server_other_secret', 'The client has another secret.', 'H-14', refuses(6), secret, () => conversation({ secret: OTHER }).clientHello, [6])
server('server_other_name', 'The client means another name.', 'H-14 K-3', refuses(6), encrypted, () => conversation({ name: utf8('weathes') }).clientHello, [6])
server('server_name_normalised', 'The client has composed the name\'s accent.', 'N-1 K-3', refuses(6), { name: utf8('e\u0301te\u0301') }, () => conversation({ name: utf8('\u00e9t\u00e9') }).clientHello, [6])
server('server_name_case', 'The client has changed a letter to lower case.', 'N-1', refuses(6), { name: utf8('Weather') }, () => conversation({ name: utf8('weather') }).clientHello, [6])
const withSchedule = (o, f) => (c) => {
  const h = c.clientHello.subarray(0, 103)
  const keys = f(c, h)
  return cat(h, hmac(keys.ck, keys.th))
}
server('server_name_without_length', 'The client leaves the length of the name out of TH.', 'K-3', refuses(6), encrypted, withSchedule({}, (c, h) => {
  const th = sha384('gipc/3', c.name, c.serverHello, h)
  const master = extract(expand(extract(zeros(48), zeros(48)), 'gipc/3 derived', 48), c.z)
  return { th, ck: expand(master, cat('gipc/3 client confirm', th), 48) }
}), [6])
server('server_transcript_limit', 'Somebody has changed the limit in ServerHello on its way: the client\'s TH is another.', 'K-2', refuses(6), encrypted, withSchedule({}, (c, h) => schedule(c.name, c.secret, c.z, flip(c.serverHello, 5), h)), [6])
server('server_transcript_own_limit', 'Somebody has changed the limit in ClientHello on its way.', 'K-2', refuses(6), encrypted, (c) => flip(c.clientHello, 5), [6])
server('server_stripped_x', 'The client strips the leading zero byte of the shared x-coordinate.', 'K-1', refuses(6), { client: zeroKey }, withSchedule({}, (c, h) => schedule(c.name, c.secret, c.z.subarray(1), c.serverHello, h)), [6])
server('server_no_psk', 'The client uses an empty psk where 48 zero bytes stand for no secret.', 'K-4', refuses(6), encrypted, withSchedule({}, (c, h) => {
  const th = sha384('gipc/3', u16(c.name.length), c.name, c.serverHello, h)
  const master = extract(expand(extract(zeros(48), zeros(0)), 'gipc/3 derived', 48), c.z)
  return { th, ck: expand(master, cat('gipc/3 client confirm', th), 48) }
}), [6])
server('server_full', 'Everything is good, and the server has as many clients as it may.', 'H-14 L-4', refuses(7), secret, (c) => c.clientHello, [7], { admit: 7 })
server('server_full_plain', 'The same in plaintext.', 'H-14', refuses(7), plain, (c) => c.clientHello, [7], { admit: 7 })
server('server_full_wrong', 'The server is full and the confirmation is wrong: only that shows.', 'H-14 L-4', refuses(6), secret, (c) => flip(c.clientHello, 120), [6], { admit: 7 })
server('server_unauthorised', 'Everything is good, and the client is not authorised.', 'H-14', refuses(8), secret, (c) => c.clientHello, [8], { admit: 8 })
server('server_order_flags', 'Flags and limit are wrong: the flags count.', 'H-14 H-5', refuses(9), encrypted, cat([0, 0], u32(1)), [9])
server('server_order_limit', 'Limit and point are wrong.', 'H-14', refuses(9), encrypted, cat([0, 1], u32(1), zeros(97), zeros(48)), [9])
server('server_order_point', 'Point and confirmation are wrong.', 'H-14', refuses(9), secret, cat([0, 3], u32(1024), zeros(97), zeros(48)), [9])
for (const k of [0, 1, 5, 6, 102, 103, 150]) {
  server(`server_cut_${k}`, `The stream ends after ${k} bytes of ClientHello.`, 'H-14', 'handshake cut', secret, (c) => c.clientHello.subarray(0, k), [], { then: 'end' })
}
server('server_cut_plain', 'The stream ends inside a ClientHello in plaintext.', 'H-14', 'handshake cut', plain, (c) => c.clientHello.subarray(0, 5), [], { then: 'end' })
{
  const c = conversation(secret)
  const behind = new Direction('behind client', c.keys.cs).frame(1, 'early')
  server('server_frames_behind', 'A frame comes right behind ClientHello: it is kept.', 'H-6', 'ok', secret, cat(c.clientHello, behind), c.serverFinish, { rest: behind })
  const some = plainFrame(1, 'early')
  server('server_frames_behind_plain', 'One and a half frames come right behind ClientHello in plaintext.', 'H-6', 'ok', plain, cat(conversation(plain).clientHello, some, some.subarray(0, 7)), [0], { rest: cat(some, some.subarray(0, 7)) })
}

// ---- The client against servers

for (const r of [0, 7, 8, 3, 200]) {
  client(`client_instead_${r}`, `The server refuses in place of ServerHello, with ${r}. The client writes nothing.`, r === 0 ? 'H-16' : 'H-16 H-20', replied(r), secret, [0, r], [])
}
for (const [v, what] of [[1, 'an old version'], [2, 'version 2, which the client does not allow'], [4, 'a later version'], [0x16, 'TLS'], [0x48, 'HTTP'], [255, 'anything']]) {
  client(`client_version_${v}`, `The server's first byte is ${v}: ${what}.`, 'H-13', refuses(1), secret, [v], [1])
}
client('client_requires_encryption', 'The client requires encryption, the server has it off.', 'H-12 H-13', refuses(2), plain, [3, 0], [2], { encryption: 'required' })
client('client_secret_plain', 'The client has a secret, the server has encryption off.', 'H-10 H-13', refuses(2), plain, [3, 0], [2], { secret: SECRET })
client('client_secret_flag_alone', 'The server sets bit 1 without bit 0, the client has a secret.', 'H-10 H-13', refuses(2), secret, [3, 2], [2])
client('client_server_secret', 'The server requires a secret and the client has none.', 'H-11', refuses(4), encrypted, [3, 3], [4])
client('client_server_secret_follow', 'The same, of a client that does not insist on encryption.', 'H-11', refuses(4), plain, [3, 3], [4])
client('client_server_secret_alone', 'The server sets bit 1 without bit 0, the client insists on nothing.', 'H-11 H-13', refuses(4), plain, [3, 2], [4])
client('client_own_secret', 'The client has a secret, the server requires none.', 'H-10', refuses(5), secret, [3, 1], [5])
for (const f of [4, 8, 16, 32, 64, 128]) {
  client(`client_flags_${f}`, `Flag ${f} is unknown.`, 'H-13 H-5', refuses(9), encrypted, [3, 1 | f], [9])
}
client('client_flags_plain', 'An unknown flag, in plaintext.', 'H-13', refuses(9), plain, [3, 4], [9])
client('client_order_version', 'Version and flags are wrong: the version counts.', 'H-13', refuses(1), secret, [5, 0xff, 0, 0, 0, 0], [1])
client('client_order_encryption', 'No encryption, a secret required, an unknown flag: encryption counts.', 'H-13', refuses(2), encrypted, [3, 0x82], [2])
client('client_order_server_secret', 'A secret required and an unknown flag.', 'H-13', refuses(4), encrypted, [3, 0x83], [4])
client('client_order_own_secret', 'No secret required and an unknown flag.', 'H-13', refuses(5), secret, [3, 0x81], [5])
client('client_order_flags', 'An unknown flag and a limit that is wrong.', 'H-13 H-5', refuses(9), encrypted, cat([3, 0x81], u32(0)), [9])
client('client_order_limit', 'Limit and point are wrong.', 'H-13', refuses(9), encrypted, cat([3, 1], u32(0), zeros(97)), [9])
for (const [what, limit] of [['0', 0], ['1023', 1023], ['over', 2 ** 30 + 1], ['most', 2 ** 32 - 1]]) {
  client(`client_limit_${what}`, `The server's limit is ${limit}.`, 'H-2 H-5 H-13', refuses(9), encrypted, cat([3, 1], u32(limit)), [9])
  client(`client_limit_${what}_plain`, `The server's limit is ${limit}, in plaintext.`, 'H-2', refuses(9), plain, cat([3, 0], u32(limit)), [9])
}
for (const r of [6, 7, 8, 9, 3, 200]) {
  client(`client_finish_${r}`, `The server refuses with ${r} in place of ServerFinish.`, r === 3 || r === 200 ? 'H-20' : 'H-14', replied(r), secret, (c) => cat(c.serverHello, [r]), (c) => c.clientHello)
}
client('client_finish_plain_7', 'The server refuses with 7 in plaintext.', 'H-14 H-19', replied(7), plain, (c) => cat(c.serverHello, [7]), (c) => c.clientHello)
const unproven = 'handshake unproven'
client('client_unproven_first', 'One bit of the first byte of the server\'s confirmation is changed. The client writes nothing.', 'H-17 H-18', unproven, secret, (c) => cat(c.serverHello, flip(c.serverFinish, 1)), (c) => c.clientHello)
client('client_unproven_last', 'One bit of its last byte is changed.', 'H-17 H-18', unproven, encrypted, (c) => cat(c.serverHello, flip(c.serverFinish, -1)), (c) => c.clientHello)
client('client_unproven_reflected', 'The server sends the client\'s confirmation back.', 'H-17', unproven, secret, (c) => cat(c.serverHello, [0], c.keys.clientConfirmation), (c) => c.clientHello)
client('client_unproven_other_secret', 'The server has another secret, and lets everybody in.', 'H-17', unproven, secret, (c) => {
  const k = schedule(c.name, OTHER, c.z, c.serverHello, c.clientHello.subarray(0, 103))
  return cat(c.serverHello, [0], hmac(k.sk, k.th, c.keys.clientConfirmation))
}, (c) => c.clientHello)
client('client_unproven_other_name', 'The server means another name, and lets everybody in.', 'H-17 K-3', unproven, encrypted, (c) => {
  const k = schedule(utf8('Weather'), c.secret, c.z, c.serverHello, c.clientHello.subarray(0, 103))
  return cat(c.serverHello, [0], hmac(k.sk, k.th, c.keys.clientConfirmation))
}, (c) => c.clientHello)
client('client_unproven_without_client', 'The server\'s confirmation does not cover the client\'s.', 'H-17', unproven, secret, (c) => cat(c.serverHello, [0], hmac(c.keys.sk, c.keys.th)), (c) => c.clientHello)
client('client_unproven_frames', 'Good frames behind a confirmation that is wrong: nothing of them is looked at.', 'H-17', unproven, secret, (c) => cat(c.serverHello, flip(c.serverFinish, 9), new Direction('unproven', c.keys.ss).frame(1, 'x')), (c) => c.clientHello)
client('client_follows', 'A client that insists on nothing meets a server that encrypts.', 'H-12', 'ok', encrypted, (c) => cat(c.serverHello, c.serverFinish), (c) => c.clientHello, { encryption: 'follow' })
{
  const c = conversation(secret)
  const w = new Direction('behind server', c.keys.ss)
  const behind = cat(w.frame(1, 'early'), w.frame(2, 'birds').subarray(0, 20))
  client('client_frames_behind', 'Frames come right behind ServerFinish: they are kept.', 'H-6', 'ok', secret, cat(c.serverHello, c.serverFinish, behind), c.clientHello, { rest: behind })
  client('client_frames_behind_plain', 'The same in plaintext.', 'H-6', 'ok', plain, (d) => cat(d.serverHello, d.serverFinish, plainFrame(1, 'early')), (d) => d.clientHello, { rest: plainFrame(1, 'early') })
}
for (const [k, writes] of [[0, false], [1, false], [2, false], [5, false], [102, false], [103, true], [104, true], [151, true]]) {
  client(`client_cut_${k}`, `The stream ends after ${k} bytes of the server's two messages.`, 'H-13', 'handshake cut', secret, (c) => cat(c.serverHello, c.serverFinish).subarray(0, k), (c) => (writes ? c.clientHello : []), { then: 'end' })
}
client('client_cut_instead', 'The stream ends behind the 0 in place of a version.', 'H-16', 'handshake cut', secret, [0], [], { then: 'end' })

// ---- Frames in plaintext, as a receiver sees them

const one = plainFrame(1, 'one'), two = plainFrame(2, 'two')
receive('frame_two', 'Two frames, and the beginning of a third.', 'F-8', 'ok', cat(one, two, one.subarray(0, 6)), [[1, 'one'], [2, 'two']])
receive('frame_empty', 'Empty data.', 'F-7', 'ok', plainFrame(7, ''), [[7, '']])
receive('frame_type_last', 'The last type that is the user\'s.', 'F-6', 'ok', plainFrame(2147483647, 'x'), [[2147483647, 'x']])
receive('frame_at_limit', 'As much data as the limit says.', 'F-2', 'ok', plainFrame(1, n(1024)), [[1, n(1024)]])
for (const k of [0, 1, 2, 3]) {
  receive(`frame_length_${k}`, `A length of ${k}, behind a good frame and before another.`, 'F-1 F-4 F-9', 'frame malformed', cat(one, u32(k), two), [[1, 'one']], one.length + 4)
}
receive('frame_over_limit', 'One byte more than the limit allows. Its length is enough to know.', 'F-2 F-4 F-9', 'frame malformed', cat(one, plainFrame(1, n(1025)), two), [[1, 'one']], one.length + 4)
receive('frame_length_most', 'The largest length that there is.', 'F-2 F-4', 'frame malformed', u32(2 ** 32 - 1), [], 4)
receive('frame_length_sign', 'A length with the highest bit set.', 'F-2 F-4', 'frame malformed', u32(2 ** 31), [], 4)
for (const [what, type] of [['first', 2 ** 31], ['last', 2 ** 32 - 1]]) {
  receive(`frame_type_high_${what}`, `Type ${type}, behind a good frame and before another.`, 'F-6 F-9', 'type malformed', cat(one, plainFrame(type, 'x'), two), [[1, 'one']], one.length + 9)
}
receive('frame_announced', 'The largest frame that the limit allows is announced, and nothing comes: it waits, and takes little memory.', 'F-5', 'ok', cat(one, u32(4 + 2 ** 30)), [[1, 'one']], undefined, { limit: 2 ** 30 })
receive('frame_announced_begun', 'The same with its type and 3 bytes of data.', 'F-5', 'ok', cat(u32(4 + 2 ** 30), u32(1), 'abc'), [], undefined, { limit: 2 ** 30 })
for (const k of [1, 3, 4, 7, 8, 10]) {
  receive(`frame_cut_${k}`, `The stream ends after ${k} bytes of a frame of 11.`, 'F-10 G-9', 'frame cut-inside', cat(one, two.subarray(0, k)), [[1, 'one']], undefined, { then: 'end' })
}
receive('frame_cut_between', 'The stream ends behind a frame, without a goodbye.', 'F-10 G-9', 'frame cut-boundary', one, [[1, 'one']], undefined, { then: 'end' })
receive('frame_cut_at_once', 'The stream ends before any frame.', 'F-10 G-9', 'frame cut-boundary', [], [], undefined, { then: 'end' })
{
  const large = [1, 2, 3].map((i) => plainFrame(i, Buffer.alloc(20000, i)))
  receive('frame_large', 'Three frames of 20,000 bytes.', 'F-8', 'ok', cat(...large), [1, 2, 3].map((i) => [i, Buffer.alloc(20000, i)]), undefined, { limit: 20000 })
  receive('frame_large_type_high', 'A large frame whose type is too high.', 'F-6', 'type malformed', cat(large[0], plainFrame(2 ** 31, n(20000))), [[1, Buffer.alloc(20000, 1)]], 2 * 20008, { limit: 20000 })
  receive('frame_large_cut', 'A large frame is cut before its last byte.', 'F-10', 'frame cut-inside', large[0].subarray(0, -1), [], undefined, { limit: 20000, then: 'end' })
}

// ---- Sealed frames

const ways = (o) => new Direction('record', TRAFFIC, o)
function sealed(name, comment, cites, expect, make, o = {}) {
  const { stream, delivers, fails } = make(ways(o))
  receive(name, comment, cites, expect, stream, delivers, fails, { sealed: true, ...o })
}
const notAuthentic = 'record not-authentic'
const bad = (good, broken, after) => ({ stream: cat(good, broken, after ?? []), delivers: good.length ? [[1, 'one']] : [], fails: good.length + broken.length })
sealed('record_three', 'Three frames, one of them empty.', 'R-1 F-7', 'ok', (w) => ({ stream: cat(w.frame(1, 'one'), w.frame(2, ''), w.frame(3, 'three')), delivers: [[1, 'one'], [2, ''], [3, 'three']] }))
sealed('record_replay', 'The first frame comes twice.', 'R-1 F-9', notAuthentic, (w) => { const f = w.frame(1, 'one'); return bad(f, f, w.frame(2, 'two')) })
sealed('record_lost', 'The first frame is missing.', 'R-1', notAuthentic, (w) => { w.frame(1, 'one'); return bad(NONE, w.frame(2, 'two')) })
sealed('record_lost_between', 'The second of three frames is missing.', 'R-1', notAuthentic, (w) => { const f = w.frame(1, 'one'); w.frame(2, 'two'); return bad(f, w.frame(3, 'three')) })
sealed('record_reordered', 'Two frames are exchanged.', 'R-1 F-9', notAuthentic, (w) => { const f = w.frame(1, 'one'), g = w.frame(2, 'two'); return bad(NONE, g, f) })
sealed('record_reflected', 'The frame was sealed under the key of the other direction.', 'K-5', notAuthentic, () => bad(NONE, new Direction('record', BACK).frame(1, 'one')))
sealed('record_no_additional_data', 'Sealed without the number.', 'R-1', notAuthentic, (w) => bad(NONE, w.frame(1, 'one', { ad: NONE })))
sealed('record_number_from_1', 'The sender counts from 1.', 'R-1', notAuthentic, (w) => bad(NONE, w.frame(1, 'one', { ad: u64(1) })))
sealed('record_number_little_endian', 'The second number is little-endian.', 'R-1', notAuthentic, (w) => bad(w.frame(1, 'one'), w.frame(2, 'two', { ad: hex('0100000000000000') })))
sealed('record_number_32_bit', 'The number has 4 bytes.', 'R-1', notAuthentic, (w) => bad(NONE, w.frame(1, 'one', { ad: u32(0) })))
for (const [what, i] of [['nonce', 4], ['nonce_end', 15], ['type', 16], ['data', 20], ['tag', -16], ['tag_end', -1]]) {
  sealed(`record_flip_${what}`, `One bit is changed: ${what}.`, i < 0 ? 'R-3 R-5 F-9' : 'R-3 F-9', notAuthentic, (w) => bad(w.frame(1, 'one'), flip(w.frame(2, 'two'), i, 7), w.frame(3, 'three')))
}
sealed('record_tag_zero', 'The tag is zeros.', 'R-5', notAuthentic, (w) => { const f = w.frame(1, 'one'); return bad(NONE, cat(f.subarray(0, -16), zeros(16))) })
sealed('record_length_more', 'The length says 4 bytes more, and takes them from the next frame.', 'R-3', notAuthentic, (w) => { const f = w.frame(1, 'one'), g = w.frame(2, 'two'); return { stream: cat(flip(f, 3, 2), g), delivers: [], fails: f.length + 4 } })
sealed('record_length_less', 'The length says one byte less.', 'R-3', notAuthentic, (w) => { const f = w.frame(1, 'one'); return { stream: flip(f, 3, 0), delivers: [], fails: f.length - 1 } })
sealed('record_length_waits', 'The length says more than ever comes: it waits.', 'F-8', 'ok', (w) => ({ stream: flip(w.frame(1, 'one'), 2, 0), delivers: [] }))
for (const k of [0, 4, 31]) {
  sealed(`record_length_${k}`, `A length of ${k}.`, 'F-1 F-4', 'frame malformed', (w) => { const f = w.frame(1, 'one'); return { stream: cat(f, u32(k), zeros(k)), delivers: [[1, 'one']], fails: f.length + 4 } })
}
sealed('record_plain', 'A frame in plaintext, which is long enough.', 'R-3', notAuthentic, (w) => bad(w.frame(1, 'one'), plainFrame(2, n(40))))
sealed('record_at_limit', 'As much data as the limit says.', 'F-2', 'ok', (w) => ({ stream: w.frame(1, n(1024)), delivers: [[1, n(1024)]] }))
sealed('record_over_limit', 'One byte more.', 'F-2 F-4', 'frame malformed', (w) => ({ stream: w.frame(1, n(1025)), delivers: [], fails: 4 }))
sealed('record_type_high', 'A type above the last, sealed well.', 'F-6', 'type malformed', (w) => bad(w.frame(1, 'one'), w.frame(2 ** 31, 'x'), w.frame(3, 'three')))
sealed('record_nonces', 'Nonces that are zeros, and twice the same: a receiver takes any.', 'R-2', 'ok', (w) => ({ stream: cat(w.frame(1, 'one', { nonce: zeros(12) }), w.frame(2, 'two', { nonce: zeros(12) })), delivers: [[1, 'one'], [2, 'two']] }))
sealed('record_large', 'Two frames of 5,000 bytes, and one small.', 'F-8', 'ok', (w) => ({ stream: cat(w.frame(1, n(5000)), w.frame(2, n(5000)), w.frame(3, 'x')), delivers: [[1, n(5000)], [2, n(5000)], [3, 'x']] }), { limit: 5000 })
sealed('record_large_flip', 'One bit of 5,000 bytes is changed.', 'R-3', notAuthentic, (w) => bad(w.frame(1, 'one'), flip(w.frame(2, n(5000)), 3000)), { limit: 5000 })
sealed('record_cut_inside', 'The stream ends before the last byte of the tag.', 'F-10 R-5', 'frame cut-inside', (w) => ({ stream: w.frame(1, 'one').subarray(0, -1), delivers: [] }), { then: 'end' })
sealed('record_cut_between', 'The stream ends behind a frame, without a goodbye.', 'F-10 G-9', 'frame cut-boundary', (w) => ({ stream: w.frame(1, 'one'), delivers: [[1, 'one']] }), { then: 'end' })
const LAST = 2n ** 64n - 2n
sealed('record_last_number', 'The last number, of the goodbye.', 'R-4', 'close goodbye', (w) => ({ stream: w.frame(0, [3, 0]), delivers: [] }), { sequence: LAST })
sealed('record_before_last', 'A message with the last number but one, and the goodbye.', 'R-4', 'close goodbye', (w) => ({ stream: cat(w.frame(1, 'one'), w.frame(0, [3, 0])), delivers: [[1, 'one']] }), { sequence: LAST - 1n })
sealed('record_behind_last', 'A frame with the number behind the last, sealed well.', 'R-4', notAuthentic, (w) => bad(NONE, w.frame(1, 'one')), { sequence: LAST + 1n })
sealed('record_high_number', 'A number above 2^32, in full.', 'R-1', 'ok', (w) => ({ stream: w.frame(1, 'one'), delivers: [[1, 'one']] }), { sequence: 2n ** 40n + 5n })

// ---- Control frames

const bytes8 = utf8('ping 123')
const ctl = (...d) => plainFrame(0, cat(...d.map((x) => (typeof x === 'number' ? [x] : x))))
function control(name, comment, cites, expect, frame, o = {}) {
  const fails = expect === 'ok' ? undefined : one.length + frame.length
  receive('control_' + name, comment, cites, expect, cat(one, frame, two), expect === 'ok' ? [[1, 'one'], [2, 'two']] : [[1, 'one']], fails, o)
}
control('empty', 'No data: no kind.', 'C-1', 'control malformed', ctl())
for (const [what, kind, right] of [['ping', 1, 9], ['pong', 2, 9], ['goodbye', 3, 2], ['answer', 4, 2]]) {
  for (const [how, size] of [['alone', 1], ['short', right - 1], ['long', right + 1]]) {
    if (how === 'short' && size === 1) continue
    control(`${what}_${how}`, `${what[0].toUpperCase() + what.slice(1)} with ${size} bytes of data.`, 'C-1', 'control malformed', ctl(kind, zeros(size - 1)))
  }
}
for (const kind of [0, 5, 15]) {
  control(`kind_${kind}`, `Kind ${kind} is unknown and ignored, whatever its data.`, 'C-2', 'ok', cat(ctl(kind), ctl(kind, n(100))))
}
for (const kind of [16, 17, 255]) {
  control(`kind_${kind}`, `Kind ${kind} is unknown and may not be ignored.`, 'C-3', 'control malformed', ctl(kind, 1))
}
control('pong_unasked', 'A pong that nobody asked for.', 'C-6', 'ok', ctl(2, bytes8))
sealed('control_sealed', 'A pong and an unknown kind between sealed messages take numbers like all frames.', 'C-2 C-6 R-1', 'ok', (w) => ({ stream: cat(w.frame(1, 'one'), w.frame(0, cat([2], bytes8)), w.frame(0, [9]), w.frame(2, 'two')), delivers: [[1, 'one'], [2, 'two']] }))
sealed('control_sealed_malformed', 'A ping without bytes, sealed well.', 'C-1', 'control malformed', (w) => bad(w.frame(1, 'one'), w.frame(0, [1]), w.frame(2, 'two')))

// ---- The end

receive('close_goodbye', 'A goodbye, and a frame behind it that nobody sees.', 'G-4 F-10', 'close goodbye', cat(one, ctl(3, 0), two), [[1, 'one']])
receive('close_answer_unasked', 'An answer where nobody has said goodbye.', 'G-7', 'close malformed', cat(one, ctl(4, 0), two), [[1, 'one']], one.length + 10)
receive('close_answer_first', 'The receiver has said goodbye; an answer comes without a goodbye of its sender.', 'G-7', 'close malformed', cat(one, ctl(4, 0)), [[1, 'one']], one.length + 10, { said: 'yes' })
receive('close_answer_twice', 'Goodbye and two answers.', 'G-7', 'close malformed', cat(ctl(3, 0), ctl(4, 0), ctl(4, 0)), [], 30, { said: 'yes' })

session('control_ping', 'A ping is answered, and so is the next.', 'C-4', 'ok', [
  ['peer', ctl(1, bytes8)], ['writes', 0, cat([2], bytes8)], ['peer', cat(one, ctl(1, zeros(8)))], ['delivers', 1, cat('one')], ['writes', 0, cat([2], zeros(8))],
])
session('close_by_peer', 'The peer closes: our goodbye and the answer, and the end.', 'G-2 G-3 G-11', 'close goodbye', [
  ['peer', cat(one, ctl(3, 0))], ['delivers', 1, cat('one')], ['ends', 'goodbye'], ['writes', 0, [3, 0]], ['writes', 0, [4, 0]], ['writes-end'],
])
session('close_by_peer_shutdown', 'The same where it is shutting down.', 'G-2 G-8', 'close goodbye', [
  ['peer', ctl(3, 1)], ['ends', 'goodbye'], ['writes', 0, [3, 0]], ['writes', 0, [4, 0]], ['writes-end'],
])
session('close_by_peer_unknown', 'A goodbye with an unknown byte counts as 0.', 'G-8', 'close goodbye', [
  ['peer', ctl(3, 77)], ['ends', 'goodbye'], ['writes', 0, [3, 0]], ['writes', 0, [4, 0]], ['writes-end'],
])
session('close_by_peer_behind', 'Frames behind the peer\'s goodbye are discarded, and nothing answers a ping.', 'G-1 G-4', 'close goodbye', [
  ['peer', cat(ctl(3, 0), two, ctl(1, bytes8))], ['ends', 'goodbye'], ['writes', 0, [3, 0]], ['writes', 0, [4, 0]], ['writes-end'],
])
session('close_own', 'We close: our goodbye, then the peer\'s and its answer, then our answer and the end.', 'G-1 G-3 G-6 G-11', 'ok', [
  ['sends', 1, cat('one')], ['writes', 1, cat('one')], ['closes'], ['writes', 0, [3, 0]], ['peer', cat(ctl(3, 0), ctl(4, 0))], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
session('close_own_discarded', 'The peer says that it discarded some of it.', 'G-3 G-9', 'close undelivered', [
  ['sends', 1, cat('one')], ['writes', 1, cat('one')], ['closes'], ['writes', 0, [3, 0]], ['peer', cat(ctl(3, 0), ctl(4, 1))], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'undelivered'],
])
session('close_own_unknown', 'An answer with an unknown byte counts as 1.', 'G-8', 'close undelivered', [
  ['sends', 1, cat('one')], ['writes', 1, cat('one')], ['closes'], ['writes', 0, [3, 0]], ['peer', cat(ctl(3, 0), ctl(4, 2))], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'undelivered'],
])
session('close_own_late', 'A message arrives after our goodbye: it is discarded, and our answer says so.', 'G-5', 'ok', [
  ['closes'], ['writes', 0, [3, 0]], ['peer', cat(one, ctl(3, 0), ctl(4, 0))], ['writes', 0, [4, 1]], ['writes-end'], ['closed', 'ok'],
])
session('close_crossing', 'The peer\'s goodbye crosses ours and is no answer: we wait for that.', 'G-3 G-6', 'ok', [
  ['sends', 1, cat('one')], ['writes', 1, cat('one')], ['closes'], ['writes', 0, [3, 0]], ['peer', ctl(3, 0)], ['writes', 0, [4, 0]], ['peer', ctl(4, 0)], ['writes-end'], ['closed', 'ok'],
])
session('close_crossing_cut', 'The peer\'s goodbye crosses ours, and the stream ends: what it has read is not known.', 'G-3 G-9', 'close undelivered', [
  ['sends', 1, cat('one')], ['writes', 1, cat('one')], ['closes'], ['writes', 0, [3, 0]], ['peer', ctl(3, 0)], ['writes', 0, [4, 0]], ['peer-ends'], ['writes-end'], ['closed', 'undelivered'],
])
session('close_own_behind', 'A message and a ping between the peer\'s goodbye and its answer are discarded, without a pong.', 'G-1 G-4', 'ok', [
  ['closes'], ['writes', 0, [3, 0]], ['peer', cat(ctl(3, 0), two, ctl(1, bytes8), ctl(4, 0))], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
session('close_own_goodbye_twice', 'A second goodbye is a frame behind the first: it is discarded.', 'G-4', 'ok', [
  ['closes'], ['writes', 0, [3, 0]], ['peer', cat(ctl(3, 0), ctl(3, 0), ctl(4, 0))], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
session('close_own_ping', 'A ping after our goodbye gets no pong.', 'C-4 G-1', 'ok', [
  ['closes'], ['writes', 0, [3, 0]], ['peer', ctl(1, bytes8)], ['peer', cat(ctl(3, 0), ctl(4, 0))], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
])
session('close_own_cut', 'We close and the stream ends without an answer: what arrived is not known.', 'G-9', 'close undelivered', [
  ['sends', 1, cat('one')], ['writes', 1, cat('one')], ['closes'], ['writes', 0, [3, 0]], ['peer-ends'], ['writes-end'], ['closed', 'undelivered'],
])
session('close_own_malformed', 'We close, and the peer\'s bytes are malformed.', 'F-9 G-9', 'close undelivered', [
  ['closes'], ['writes', 0, [3, 0]], ['peer', cat(u32(3), ctl(3, 0), ctl(4, 0))], ['writes-end'], ['closed', 'undelivered'],
])
session('close_cut', 'The stream ends at the end of a frame: no goodbye is written.', 'G-9 G-10 G-11 F-10', 'frame cut-boundary', [
  ['peer', one], ['delivers', 1, cat('one')], ['peer-ends'], ['ends', 'cut-boundary'], ['writes-end'],
])
session('close_cut_inside', 'The stream ends inside a frame.', 'G-9 G-10 F-10', 'frame cut-inside', [
  ['peer', cat(one, two.subarray(0, 9))], ['delivers', 1, cat('one')], ['peer-ends'], ['ends', 'cut-inside'], ['writes-end'],
])
session('close_malformed', 'A length of 3: no goodbye is written, and nothing behind it is read as a frame.', 'F-9 G-10 G-11 F-10', 'frame malformed', [
  ['peer', cat(one, u32(3), two, ctl(1, bytes8))], ['delivers', 1, cat('one')], ['ends', 'malformed'], ['writes-end'],
])
session('close_malformed_answer', 'An answer that nobody asked for.', 'G-7 G-10', 'close malformed', [
  ['peer', cat(one, ctl(4, 0))], ['delivers', 1, cat('one')], ['ends', 'malformed'], ['writes-end'],
])
{
  const w = new Direction('session', TRAFFIC)
  session('close_sealed', 'Messages both ways, a ping, and the peer\'s goodbye, encrypted.', 'C-4 G-2', 'close goodbye', [
    ['peer', w.frame(1, 'one')], ['delivers', 1, cat('one')], ['sends', 2, cat('two')], ['writes', 2, cat('two')],
    ['peer', w.frame(0, cat([1], bytes8))], ['writes', 0, cat([2], bytes8)],
    ['peer', w.frame(0, [3, 0])], ['ends', 'goodbye'], ['writes', 0, [3, 0]], ['writes', 0, [4, 0]], ['writes-end'],
  ], { sealed: true })
  const v = new Direction('session 2', TRAFFIC)
  session('close_sealed_own', 'We close, encrypted.', 'G-1 G-3', 'ok', [
    ['sends', 2, cat('two')], ['writes', 2, cat('two')], ['closes'], ['writes', 0, [3, 0]], ['peer', cat(v.frame(0, [3, 0]), v.frame(0, [4, 0]))], ['writes', 0, [4, 0]], ['writes-end'], ['closed', 'ok'],
  ], { sealed: true })
  const u = new Direction('session 3', TRAFFIC)
  session('close_not_authentic', 'A frame that does not verify: no goodbye is written.', 'F-9 F-10 G-10 R-3', notAuthentic, [
    ['peer', cat(u.frame(1, 'one'), flip(u.frame(2, 'two'), 25), u.frame(3, 'x'))], ['delivers', 1, cat('one')], ['ends', 'not-authentic'], ['writes-end'],
  ], { sealed: true })
}

// ---- Names and secrets

const invalid = 'config invalid'
config('config_name_1', 'One byte.', 'N-1', 'ok', utf8('w'))
config('config_name_255', '255 bytes.', 'N-1', 'ok', utf8('\u00e9'.repeat(126) + '\u2602'))
config('config_name_empty', 'No name.', 'N-1', invalid, NONE)
config('config_name_256', '256 bytes, though fewer characters.', 'N-1', invalid, utf8('\u00e9'.repeat(128)))
config('config_name_latin1', 'Not UTF-8: a byte e9 alone.', 'N-1', invalid, hex('e974e9'))
config('config_name_cut', 'UTF-8 that ends inside a character.', 'N-1', invalid, hex('77e298'))
config('config_name_overlong', 'Not UTF-8: an overlong form.', 'N-1', invalid, hex('77c181'))
config('config_name_surrogate', 'Not UTF-8: half of a surrogate pair.', 'N-1', invalid, hex('77eda080'))
config('config_secret_32', 'A secret of 32 bytes.', 'N-2', 'ok', NAME, SECRET)
config('config_secret_one_bit', 'One bit that is not zero is enough.', 'N-2', 'ok', NAME, flip(zeros(32), -1))
config('config_secret_31', 'One byte too short.', 'N-2', invalid, NAME, SECRET.subarray(1))
config('config_secret_zeros', 'Zeros alone.', 'N-2', invalid, NAME, zeros(48))

// ---- Version 2

const sha256 = (b) => createHash('sha256').update(b).digest()
const stripped = (x) => { let i = 0; while (x[i] === 0) i++; return x.subarray(i) }
const sealed2 = (key, nonce, plain) => cat(u32(plain.length + 28), sealBody(key, nonce, NONE, plain))

function legacy(o = {}) {
  const c = { encrypted: true, server: serverKey, client: clientKey, serverLimit: LIMIT, clientLimit: LIMIT, ...o }
  c.hello = [2, c.encrypted ? 1 : 0]
  c.limitNonce = c.encrypted ? sha384('the limit').subarray(0, 12) : NONE
  c.limitMessage = cat(u32(4), u32(c.serverLimit))
  if (c.encrypted) {
    c.z = c.server.shared(c.client.point)
    c.key = sha256(stripped(c.z))
    c.limitMessage = sealed2(c.key, c.limitNonce, u32(c.serverLimit))
  }
  return c
}

function legacyHandshake(name, comment, cites, o = {}) {
  const c = legacy(o)
  const key = o.padded ? sha256(c.z) : c.key
  const frames = (o.frames ?? ordinary).map(([who, type, data], i) => {
    const nonce = c.encrypted ? sha384(name, who, u32(i)).subarray(0, 12) : NONE
    const wire = c.encrypted ? sealed2(key, nonce, body(type, cat(data))) : plainFrame(type, cat(data))
    return `${who} ${type} ${show(cat(data))} ${show(nonce)} ${show(wire)}`
  })
  write(name, {
    comment, cites, test: 'legacy-handshake', expect: 'ok', encryption: c.encrypted ? 'on' : 'off',
    server_private: c.encrypted ? c.server.scalar : NONE, client_private: c.encrypted ? c.client.scalar : NONE,
    server_limit: c.serverLimit, client_limit: c.clientLimit, shared_x: c.z ?? NONE, key: c.key ?? NONE, client_key: key ?? NONE,
    server_hello: cat(c.hello), client_reply: cat([0]), server_point: c.encrypted ? c.server.point : NONE, client_point: c.encrypted ? c.client.point : NONE,
    limit_nonce: c.limitNonce, limit_message: c.limitMessage, client_end: cat([0]), frame: frames,
  })
}

function legacyServer(name, comment, cites, expect, encrypted, sends, writes, more = {}) {
  const c = legacy({ encrypted })
  write(name, {
    comment, cites, test: 'legacy-server', expect, encryption: encrypted ? 'on' : 'off', server_private: encrypted ? c.server.scalar : NONE, server_limit: c.serverLimit, admit: more.admit ?? 0,
    client_sends: cat(sends), then: more.then ?? 'open', server_writes: cat(c.hello, writes), limit_key: more.limit ? c.key : NONE, rest: more.rest ?? NONE,
  })
}

function legacyClient(name, comment, cites, expect, encrypted, sends, writes, more = {}) {
  write(name, {
    comment, cites, test: 'legacy-client', expect, client_encryption: more.encryption ?? (encrypted ? 'required' : 'follow'), client_private: encrypted ? clientKey.scalar : NONE,
    client_limit: LIMIT, server_sends: cat(sends), then: more.then ?? 'open', client_writes: cat(writes), rest: more.rest ?? NONE,
  })
}

const KEY2 = sha256(utf8('a key of version 2'))

function legacyReceive(name, comment, cites, expect, key, stream, delivers, fails, o = {}) {
  write(name, {
    comment, cites, test: 'legacy-receive', expect, key, limit: 1024, stream: cat(stream), then: o.then ?? 'open',
    delivers: delivers.map(([type, data]) => `${type} ${show(cat(data))}`), fails_after: fails ?? '-',
  })
}

legacyHandshake('legacy_plain', 'Version 2 in plaintext.', 'V-5', { encrypted: false })
legacyHandshake('legacy_encrypted', 'Version 2, encrypted.', 'V-5 V-7')
legacyHandshake('legacy_limits', 'A limit of the server that version 3 does not have, and data of that size.', 'V-10', { serverLimit: 5, frames: [['client', 1, '12345'], ['server', 1, '12345'], ['client', 2, ''], ['server', 2, '']] })
legacyHandshake('legacy_leading_zero', 'The shared x-coordinate begins with a zero byte, and the client strips it.', 'V-7', { client: zeroKey })
legacyHandshake('legacy_leading_zero_kept', 'The client keeps the zero byte: its first frame tells, and the server follows.', 'V-7', { client: zeroKey, padded: true })
{
  const c = legacy(), q = legacy({ encrypted: false })
  for (const r of [1, 2]) legacyServer(`legacy_server_reply_${r}`, `The client refuses with ${r}: no point is written.`, 'V-3 V-4', replied(r), true, [r], [])
  for (const r of [3, 9, 255]) legacyServer(`legacy_server_reply_${r}`, `A reply of ${r}, which version 2 does not have.`, 'V-3', 'handshake malformed', true, [r], [])
  legacyServer('legacy_server_point_at_once', 'The client sends its point with its reply.', 'V-4', 'ok', true, cat([0], c.client.point, [0]), c.server.point, { limit: true })
  legacyServer('legacy_server_plain_frame', 'A client with encryption off replies 0 and sends a plain frame: its first byte is no point\'s.', 'V-6', 'handshake malformed', true, [0, 0], c.server.point)
  legacyServer('legacy_server_point_compressed', 'A compressed point: its first byte is enough.', 'V-6', 'handshake malformed', true, [0, 2], c.server.point)
  legacyServer('legacy_server_point_off_curve', 'A point that is not on the curve.', 'V-3', 'handshake malformed', true, cat([0], flip(c.client.point, -1)), c.server.point)
  legacyServer('legacy_server_frames_behind', 'A frame comes behind the last byte of the handshake.', 'V-5', 'ok', false, cat([0, 0], one), q.limitMessage, { rest: one })
  legacyServer('legacy_server_full', 'The server has as many clients as it may: it ends without a byte.', 'V-11', 'handshake full', true, cat([0], c.client.point), c.server.point, { admit: 7 })
  legacyServer('legacy_server_full_plain', 'The same in plaintext.', 'V-11', 'handshake full', false, [0], [], { admit: 7 })
  legacyServer('legacy_server_cut', 'The stream ends inside the client\'s point.', 'V-3', 'handshake cut', true, cat([0], c.client.point.subarray(0, 96)), c.server.point, { then: 'end' })
  legacyServer('legacy_server_cut_end', 'The stream ends before the last byte.', 'V-3', 'handshake cut', true, cat([0], c.client.point), c.server.point, { then: 'end', limit: true })

  const malformed2 = 'handshake malformed'
  for (const b of [2, 3, 255]) legacyClient(`legacy_client_second_${b}`, `The server's second byte is ${b}.`, 'V-3', malformed2, true, [2, b], [])
  legacyClient('legacy_client_point_off_curve', 'The server\'s point is not on the curve.', 'V-3', malformed2, true, cat(c.hello, flip(c.server.point, -1)), [0])
  legacyClient('legacy_client_limit_0', 'A limit of 0.', 'V-3', malformed2, false, cat(q.hello, u32(4), u32(0)), [0])
  legacyClient('legacy_client_limit_sealed_0', 'A limit of 0, sealed well.', 'V-3', malformed2, true, cat(c.hello, c.server.point, sealed2(c.key, c.limitNonce, u32(0))), cat([0], c.client.point))
  for (const n of [0, 3, 5, 32]) legacyClient(`legacy_client_length_${n}`, `The message with the limit has a length of ${n} in plaintext.`, 'V-3', malformed2, false, cat(q.hello, u32(n)), [0])
  for (const n of [4, 31, 33]) legacyClient(`legacy_client_length_sealed_${n}`, `The message with the limit has a length of ${n}, encrypted.`, 'V-3', malformed2, true, cat(c.hello, c.server.point, u32(n)), cat([0], c.client.point))
  legacyClient('legacy_client_limit_flip', 'One bit of the sealed limit is changed.', 'V-3', notAuthentic, true, cat(c.hello, c.server.point, flip(c.limitMessage, -1)), cat([0], c.client.point))
  const z = legacy({ client: zeroKey })
  write('legacy_client_strips', {
    comment: 'The shared x-coordinate begins with a zero byte and the server kept it: the client strips, and the limit does not verify.', cites: 'V-7', test: 'legacy-client', expect: notAuthentic,
    client_encryption: 'required', client_private: zeroKey.scalar, client_limit: LIMIT, server_sends: cat(z.hello, z.server.point, sealed2(sha256(z.z), z.limitNonce, u32(LIMIT))), then: 'open',
    client_writes: cat([0], zeroKey.point), rest: NONE,
  })
  legacyClient('legacy_client_requires_encryption', 'The client requires encryption and the server has it off: it finishes the handshake, and ends then.', 'V-3', refuses(2), false, cat(q.hello, q.limitMessage), [0, 0], { encryption: 'required' })
  legacyClient('legacy_client_limit_most', 'The largest limit, and a frame behind it.', 'V-10', 'ok', false, cat(q.hello, u32(4), u32(2 ** 32 - 1), one), [0, 0], { rest: one })
  legacyClient('legacy_client_cut', 'The stream ends inside the message with the limit.', 'V-3', 'handshake cut', false, cat(q.hello, q.limitMessage.subarray(0, 7)), [0], { then: 'end' })
}
{
  const n2 = (i) => sha384('version 2', u32(i)).subarray(0, 12)
  const f = sealed2(KEY2, n2(1), body(1, 'one')), g = sealed2(KEY2, n2(2), body(2, 'two'))
  legacyReceive('legacy_frames', 'Two sealed frames. There are no numbers: they may come twice, and in any order.', 'V-8', 'ok', KEY2, cat(g, f, f), [[2, 'two'], [1, 'one'], [1, 'one']])
  legacyReceive('legacy_frames_plain', 'Two frames, and the end between frames, which is the ordinary one.', 'V-11', 'ok', NONE, cat(one, two), [[1, 'one'], [2, 'two']], undefined, { then: 'end' })
  legacyReceive('legacy_frames_end', 'The ordinary end, encrypted.', 'V-11', 'ok', KEY2, f, [[1, 'one']], undefined, { then: 'end' })
  legacyReceive('legacy_type_0', 'Type 0 is ignored, whatever its data.', 'V-8', 'ok', NONE, cat(ctl(), ctl(1), ctl(3, 0), ctl(255), one), [[1, 'one']])
  legacyReceive('legacy_type_0_sealed', 'The same, sealed.', 'V-8', 'ok', KEY2, cat(sealed2(KEY2, n2(3), body(0, [16])), f), [[1, 'one']])
  legacyReceive('legacy_type_most', 'The highest types are the user\'s. A program whose type does not hold them refuses them.', 'V-8', 'ok', NONE, cat(plainFrame(2 ** 31, 'x'), plainFrame(2 ** 32 - 1, 'y')), [[2 ** 31, 'x'], [2 ** 32 - 1, 'y']])
  legacyReceive('legacy_flip', 'One bit is changed.', 'V-11', notAuthentic, KEY2, cat(f, flip(g, 20), f), [[1, 'one']], f.length + g.length)
  legacyReceive('legacy_cut', 'The stream ends inside a frame.', 'V-11', 'frame cut-inside', NONE, cat(one, two.subarray(0, 10)), [[1, 'one']], undefined, { then: 'end' })
  legacyReceive('legacy_length_3', 'A length of 3.', 'V-10', 'frame malformed', NONE, cat(one, u32(3), two), [[1, 'one']], one.length + 4)
  legacyReceive('legacy_length_31', 'A length of 31, encrypted.', 'V-10', 'frame malformed', KEY2, cat(u32(31), zeros(31)), [], 4)
  legacyReceive('legacy_over_limit', 'One byte more than the limit.', 'V-10', 'frame malformed', NONE, plainFrame(1, n(1025)), [], 4)
}

// ---- Write or compare

const folder = dirname(fileURLToPath(import.meta.url))
const present = readdirSync(folder).filter((f) => f.endsWith('.txt'))
if (process.argv[2] === '--check') {
  const wrong = present.filter((f) => !files.has(f.slice(0, -4))).map((f) => 'too many: ' + f)
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
