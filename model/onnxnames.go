package model

import (
	"math"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// RecoverNames renames the sites of an ONNX model after the checkpoint that it was
// exported from: exporters fold and transpose weights and call them
// onnx::MatMul_123. A site gets the module name of the tensor NAME.weight of ref
// that holds the same elements, plain or transposed. Sites without such a
// tensor, and those whose elements several tensors hold, keep their names;
// named counts the others.
//
// The elements are compared as they are stored, so both must have one dtype.
// All matrices of a matching shape are read once, in blocks.
func RecoverNames(c *formats.Checkpoint, sites []adapter.Site, ref *formats.Checkpoint) (out []adapter.Site, named int, err error) {
	wanted := map[matrix]bool{}
	for _, s := range sites {
		if t, ok := c.Lookup(s.Weight); ok {
			wanted[shapeOf(t, false)] = true
		}
	}
	byContent := map[content][]candidateName{}
	for _, t := range ref.Tensors() {
		if len(t.Shape) != 2 || !strings.HasSuffix(t.Name, ".weight") || !tensor.Convertible(t.DType) || !wanted[shapeOf(t, false)] && !wanted[shapeOf(t, true)] {
			continue
		}
		plain, turned, err := digest(ref, t)
		if err != nil {
			return nil, 0, err
		}
		byContent[content{shapeOf(t, false), plain}] = append(byContent[content{shapeOf(t, false), plain}], candidateName{t, false})
		byContent[content{shapeOf(t, true), turned}] = append(byContent[content{shapeOf(t, true), turned}], candidateName{t, true})
	}
	out = slices.Clone(sites)
	for i := range out {
		t, ok := c.Lookup(out[i].Weight)
		if !ok || !tensor.Convertible(t.DType) || len(t.Shape) != 2 {
			continue
		}
		plain, _, err := digest(c, t)
		if err != nil {
			return nil, 0, err
		}
		name, err := confirm(c, t, ref, byContent[content{shapeOf(t, false), plain}])
		if err != nil {
			return nil, 0, err
		}
		if name != "" {
			rename(&out[i], name)
			named++
		}
	}
	return out, named - keepDistinct(out, sites), nil
}

// matrix is what two weights must have in common.
type matrix struct {
	rows, cols int
	dtype      tensor.DType
}

type content struct {
	matrix
	sum uint64
}

type candidateName struct {
	t      formats.Tensor
	turned bool
}

func shapeOf(t formats.Tensor, turned bool) matrix {
	if len(t.Shape) != 2 {
		return matrix{}
	}
	m := matrix{t.Shape[0], t.Shape[1], t.DType}
	if turned {
		m.rows, m.cols = m.cols, m.rows
	}
	return m
}

// rename gives a site another module path.
func rename(s *adapter.Site, module string) {
	s.Module = module
	s.Kind = module[strings.LastIndexByte(module, '.')+1:]
	s.Output = s.Output || outputLayer.MatchString(module)
	s.Layer = layerIn(module)
}

// blockOf is how many elements of a weight are read at once.
const blockOf = 1 << 16

// digest sums up, over all elements, a mix of the element and its place: plain
// with (row, column), turned with (column, row), so that it is the digest of the
// transposed matrix without moving anything.
func digest(c *formats.Checkpoint, t formats.Tensor) (plain, turned uint64, err error) {
	buf := make([]float64, blockOf)
	cols := int64(t.Shape[1])
	for from := int64(0); from < t.Elements(); from += blockOf {
		b := buf[:min(blockOf, t.Elements()-from)]
		if err := c.ReadF64(t, from, from+int64(len(b)), b); err != nil {
			return 0, 0, err
		}
		row, col := uint64(from/cols), uint64(from%cols)
		for _, x := range b {
			v := math.Float64bits(x)
			plain += scramble(v ^ scramble(row<<32|col))
			turned += scramble(v ^ scramble(col<<32|row))
			if col++; col == uint64(cols) {
				row, col = row+1, 0
			}
		}
	}
	return plain, turned, nil
}

// scramble is the finalizer of SplitMix64.
func scramble(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// confirm compares a weight with the tensors that have its digest and returns
// the module of the only one that is equal, or "".
func confirm(c *formats.Checkpoint, t formats.Tensor, ref *formats.Checkpoint, list []candidateName) (string, error) {
	name := ""
	for _, k := range list {
		if k.turned && t.Shape[0] == t.Shape[1] && slices.ContainsFunc(list, func(o candidateName) bool { return !o.turned && o.t.Name == k.t.Name }) {
			continue // a symmetric matrix is there both ways
		}
		same, err := equal(c, t, ref, k)
		if err != nil {
			return "", err
		}
		if !same {
			continue
		}
		if name != "" {
			return "", nil
		}
		name = strings.TrimSuffix(k.t.Name, ".weight")
	}
	return name, nil
}

// equal compares the elements bit for bit.
func equal(c *formats.Checkpoint, t formats.Tensor, ref *formats.Checkpoint, k candidateName) (same bool, err error) {
	a, err := c.Bytes(t)
	if err != nil {
		return false, err
	}
	b, err := ref.Bytes(k.t)
	if err != nil {
		return false, err
	}
	same = true
	err = c.Guard(t, func() error {
		return ref.Guard(k.t, func() error {
			if !k.turned {
				same = string(a) == string(b)
				return nil
			}
			w, rows, cols := t.DType.Bits()/8, t.Shape[0], t.Shape[1]
			for i := 0; i < rows && same; i++ {
				for j := range cols {
					if string(a[(i*cols+j)*w:][:w]) != string(b[(j*rows+i)*w:][:w]) {
						same = false
						break
					}
				}
			}
			return nil
		})
	})
	return same, err
}

// keepDistinct gives sites their old names back where two of them would have
// one: the exporter has duplicated a weight.
func keepDistinct(sites, old []adapter.Site) (kept int) {
	count := map[string]int{}
	for _, s := range sites {
		count[s.Module]++
	}
	for i := range sites {
		if count[sites[i].Module] > 1 && sites[i].Module != old[i].Module {
			sites[i] = old[i]
			kept++
		}
	}
	return kept
}
