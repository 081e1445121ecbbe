// Encapsulation with given randomness, which the standard library has since Go 1.26.

//go:build go1.26

package repotest

import (
	"crypto/fips140"
	"crypto/mlkem/mlkemtest"
)

func init() {
	if !fips140.Enforced() { // permits only random encapsulation
		encapsulate1024 = mlkemtest.Encapsulate1024
	}
}
