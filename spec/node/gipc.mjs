// A client of the gipc protocol, version 3, in one file and with nothing but Node.js. It is there to be copied, and to be
// read beside the text: an id such as [F-5] names the sentence of ../README.md that a line follows.
//
//   import { connect } from './gipc.mjs';
//   const client = await connect({ name: 'weather' });              // see Client for the options
//   await client.write(1, 'hello');                                 // the kernel has it
//   for await (const { type, data } of client) console.log(type, data.toString());
//   await client.close();                                           // the server's program has everything
import net from 'node:net';
import { createCipheriv, createDecipheriv, createECDH, createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { isUtf8 } from 'node:buffer';
import { EventEmitter } from 'node:events';
import { statSync } from 'node:fs';
import { basename } from 'node:path';

const REKEY = 2 ** 32, LAST = 2n ** 64n - 2n, MAX_TYPE = 0x7fffffff, DEFAULT_LIMIT = 3145728;
const HELD = 1 << 20, AHEAD = 1 << 16; // bytes: unread before reading pauses, written but not yet with the kernel
const REASONS = { 1: 'the version differs', 2: 'encryption is required here, but switched off at the server', 4: 'the server requires a secret: configure it',
  5: 'a secret is configured here, but not at the server', 6: 'another secret or another name', 7: 'the server is full', 8: 'not authorised', 9: 'malformed' };

/** Every error of this file. `code` is one of: config, refuse (by us), refused (by the server), unproven, cut (in the handshake), timeout;
 *  goodbye, cut-boundary, cut-inside, malformed, not-authentic, lost [F-10]; undelivered, closed, too-large, type.
 *  `reason` is that of a refusal, `part` what was malformed: frame, type, control, close. */
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

/** The keys of one direction, its numbers and its sum. */
export class Keys {
  constructor(secret, { number = 0n, rekeyAt = REKEY } = {}) {
    Object.assign(this, { secret, number, rekeyAt, sum: 0, key: expand(secret, 'gipc/3 key', 32) });
  }
  #aad() { const b = Buffer.alloc(8); b.writeBigUInt64BE(this.number); return b; }
  #count(length) { // [R-1] [Y-1] [Y-2] [Y-3]
    this.number++;
    if ((this.sum += length) < this.rekeyAt) return;
    this.secret = expand(this.secret, 'gipc/3 update', 48);
    this.key = expand(this.secret, 'gipc/3 key', 32);
    this.sum = 0;
  }
  /** A whole frame. The last number is kept for the goodbye [R-4]. */
  seal(type, data, nonce = randomBytes(12)) {
    if (this.number > LAST || this.number === LAST && !(type === 0 && data[0] === 3)) throw new GipcError('lost', 'no numbers are left');
    const head = Buffer.alloc(20), cipher = createCipheriv('aes-256-gcm', this.key, nonce, { authTagLength: 16 }).setAAD(this.#aad());
    head.writeUInt32BE(32 + data.length);
    nonce.copy(head, 4);
    head.writeUInt32BE(type, 16);
    const frame = Buffer.concat([head.subarray(0, 16), cipher.update(head.subarray(16)), cipher.update(data), cipher.final(), cipher.getAuthTag()]);
    this.#count(frame.length - 4);
    return frame;
  }
  /** What is behind the length of a frame, opened; null where it does not verify. */
  open(body) {
    if (this.number > LAST) return null; // [R-4]
    const d = createDecipheriv('aes-256-gcm', this.key, body.subarray(0, 12), { authTagLength: 16 }).setAAD(this.#aad()).setAuthTag(body.subarray(-16)); // [R-5]
    const plain = d.update(body.subarray(12, -16));
    try { d.final(); } catch { return null; } // [R-3]
    this.#count(body.length);
    return plain;
  }
}

export function seal(keys, type, data, nonce) {
  if (keys) return keys.seal(type, data, nonce);
  const frame = Buffer.allocUnsafe(8 + data.length);
  frame.writeUInt32BE(4 + data.length);
  frame.writeUInt32BE(type, 4);
  data.copy(frame, 8);
  return frame;
}

/** Bytes that arrived. Its memory grows with them, whatever a length says [F-5]. */
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
  take(n) { // a copy, which stays good
    const bytes = Buffer.from(this.peek(n));
    if ((this.#from += n) === this.#to) { this.#from = this.#to = 0; if (this.#buf.length > AHEAD) this.#buf = Buffer.alloc(0); }
    return bytes;
  }
}

/** Makes messages of the bytes of one direction, and of control frames what concerns the connection. */
export class Receiver {
  constructor({ input = new Input(), keys = null, limit, saidGoodbye = false }) {
    Object.assign(this, { input, keys, limit, saidGoodbye, goodbye: false, answer: undefined, error: null });
  }
  #fail(code, message, part) { throw this.error = new GipcError(code, message, { part }); }
  /** The next { type, data }, null where more bytes are needed. Type 0 is a ping, a goodbye or an answer, and well-formed. */
  next() {
    if (this.error) throw this.error; // [F-9]
    for (;;) {
      if (this.input.length < 4) return null;
      const length = this.input.peek(4).readUInt32BE(), least = this.keys ? 32 : 4;
      if (length < least || length > least + this.limit) this.#fail('malformed', `length ${length} of a frame`, 'frame'); // [F-1] [F-2] [F-4]
      if (this.input.length < 4 + length) return null;
      const body = this.input.take(4 + length).subarray(4), plain = this.keys ? this.keys.open(body) : body;
      if (!plain) this.#fail('not-authentic', 'a frame does not verify');
      const type = plain.readUInt32BE(), data = plain.subarray(4);
      if (type > MAX_TYPE) this.#fail('malformed', `type ${type}`, 'type'); // [F-6]
      const kind = type === 0 && this.#control(data);
      if (kind === 4) return this.#answered(data);
      if (this.goodbye) continue; // [G-4]
      if (kind === 3) this.goodbye = true;
      if (type !== 0 || kind === 1 || kind === 3) return { type, data }; // [C-2] [C-6]
    }
  }
  #control(data) {
    const kind = data[0], length = { 1: 9, 2: 9, 3: 2, 4: 2 }[kind];
    if (data.length === 0 || kind >= 16 || length && data.length !== length) this.#fail('malformed', `a control frame of kind ${kind}`, 'control'); // [C-1] [C-3]
    return kind;
  }
  #answered(data) {
    if (!this.saidGoodbye || !this.goodbye || this.answer !== undefined) this.#fail('malformed', 'an answer that cannot be one', 'close'); // [G-7]
    this.answer = data[1] === 0 ? 0 : 1; // [G-8]
    return { type: 0, data };
  }
  /** What it means that the stream ended here. */
  eof() {
    return this.error ?? (this.input.length ? new GipcError('cut-inside', 'the stream ended inside a frame') : new GipcError('cut-boundary', 'the stream ended without a goodbye'));
  }
}

// ---- The socket ----

/** A socket whose bytes go to an Input, and which reads on after a write has failed [H-8]: `failure` says that one has. */
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
  /** Ends the connection as section 9 says: shut down, read and discard for up to 1 s, close [G-11]. */
  finish(keep = false) {
    this.discard = !keep;
    this.resume();
    this.end(); // Node closes the socket when both halves have ended
    const timer = setTimeout(() => this.destroy(), 1000);
    this.once('close', () => clearTimeout(timer));
  }
}

