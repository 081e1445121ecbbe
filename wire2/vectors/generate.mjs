// Writes the vectors of this folder, from the text of ../README.md and with
// nothing but Node.js (20 or later). It shares no code with what it tests.
//
//   node generate.mjs           writes every file
//   node generate.mjs --check   fails if a file differs, is missing, or is not generated

import { createCipheriv, createECDH, createHash } from 'node:crypto'
import { readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

// ---- Bytes

const bytes = (p) => (typeof p === 'string' ? Buffer.from(p, 'latin1') : Buffer.from(p))
const concat = (...parts) => Buffer.concat(parts.map(bytes))
const hex = (s) => Buffer.from(s, 'hex')
const show = (b) => (b.length === 0 ? '-' : Buffer.from(b).toString('hex'))
const zeros = (n) => Buffer.alloc(n)
const u32 = (n) => { const b = zeros(4); b.writeUInt32BE(n); return b }
const hash = (algorithm, ...parts) => createHash(algorithm).update(concat(...parts)).digest()

function flipBit(b, index) {
  const changed = Buffer.from(b)
  changed[index < 0 ? b.length + index : index] ^= 1
  return changed
}

// ---- Keys

const NONE = zeros(0)
const LIMIT = 3145728

function keyPair(scalar) {
  const ecdh = createECDH('secp384r1')
  ecdh.setPrivateKey(scalar)
  return {
    scalar, point: ecdh.getPublicKey(),
    sharedX(point) {
      const x = ecdh.computeSecret(point)
      return concat(zeros(48 - x.length), x)
    },
  }
}

const serverKey = keyPair(hex('0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30'))
const clientKey = keyPair(hex('3132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60'))

// The first client key after clientKey whose shared x-coordinate begins with a zero byte.
const leadingZeroKey = (() => {
  for (let i = 0; ; i++) {
    const key = keyPair(concat(clientKey.scalar.subarray(0, 44), u32(i)))
    if (key.sharedX(serverKey.point)[0] === 0) return key
  }
})()

function stripZeros(x) {
  let i = 0
  while (x[i] === 0) i++
  return x.subarray(i)
}

// ---- Frames. Nonces are derived from labels, so that the files do not change.

const nonceFor = (...label) => hash('sha384', ...label).subarray(0, 12)
const body = (type, data) => concat(u32(type), data)
const plainFrame = (type, data) => concat(u32(4 + bytes(data).length), body(type, data))

function sealed(key, nonce, plaintext) {
  const c = createCipheriv('aes-256-gcm', key, nonce)
  return concat(u32(plaintext.length + 28), nonce, c.update(plaintext), c.final(), c.getAuthTag())
}

// ---- Files

const files = new Map()

function write(name, fields) {
  if (files.has(name)) throw new Error('duplicate: ' + name)
  let text = ''
  for (const [key, value] of Object.entries(fields)) {
    for (const v of Array.isArray(value) ? value : [value]) text += `${key}: ${typeof v === 'object' ? show(v) : v}\n`
  }
  files.set(name, text)
}

// ---- Scenarios

// The messages of a handshake and the key of the connection.
function conversation(options = {}) {
  const c = { encrypted: true, client: clientKey, serverLimit: LIMIT, ...options }
  c.hello = [2, c.encrypted ? 1 : 0]
  c.limitNonce = c.encrypted ? nonceFor('the limit') : NONE
  c.limitMessage = concat(u32(4), u32(c.serverLimit))
  if (c.encrypted) {
    c.sharedX = serverKey.sharedX(c.client.point)
    c.key = hash('sha256', stripZeros(c.sharedX))
    c.limitMessage = sealed(c.key, c.limitNonce, u32(c.serverLimit))
  }
  return c
}

const ordinary = [['client', 1, 'hello'], ['server', 2, 'hello, too'], ['client', 3, 'again'], ['server', 4, 'and again']]

function handshake(name, comment, cites, options = {}) {
  const c = conversation(options)
  const clientsKey = options.unstripped ? hash('sha256', c.sharedX) : c.key
  const frames = (options.frames ?? ordinary).map(([sender, type, data], i) => {
    const nonce = c.encrypted ? nonceFor(name, sender, u32(i)) : NONE
    const wire = c.encrypted ? sealed(clientsKey, nonce, body(type, data)) : plainFrame(type, data)
    return `${sender} ${type} ${show(bytes(data))} ${show(nonce)} ${show(wire)}`
  })
  write(name, {
    comment, cites, test: 'handshake', expect: 'ok', encryption: c.encrypted ? 'on' : 'off',
    server_private: c.encrypted ? serverKey.scalar : NONE, client_private: c.encrypted ? c.client.scalar : NONE,
    server_limit: c.serverLimit, shared_x: c.sharedX ?? NONE, key: c.key ?? NONE, client_key: clientsKey ?? NONE,
    server_hello: concat(c.hello), client_reply: concat([0]), server_point: c.encrypted ? serverKey.point : NONE, client_point: c.encrypted ? c.client.point : NONE,
    limit_nonce: c.limitNonce, limit_message: c.limitMessage, client_end: concat([0]), frame: frames,
  })
}

function server(name, comment, cites, expect, encrypted, sends, writes, more = {}) {
  const c = conversation({ encrypted })
  write(name, {
    comment, cites, test: 'server', expect, encryption: encrypted ? 'on' : 'off', server_private: encrypted ? serverKey.scalar : NONE, server_limit: c.serverLimit,
    admit: more.refused ? 'no' : 'yes', client_sends: concat(sends), then: more.then ?? 'open', server_writes: concat(c.hello, writes), limit_key: more.limit ? c.key : NONE, rest: more.rest ?? NONE,
  })
}

function client(name, comment, cites, expect, encrypted, sends, writes, more = {}) {
  write(name, {
    comment, cites, test: 'client', expect, encryption: more.encryption ?? (encrypted ? 'required' : 'follow'), client_private: encrypted ? (more.key ?? clientKey).scalar : NONE,
    server_sends: concat(sends), then: more.then ?? 'open', client_writes: concat(writes), rest: more.rest ?? NONE,
  })
}

function receive(name, comment, cites, expect, key, stream, delivers, failsAfter, then = 'open') {
  write(name, {
    comment, cites, test: 'receive', expect, key, limit: 1024, stream: concat(stream), then,
    delivers: delivers.map(([type, data]) => `${type} ${show(bytes(data))}`), fails_after: failsAfter ?? '-',
  })
}

// ---- Handshakes and the frames after them

handshake('plain', 'Plaintext.', 'V-4 V-5', { encrypted: false })
handshake('encrypted', 'Encrypted.', 'V-4 V-5 V-7')
handshake('limits', 'A limit that version 3 does not have, and data of that size.', 'V-10', { serverLimit: 5, frames: [['client', 1, '12345'], ['server', 1, '12345'], ['client', 2, ''], ['server', 2, '']] })
handshake('leading_zero', 'The shared x-coordinate begins with a zero byte, and the client strips it.', 'V-7', { client: leadingZeroKey })
handshake('leading_zero_kept', 'The client hashes the zero byte: its first frame shows that, and the server uses the same key from then on.', 'V-7', { client: leadingZeroKey, unstripped: true })

// ---- The server against clients

const malformed = 'handshake malformed', truncated = 'handshake truncated', notAuthentic = 'frame not-authentic'
const first = plainFrame(1, 'one'), second = plainFrame(2, 'two')
{
  const c = conversation(), plain = conversation({ encrypted: false }), point = c.client.point
  server('server_reply_1', 'The client refuses with 1: no point is written.', 'V-3 V-4', 'handshake refused 1', true, [1], [])
  server('server_reply_2', 'The client refuses with 2: no point is written.', 'V-3 V-4', 'handshake refused 2', true, [2], [])
  for (const r of [3, 9, 255]) server(`server_reply_${r}`, `A reply of ${r}, which version 2 does not have.`, 'V-3', malformed, true, [r], [])
  server('server_point_at_once', 'The client sends its point together with its reply.', 'V-4', 'ok', true, concat([0], point, [0]), serverKey.point, { limit: true })
  server('server_plain_frame', 'A client with encryption off replies 0 and sends a plaintext frame: the first byte cannot begin a point.', 'V-6', malformed, true, [0, 0], serverKey.point)
  server('server_point_compressed', 'A compressed point is refused at its first byte.', 'V-6', malformed, true, [0, 2], serverKey.point)
  server('server_point_off_curve', 'A point that is not on the curve.', 'V-3', malformed, true, concat([0], flipBit(point, -1)), serverKey.point)
  server('server_frames_behind', 'A frame arrives together with the last byte of the handshake.', 'V-5', 'ok', false, concat([0, 0], first), plain.limitMessage, { rest: first })
  server('server_full', 'The server has reached its client limit: it ends the stream without the message with the limit.', 'V-11', 'handshake full', true, concat([0], point), serverKey.point, { refused: true })
  server('server_full_plain', 'The same in plaintext.', 'V-11', 'handshake full', false, [0], [], { refused: true })
  server('server_cut', 'The stream ends inside the client\'s point.', 'V-3', truncated, true, concat([0], point.subarray(0, 96)), serverKey.point, { then: 'end' })
  server('server_cut_end', 'The stream ends before the last byte of the handshake.', 'V-3', truncated, true, concat([0], point), serverKey.point, { then: 'end', limit: true })
}

// ---- The client against servers
{
  const c = conversation(), plain = conversation({ encrypted: false }), replied = concat([0], clientKey.point)
  for (const b of [2, 3, 255]) client(`client_second_${b}`, `The server's second byte is ${b}.`, 'V-3', malformed, true, [2, b], [])
  client('client_point_off_curve', 'The server\'s point is not on the curve.', 'V-3', malformed, true, concat(c.hello, flipBit(serverKey.point, -1)), [0])
  client('client_limit_0', 'A limit of 0.', 'V-3', malformed, false, concat(plain.hello, u32(4), u32(0)), [0])
  client('client_limit_sealed_0', 'A limit of 0, sealed correctly.', 'V-3', malformed, true, concat(c.hello, serverKey.point, sealed(c.key, c.limitNonce, u32(0))), replied)
  for (const n of [0, 3, 5, 32]) client(`client_length_${n}`, `The message with the limit has a length of ${n} in plaintext.`, 'V-3', malformed, false, concat(plain.hello, u32(n)), [0])
  for (const n of [4, 31, 33]) client(`client_length_sealed_${n}`, `The message with the limit has a length of ${n}, encrypted.`, 'V-3', malformed, true, concat(c.hello, serverKey.point, u32(n)), replied)
  client('client_limit_flip', 'One bit of the sealed limit is changed.', 'V-3', notAuthentic, true, concat(c.hello, serverKey.point, flipBit(c.limitMessage, -1)), replied)
  const z = conversation({ client: leadingZeroKey })
  client('client_strips', 'The shared x-coordinate begins with a zero byte and the server hashes it: the client strips it, so the limit is not authentic.', 'V-7', notAuthentic, true,
    concat(z.hello, serverKey.point, sealed(hash('sha256', z.sharedX), z.limitNonce, u32(LIMIT))), concat([0], leadingZeroKey.point), { key: leadingZeroKey })
  client('client_requires_encryption', 'The client requires encryption and the server has it off: the client completes the handshake before it ends the connection.', 'V-3', 'handshake refuse 2', false, concat(plain.hello, plain.limitMessage), [0, 0], { encryption: 'required' })
  client('client_limit_most', 'The largest limit, and a frame after it.', 'V-10', 'ok', false, concat(plain.hello, u32(4), u32(2 ** 32 - 1), first), [0, 0], { rest: first })
  client('client_cut', 'The stream ends inside the message with the limit.', 'V-3', truncated, false, concat(plain.hello, plain.limitMessage.subarray(0, 7)), [0], { then: 'end' })
}

// ---- Frames of a peer
{
  const key = hash('sha256', 'a key of version 2')
  const nonce = (i) => nonceFor('version 2', u32(i))
  const control = (...data) => plainFrame(0, data)
  const one = sealed(key, nonce(1), body(1, 'one')), two = sealed(key, nonce(2), body(2, 'two'))
  receive('frames', 'Encrypted frames have no numbers: they may arrive twice and in any order.', 'V-8', 'ok', key, concat(two, one, one), [[2, 'two'], [1, 'one'], [1, 'one']])
  receive('frames_plain', 'Two frames and the end of the stream between frames, which is the ordinary end.', 'V-11', 'ok', NONE, concat(first, second), [[1, 'one'], [2, 'two']], undefined, 'end')
  receive('frames_end', 'The ordinary end, encrypted.', 'V-11', 'ok', key, one, [[1, 'one']], undefined, 'end')
  receive('type_0', 'Type 0 is ignored, with any data.', 'V-8', 'ok', NONE, concat(control(), control(1), control(3, 0), control(255), first), [[1, 'one']])
  receive('type_0_sealed', 'The same, sealed.', 'V-8', 'ok', key, concat(sealed(key, nonce(3), body(0, [16])), one), [[1, 'one']])
  receive('type_most', 'The largest type that a program of version 3 can receive.', 'V-8', 'ok', NONE, concat(plainFrame(2 ** 31 - 1, 'x')), [[2 ** 31 - 1, 'x']])
  receive('type_over', 'A type above 2147483647, which version 3 has for requests.', 'V-8', 'frame malformed', NONE, concat(first, plainFrame(2 ** 31, 'x')), [[1, 'one']], first.length + 8)
  receive('type_over_sealed', 'The same, sealed.', 'V-8', 'frame malformed', key, concat(one, sealed(key, nonce(4), body(2 ** 32 - 1, 'y')), two), [[1, 'one']], one.length + 37)
  receive('flip', 'One bit is changed.', 'V-11', notAuthentic, key, concat(one, flipBit(two, 20), one), [[1, 'one']], one.length + two.length)
  receive('cut', 'The stream ends inside a frame.', 'V-11', 'frame truncated', NONE, concat(first, second.subarray(0, 10)), [[1, 'one']], undefined, 'end')
  receive('cut_sealed', 'The same, sealed.', 'V-11', 'frame truncated', key, concat(one, two.subarray(0, 38)), [[1, 'one']], undefined, 'end')
  receive('length_3', 'A length of 3.', 'V-10', 'frame malformed', NONE, concat(first, u32(3), second), [[1, 'one']], first.length + 4)
  receive('length_31', 'A length of 31, encrypted.', 'V-10', 'frame malformed', key, concat(u32(31), zeros(31)), [], 4)
  receive('length_most', 'The largest length there is: a sum with it exceeds 32 bits.', 'V-10', 'frame malformed', key, u32(2 ** 32 - 1), [], 4)
  receive('over_limit', 'One byte more than the limit.', 'V-10', 'frame malformed', NONE, plainFrame(1, zeros(1025)), [], 4)
  receive('at_limit', 'Data of the largest size.', 'V-10', 'ok', key, sealed(key, nonce(5), body(1, zeros(1024))), [[1, zeros(1024)]])
}

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
