// Tests of spec/vectors/mlkem.mjs, which is written from the text of FIPS 203,
// against the ML-KEM-1024 of the standard library.

package repotest

import (
	"bytes"
	"context"
	"crypto/mlkem"
	"crypto/rand"
	"encoding/json"
	"math/big"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"example.com/gipc/internal/testutil"
)

// nodeMLKEMScript reads a mlkemRequest from each line of its input and writes a mlkemResponse for it.
const nodeMLKEMScript = `
import { createInterface } from 'node:readline';
import { keyGen, encapsulate, decapsulate, checkEncapsulationKey } from './mlkem.mjs';
const fromBase64 = (key, value) => (typeof value === 'string' ? Buffer.from(value, 'base64') : value);
for await (const line of createInterface({ input: process.stdin })) {
  const { d, z, m, ciphertexts, keys } = JSON.parse(line, fromBase64);
  const { encapsulationKey, decapsulationKey } = keyGen(d, z);
  const { secret, ciphertext } = encapsulate(encapsulationKey, m);
  console.log(JSON.stringify({
    key: encapsulationKey.toString('base64'),
    secret: secret.toString('base64'),
    ciphertext: ciphertext.toString('base64'),
    secrets: ciphertexts.map((c) => decapsulate(decapsulationKey, c).toString('base64')),
    valid: keys.map(checkEncapsulationKey),
  }));
}
`

type mlkemRequest struct {
	D           []byte   `json:"d"`
	Z           []byte   `json:"z"`
	M           []byte   `json:"m"`           // to encapsulate to the key of d and z
	Ciphertexts [][]byte `json:"ciphertexts"` // to decapsulate with that key
	Keys        [][]byte `json:"keys"`        // to check
}

type mlkemResponse struct {
	Key        []byte   `json:"key"`
	Secret     []byte   `json:"secret"`
	Ciphertext []byte   `json:"ciphertext"`
	Secrets    [][]byte `json:"secrets"` // one for each of Ciphertexts
	Valid      []bool   `json:"valid"`   // one for each of Keys
}

// encapsulate1024 encapsulates with the given 32 bytes of randomness. It is nil if the standard library cannot do so.
var encapsulate1024 func(key *mlkem.EncapsulationKey1024, m []byte) (secret, ciphertext []byte, err error)

// startNodeMLKEM starts one process and returns a function that sends it a request and returns the response.
func startNodeMLKEM(t *testing.T) func(mlkemRequest) mlkemResponse {
	t.Helper()
	needNode(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // t.Context ends before cleanups do
	cmd := exec.CommandContext(ctx, "node", "--input-type=module", "-e", nodeMLKEMScript)
	cmd.Dir = filepath.Join("spec", "vectors") // what the script imports is relative to it
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	testutil.Must(t, err)
	out, err := cmd.StdoutPipe()
	testutil.Must(t, err)
	testutil.Must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("node: %v\n%s", err, stderr.String())
		}
		cancel()
	})
	requests, responses := json.NewEncoder(in), json.NewDecoder(out)
	return func(r mlkemRequest) (response mlkemResponse) {
		t.Helper()
		testutil.Must(t, requests.Encode(r))
		testutil.Must(t, responses.Decode(&response))
		return response
	}
}

