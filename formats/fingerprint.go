package formats

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
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
	var r sampler
	defer r.close()
	for _, t := range order {
		fmt.Fprintf(h, "%q %s %v\n", t.Name, t.TypeName(), t.Shape)
		if !t.InFile() {
			for _, s := range samples(t.Bytes) {
				h.Write(t.decoded[s[0]:s[1]])
			}
			continue
		}
		for _, s := range samples(t.Bytes) {
			b, err := r.read(c.files[t.File].Path, t.Offset+s[0], s[1]-s[0])
			if err != nil {
				return "", &Error{Path: c.files[t.File].Path, Tensor: t.Name, Offset: t.Offset, Reason: "reading it failed: " + err.Error(), Hint: "check the file and try again", Err: err}
			}
			h.Write(b)
		}
	}
	return "sampled-sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// samples are the ranges of n bytes that Fingerprint looks at.
func samples(n int64) [][2]int64 {
	if n <= 3*sample {
		return [][2]int64{{0, n}}
	}
	return [][2]int64{{0, sample}, {n/2 - sample/2, n/2 + sample/2}, {n - sample, n}}
}

// sampler reads small ranges. Through a mapping each of them would bring in up to
// two megabytes of the file, which count as this process's memory.
type sampler struct {
	f   *os.File
	buf [3 * sample]byte
}

func (r *sampler) read(path string, at, n int64) ([]byte, error) {
	if r.f == nil || r.f.Name() != path {
		r.close()
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		r.f = f
	}
	b := r.buf[:n]
	_, err := r.f.ReadAt(b, at)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

func (r *sampler) close() {
	if r.f != nil {
		r.f.Close() // only read
		r.f = nil
	}
}
