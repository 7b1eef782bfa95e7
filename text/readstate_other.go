//go:build !unix

package text

import "os"

// readState gives f the bytes of a state file.
func readState(path string, f func([]byte) bool) bool {
	b, err := os.ReadFile(path)
	return err == nil && len(b) >= stateHeader && f(b)
}
