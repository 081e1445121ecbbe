// The client of gipc.mjs under `gipc conform`: what cmd/gipc/CONFORM.md requires.
//   gipc conform -- node spec/node/conform.mjs
import { readFileSync } from 'node:fs';
import { Client, GipcError } from './gipc.mjs';

const { GIPC_CONFORM_NETWORK, GIPC_CONFORM_ADDRESS, GIPC_CONFORM_NAME, GIPC_CONFORM_SECRET_FILE, GIPC_CONFORM_ENCRYPTION, GIPC_CONFORM_LIMIT,
  GIPC_CONFORM_RECONNECT, GIPC_CONFORM_REKEY_AT } = process.env;
const options = {
  name: GIPC_CONFORM_NAME, address: GIPC_CONFORM_ADDRESS, network: GIPC_CONFORM_NETWORK,
  secret: GIPC_CONFORM_SECRET_FILE ? readFileSync(GIPC_CONFORM_SECRET_FILE) : null,
  requireEncryption: GIPC_CONFORM_ENCRYPTION !== 'follow',
  limit: +GIPC_CONFORM_LIMIT,
  reconnect: GIPC_CONFORM_RECONNECT === '1',
  ...GIPC_CONFORM_REKEY_AT && { rekeyAt: +GIPC_CONFORM_REKEY_AT },
};
const CLOSE = 1000, CALL = 1001, GIVE_UP = 1002, BURST = 1003, TOO_LARGE = 1004, AGAIN = 1005, NOTHING = 1006, NO_REPLY = 1010;
const EXIT = { refused: 10, refuse: 11, unproven: 12, cut: 13, goodbye: 20, 'cut-boundary': 21, 'cut-inside': 22, malformed: 23, 'not-authentic': 24, undelivered: 30 };
const print = (line) => process.stdout.write(`${line}\n`);
const ended = () => {}; // a write that fails: the end of the connection is reported by the iterator

/** Sends a request of message 1001 or 1002, and its reply as a message. */
async function call(client, data, timeout) {
  try {
    const reply = await client.call(1, data, { timeout });
    client.write(reply.type, reply.data).catch(ended);
  } catch (e) {
    print(`call ${e.code}`);
    if (timeout) client.write(GIVE_UP).catch(ended);
  }
}

async function burst(client, count, size) {
  for (let i = 0, last; i < count; i++) {
    last = client.write(1, Buffer.alloc(size, i));
    last.catch(ended);
    if (i % 16 === 15) await last;
  }
}

async function tooLarge(client, size) {
  try { await client.write(1, Buffer.alloc(size)); } catch (e) { if (e.code === 'too-large') print('too-large'); }
  client.write(TOO_LARGE).catch(ended);
}

/** Handles messages until one requests a close. Returns that one. */
async function handle(client) {
  for await (const { type, data, reply } of client) {
    print(`${reply ? 'request' : 'message'} ${type} ${data.length}`);
    if (reply) { if (type !== NO_REPLY) reply(type, data).catch(ended); continue; }
    if (type === CLOSE || type === AGAIN) return type;
    if (type === CALL) call(client, data, 0);
    else if (type === GIVE_UP) call(client, data, 100);
    else if (type === BURST) await burst(client, data.readUInt32BE(0), data.readUInt32BE(4));
    else if (type === TOO_LARGE) await tooLarge(client, data.readUInt32BE(0));
    else if (type !== NOTHING) client.write(type, data).catch(ended);
  }
  throw new GipcError('goodbye', 'the server has closed'); // the iterator ends without an error
}

/** One client, until it has closed. Its errors are those that ended the connection. */
async function once() {
  const client = new Client(options);
  client.on('status', (status) => { if (status === 'Connected') print('connected'); });
  let message;
  try { message = await handle(client); } catch (e) {
    await client.close(); // waits until the connection has ended
    throw e;
  }
  await client.close();
  return message;
}

try {
  while (await once() === AGAIN);
} catch (e) {
  console.error(e);
  process.exitCode = EXIT[e.code] ?? 1;
}
