// The keys of section 5 and the records of sections 6 and 7, written apart from
// the library.

package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha512"
	"encoding/binary"
)

const (
	rekeyBytes     = 1 << 32 // the sum of lengths at which a key changes
	recordOverhead = 28      // nonce and tag
)

// A schedule is what both sides derive from a handshake.
type schedule struct {
	clientConfirmation []byte
	serverConfirmation []byte
	clientTraffic      []byte
	serverTraffic      []byte
}

// newSchedule derives the keys. clientHello is without its confirmation.
func newSchedule(name string, secret, serverHello, clientHello, z []byte) (*schedule, error) {
	h := sha512.New384()
	h.Write([]byte("gipc/3"))
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(name))))
	h.Write([]byte(name))
	h.Write(serverHello)
	h.Write(clientHello)
	transcript := h.Sum(nil)

	if len(secret) == 0 {
		secret = make([]byte, sha512.Size384)
	}
	early, err := hkdf.Extract(sha512.New384, secret, make([]byte, sha512.Size384))
	if err != nil {
		return nil, err
	}
	salt, err := expand(early, "gipc/3 derived", sha512.Size384)
	if err != nil {
		return nil, err
	}
	master, err := hkdf.Extract(sha512.New384, z, salt)
	if err != nil {
		return nil, err
	}
	var keys [4][]byte
	for i, info := range []string{"client confirm", "server confirm", "client traffic", "server traffic"} {
		if keys[i], err = expand(master, "gipc/3 "+info+string(transcript), sha512.Size384); err != nil {
			return nil, err
		}
	}
	s := &schedule{clientTraffic: keys[2], serverTraffic: keys[3]}
	s.clientConfirmation = mac(keys[0], transcript)
	s.serverConfirmation = mac(keys[1], transcript, s.clientConfirmation)
	return s, nil
}

func expand(secret []byte, info string, length int) ([]byte, error) {
	return hkdf.Expand(sha512.New384, secret, info, length)
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha512.New384, key)
	for _, part := range parts {
		h.Write(part)
	}
	return h.Sum(nil)
}

// A direction seals or opens the records of one direction.
type direction struct {
	traffic  []byte
	aead     cipher.AEAD
	sequence uint64
	sum      int64
	rekeyAt  int64
	rekeys   int
}

func newDirection(traffic []byte, rekeyAt int64) (*direction, error) {
	d := &direction{traffic: traffic, rekeyAt: rekeyAt}
	return d, d.setKey()
}

func (d *direction) setKey() error {
	key, err := expand(d.traffic, "gipc/3 key", 32)
	if err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	d.aead, err = cipher.NewGCMWithRandomNonce(block) // the nonce precedes what is sealed
	return err
}

func (d *direction) additional() []byte { return binary.BigEndian.AppendUint64(nil, d.sequence) }

// count counts a record of this length and changes the key if it is due.
func (d *direction) count(length int) error {
	d.sequence++
	if d.sum += int64(length); d.sum < d.rekeyAt {
		return nil
	}
	d.sum = 0
	d.rekeys++
	var err error
	if d.traffic, err = expand(d.traffic, "gipc/3 update", sha512.Size384); err != nil {
		return err
	}
	return d.setKey()
}

// seal returns a whole record with this plaintext.
func (d *direction) seal(plain []byte) ([]byte, error) {
	record := make([]byte, 4, 4+recordOverhead+len(plain))
	binary.BigEndian.PutUint32(record, uint32(recordOverhead+len(plain)))
	record = d.aead.Seal(record, nil, plain, d.additional())
	return record, d.count(recordOverhead + len(plain))
}

// open returns the plaintext of a record without its length field. It reports
// false if the record is not authentic.
func (d *direction) open(sealed []byte) (plain []byte, ok bool, err error) {
	plain, err = d.aead.Open(nil, nil, sealed, d.additional())
	if err != nil {
		return nil, false, nil
	}
	return plain, true, d.count(len(sealed))
}