// ---- The handshake: section 4 ----

/** The client's side. Returns what a Connection needs; where it throws, the wire still is to be finished. */
export async function handshake(wire, { name, secret, requireEncryption, limit, key, rekeyAt, progress = () => {} }) {
  const refuse = (reason) => { wire.write(Buffer.of(reason)); throw new GipcError('refuse', REASONS[reason], { reason }); }; // [H-13]
  const refused = (reason) => { throw new GipcError('refused', `the server refuses: ${REASONS[reason] ?? `reason ${reason}`}`, { reason }); }; // [H-20]
  const version = await wire.take(1);
  if (version[0] === 0) refused((await wire.take(1))[0]); // [H-16]
  if (version[0] !== 3) refuse(1);
  const flags = await wire.take(1), encrypted = (flags[0] & 1) !== 0;
  if ((requireEncryption || secret) && !encrypted) refuse(2); // [H-10] [H-12]
  if (flags[0] & 2 && !secret) refuse(4); // [H-11]
  if (!(flags[0] & 2) && secret) refuse(5); // [H-10]
  if (flags[0] & ~3) refuse(9);
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
  let z;
  try { z = point[0] === 4 && ecdh.computeSecret(point); } catch { z = null; } // 48 bytes; it throws where a point is not on the curve
  if (!z) refuse(9); // [H-3]
  const clientHello = Buffer.concat([hello, ecdh.getPublicKey()]);
  const keys = schedule(name, secret, Buffer.concat([version, flags, limitBytes, point]), clientHello, z);
  wire.write(Buffer.concat([clientHello, keys.confirmation]));
  progress();
  const reply = (await wire.take(1))[0];
  if (reply !== 0) refused(reply);
  if (!timingSafeEqual(await wire.take(48), keys.serverConfirmation)) throw new GipcError('unproven', 'the server has not proved that it knows the secret and the name'); // [H-17] [H-18]
  return { limit, peerLimit, sending: new Keys(keys.cs, { rekeyAt }), receiving: new Keys(keys.ss, { rekeyAt }), schedule: keys };
}

