package formats

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// sample is how many bytes Fingerprint reads at each of three places of a
// tensor.
const sample = 4096

// Fingerprint identifies a checkpoint's contents quickly: the hash of every
// tensor's name, dtype and shape and of its first, middle and last bytes, in
// the order of the names. It does not depend on file names or sharding. It
// tells other weights from these, not a deliberate forgery: most bytes are not
// read.
func (c *Checkpoint) Fingerprint() (string, error) {
	order := slices.Clone(c.tensors)
	slices.SortFunc(order, func(a, b Tensor) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	h := sha256.New()
	for _, t := range order {
		fmt.Fprintf(h, "%q %s %v\n", t.Name, t.TypeName(), t.Shape)
		b, err := c.Bytes(t)
		if err != nil {
			return "", err
		}
		err = c.Guard(t, func() error {
			if len(b) <= 3*sample {
				h.Write(b)
				return nil
			}
			h.Write(b[:sample])
			h.Write(b[len(b)/2-sample/2:][:sample])
			h.Write(b[len(b)-sample:])
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return "sampled-sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}
