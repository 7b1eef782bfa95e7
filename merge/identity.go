package merge

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
)

// Identity is a hash of all that decides the output's bytes: base, adapters,
// weights and options. Two plans with the same one write the same tensors.
func (p *Plan) Identity() (string, error) {
	h := sha256.New()
	print, err := p.base.Fingerprint()
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%s\n", print)
	for _, f := range p.base.Files() {
		st, err := os.Stat(f.Path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%q %d %d\n", filepath.Base(f.Path), f.Size, st.ModTime().UnixNano())
	}
	for i := range p.files {
		fmt.Fprintf(h, "%q %d %x\n", p.files[i].name, p.files[i].size, sha256.Sum256(p.files[i].header))
	}
	src, err := p.Sources()
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%s\n", src)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Sources is the part of Identity that does not depend on the base: adapters,
// weights and options.
func (p *Plan) Sources() (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%v %v %d %d %v %d\n", p.o.DType, p.o.Rounding, p.o.Seed, p.o.MaxShardSize, p.o.Reversible, tileElems)
	config, err := json.Marshal(p.o.Config)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%s\n", config)
	for i := range p.sources {
		s := &p.sources[i]
		fmt.Fprintf(h, "source %x\n", math.Float64bits(s.Weight))
		if s.adapter != nil {
			hashAdapter(h, s.adapter)
		} else if err := s.hashUpdates(h); err != nil {
			return "", err
		}
		for _, t := range s.Head {
			hashTensor(h, t.Name, t.Shape, t.Data)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func hashAdapter(h hash.Hash, a *adapter.Adapter) {
	for i := range a.Modules {
		m := &a.Modules[i]
		fmt.Fprintf(h, "%+v %s %+v\n", m.Site, m.Method, m.Settings)
		for k, t := range m.Tensors {
			hashTensor(h, m.Specs[k].Name, m.Specs[k].Shape, t)
		}
	}
}

// hashUpdates hashes what the updates compute to.
func (s *Source) hashUpdates(h hash.Hash) error {
	for i := range s.Updates {
		u := &s.Updates[i]
		d, err := u.delta()
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%+v %d %x\n", u.Site, d.R, math.Float64bits(d.Scale))
		factors := [][]float64{d.A, d.B}
		if d.Kron != nil {
			factors = append(factors, d.Kron.F1, d.Kron.F2)
		}
		for _, f := range factors {
			hashNumbers(h, len(f), func(b []byte, k int) []byte { return appendBits(b, math.Float64bits(f[k]), 8) })
		}
	}
	return nil
}

func hashTensor(h hash.Hash, name string, shape []int, x []float32) {
	fmt.Fprintf(h, "%q %v\n", name, shape)
	hashNumbers(h, len(x), func(b []byte, k int) []byte { return appendBits(b, uint64(math.Float32bits(x[k])), 4) })
}

func appendBits(b []byte, u uint64, n int) []byte {
	for range n {
		b, u = append(b, byte(u)), u>>8
	}
	return b
}

func hashNumbers(h hash.Hash, n int, add func(b []byte, k int) []byte) {
	b := make([]byte, 0, 1<<12)
	for k := range n {
		if b = add(b, k); len(b) > 1<<12-8 {
			h.Write(b)
			b = b[:0]
		}
	}
	h.Write(b)
}

// carriedOver says whether every tensor keeps its place in its file, as a merge in
// place demands, else why not.
func (p *Plan) carriedOver() error {
	files := p.base.Files()
	for i := range p.files {
		f := &p.files[i]
		if i >= len(files) || len(p.files) != len(files) || f.size != files[i].Size || len(f.literals) > 0 {
			return fmt.Errorf("%w: the files would be other ones", ErrInPlace)
		}
		for k := range f.tensors {
			t := &f.tensors[k]
			if !t.has || t.src.File != i || t.offset != t.src.Offset || t.dtype != t.src.DType {
				return fmt.Errorf("%w: tensor %s would be added, moved or of another dtype", ErrInPlace, t.name)
			}
		}
	}
	if len(p.untied) > 0 {
		return fmt.Errorf("%w: tensors would be untied: %s", ErrInPlace, strings.Join(p.untied, ", "))
	}
	return nil
}
