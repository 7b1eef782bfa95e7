package cuda

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
)

// The PTX is for compute capability 8.0 and of a version that drivers of CUDA
// 11.4 know.
const (
	ptxVersion    = "7.1"
	minimumDriver = "470 (CUDA 11.4)"
)

// ptxImage is what NVRTC made of kernels/*.cu; see TestPTX, which makes it.
//
//go:embed kernels/kernels.ptx.gz
var ptxImage []byte

func ptx() ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(ptxImage))
	if err == nil {
		var text []byte
		if text, err = io.ReadAll(z); err == nil {
			return text, nil
		}
	}
	return nil, fmt.Errorf("the embedded kernels: %w", err)
}

// ptxText is PTX cut into kernels.
type ptxText struct {
	head    []byte // version, target, declarations
	kernels map[string][]byte
	tail    []byte // functions that kernels call
}

// splitPTX cuts what NVRTC wrote: declarations, kernels, functions.
func splitPTX(text []byte) (*ptxText, error) {
	const entry, function = "\n.visible .entry ", "\n.func "
	first := bytes.Index(text, []byte(entry))
	if first < 0 {
		return nil, fmt.Errorf("the embedded kernels: there are none")
	}
	c := &ptxText{head: text[:first+1], kernels: map[string][]byte{}}
	parts := bytes.Split(text[first:], []byte(entry))[1:]
	last := len(parts) - 1
	if i := bytes.Index(parts[last], []byte(function)); i >= 0 {
		parts[last], c.tail = parts[last][:i+1], parts[last][i:]
	}
	for _, p := range parts {
		name, _, ok := bytes.Cut(p, []byte("("))
		if !ok || bytes.Contains(p, []byte(function)) {
			return nil, fmt.Errorf("the embedded kernels: a function stands between them")
		}
		c.kernels[string(name)] = p
	}
	return c, nil
}

// module is the PTX of one kernel, ending in 0.
func (c *ptxText) module(name string) ([]byte, error) {
	k, ok := c.kernels[name]
	if !ok {
		return nil, fmt.Errorf("there is no kernel %s", name)
	}
	return bytes.Join([][]byte{c.head, []byte(".visible .entry "), k, c.tail, {0}}, nil), nil
}
