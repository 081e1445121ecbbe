// Secrets, which come from files and never from the command line.

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"example.com/gipc"
)

// readSecret returns the bytes of a file, or nil without one. A file that others
// can read gets a warning.
func readSecret(env *environment, path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	secret, err := os.ReadFile(path)
	if err != nil {
		return nil, failure("reading the secret", err, "give a file with 32 random bytes or more, as openssl rand -out FILE 32 makes it")
	}
	if len(secret) < 32 {
		return nil, failure(fmt.Sprintf("the secret in %s", path), fmt.Errorf("it has %d bytes, and 32 is the least", len(secret)), "make one with openssl rand -out FILE 32")
	}
	if info, err := os.Stat(path); err == nil && runtime.GOOS != "windows" && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		env.notef("warning: others can read or change the secret in %s, which has mode %04o: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	return secret, nil
}

// readSecrets returns the secrets of clients, from CLIENT=file each.
func readSecrets(env *environment, list []string) (map[string][]byte, error) {
	if len(list) == 0 {
		return nil, nil
	}
	secrets := map[string][]byte{}
	for _, entry := range list {
		client, path, ok := strings.Cut(entry, "=")
		if !ok || client == "" || path == "" {
			return nil, usagef("-secret-of %s cannot be used: give CLIENT=file", entry)
		}
		if secrets[client] != nil {
			return nil, usagef("-secret-of %s is given twice", client)
		}
		secret, err := readSecret(env, path)
		if err != nil {
			return nil, err
		}
		secrets[client] = secret
	}
	return secrets, nil
}

// configError makes a usageError of an error about the configuration, which
// comes from flags.
func configError(err error) error {
	if errors.Is(err, gipc.ErrConfig) {
		return usageError{describe(err)}
	}
	return err
}
