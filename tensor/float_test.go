package tensor

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"sort"
	"testing"
)

type goldens struct {
	Torch, Numpy     string
	Decode, F32, F64 map[string]string
}

func loadGoldens(t *testing.T) goldens {
	t.Helper()
	b, err := os.ReadFile("testdata/casts.json")
	if err != nil {
		t.Fatal(err)
	}
	var g goldens
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

func codes(d DType) []byte {
	if d.Bits() == 8 {
		b := make([]byte, 256)
		for i := range b {
			b[i] = byte(i)
		}
		return b
	}
	b := make([]byte, 2<<16)
	for i := range 1 << 16 {
		binary.LittleEndian.PutUint16(b[2*i:], uint16(i))
	}
	return b
}

func digest(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// inputs32 are the numbers of testdata/gen_casts.py.
func inputs32() []float32 {
	var x []float32
	for i := range uint32(1 << 20) {
		x = append(x, math.Float32frombits(40503*i))
	}
	for _, d := range []uint32{0, 0x7fff, 0x8000, 0x8001} {
		for i := range uint32(1 << 16) {
			x = append(x, math.Float32frombits(i<<16+d))
		}
	}
	return x
}

// TestDecodeAgainstTorch compares every code of every format with PyTorch.
func TestDecodeAgainstTorch(t *testing.T) {
	for name, want := range loadGoldens(t).Decode {
		d, ok := ParseDType(name)
		if !ok {
			t.Fatalf("unknown dtype %s", name)
		}
		src := codes(d)
		n := len(src) * 8 / d.Bits()
		f32, f64 := make([]float32, n), make([]float64, n)
		if err := DecodeF32(f32, src, d); err != nil {
			t.Fatal(err)
		}
		if err := DecodeF64(f64, src, d); err != nil {
			t.Fatal(err)
		}
		out := make([]byte, 4*n)
		for i, x := range f32 {
			u := math.Float32bits(x)
			if x != x {
				u = 0x7fc00000
			}
			binary.LittleEndian.PutUint32(out[4*i:], u)
			if float64(x) != f64[i] && x == x {
				t.Fatalf("%s code %d: %v as float32, %v as float64", name, i, x, f64[i])
			}
		}
		if digest(out) != want {
			t.Errorf("%s: decoded values differ from PyTorch's", name)
		}
	}
}

// canonical replaces the codes that decode to NaN, as gen_casts.py does.
func canonical(t *testing.T, b []byte, d DType) {
	t.Helper()
	w := d.Bits() / 8
	x := make([]float32, len(b)/w)
	if err := DecodeF32(x, b, d); err != nil {
		t.Fatal(err)
	}
	for i := range x {
		if x[i] != x[i] {
			for j := range w {
				b[i*w+j] = 0xff
			}
		}
	}
}

func TestEncodeAgainstTorch(t *testing.T) {
	x := inputs32()
	x64 := make([]float64, len(x))
	for i := range x {
		x64[i] = float64(x[i])
	}
	for name, want := range loadGoldens(t).F32 {
		d, _ := ParseDType(name)
		b, b64 := make([]byte, len(x)*d.Bits()/8), make([]byte, len(x)*d.Bits()/8)
		if err := EncodeF32(b, x, d); err != nil {
			t.Fatal(err)
		}
		if err := EncodeF64(b64, x64, d); err != nil {
			t.Fatal(err)
		}
		canonical(t, b, d)
		canonical(t, b64, d)
		if digest(b) != want {
			t.Errorf("%s: float32 rounds differently from PyTorch", name)
		}
		if digest(b64) != want {
			t.Errorf("%s: the same numbers as float64 round differently from PyTorch", name)
		}
	}
}

func TestF64ToF16AgainstNumpy(t *testing.T) {
	b := make([]byte, 2<<20)
	for i := range uint64(1 << 20) {
		k := (i + 1) * 0x9E3779B97F4A7C15
		x := math.Float64frombits(k&0x800FFFFFFFFFFFFF | (k>>52%51+1023-30)<<52)
		binary.LittleEndian.PutUint16(b[2*i:], F64ToF16(x))
	}
	if digest(b) != loadGoldens(t).F64["F16"] {
		t.Error("float64 rounds differently from NumPy")
	}
}

// nearest finds the code by search among all values of the format: an
// independent definition of rounding to nearest, ties to the even code.
type nearest struct {
	values []float64 // ascending, of codes 0, 1, 2, ... (non-negative, finite)
	top    float64   // from here on the value overflows
}

func newNearest(d DType, finite int) nearest {
	src := codes(d)
	v := make([]float64, len(src)*8/d.Bits())
	if err := DecodeF64(v, src, d); err != nil {
		panic(err)
	}
	n := nearest{values: v[:finite]}
	n.top = v[finite-1] + (v[finite-1]-v[finite-2])/2
	return n
}

func (n nearest) code(x float64) (code int, over bool) {
	x = math.Abs(x)
	if last := len(n.values) - 1; x >= n.top { // a tie with what comes after the last goes to the even code
		return last, x > n.top || last%2 == 1
	}
	i := sort.SearchFloat64s(n.values, x)
	if i == len(n.values) {
		return i - 1, false
	}
	if i == 0 {
		return 0, false
	}
	lo, hi := n.values[i-1], n.values[i]
	switch dl, dh := x-lo, hi-x; {
	case dl < dh:
		return i - 1, false
	case dh < dl:
		return i, false
	}
	return (i - 1) + (i-1)%2, false
}

// TestF64RoundsOnce checks random numbers, halfway points and their
// neighbours one float64 step away against the search.
func TestF64RoundsOnce(t *testing.T) {
	formats := []struct {
		d      DType
		finite int
		conv   func(float64) uint16
	}{
		{BF16, 0x7f80, F64ToBF16},
		{F16, 0x7c00, F64ToF16},
		{F8E4M3, 0x7f, func(x float64) uint16 { return uint16(F64ToF8(x, F8E4M3)) }},
		{F8E5M2, 0x7c, func(x float64) uint16 { return uint16(F64ToF8(x, F8E5M2)) }},
		{F8E4M3FNUZ, 0x80, func(x float64) uint16 { return uint16(F64ToF8(x, F8E4M3FNUZ)) }},
		{F8E5M2FNUZ, 0x80, func(x float64) uint16 { return uint16(F64ToF8(x, F8E5M2FNUZ)) }},
	}
	for _, f := range formats {
		n := newNearest(f.d, f.finite)
		sign := uint16(1) << (f.d.Bits() - 1)
		check := func(x float64) {
			t.Helper()
			want, over := n.code(x)
			got := f.conv(x)
			if over && f.d == F8E4M3 {
				if got&^sign != 0x7e {
					t.Fatalf("%v: %v does not saturate: %#x", f.d, x, got)
				}
				return
			}
			if over {
				var back float64
				if f.d.Bits() == 8 {
					back = float64(F8ToF32(uint8(got), f.d))
				} else if f.d == BF16 {
					back = float64(BF16ToF32(got))
				} else {
					back = float64(F16ToF32(got))
				}
				if !math.IsInf(back, 0) && back == back {
					t.Fatalf("%v: %v overflows, but gives %v", f.d, x, back)
				}
				return
			}
			w := uint16(want)
			if math.Signbit(x) && (w != 0 || f.d != F8E4M3FNUZ && f.d != F8E5M2FNUZ) {
				w |= sign
			}
			if got != w {
				t.Fatalf("%v: %v (%x) gives code %#x, want %#x", f.d, x, x, got, w)
			}
		}
		step := max(1, len(n.values)/4000)
		for i := 0; i+1 < len(n.values); i += step {
			mid := (n.values[i] + n.values[i+1]) / 2
			for _, x := range []float64{n.values[i], mid, math.Nextafter(mid, 0), math.Nextafter(mid, math.Inf(1))} {
				check(x)
				check(-x)
			}
		}
		last := n.values[len(n.values)-1]
		for _, x := range []float64{last, n.top, math.Nextafter(n.top, 0), math.Nextafter(n.top, math.Inf(1)), math.Inf(1), math.MaxFloat64, 5e-324} {
			check(x)
			check(-x)
		}
		r := rand.New(rand.NewPCG(1, uint64(f.d)))
		for range 20000 {
			check(math.Ldexp(r.NormFloat64(), r.IntN(300)-150))
		}
	}
}

// TestRoundTrip16 converts every code of the two-byte formats to float32 and
// back.
func TestRoundTrip16(t *testing.T) {
	for i := range 1 << 16 {
		c := uint16(i)
		if x := BF16ToF32(c); x == x && (F32ToBF16(x) != c || F64ToBF16(float64(x)) != c) {
			t.Fatalf("BF16 %#x is %v and comes back as %#x, %#x", c, x, F32ToBF16(x), F64ToBF16(float64(x)))
		} else if x != x && (F32ToBF16(x)&0x7fff <= 0x7f80 || F64ToBF16(float64(x))&0x7fff <= 0x7f80) {
			t.Fatalf("BF16 NaN %#x is lost", c)
		}
		if x := F16ToF32(c); x == x && (F32ToF16(x) != c || F64ToF16(float64(x)) != c) {
			t.Fatalf("F16 %#x is %v and comes back as %#x, %#x", c, x, F32ToF16(x), F64ToF16(float64(x)))
		} else if x != x && (F32ToF16(x)&0x7fff <= 0x7c00 || F64ToF16(float64(x))&0x7fff <= 0x7c00) {
			t.Fatalf("F16 NaN %#x is lost", c)
		}
	}
}

// TestDoubleRounding: 1 + 2^-8 + 2^-40 is above halfway between two BF16
// numbers; through float32 the excess would be lost and the tie go down.
func TestDoubleRounding(t *testing.T) {
	x := 1 + math.Ldexp(1, -8) + math.Ldexp(1, -40)
	if got := F64ToBF16(x); got != 0x3f81 {
		t.Errorf("got %#x", got)
	}
	if got := F32ToBF16(float32(x)); got != 0x3f80 {
		t.Errorf("the case is not one of double rounding: %#x", got)
	}
}
