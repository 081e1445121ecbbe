// ML-KEM-1024, from the text of FIPS 203 (August 2024) and with nothing but the
// hash functions of Node.js (20 or later). It is for test vectors: it is
// deterministic and does not run in constant time. Never use it for real keys.
//
// Functions have the names of the standard's algorithms. A polynomial, or its
// NTT representation, is an Int32Array of 256 coefficients from 0 to q - 1.

import { createHash } from 'node:crypto'

// ---- Parameters: section 8, table 2

const n = 256
const q = 3329
const k = 4
const eta = 2 // eta1 and eta2
const du = 11
const dv = 5

export const ENCAPSULATION_KEY_SIZE = 384 * k + 32
export const DECAPSULATION_KEY_SIZE = 768 * k + 96
export const CIPHERTEXT_SIZE = 32 * (du * k + dv)

// ---- Hash functions: section 4.1

const hash = (name, parts, options) => {
  const h = createHash(name, options)
  for (const p of parts) h.update(p)
  return h.digest()
}
const H = (...parts) => hash('sha3-256', parts)
const J = (...parts) => hash('shake256', parts, { outputLength: 32 })
const G = (...parts) => {
  const out = hash('sha3-512', parts)
  return [out.subarray(0, 32), out.subarray(32)]
}
const PRF = (s, b) => hash('shake256', [s, [b]].map((p) => Buffer.from(p)), { outputLength: 64 * eta })
const XOF = (size, ...parts) => hash('shake128', parts, { outputLength: size })

// ---- Conversion and compression: section 4.2.1

// Equations 4.7 and 4.8, Compress_d and Decompress_d. They round half up; & and >> round down.
const compress = (d, f) => f.map((x) => (((x << (d + 1)) + q) / (2 * q)) & ((1 << d) - 1))
const decompress = (d, f) => f.map((y) => (2 * q * y + (1 << d)) >> (d + 1))

// Algorithm 5, ByteEncode_d. The bits of each coefficient are in little-endian order.
function byteEncode(d, f) {
  const out = Buffer.alloc(32 * d)
  let bits = 0, count = 0, at = 0
  for (const x of f) {
    bits |= x << count
    for (count += d; count >= 8; count -= 8) {
      out[at++] = bits & 255
      bits >>= 8
    }
  }
  return out
}

// Algorithm 6, ByteDecode_d. With 12 bits a coefficient is reduced modulo q.
function byteDecode(d, bytes) {
  const f = new Int32Array(n)
  const mask = (1 << d) - 1
  const modulus = d < 12 ? 1 << d : q
  let bits = 0, count = 0, at = 0
  for (let i = 0; i < n; i++) {
    for (; count < d; count += 8) bits |= bytes[at++] << count
    f[i] = (bits & mask) % modulus
    bits >>= d
    count -= d
  }
  return f
}

// ---- Sampling: section 4.2.2

// Algorithm 7, SampleNTT. The output of the XOF is computed again, twice as long,
// if it is too short. This happens to one polynomial of about a hundred.
function sampleNTT(...seed) {
  const a = new Int32Array(n)
  for (let size = 504; ; size *= 2) {
    const C = XOF(size, ...seed)
    for (let at = 0, j = 0; at < size; at += 3) {
      const d1 = C[at] + 256 * (C[at + 1] % 16)
      const d2 = (C[at + 1] >> 4) + 16 * C[at + 2]
      if (d1 < q) a[j++] = d1
      if (d2 < q && j < n) a[j++] = d2
      if (j === n) return a
    }
  }
}

// Algorithm 8, SamplePolyCBD_2: four bits of the input for each coefficient.
function samplePolyCBD(bytes) {
  const f = new Int32Array(n)
  for (let i = 0; i < n; i++) {
    const b = bytes[i >> 1] >> (4 * (i % 2))
    const x = (b & 1) + (b >> 1 & 1)
    const y = (b >> 2 & 1) + (b >> 3 & 1)
    f[i] = (x - y + q) % q
  }
  return f
}

// ---- The number-theoretic transform: section 4.3

const bitRev7 = (i) => {
  let r = 0
  for (let bit = 0; bit < 7; bit++) r |= (i >> bit & 1) << (6 - bit)
  return r
}
const power = (e) => { // 17 ** e mod q
  let x = 1
  for (; e > 0; e--) x = x * 17 % q
  return x
}
// The tables of appendix A: the powers of 17 that NTT and BaseCaseMultiply use.
const zetas = Int32Array.from({ length: 128 }, (_, i) => power(bitRev7(i)))
const gammas = Int32Array.from({ length: 128 }, (_, i) => power(2 * bitRev7(i) + 1))

// Algorithm 9, NTT.
function NTT(f) {
  f = f.slice()
  for (let len = 128, i = 1; len >= 2; len /= 2) {
    for (let start = 0; start < n; start += 2 * len) {
      const zeta = zetas[i++]
      for (let j = start; j < start + len; j++) {
        const t = zeta * f[j + len] % q
        f[j + len] = (f[j] - t + q) % q
        f[j] = (f[j] + t) % q
      }
    }
  }
  return f
}

// Algorithm 10, the inverse of NTT.
function inverseNTT(f) {
  f = f.slice()
  for (let len = 2, i = 127; len <= 128; len *= 2) {
    for (let start = 0; start < n; start += 2 * len) {
      const zeta = zetas[i--]
      for (let j = start; j < start + len; j++) {
        const t = f[j]
        f[j] = (t + f[j + len]) % q
        f[j + len] = zeta * (f[j + len] - t + q) % q
      }
    }
  }
  return f.map((x) => x * 3303 % q) // 3303 is the inverse of 128
}

