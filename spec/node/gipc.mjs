// A client of the gipc protocol, version 3, in one file, without dependencies. Copy it, or read it beside the text: an id such
// as [F-5] names the sentence of ../README.md that a line implements.
//
//   import { connect } from './gipc.mjs';
//   const client = await connect({ name: 'weather' });              // see Client for the options
//   await client.write(1, 'hello');                                 // the kernel has accepted it
//   const reply = await client.call(2, 'how are you?');             // a request: { type, data } of the reply
//   for await (const { type, data } of client) console.log(type, data.toString());
//   await client.close();                                           // the server's program has received every message
import net from 'node:net';
import crypto, { createCipheriv, createDecipheriv, createECDH, createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { isUtf8 } from 'node:buffer';
import { EventEmitter } from 'node:events';
import { lstatSync, statSync } from 'node:fs';
import { basename } from 'node:path';

const REKEY = 2 ** 32, LAST = 2n ** 64n - 2n, MAX_TYPE = 0x7fffffff, REPLY = 2n ** 63n, DEFAULT_LIMIT = 3145728;
const LARGE = 16384, RECORD = 65536, PATIENCE = 10000; // the last in ms, the others in bytes: data that has a record of its own, the most plaintext of a record of frames
const UNREAD = 1 << 20, AHEAD = 1 << 16; // bytes: unread messages that stop reading, written bytes that the kernel has not accepted
const REASONS = { 1: 'the version differs', 2: 'encryption is required here, but switched off at the server', 4: 'the server requires a secret: configure it',
  5: 'a secret is configured here, but not at the server', 6: 'secret or name differs', 7: 'the server has reached its client limit', 8: 'not authorized', 9: 'malformed' };

/** Every error of this file. `code` is one of: config, refuse (by the client), refused (by the server), unproven, cut (truncated in the handshake),
 *  timeout; goodbye (the server has closed), cut-boundary and cut-inside (truncated at the end of a frame, inside one), malformed, not-authentic,
 *  lost [F-10]; undelivered, closed, too-large, type. A call fails with unsent, if the server cannot have handled the request, or with unknown, if it may
 *  have [Q-6]: `cause` says why, with one of the codes above, or timeout, aborted, closed. A reply fails with replied if it is the second one. `reason` is that of a refusal, `part` what was malformed: record,
 *  frame, type, id, control, close. */
export class GipcError extends Error {
  constructor(code, message, more = {}) { super(`gipc: ${message}`, { cause: more.cause }); Object.assign(this, { code }, more); }
}

// ---- Keys and frames: sections 3, 5, 6 and 7 ----

const hmac = (key, ...parts) => { const h = createHmac('sha384', key); for (const p of parts) h.update(p); return h.digest(); };
const expand = (secret, info, length, th = '') => hmac(secret, info, th, '\x01').subarray(0, length); // HKDF-Expand of at most one block

/** All of section 5, of the bytes that went over the wire [K-2]. */
export function schedule(name, secret, serverHello, clientHello, z) {
  const length = Buffer.from([name.length >> 8, name.length]);
  const th = createHash('sha384').update('gipc/3').update(length).update(name).update(serverHello).update(clientHello).digest();
  const master = hmac(expand(hmac(Buffer.alloc(48), secret ?? Buffer.alloc(48)), 'gipc/3 derived', 48), z); // [K-1] [K-4]
  const [ck, sk, cs, ss] = ['client confirm', 'server confirm', 'client traffic', 'server traffic'].map((s) => expand(master, `gipc/3 ${s}`, 48, th));
  const confirmation = hmac(ck, th);
  return { th, ck, sk, cs, ss, confirmation, serverConfirmation: hmac(sk, th, confirmation) };
}

/** The keys of one direction, its sequence numbers and its sum. */
export class Keys {
  constructor(secret, { sequence = 0n, rekeyAt = REKEY } = {}) {
    Object.assign(this, { secret, sequence, rekeyAt, sum: 0, key: expand(secret, 'gipc/3 key', 32) });
  }
  #aad() { const b = Buffer.alloc(8); b.writeBigUInt64BE(this.sequence); return b; }
  #count(length) { // [R-1] [Y-1] [Y-2] [Y-3]
    this.sequence++;
    if ((this.sum += length) < this.rekeyAt) return;
    this.secret = expand(this.secret, 'gipc/3 update', 48);
    this.key = expand(this.secret, 'gipc/3 key', 32);
    this.sum = 0;
  }
  /** A whole record with this plaintext. */
  seal(plain, nonce = randomBytes(12)) { // [R-2]
    if (this.sequence > LAST) throw new GipcError('lost', 'the sequence numbers are exhausted'); // [R-4]
    const head = Buffer.alloc(16), cipher = createCipheriv('aes-256-gcm', this.key, nonce, { authTagLength: 16 }).setAAD(this.#aad());
    head.writeUInt32BE(28 + plain.length);
    nonce.copy(head, 4);
    this.#count(28 + plain.length);
    return Buffer.concat([head, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
  }
  /** The plaintext of a record, given what follows its length, or null if it is not authentic. */
  open(sealed) {
    if (this.sequence > LAST) return null; // [R-4]
    const d = createDecipheriv('aes-256-gcm', this.key, sealed.subarray(0, 12), { authTagLength: 16 }).setAAD(this.#aad()).setAuthTag(sealed.subarray(-16)); // [R-5]
    const plain = d.update(sealed.subarray(12, -16));
    try { d.final(); } catch { return null; } // [R-3] [R-10]
    this.#count(sealed.length);
    return plain;
  }
}

/** The head of a frame: length, the user's type, and the id of a request or a reply. */
export function head(type, size, id) {
  const b = Buffer.allocUnsafe(id === undefined ? 8 : 16);
  b.writeUInt32BE(b.length - 4 + size);
  b.writeUInt32BE(id === undefined ? type : MAX_TYPE + 1 + type, 4);
  if (id !== undefined) b.writeBigUInt64BE(id, 8);
  return b;
}

/** The type of a frame, the size of its head, and that of its data, checked as far as the bytes are there [F-4]. Null if type or length is incomplete. */
export function parseHead(bytes, limit) {
  const bad = (what, part) => { throw new GipcError('malformed', what, { part }); };
  if (bytes.length < 4) return null;
  const length = bytes.readUInt32BE();
  if (length < 4 || length > 12 + limit) bad(`length ${length} of a frame`, 'frame'); // [F-1] [F-2]
  if (bytes.length < 8) return null;
  const type = bytes.readUInt32BE(4), size = type > MAX_TYPE ? 16 : 8, data = length + 4 - size;
  if (type === MAX_TYPE + 1) bad(`type ${type}`, 'type'); // [F-6]
  if (data < 0 || data > limit) bad(`length ${length} of a frame of type ${type}`, 'frame'); // [F-1] [F-2]
  return { type, size, data };
}

/** Bytes that have arrived. Its memory grows with them and not with a length field [F-5]. */
export class Input {
  #buf = Buffer.alloc(0); #from = 0; #to = 0;
  get length() { return this.#to - this.#from; }
  push(bytes) {
    if (this.#to + bytes.length > this.#buf.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(4096, this.length + bytes.length, this.length * 2));
      this.#to = this.#buf.copy(grown, 0, this.#from, this.#to);
      [this.#buf, this.#from] = [grown, 0];
    }
    this.#to += bytes.copy(this.#buf, this.#to);
  }
  peek(n) { return this.#buf.subarray(this.#from, this.#from + n); }
  take(n) { // a copy, which later bytes do not overwrite
    const bytes = Buffer.from(this.peek(n));
    if ((this.#from += n) === this.#to) { this.#from = this.#to = 0; if (this.#buf.length > AHEAD) this.#buf = Buffer.alloc(0); }
    return bytes;
  }
}

/** Makes messages, requests, replies and control frames of the bytes of one direction. */
export class Receiver {
  #requests = 0n; #plain = Buffer.alloc(0); #due = null; // what is left of an open record of frames; the head of a large frame whose data is the next record
  constructor({ input = new Input(), keys = null, limit, sentClose = false }) {
    Object.assign(this, { input, keys, limit, sentClose, closed: false, ack: undefined, error: null });
  }
  #fail(code, message, part) { throw this.error = new GipcError(code, message, { part }); }
  /** The next { type, data }, or null if it needs more bytes. Type 0 is a ping, a close or a close-ack, and well-formed. A request has its number in
   *  `request`, and a reply has that of its request in `reply`. */
  next() {
    if (this.error) throw this.error; // [F-9]
    for (let frame; (frame = this.keys ? this.#opened() : this.#plaintext());) {
      const { type, data } = frame, kind = type === 0 && this.#control(data);
      if (kind === 4) return this.#acknowledged(data);
      if (this.closed) continue; // [G-4]
      if (kind === 3) this.closed = true;
      if (type !== 0 || kind === 1 || kind === 3) return frame; // [C-2] [C-6]
    }
    return null;
  }
  #head(bytes) { try { return parseHead(bytes, this.limit); } catch (e) { throw this.error = e; } }
  #complete(head, bytes, data) {
    if (head.type <= MAX_TYPE) return { type: head.type, data };
    const id = bytes.readBigUInt64BE(8), type = head.type - MAX_TYPE - 1;
    if (id === REPLY) this.#fail('malformed', 'a reply to request 0', 'id'); // [Q-1]
    if (id > REPLY) return { type, data, reply: id - REPLY };
    if (id !== ++this.#requests) this.#fail('malformed', `request ${id} instead of ${this.#requests}`, 'id'); // [Q-1]
    return { type, data, request: id };
  }
  #plaintext() {
    const head = this.#head(this.input.peek(Math.min(8, this.input.length)));
    if (!head || this.input.length < head.size + head.data) return null;
    const bytes = this.input.take(head.size + head.data);
    return this.#complete(head, bytes, bytes.subarray(head.size));
  }
  /** The next frame of the records. The frames before a fault are returned before it throws [R-7]. */
  #opened() {
    for (;;) {
      if (this.#plain.length) {
        const plain = this.#plain, head = this.#head(plain), large = head?.data >= LARGE;
        if (!head || plain.length < head.size + (large ? 0 : head.data)) this.#fail('malformed', 'a record ends inside a frame', 'record'); // [R-7]
        if (large && plain.length > head.size) this.#fail('malformed', 'a record continues after the head of a large frame', 'record'); // [R-7]
        this.#plain = plain.subarray(head.size + (large ? 0 : head.data));
        const frame = this.#complete(head, plain, large ? null : Buffer.from(plain.subarray(head.size, head.size + head.data)));
        if (!large) return frame;
        this.#due = frame;
        this.#due.length = head.data;
      }
      if (this.input.length < 4) return null;
      const n = this.input.peek(4).readUInt32BE() - 28, due = this.#due;
      if (due ? n !== due.length : n < 8 || n > RECORD) this.#fail('malformed', `length ${n + 28} of a record`, 'record'); // [R-6] [R-9]
      if (this.input.length < 32 + n) return null;
      const plain = this.keys.open(this.input.take(32 + n).subarray(4));
      if (!plain) this.#fail('not-authentic', 'a record is not authentic');
      if (due) { this.#due = null; return { ...due, data: plain }; }
      this.#plain = plain;
    }
  }
  #control(data) {
    const kind = data[0], length = { 1: 9, 2: 9, 3: 2, 4: 2 }[kind];
    if (data.length === 0 || kind >= 16 || length && data.length !== length) this.#fail('malformed', `a control frame of kind ${kind}`, 'control'); // [C-1] [C-3]
    return kind;
  }
  #acknowledged(data) {
    if (!this.sentClose || !this.closed || this.ack !== undefined) this.#fail('malformed', 'an unexpected close-ack', 'close'); // [G-7]
    this.ack = data[1] === 0 ? 0 : 1; // [G-8]
    return { type: 0, data };
  }
  /** What it means that the stream ended here [F-10]. */
  eof() {
    return this.error ?? (this.input.length || this.#due ? new GipcError('cut-inside', 'the stream ended inside a frame') : new GipcError('cut-boundary', 'the stream ended without a close'));
  }
}

// ---- The socket ----

/** A socket whose bytes go to an Input. It reads on after a write has failed [H-8]; `failure` is the error of that write. */
export class Wire extends net.Socket {
  constructor() {
    super({ allowHalfOpen: true, onread: { buffer: Buffer.alloc(1 << 16), callback: (n, b) => { this.#got(b.subarray(0, n)); return true; } } });
    Object.assign(this, { input: new Input(), ended: false, failure: null, discard: false, wake: () => {} });
    const end = () => { this.ended = true; this.wake(); };
    this.on('end', end).on('close', end).on('error', (e) => { this.failure ??= e; });
  }
  _write(data, encoding, done) { super._write(data, encoding, (e) => { this.failure ??= e; done(); }); }
  _writev(chunks, done) { super._writev(chunks, (e) => { this.failure ??= e; done(); }); }
  #got(bytes) { if (!this.discard) this.input.push(bytes); this.wake(); }
  async take(n) {
    while (this.input.length < n) {
      if (this.ended) throw new GipcError('cut', 'the stream ended in the handshake', { cause: this.failure });
      await new Promise((r) => { this.wake = r; });
    }
    return this.input.take(n);
  }
  /** Ends the connection as section 10 says: shut down, read and discard for up to 1 s, close [G-11]. */
  finish() {
    this.discard = true;
    if (this.destroyed) return;
    this.resume();
    this.end(); // Node closes the socket when both halves have ended
    const timer = setTimeout(() => this.destroy(), 1000);
    this.once('close', () => clearTimeout(timer));
  }
}

// ---- The handshake: section 4 ----

const KEM_KEY = 1568, SPKI = Buffer.from('30820632300b06096086480165030404030382062100', 'hex'); // bytes of an encapsulation key; its prefix in a SubjectPublicKeyInfo

/** Encapsulates to an encapsulation key of ML-KEM-1024 with new randomness [H-22]. Null if this Node.js has no ML-KEM: before version 24.7. */
const mlkem = (() => {
  const encapsulate = (key) => {
    const { ciphertext, sharedKey } = crypto.encapsulate({ key: Buffer.concat([SPKI, key]), format: 'der', type: 'spki' });
    return { ciphertext, secret: sharedKey };
  };
  try { encapsulate(Buffer.alloc(KEM_KEY)); return encapsulate; } catch { return null; } // zeros are a valid key
})();

/** Reports whether every coefficient of an encapsulation key is below the modulus: FIPS 203, section 7.2 [H-23]. */
function isReduced(key) {
  for (let i = 0; i < 1536; i += 3) { const two = key.readUIntLE(i, 3); if ((two & 0xfff) >= 3329 || two >> 12 >= 3329) return false; }
  return true;
}

/** The client's side. Returns the parameters of a Connection. If it throws, the caller finishes the wire. Tests give `key`, `rekeyAt` and `kem`, which
 *  replaces mlkem and is null for a client without ML-KEM. */
export async function handshake(wire, { name, secret, requireEncryption, limit, key, rekeyAt, kem = mlkem, progress = () => {} }) {
  const refuse = (reason) => { wire.write(Buffer.of(reason)); throw new GipcError('refuse', REASONS[reason], { reason }); }; // [H-13]
  const refused = (reason) => { throw new GipcError('refused', `the server refuses: ${REASONS[reason] ?? `reason ${reason}`}`, { reason }); }; // [H-20]
  const version = await wire.take(1);
  if (version[0] === 0) refused((await wire.take(1))[0]); // [H-16]
  if (version[0] !== 3) refuse(1);
  const flags = await wire.take(1), encrypted = (flags[0] & 1) !== 0;
  if ((requireEncryption || secret) && !encrypted) refuse(2); // [H-10] [H-12]
  if (flags[0] & 2 && !secret) refuse(4); // [H-11]
  if (!(flags[0] & 2) && secret) refuse(5); // [H-10]
  if (flags[0] & ~7 || flags[0] & 4 && !encrypted) refuse(9);
  const limitBytes = await wire.take(4), peerLimit = limitBytes.readUInt32BE();
  if (peerLimit < 1024 || peerLimit > 2 ** 30) refuse(9); // [H-2]
  const hello = Buffer.alloc(6);
  hello[1] = flags[0];
  hello.writeUInt32BE(limit, 2);
  if (!encrypted) {
    wire.write(hello);
    progress();
    const reply = (await wire.take(1))[0];
    if (reply !== 0) refused(reply);
    return { limit, peerLimit, sending: null, receiving: null };
  }
  const point = await wire.take(97), ecdh = createECDH('secp384r1');
  key ? ecdh.setPrivateKey(key) : ecdh.generateKeys(); // [H-4]
  let x;
  try { x = point[0] === 4 && ecdh.computeSecret(point); } catch { x = null; } // 48 bytes; it throws if the point is not on the curve
  if (!x) refuse(9); // [H-3]
  const kemKey = await wire.take(flags[0] & 4 ? KEM_KEY : 0), hybrid = kemKey.length > 0 && kem !== null;
  if (hybrid && !isReduced(kemKey)) refuse(9); // [H-23]
  const encapsulated = hybrid ? kem(kemKey) : { ciphertext: Buffer.alloc(0), secret: Buffer.alloc(0) };
  if (!hybrid) hello[1] &= ~4; // [H-21]
  const clientHello = Buffer.concat([hello, ecdh.getPublicKey(), encapsulated.ciphertext]);
  const keys = schedule(name, secret, Buffer.concat([version, flags, limitBytes, point, kemKey]), clientHello, Buffer.concat([x, encapsulated.secret])); // [K-2]
  wire.write(Buffer.concat([clientHello, keys.confirmation]));
  progress();
  const reply = (await wire.take(1))[0];
  if (reply !== 0) refused(reply);
  if (!timingSafeEqual(await wire.take(48), keys.serverConfirmation)) throw new GipcError('unproven', 'the confirmation of the server does not match: its secret or its name differs'); // [H-17] [H-18]
  return { limit, peerLimit, sending: new Keys(keys.cs, { rekeyAt }), receiving: new Keys(keys.ss, { rekeyAt }), schedule: keys };
}

// ---- A connection: sections 8 to 10 ----

/** A request that waits for its reply: it settles a promise of { type, data }. */
export class Call {
  #settle; #late; sent = false; over = false; // sent: it is in a record
  constructor(type, data) { Object.assign(this, { type, data, reply: new Promise((resolve, reject) => { this.#settle = { resolve, reject }; }) }); }
  #end() { clearTimeout(this.#late); this.over = true; this.forget?.(); }
  resolve(reply) { if (!this.over) { this.#end(); this.#settle.resolve(reply); } }
  reject(cause) { // [Q-6]
    if (this.over) return;
    this.#end();
    const [code, what] = this.sent ? ['unknown', 'the request was sent, and there is no reply'] : ['unsent', 'the request was not sent'];
    this.#settle.reject(['too-large', 'type'].includes(cause.code) ? cause : new GipcError(code, `${what}: ${cause.message}`, { cause }));
  }
  /** The connection reads, or has stopped reading [Q-8]. */
  stopped(paused) {
    clearTimeout(this.#late);
    if (paused && !this.over) this.#late = setTimeout(() => this.reject(new GipcError('timeout', 'the reply is behind messages that were not read within 10 s')), PATIENCE);
  }
}

/** What comes after the handshake. `to` is the application: message(m), full(), ended(error). A request is a message with a number and reply(). */
export class Connection {
  #wire; #keys; #receiver; #peerLimit; #to; #pong = null; #closing = false; #acknowledged = false; #discarded = 0; #over = false; #gone = false; #sent = false; #sealed = false;
  #active = Date.now(); #timers = {};
  #requests = 0n; #calls = new Map(); // the number of the last request; open requests that are in a record, by number
  unasked = 0; // replies that nobody waits for [Q-4]
  queue = []; error = null; // messages, requests and replies that are not in a record yet; why the connection ended. #sealed: the close is in a record
  constructor(wire, { sending, receiving, limit, peerLimit }, to, keepAlive = 0) {
    this.#wire = wire; this.#keys = sending; this.#peerLimit = peerLimit; this.#to = to;
    this.#receiver = new Receiver({ input: wire.input, keys: receiving, limit });
    if (keepAlive) this.#timers.alive = setInterval(() => this.#alive(keepAlive), keepAlive / 2).unref();
    this.done = new Promise((r) => wire.once('close', () => {
      this.#gone = true;
      this.read(); // delivers the frames that have arrived
      Object.values(this.#timers).forEach(clearInterval);
      this.#end(this.#receiver.eof());
      this.#failCalls(this.error);
      r();
    }));
    wire.wake = () => { this.#active = Date.now(); this.read(); }; // [C-7]
    queueMicrotask(() => this.read());
  }
  get accepts() { return !this.error && !this.#closing; }
  /** Handles the frames that have arrived, until the application has too many bytes unread. */
  read() {
    if (this.#wire.discard) return;
    try {
      for (;;) {
        if (!this.#gone && !this.#closing && !this.#receiver.closed && this.#to.full()) { this.#paused(true); return this.pump(); }
        const frame = this.#receiver.next();
        if (!frame) break;
        this.#handle(frame);
      }
    } catch (e) { return this.#stop(e); }
    this.#paused(false);
    if (this.#receiver.closed) this.#receiver.sentClose = true; // accepted: pump() writes it behind the queue [G-7]
    if (this.#wire.ended) return this.#stop(this.#receiver.eof());
    this.pump();
  }
  #paused(paused) { // a side that does not read pings once a second [C-4]
    paused ? this.#wire.pause() : this.#wire.resume();
    if (paused !== !!this.#timers.paused) for (const call of this.#open()) call.stopped(paused); // [Q-8]
    if (!paused) { if (this.#timers.paused) this.#active = Date.now(); clearInterval(this.#timers.paused); this.#timers.paused = null; } // [C-7]
    else this.#timers.paused ??= setInterval(() => { if (this.#wire.writableLength === 0) this.#ping(); }, 1000);
  }
  #handle({ type, data, request, reply }) {
    if (reply !== undefined) { // also while closing: [Q-5] [Q-6]
      const call = this.#calls.get(reply);
      return call ? call.resolve({ type, data }) : void this.unasked++; // [Q-4]
    }
    if (type !== 0) {
      if (this.#closing) return void (this.#discarded = 1); // [G-5]
      return this.#to.message(request === undefined ? { type, data } : { type, data, number: request, reply: this.#replier(request) });
    }
    if (data[0] === 1) this.#pong = data.subarray(1); // the newest counts [C-5]
    if (data[0] !== 3) return;
    this.#within(5000);
    const goodbye = new GipcError('goodbye', 'the server has closed the connection');
    this.#end(goodbye);
    this.#failCalls(goodbye); // no reply follows [Q-6]
  }
  #open() { return [...this.#calls.values(), ...this.queue.filter((m) => m instanceof Call)]; }
  #failCalls(error) {
    const open = this.#open();
    this.queue = this.queue.filter((m) => !(m instanceof Call));
    for (const call of open) call.reject(error);
  }
  /** The function that answers a request, once, on this connection [Q-3]. */
  #replier(number) {
    let replied = false;
    return (type, data = '') => new Promise((resolve, reject) => {
      data = checked(type, data);
      if (replied) throw new GipcError('replied', 'the request has a reply');
      if (!this.accepts) throw this.error ?? new GipcError('closed', 'the client is closed');
      if (data.length > this.#peerLimit) throw tooLarge(data, this.#peerLimit);
      replied = true;
      this.add({ type, data, id: REPLY + number, resolve, reject });
    });
  }
  /** Accepts a message, a reply or a Call for sending. What is accepted in one tick shares a record [R-8]. */
  add(m) {
    if (m instanceof Call && this.#timers.paused) m.stopped(true);
    if (this.queue.push(m) === 1) queueMicrotask(() => this.pump());
  }
  /** Seals and writes as many frames as the kernel accepts. */
  pump() {
    try {
      while (!this.#over && !this.#wire.failure && this.#wire.writableLength < AHEAD && this.#write());
    } catch (e) { return this.#stop(e); }
    if (this.#over || !this.#acknowledged) return;
    if (this.#receiver.ack !== undefined) { this.#over = true; this.#wire.finish(); } // [G-6]
    else if (!this.#closing && !this.#wire.writableEnded) this.#wire.end(); // nothing is left to write; the close-ack may still arrive [G-2]
  }
  /** Writes one record with the pending frames that fit, and the data of a large one in the next record [R-7] [R-8] [R-9]. In plaintext it writes the
   *  same frames. Returns false if nothing is pending. */
  #write() {
    const parts = [], messages = [];
    let size = 0, large = null;
    const add = (type, data, id) => { const h = head(type, data.length, id); parts.push(h, data); size += h.length + data.length; };
    const control = (...bytes) => add(0, Buffer.from(bytes));
    const fits = (data) => size + 16 + (data < LARGE ? data : 0) <= RECORD; // 16: the longest head
    while (!large && fits(9)) { // the longest control frame that it writes
      if (this.#pong && !this.#sealed) { control(2, ...this.#pong); this.#pong = null; } // ahead of messages [C-4]
      else if (this.queue.length && !this.#sealed) {
        const m = this.queue[0];
        if (!fits(m.data.length)) break;
        this.queue.shift();
        if (m.over) continue; // given up [Q-7]
        if (m.data.length > this.#peerLimit) { m.reject(tooLarge(m.data, this.#peerLimit)); continue; } // [F-3]
        messages.push(m);
        if (m instanceof Call) this.#number(m);
        if (m.data.length < LARGE) add(m.type, m.data, m.id);
        else { parts.push(head(m.type, m.data.length, m.id)); large = m.data; }
      } else if ((this.#closing || this.#receiver.closed) && !this.#sealed) { control(3, 0); this.#sealed = true; } // [G-1]
      else if (this.#receiver.closed && !this.#acknowledged) { control(4, this.#discarded); this.#acknowledged = true; } // [G-3]
      else break;
    }
    if (!parts.length) return false;
    this.#sent ||= messages.length > 0;
    const sealed = (plain) => this.#keys?.seal(plain) ?? plain;
    const written = () => {
      const failure = this.#wire.failure && new GipcError('lost', 'the connection was lost while writing', { cause: this.#wire.failure });
      for (const m of messages) failure ? m.reject(failure) : m instanceof Call || m.resolve();
      this.pump();
    };
    try {
      const records = [sealed(Buffer.concat(parts))];
      if (large) records.push(sealed(large));
      this.#wire.cork();
      records.forEach((r, i) => this.#wire.write(r, i === records.length - 1 ? written : undefined));
      this.#wire.uncork();
    } catch (e) { for (const m of messages) m.reject(e); throw e; }
    return true;
  }
  #number(call) { // in the order of writing [Q-1]
    const number = call.id = ++this.#requests;
    this.#calls.set(number, call);
    Object.assign(call, { sent: true, forget: () => this.#calls.delete(number) });
  }
  #ping() {
    const plain = Buffer.concat([head(0, 9), Buffer.of(1), randomBytes(8)]);
    try { if (!this.#over && !this.#sealed) this.#wire.write(this.#keys?.seal(plain) ?? plain); } catch (e) { this.#stop(e); }
  }
  #alive(interval) {
    const idle = Date.now() - this.#active;
    if (this.#wire.isPaused() || this.#receiver.sentClose || this.error) this.#active = Date.now();
    else if (idle >= 2 * interval) this.#stop(new GipcError('lost', `nothing was received for ${idle} ms`));
    else if (idle >= interval) this.#ping();
  }
  #within(ms) { this.#timers.close ??= setTimeout(() => this.#stop(new GipcError('lost', `no close-ack within ${ms / 1000} s`)), ms); }
  #end(error) { if (!this.error) { this.error = error; this.#to.ended(error); } }
  #stop(error) { // writes no close [G-10]
    if (!this.#over) { this.#over = true; this.#wire.finish(); }
    this.#wire.discard = true;
    this.#end(error);
    this.#failCalls(error); // [Q-6]
  }
  /** Closes, and waits for the end. True if no message, request or reply was sent, or if the server has received all of them for its application [G-6] [G-9]. */
  async close() {
    if (!this.#closing) {
      this.#closing = this.#receiver.sentClose = true; // [G-7]
      this.#within(this.#idle ? 1000 : 5000);
      this.read();
    }
    await this.done;
    return this.#idle || this.#receiver.ack === 0;
  }
  get #idle() { return !this.#sent && !this.queue.some((m) => !m.over); }
}

// ---- The client ----

/** Whether only this user can reach what is in a directory: section 2. */
function isPrivate(directory) {
  try { const s = lstatSync(directory); return s.isDirectory() && s.uid === process.geteuid() && (s.mode & 0o777) === 0o700; } catch { return false; }
}

const tooLarge = (data, limit) => new GipcError('too-large', `${data.length} bytes, the server accepts ${limit}`);

/** The data to send, as bytes, of a type that may be sent [F-6]. */
function checked(type, data) {
  if (!Number.isInteger(type) || type < 1 || type > MAX_TYPE) throw new GipcError('type', `a type is 1 to ${MAX_TYPE}`);
  return Buffer.from(data);
}

const check = (ok, message) => { if (!ok) throw new GipcError('config', message); };

/** Options as given, checked: section 2. Tests give `rekeyAt`. */
export function configure({ name, address, network = 'unix', secret = null, requireEncryption = true, limit = DEFAULT_LIMIT, timeout = 0, reconnect = true, keepAlive = 30000, checkOwner = true, rekeyAt }) {
  const env = process.env, tcp = (s) => { const m = /^\[?(.*?)\]?:(\d+)$/.exec(s); return m && { host: m[1], port: +m[2] }; };
  if (name === undefined && address?.includes('/')) name = basename(address, '.sock');
  check(typeof name !== 'string' || name.isWellFormed(), 'the name is not UTF-8');
  const bytes = Buffer.from(name ?? '');
  check(bytes.length >= 1 && bytes.length <= 255 && isUtf8(bytes), 'a name has 1 to 255 bytes of UTF-8'); // [N-1]
  secret = secret === null ? null : Buffer.from(secret);
  check(!secret || secret.length >= 32 && secret.some((b) => b !== 0), 'a secret has 32 bytes or more and is not zeros alone'); // [N-2]
  check(Number.isInteger(limit) && limit >= 1024 && limit <= 2 ** 30, 'a limit is 1024 to 2^30'); // [H-2]
  const parsed = (a) => a.includes('/') ? { path: a } : tcp(a);
  let targets;
  if (address !== undefined) targets = [parsed(address)];
  else if (network === 'tcp') targets = [parsed(`${env.GIPC_NETWORK_HOST || '127.0.0.1'}:${env.GIPC_NETWORK_PORT || 8100}`)];
  else {
    check(!/[/\\\0]|^\.\.?$/.test(bytes), 'the name cannot be a file name');
    const own = process.geteuid && `/tmp/gipc-${process.geteuid()}`; // searched first; it must be this user's alone
    targets = env.GIPC_SOCKET_DIR ? [{ path: `${env.GIPC_SOCKET_DIR}/${bytes}.sock` }] : [...own ? [{ path: `${own}/${bytes}.sock`, directory: own }] : [], { path: `/tmp/${bytes}.sock` }];
  }
  check(targets[0], 'an address is a path with a / in it, or host:port');
  return { name: bytes, secret, requireEncryption, limit, timeout, reconnect, keepAlive, targets, checkOwner: checkOwner && !secret && !!process.geteuid, rekeyAt };
}

/**
 * A client connects, and reconnects when a connection ends. It emits 'status' (status, error) with the status of section 12. The error is why a
 * connection ended [F-10].
 *
 *   name                the server's: a string, or bytes. Optional if the address is a path, which then ends in NAME.sock
 *   address             a path, or host:port. The default follows from the name and `network`, 'unix' or 'tcp': section 2
 *   secret              32 bytes or more, as a Buffer
 *   requireEncryption   true; if false, the client follows the server
 *   limit               the largest data that it accepts; 3145728
 *   timeout             ms without a connection after which it gives up: status Timeout. 0: never
 *   reconnect           true; if false, the client ends with the connection, or with the first attempt that fails
 *   keepAlive           ms without received bytes after which it pings; the server is lost after two. 30000; 0: never
 *   checkOwner          true: without a secret the socket file must be this user's or root's (section 14)
 */
export class Client extends EventEmitter {
  #o; #connection = null; #wire = null; #waiting = []; #unread = []; #bytes = 0; #wanted = []; #finished = null; #closed = null; #awake = () => {}; #first = true; #connected; #fail; #running; #handler = null; #unasked = 0;
  status = 'Connecting';
  constructor(options) {
    super();
    this.#o = configure(options);
    this.ready = new Promise((resolve, reject) => { this.#connected = resolve; this.#fail = reject; }); // the first connection
    this.ready.catch(() => {});
    this.#running = this.#run();
  }
  #set(status, error) { if (status !== this.status) { this.status = status; this.emit('status', status, error); } }

  async #dial() { // the targets in their order; a missing socket, or one without a server, is skipped
    for (const target of this.#o.targets.filter((t) => !t.directory || isPrivate(t.directory))) {
      try { return await this.#connect(target); } catch (e) {
        if (target === this.#o.targets.at(-1) || this.#closed || !['ENOENT', 'ECONNREFUSED'].includes((e.cause ?? e).code)) throw e;
      }
    }
  }
  async #connect(target) {
    const wire = this.#wire = new Wire(), checkOwner = this.#o.checkOwner && target.path;
    const owned = () => { if (checkOwner && ![0, process.geteuid()].includes(statSync(target.path).uid)) throw new GipcError('config', `${target.path} belongs to another user`); };
    const timer = setTimeout(() => { wire.failure ??= new GipcError('timeout', 'nothing was received for 30 s'); wire.destroy(); }, 30000); // [L-5]
    try {
      owned();
      await new Promise((resolve, reject) => { wire.once('connect', resolve).once('close', () => reject(wire.failure ?? new GipcError('cut', 'the client was closed while connecting'))); wire.connect(target); });
      owned();
      wire.setNoDelay(true);
      timer.refresh();
      return await handshake(wire, { ...this.#o, progress: () => timer.refresh() });
    } catch (e) { wire.connecting || wire.pending ? wire.destroy() : wire.finish(); throw e; } finally { clearTimeout(timer); }
  }

  async #run() {
    let since = Date.now(), backoff = 50;
    while (!this.#closed) {
      try {
        const made = await this.#dial();
        if (this.#closed) return this.#wire.destroy();
        const c = this.#connection = new Connection(this.#wire, made, {
          message: (m) => { if (m.reply && this.#handler) return void this.#answer(m); this.#bytes += m.data.length + 64; this.#unread.push(m); this.#hand(); }, // [C-4]
          full: () => this.#bytes > UNREAD,
          ended: (e) => { if (!this.#closed) this.#o.reconnect ? this.#set('Reconnecting', e) : this.#stop('Closed', e); },
        }, this.#o.keepAlive);
        for (const m of this.#waiting.splice(0)) c.add(m);
        const at = Date.now();
        this.#first = false;
        this.#set('Connected');
        this.#connected(this);
        await c.done;
        this.#connection = null;
        this.#unasked += c.unasked;
        const gone = c.error;
        for (const m of c.queue.splice(0).reverse()) m.id === undefined ? this.#waiting.unshift(m) : m.reject(gone); // not sent: messages go to the next connection
        since = Date.now();
        if (since - at > 5000) backoff = 50;
      } catch (e) {
        const final = e.code === 'config' || e.code === 'refuse' && e.reason !== 9 || this.#first && (e.code === 'unproven' || e.code === 'refused' && [6, 8].includes(e.reason));
        if (final || !this.#o.reconnect) this.#stop('Closed', e);
        else if (this.#o.timeout && Date.now() + backoff - since >= this.#o.timeout) this.#stop('Timeout', new GipcError('timeout', 'no connection within the time given', { cause: e }));
      }
      if (this.#finished || this.#closed) break;
      await new Promise((r) => { this.#awake = r; setTimeout(r, backoff * (0.5 + Math.random() / 2)); });
      backoff = Math.min(backoff * 2, 5000);
    }
    const gone = this.#finished?.error ?? new GipcError('closed', 'the client is closed');
    for (const w of this.#waiting.splice(0)) w.reject(gone);
  }
  #stop(status, error) {
    this.#finished ??= { error };
    this.#fail(error ?? new GipcError('closed', 'the client is closed'));
    this.#set(status, error);
    this.#hand();
  }

  /** Resolves when the kernel has accepted the message. Only close() reports that the server has received it. Without a connection the message waits
   *  for the next one. It fails if the connection is lost while the message is being written: whether it has arrived is not known. */
  write(type, data = '') { return new Promise((resolve, reject) => this.#accept({ type, data: checked(type, data), resolve, reject })); }
  #accept(m) {
    if (this.#closed || this.#finished) throw this.#finished?.error ?? new GipcError('closed', 'the client is closed');
    this.#connection?.accepts ? this.#connection.add(m) : this.#waiting.push(m);
  }

  /** Sends a request, and resolves to the reply: { type, data }. Without a connection the request waits for the next one. `timeout` in ms, and `signal`, an
   *  AbortSignal, limit the wait; the server learns nothing of that [Q-7]. It fails with code unsent or unknown if there is no reply. */
  async call(type, data = '', { timeout = 0, signal } = {}) {
    const call = new Call(type, checked(type, data));
    const give = (cause) => { call.reject(cause); for (const list of [this.#waiting, this.#connection?.queue]) if (list?.includes(call)) list.splice(list.indexOf(call), 1); };
    const aborted = () => give(new GipcError('aborted', 'the signal was aborted', { cause: signal.reason }));
    if (signal?.aborted) aborted(); else try { this.#accept(call); } catch (e) { call.reject(e); }
    const timer = timeout && setTimeout(() => give(new GipcError('timeout', `no reply within ${timeout} ms`)), timeout);
    signal?.addEventListener('abort', aborted);
    try { return await call.reply; } finally { clearTimeout(timer); signal?.removeEventListener('abort', aborted); }
  }

  /** Has a function answer the requests of the server, which otherwise come out of the iterator among the messages, each with a method reply(type, data).
   *  It gets { type, data, reply }. What it returns, or the promise that it returns resolves to, is the reply: data, of the type of the request, or
   *  { type, data }. Undefined is no reply: the handler has called reply() itself, or the request stays unanswered [Q-7]. It does not wait for messages that
   *  have not been read [Q-2]. An error of the handler is an unhandled rejection. */
  onRequest(handler) {
    this.#handler = handler;
    const earlier = this.#unread.filter((m) => m.reply);
    this.#unread = this.#unread.filter((m) => !m.reply);
    for (const m of earlier) { this.#taken(m); this.#answer(m); }
  }
  async #answer(m) {
    const reply = await this.#handler(m), { type, data } = typeof reply === 'string' || ArrayBuffer.isView(reply) ? { type: m.type, data: reply } : reply ?? {};
    if (reply !== undefined) m.reply(type ?? m.type, data).catch((e) => { if (['type', 'too-large', 'replied'].includes(e.code)) throw e; }); // else the connection is over
  }
  #taken(m) { // the application has it
    this.#bytes -= m.data.length + 64;
    if (this.#bytes <= UNREAD && this.#connection) queueMicrotask(() => this.#connection?.read());
  }

  /** How many replies were ignored because nobody waited for them [Q-4]. */
  get unasked() { return this.#unasked + (this.#connection?.unasked ?? 0); }

  #hand() { // settles the pending promises of the iterator
    while (this.#wanted.length && (this.#unread.length || this.#finished)) {
      const { resolve, reject } = this.#wanted.shift(), m = this.#unread.shift(), error = this.#finished?.error;
      if (m) { this.#taken(m); resolve({ done: false, value: m }); }
      else error && error.code !== 'goodbye' ? reject(error) : resolve({ done: true, value: undefined });
    }
  }
  /** The messages of all connections, in order. After close() it yields those that had arrived, and ends. It throws if the client gave up. */
  [Symbol.asyncIterator]() {
    return { next: () => new Promise((resolve, reject) => { this.#wanted.push({ resolve, reject }); this.#hand(); }), return: async () => ({ done: true, value: undefined }) };
  }

  /** Writes the messages that were accepted, closes, and waits for the close-ack, 5 s at most. Fails with code undelivered if messages were sent and
   *  the server did not acknowledge that its program has received them. */
  close() { return this.#closed ??= this.#close(); }
  async #close() {
    await null; // #closed is set
    if (this.#finished) return void await this.#running;
    this.#set('Closing');
    this.#awake();
    const c = this.#connection, ok = c ? await c.close() : (this.#wire?.destroy(), true);
    await this.#running;
    this.#stop('Closed');
    if (!ok) throw new GipcError('undelivered', 'the server has not acknowledged all messages');
  }
}

/** A client that is connected, or an error. */
export function connect(options) { return new Client(options).ready; }