// Both implementations make the same keys of a seed, decapsulate what the other one encapsulated, return the same
// secret for a ciphertext that is wrong, and reject the same keys.
func TestNodeMLKEM(t *testing.T) {
	t.Parallel()
	send := startNodeMLKEM(t)
	for range testutil.EnvInt(t, "GIPC_MLKEM", testutil.Count(100, 30)) {
		seed, m := randomBytes(mlkem.SeedSize), randomBytes(32)
		dk, err := mlkem.NewDecapsulationKey1024(seed)
		testutil.Must(t, err)
		key := dk.EncapsulationKey().Bytes()
		secret, ciphertext := dk.EncapsulationKey().Encapsulate()
		keys := mlkemKeys(key)
		request := mlkemRequest{
			D: seed[:32], Z: seed[32:], M: m,
			Ciphertexts: [][]byte{ciphertext, flipRandomBit(ciphertext), randomBytes(len(ciphertext))},
		}
		for _, k := range keys {
			request.Keys = append(request.Keys, k.bytes)
		}
		response := send(request)

		same := func(what string, node, library []byte) {
			t.Helper()
			testutil.Equal(t, what, node, library)
		}
		decapsulate := func(c []byte) []byte {
			t.Helper()
			secret, err := dk.Decapsulate(c)
			testutil.Must(t, err)
			return secret
		}
		if len(response.Secrets) != len(request.Ciphertexts) || len(response.Valid) != len(keys) {
			t.Fatalf("node returns %d secrets and %d checks", len(response.Secrets), len(response.Valid))
		}
		same("encapsulation key", response.Key, key)
		same("secret that the standard library encapsulated", response.Secrets[0], secret)
		same("secret of a ciphertext with one bit changed", response.Secrets[1], decapsulate(request.Ciphertexts[1]))
		same("secret of a random ciphertext", response.Secrets[2], decapsulate(request.Ciphertexts[2]))
		if bytes.Equal(response.Secrets[1], secret) {
			t.Error("the secret does not depend on the ciphertext")
		}
		if len(response.Ciphertext) != mlkem.CiphertextSize1024 {
			t.Fatalf("node's ciphertext has %d bytes", len(response.Ciphertext))
		}
		same("secret that node encapsulated", response.Secret, decapsulate(response.Ciphertext))
		if encapsulate1024 != nil {
			secret, ciphertext, err := encapsulate1024(dk.EncapsulationKey(), m)
			testutil.Must(t, err)
			same("secret of m", response.Secret, secret)
			same("ciphertext of m", response.Ciphertext, ciphertext)
		}
		for i, k := range keys {
			if _, err := mlkem.NewEncapsulationKey1024(k.bytes); (err == nil) != k.valid || response.Valid[i] != k.valid {
				t.Errorf("%s: valid according to node: %v; error of the standard library: %v; want valid: %v", k.what, response.Valid[i], err, k.valid)
			}
		}
		if t.Failed() {
			t.Fatalf("seed %x, m %x, ciphertexts %x", seed, m, request.Ciphertexts)
		}
	}
}

type mlkemKey struct {
	what  string
	bytes []byte
	valid bool
}

// mlkemKeys returns encapsulation keys that are made of key, a valid one: some with another coefficient in a random
// place, and some of another size.
func mlkemKeys(key []byte) []mlkemKey {
	above := 3330 + randomInt(4096-3330)
	return []mlkemKey{
		{"key", key, true},
		{"coefficient 3328", setCoefficient(key, randomInt(1024), 3328), true},
		{"coefficient 3329", setCoefficient(key, randomInt(1024), 3329), false},
		{"first coefficient 3329", setCoefficient(key, 0, 3329), false},
		{"last coefficient 3329", setCoefficient(key, 1023, 3329), false},
		{"coefficient above 3329", setCoefficient(key, randomInt(1024), above), false},
		{"coefficient 4095", setCoefficient(key, randomInt(1024), 4095), false},
		{"one byte less", key[1:], false},
		{"one byte more", append(bytes.Clone(key), 0), false},
		{"empty", []byte{}, false},
	}
}

// setCoefficient returns a copy of key whose coefficient i, of 12 bits, is value.
func setCoefficient(key []byte, i, value int) []byte {
	key = bytes.Clone(key)
	b := key[i/2*3:]
	if i%2 == 0 {
		b[0], b[1] = byte(value), b[1]&0xf0|byte(value>>8)
	} else {
		b[1], b[2] = b[1]&0x0f|byte(value<<4), byte(value>>4)
	}
	return key
}

func flipRandomBit(data []byte) []byte {
	data = bytes.Clone(data)
	bit := randomInt(8 * len(data))
	data[bit/8] ^= 1 << (bit % 8)
	return data
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

// randomInt returns a number from 0 to n - 1.
func randomInt(n int) int {
	i, _ := rand.Int(rand.Reader, big.NewInt(int64(n))) // never fails
	return int(i.Int64())
}