// Algorithm 11, MultiplyNTTs, with algorithm 12, BaseCaseMultiply, in its loop.
function multiplyNTTs(f, g) {
  const h = new Int32Array(n)
  for (let i = 0; i < 128; i++) {
    const a0 = f[2 * i], a1 = f[2 * i + 1], b0 = g[2 * i], b1 = g[2 * i + 1]
    h[2 * i] = (a0 * b0 + a1 * b1 % q * gammas[i]) % q
    h[2 * i + 1] = (a0 * b1 + a1 * b0) % q
  }
  return h
}

// ---- Vectors of polynomials: section 2.4

const indices = [0, 1, 2, 3] // from 0 to k - 1
const add = (f, g) => f.map((x, i) => (x + g[i]) % q)
const subtract = (f, g) => f.map((x, i) => (x - g[i] + q) % q)
const dot = (u, v) => indices.map((i) => multiplyNTTs(u[i], v[i])).reduce(add)
const encodeVector = (d, v) => Buffer.concat(v.map((f) => byteEncode(d, f)))
const decodeVector = (d, bytes) => indices.map((i) => byteDecode(d, bytes.subarray(32 * d * i)))

// The entry of the matrix A in row i and column j.
const entry = (rho, i, j) => sampleNTT(rho, Buffer.of(j, i))

// ---- The encryption scheme K-PKE: section 5

// Algorithm 13, K-PKE.KeyGen.
function pkeKeyGen(d) {
  const [rho, sigma] = G(d, Buffer.of(k))
  const s = indices.map((i) => NTT(samplePolyCBD(PRF(sigma, i))))
  const e = indices.map((i) => NTT(samplePolyCBD(PRF(sigma, k + i))))
  const t = indices.map((i) => add(dot(indices.map((j) => entry(rho, i, j)), s), e[i]))
  return [Buffer.concat([encodeVector(12, t), rho]), encodeVector(12, s)]
}

// Algorithm 14, K-PKE.Encrypt.
function pkeEncrypt(ek, m, r) {
  const t = decodeVector(12, ek)
  const rho = ek.subarray(384 * k, 384 * k + 32)
  const y = indices.map((i) => NTT(samplePolyCBD(PRF(r, i))))
  const e1 = indices.map((i) => samplePolyCBD(PRF(r, k + i)))
  const e2 = samplePolyCBD(PRF(r, 2 * k))
  const u = indices.map((i) => add(inverseNTT(dot(indices.map((j) => entry(rho, j, i)), y)), e1[i])) // A transposed
  const mu = decompress(1, byteDecode(1, m))
  const v = add(add(inverseNTT(dot(t, y)), e2), mu)
  return Buffer.concat([encodeVector(du, u.map((f) => compress(du, f))), byteEncode(dv, compress(dv, v))])
}

// Algorithm 15, K-PKE.Decrypt.
function pkeDecrypt(dk, c) {
  const u = decodeVector(du, c).map((f) => decompress(du, f))
  const v = decompress(dv, byteDecode(dv, c.subarray(32 * du * k)))
  const w = subtract(v, inverseNTT(dot(decodeVector(12, dk), u.map(NTT))))
  return byteEncode(1, compress(1, w))
}

// ---- ML-KEM: section 6, and the check of section 7.2

// keyGen is algorithm 16, ML-KEM.KeyGen_internal.
export function keyGen(d, z) {
  want('d', d, 32)
  want('z', z, 32)
  const [ek, dk] = pkeKeyGen(d)
  return { encapsulationKey: ek, decapsulationKey: Buffer.concat([dk, ek, H(ek), z]) }
}

// encapsulate is algorithm 17, ML-KEM.Encaps_internal. It does not check the key
// beyond its size: see checkEncapsulationKey.
export function encapsulate(ek, m) {
  want('ek', ek, ENCAPSULATION_KEY_SIZE)
  want('m', m, 32)
  const [secret, r] = G(m, H(ek))
  return { secret, ciphertext: pkeEncrypt(ek, m, r) }
}

// decapsulate is algorithm 18, ML-KEM.Decaps_internal. For a ciphertext that does
// not belong to the key it returns a secret that only the owner of dk can compute.
export function decapsulate(dk, c) {
  want('dk', dk, DECAPSULATION_KEY_SIZE)
  want('c', c, CIPHERTEXT_SIZE)
  const ek = dk.subarray(384 * k, 768 * k + 32)
  const h = dk.subarray(768 * k + 32, 768 * k + 64)
  const z = dk.subarray(768 * k + 64)
  const m = pkeDecrypt(dk, c)
  const [secret, r] = G(m, h)
  return pkeEncrypt(ek, m, r).equals(c) ? secret : J(z, c)
}

// checkEncapsulationKey reports whether ek has the right size and only
// coefficients less than q: the type check and the modulus check of section 7.2.
export function checkEncapsulationKey(ek) {
  if (ek.length !== ENCAPSULATION_KEY_SIZE) return false
  return encodeVector(12, decodeVector(12, ek)).equals(ek.subarray(0, 384 * k))
}

function want(name, bytes, size) {
  if (bytes.length !== size) throw new RangeError(`${name} has ${bytes.length} bytes, want ${size}`)
}
