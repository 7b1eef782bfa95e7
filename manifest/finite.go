package manifest

import (
	"encoding/binary"
	"math/bits"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// finite finds numbers that are NaN or infinite, eight bytes at a time: adding one
// to an exponent of all ones, and to no other, sets the bit above it.
type finite struct{ exp, one, top uint64 }

// finiteOf is the zero value, which finds nothing, for dtypes that have no such
// numbers.
func finiteOf(d tensor.DType) finite {
	switch d {
	case tensor.F64:
		return lanes(0x7ff<<52, 1<<52, 64)
	case tensor.F32:
		return lanes(0xff<<23, 1<<23, 32)
	case tensor.BF16:
		return lanes(0xff<<7, 1<<7, 16)
	case tensor.F16:
		return lanes(0x1f<<10, 1<<10, 16)
	case tensor.F8E5M2:
		return lanes(0x1f<<2, 1<<2, 8)
	case tensor.F8E4M3: // no infinity; NaN is all ones
		return lanes(0x7f, 1, 8)
	}
	return finite{}
}

// lanes repeats the masks of an element of width bits.
func lanes(exp, one uint64, width int) finite {
	f := finite{exp, one, 1 << (width - 1)}
	for w := width; w < 64; w *= 2 {
		f.exp |= f.exp << w
		f.one |= f.one << w
		f.top |= f.top << w
	}
	return f
}

// count counts them in b, a whole number of elements.
func (f finite) count(b []byte) int64 {
	if f.top == 0 {
		return 0
	}
	n := 0
	for len(b) >= 32 {
		x0 := (binary.LittleEndian.Uint64(b)&f.exp + f.one) & f.top
		x1 := (binary.LittleEndian.Uint64(b[8:])&f.exp + f.one) & f.top
		x2 := (binary.LittleEndian.Uint64(b[16:])&f.exp + f.one) & f.top
		x3 := (binary.LittleEndian.Uint64(b[24:])&f.exp + f.one) & f.top
		if x0|x1|x2|x3 != 0 {
			n += bits.OnesCount64(x0) + bits.OnesCount64(x1) + bits.OnesCount64(x2) + bits.OnesCount64(x3)
		}
		b = b[32:]
	}
	for len(b) > 0 {
		var w [8]byte
		k := copy(w[:], b)
		n += bits.OnesCount64((binary.LittleEndian.Uint64(w[:])&f.exp + f.one) & f.top)
		b = b[k:]
	}
	return int64(n)
}
