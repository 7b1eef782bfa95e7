//go:build !unix

package text

import "os"

// mapState returns the bytes of a state file, or nil, and what gives them back.
func mapState(path string) ([]byte, func()) {
	b, err := os.ReadFile(path)
	if err != nil || len(b) < stateHeader {
		return nil, nil
	}
	return b, func() {}
}