// ---- A connection: sections 8 and 9 ----

/** What comes after the handshake. `to` is the application: message(m), full(), ended(error). */
export class Connection {
  #wire; #keys; #receiver; #peerLimit; #to; #pong = null; #closing = false; #said = false; #answered = false; #discarded = 0; #over = false; #heard = Date.now();
  queue = []; error = null; // writes that are not sealed; why the connection ended
  constructor(wire, { sending, receiving, limit, peerLimit }, to, keepAlive = 0) {
    this.#wire = wire; this.#keys = sending; this.#peerLimit = peerLimit; this.#to = to;
    this.#receiver = new Receiver({ input: wire.input, keys: receiving, limit });
    const ping = keepAlive && setInterval(() => this.#alive(keepAlive), keepAlive / 2).unref();
    this.done = new Promise((r) => wire.once('close', () => { clearInterval(ping); clearTimeout(this.timer); this.#end(this.#receiver.eof()); r(); }));
    wire.wake = () => { this.#heard = Date.now(); this.read(); };
    queueMicrotask(() => this.read());
  }
  get accepts() { return !this.error && !this.#closing; }
  /** Reads what is there, until the application has enough unread. */
  read() {
    if (this.#wire.discard) return;
    try {
      for (;;) {
        const full = !this.#closing && !this.#receiver.goodbye && this.#to.full();
        if (full) { this.#wire.pause(); return this.pump(); }
        const message = this.#receiver.next();
        if (!message) break;
        this.#handle(message);
      }
    } catch (e) { return this.#stop(e); }
    this.#wire.resume();
    if (this.#wire.ended) return this.#stop(this.#receiver.eof());
    this.pump();
  }
  #handle({ type, data }) {
    if (type !== 0) return this.#closing ? void (this.#discarded = 1) : this.#to.message({ type, data }); // [G-5]
    if (data[0] === 1) this.#pong = data.subarray(1); // the newest counts [C-5]
    if (data[0] !== 3) return;
    this.#limited();
    this.#end(new GipcError('goodbye', 'the server has said goodbye'));
  }
  /** Seals and writes as much as the kernel takes: a pong first [C-4], then the user's, then goodbye and answer [G-2]. */
  pump() {
    const leaving = this.#closing || this.#receiver.goodbye;
    const control = (...bytes) => this.#wire.write(seal(this.#keys, 0, Buffer.from(bytes)), () => this.pump());
    try {
      while (!this.#over && !this.#wire.failure && this.#wire.writableLength < AHEAD) {
        if (this.#pong && !this.#said) { control(2, ...this.#pong); this.#pong = null; }
        else if (this.queue.length && !this.#said) this.#send(this.queue.shift());
        else if (leaving && !this.#said) { control(3, 0); this.#said = this.#receiver.saidGoodbye = true; }
        else if (this.#receiver.goodbye && !this.#answered) { control(4, this.#discarded); this.#answered = true; } // [G-3]
        else break;
      }
    } catch (e) { return this.#stop(e); }
    if (!this.#over && this.#answered && (!this.#closing || this.#receiver.answer !== undefined)) { this.#over = true; this.#wire.finish(true); } // [G-6]
  }
  #send({ type, data, resolve, reject }) {
    if (data.length > this.#peerLimit) return reject(new GipcError('too-large', `${data.length} bytes, the server accepts ${this.#peerLimit}`)); // [F-3]
    this.#wire.write(seal(this.#keys, type, data), () => {
      this.#wire.failure ? reject(new GipcError('lost', 'the connection was lost while writing', { cause: this.#wire.failure })) : resolve();
      this.pump();
    });
  }
  #alive(interval) {
    const silent = Date.now() - this.#heard;
    if (this.#wire.isPaused() || this.#said || this.error) this.#heard = Date.now();
    else if (silent >= 2 * interval) this.#stop(new GipcError('lost', `nothing was heard for ${silent} ms`));
    else if (silent >= interval) this.#wire.write(seal(this.#keys, 0, Buffer.concat([Buffer.of(1), randomBytes(8)])));
  }
  #limited() { this.timer ??= setTimeout(() => this.#stop(new GipcError('lost', 'no answer within 5 s')), 5000); }
  #end(error) { if (!this.error) { this.error = error; this.#to.ended(error); } }
  #stop(error) { // without a goodbye [G-10]
    if (!this.#over) { this.#over = true; this.#wire.finish(); }
    this.#wire.discard = true;
    this.#end(error);
  }
  /** Says goodbye and waits. True where the server holds everything for its program [G-9]. */
  async close() {
    if (!this.#closing) { this.#closing = true; this.#limited(); this.read(); }
    await this.done;
    return this.#receiver.answer === 0;
  }
}

// ---- The client ----

const check = (ok, message) => { if (!ok) throw new GipcError('config', message); };

/** Options as given, checked: section 2. */
export function configure({ name, address, network = 'unix', secret = null, requireEncryption = true, limit = DEFAULT_LIMIT, timeout = 0, reconnect = true, keepAlive = 30000, checkOwner = true }) {
  const env = process.env, tcp = (s) => { const m = /^\[?(.*?)\]?:(\d+)$/.exec(s); return m && { host: m[1], port: +m[2] }; };
  if (name === undefined && address?.includes('/')) name = basename(address, '.sock');
  check(typeof name !== 'string' || name.isWellFormed(), 'the name is not UTF-8');
  const bytes = Buffer.from(name ?? '');
  check(bytes.length >= 1 && bytes.length <= 255 && isUtf8(bytes), 'a name has 1 to 255 bytes of UTF-8'); // [N-1]
  secret = secret === null ? null : Buffer.from(secret);
  check(!secret || secret.length >= 32 && secret.some((b) => b !== 0), 'a secret has 32 bytes or more and is not zeros alone'); // [N-2]
  check(Number.isInteger(limit) && limit >= 1024 && limit <= 2 ** 30, 'a limit is 1024 to 2^30'); // [H-2]
  if (address === undefined && network === 'tcp') address = `${env.GIPC_NETWORK_HOST || '127.0.0.1'}:${env.GIPC_NETWORK_PORT || 8100}`;
  else if (address === undefined) { check(!/[/\\\0]|^\.\.?$/.test(bytes), 'the name cannot be a file name'); address = `${env.GIPC_SOCKET_DIR || '/tmp'}/${bytes}.sock`; }
  const target = address.includes('/') ? { path: address } : tcp(address);
  check(target, 'an address is a path with a / in it, or host:port');
  return { name: bytes, secret, requireEncryption, limit, timeout, reconnect, keepAlive, target, checkOwner: checkOwner && !secret && target.path && !!process.getuid };
}

/**
 * A client, which connects by itself, and again after a loss. Emits 'status' (status, error) with the status of section 11; the error, after a
 * loss, says why [F-10].
 *
 *   name                the server's: a string, or bytes. It may be left out where the address is a path: /tmp/NAME.sock
 *   address             a path, or host:port. Left out: as section 2 says, of the name and of `network`, 'unix' or 'tcp'
 *   secret              32 bytes or more, as a Buffer
 *   requireEncryption   true; where false, the client follows the server
 *   limit               the largest data that it accepts, 3145728 unless given
 *   timeout             ms without a connection after which it gives up: status Timeout. 0: never
 *   reconnect           true; where false, it ends with the connection, or with the first attempt that fails
 *   keepAlive           ms of silence after which it pings; the server is lost after two. 30000; 0: never
 *   checkOwner          true: without a secret the socket file must be this user's or root's (section 13)
 */
export class Client extends EventEmitter {
  #o; #connection = null; #wire = null; #waiting = []; #unread = []; #bytes = 0; #wanted = []; #finished = null; #closed = null; #awake = () => {}; #first = true; #connected; #fail; #running;
  status = 'Connecting';
  constructor(options) {
    super();
    this.#o = configure(options);
    this.ready = new Promise((resolve, reject) => { this.#connected = resolve; this.#fail = reject; }); // the first connection
    this.ready.catch(() => {});
    this.#running = this.#run();
  }
  #set(status, error) { if (status !== this.status) { this.status = status; this.emit('status', status, error); } }

  async #dial() {
    const wire = this.#wire = new Wire(), { target, checkOwner } = this.#o;
    const owned = () => { if (checkOwner && ![0, process.getuid()].includes(statSync(target.path).uid)) throw new GipcError('config', `${target.path} belongs to another user`); };
    const timer = setTimeout(() => { wire.failure ??= new GipcError('timeout', 'the server was silent for 10 s'); wire.destroy(); }, 10000); // [L-5]
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
    let since = Date.now(), pause = 50;
    while (!this.#closed) {
      try {
        const made = await this.#dial();
        if (this.#closed) return this.#wire.destroy();
        const c = this.#connection = new Connection(this.#wire, made, {
          message: (m) => { this.#bytes += m.data.length + 64; this.#unread.push(m); this.#hand(); },
          full: () => this.#bytes > HELD,
          ended: (e) => { if (!this.#closed) this.#o.reconnect ? this.#set('Reconnecting', e) : this.#stop('Closed', e); },
        }, this.#o.keepAlive);
        c.queue.push(...this.#waiting.splice(0));
        const at = Date.now();
        this.#first = false;
        this.#set('Connected');
        this.#connected(this);
        await c.done;
        this.#connection = null;
        this.#waiting.unshift(...c.queue.splice(0)); // not begun: they go to the next connection
        since = Date.now();
        if (since - at > 5000) pause = 50;
      } catch (e) {
        const final = e.code === 'config' || e.code === 'refuse' && e.reason !== 9 || this.#first && (e.code === 'unproven' || e.code === 'refused' && [6, 8].includes(e.reason));
        if (final || !this.#o.reconnect) this.#stop('Closed', e);
        else if (this.#o.timeout && Date.now() + pause - since >= this.#o.timeout) this.#stop('Timeout', new GipcError('timeout', 'no connection within the time given', { cause: e }));
      }
      if (this.#finished || this.#closed) break;
      await new Promise((r) => { this.#awake = r; setTimeout(r, pause * (0.5 + Math.random() / 2)); });
      pause = Math.min(pause * 2, 5000);
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

  /** Resolves when the kernel has the message, which is no proof that anybody reads it: close() gives that. Without a connection it waits for
   *  the next. It fails where the connection is lost while the message is being written: then it may have arrived or not. */
  write(type, data = '') {
    return new Promise((resolve, reject) => {
      data = Buffer.from(data);
      if (!Number.isInteger(type) || type < 1 || type > MAX_TYPE) throw new GipcError('type', `a type is 1 to ${MAX_TYPE}`); // [F-6]
      if (this.#closed || this.#finished) throw this.#finished?.error ?? new GipcError('closed', 'the client is closed');
      const c = this.#connection?.accepts ? this.#connection : null;
      (c?.queue ?? this.#waiting).push({ type, data, resolve, reject });
      c?.pump();
    });
  }

  #hand() { // gives messages, or the end, to those who wait in the iterator
    while (this.#wanted.length && (this.#unread.length || this.#finished)) {
      const { resolve, reject } = this.#wanted.shift(), m = this.#unread.shift(), error = this.#finished?.error;
      if (m) { this.#bytes -= m.data.length + 64; resolve({ done: false, value: m }); if (this.#bytes <= HELD && this.#connection) queueMicrotask(() => this.#connection?.read()); }
      else error && error.code !== 'goodbye' ? reject(error) : resolve({ done: true, value: undefined });
    }
  }
  /** The messages of all connections, in order. After close() it gives those that had arrived, and ends; it throws where the client gave up. */
  [Symbol.asyncIterator]() {
    return { next: () => new Promise((resolve, reject) => { this.#wanted.push({ resolve, reject }); this.#hand(); }), return: async () => ({ done: true, value: undefined }) };
  }

  /** Writes what was accepted, says goodbye and waits for the answer, 5 s at most. Fails with code undelivered where the server did not say that it
   *  holds everything for its program. */
  close() { return this.#closed ??= this.#close(); }
  async #close() {
    await null; // #closed is set
    if (this.#finished) return void await this.#running;
    this.#set('Closing');
    this.#awake();
    const c = this.#connection, ok = c ? await c.close() : (this.#wire?.destroy(), true);
    await this.#running;
    this.#stop('Closed');
    if (!ok) throw new GipcError('undelivered', 'the server has not said that it holds everything');
  }
}

/** A client that is connected, or an error. */
export function connect(options) { return new Client(options).ready; }
