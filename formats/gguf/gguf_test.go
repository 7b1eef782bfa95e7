package gguf

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// allKinds has every type of value and tensor that is written.
func allKinds() *File {
	return &File{
		KV: []KV{
			{"general.architecture", "llama"}, {"u8", uint8(200)}, {"i8", int8(-3)}, {"u16", uint16(60000)}, {"i16", int16(-300)},
			{"u32", uint32(1 << 31)}, {"i32", int32(-1)}, {"f32", float32(0.5)}, {"bool", true}, {"no", false}, {"u64", uint64(1 << 63)},
			{"i64", int64(-1 << 62)}, {"f64", math.Pi}, {"text", "añ\x00b"},
			{"a8", []uint8{1, 2}}, {"ai8", []int8{-1}}, {"abool", []bool{true, false}}, {"a16", []uint16{7}}, {"ai16", []int16{-7}},
			{"a32", []uint32{1, 2, 3}}, {"ai32", []int32{-5}}, {"af", []float32{1, 2}}, {"a64", []uint64{9}}, {"ai64", []int64{-9}},
			{"af64", []float64{0.25}}, {"texts", []string{"a", "", "\xff"}}, {"nested", []any{[]int32{1}, []string{"x"}}},
		},
		Tensors: []Tensor{{Name: "a", Type: F32, Shape: []int{2, 3}}, {Name: "b", Type: Q8_0, Shape: []int{3, 64}}, {Name: "c", Type: BF16, Shape: []int{5}}, {Name: "d", Type: F16, Shape: []int{1, 2, 3, 4}}},
	}
}

func write(t testing.TB, f *File, value func(i, j int) float32) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, f)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range f.Tensors {
		n, cols := 1, x.Shape[len(x.Shape)-1]
		for _, d := range x.Shape {
			n *= d
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = value(i/cols, i%cols)
		}
		if err := w.Floats(x.Name, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	f := allKinds()
	b := write(t, f, func(i, j int) float32 { return float32(i*8 + j) })
	got, err := Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(f, got, cmpopts.IgnoreUnexported(File{})); d != "" {
		t.Errorf("written and read differ:\n%s", d)
	}
	x, ok := got.Lookup("d")
	if !ok || x.Offset%DefaultAlignment != 0 {
		t.Fatalf("tensor d: %+v", x)
	}
	v := make([]float32, 24)
	if err := Decode(v, b[x.Offset:x.Offset+x.Bytes], x.Type); err != nil {
		t.Fatal(err)
	}
	// Rows of 4; row i holds 8i + j.
	if v[0] != 0 || v[5] != 9 || v[23] != 43 {
		t.Errorf("values of d: %v", v)
	}
	if s, err := got.Text("text"); err != nil || s != "añ\x00b" {
		t.Errorf("text %q, %v", s, err)
	}
	if _, err := got.Float("text"); !errors.Is(err, ErrMalformed) {
		t.Errorf("a text taken for a number: %v", err)
	}
	size, err := got.Layout()
	if err != nil || size != int64(len(b)) {
		t.Errorf("layout says %d bytes, %v; the file has %d", size, err, len(b))
	}
}

func TestWriterOrder(t *testing.T) {
	f := &File{Tensors: []Tensor{{Name: "a", Type: F32, Shape: []int{1}}, {Name: "b", Type: F32, Shape: []int{1}}}}
	w, err := NewWriter(&bytes.Buffer{}, f)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Floats("b", []float32{1}); err == nil {
		t.Error("a tensor out of order was taken")
	}
	if err := w.Tensor("a", func(w io.Writer) error { _, err := w.Write([]byte{1}); return err }); err == nil {
		t.Error("one byte was taken for a float32")
	}
	if err := w.Close(); err == nil {
		t.Error("a file without its tensors was closed")
	}
	for _, bad := range []*File{
		{KV: []KV{{"a", 1}}}, {KV: []KV{{"a", true}, {"a", true}}}, {Tensors: []Tensor{{Name: "a"}, {Name: "a"}}},
		{Tensors: []Tensor{{Name: "a", Type: Q8_0, Shape: []int{31}}}}, {Tensors: []Tensor{{Name: "a", Shape: []int{1, 1, 1, 1, 1}}}},
	} {
		if _, err := NewWriter(&bytes.Buffer{}, bad); err == nil {
			t.Errorf("%+v was written", bad)
		}
	}
}

// TestQ8Error: every element within half a step of its block, and half a step
// of the scale's rounding.
func TestQ8Error(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.SliceOfN(rapid.Float32Range(-100, 100), 64, 64).Draw(t, "x")
		b := make([]byte, 68)
		if err := Encode(b, x, Q8_0); err != nil {
			t.Fatal(err)
		}
		y := make([]float32, 64)
		if err := Decode(y, b, Q8_0); err != nil {
			t.Fatal(err)
		}
		for k := range 2 {
			top := 0.0
			for _, v := range x[32*k:][:32] {
				top = max(top, math.Abs(float64(v)))
			}
			// f16 has 11 bits, and steps of 2^-24 below 2^-14.
			allowed := top/254*1.001 + 127*max(top/127/2048, 0x1p-25) + 1e-9
			for i, v := range x[32*k:][:32] {
				if d := math.Abs(float64(v - y[32*k+i])); d > allowed {
					t.Fatalf("block %d, element %d: %v became %v (allowed %g)", k, i, v, y[32*k+i], allowed)
				}
			}
		}
	})
}

// TestQ8Golden compares blocks with those of the Python package gguf.
func TestQ8Golden(t *testing.T) {
	b, err := os.ReadFile("testdata/q8.json")
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		X    []uint32
		Q8_0 string
	}
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	x := make([]float32, len(g.X))
	for i, v := range g.X {
		x[i] = math.Float32frombits(v)
	}
	got := make([]byte, len(x)/32*34)
	if err := Encode(got, x, Q8_0); err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(got) != g.Q8_0 {
		t.Error("blocks differ from those of ggml's own quantisation")
	}
}

func TestQ8Refuses(t *testing.T) {
	for _, v := range []float32{float32(math.NaN()), float32(math.Inf(1)), 1e30} {
		x := make([]float32, 32)
		x[3] = v
		if err := Encode(make([]byte, 34), x, Q8_0); err == nil {
			t.Errorf("%v was quantised", v)
		}
	}
	if err := Encode(make([]byte, 34), make([]float32, 33), Q8_0); err == nil {
		t.Error("33 elements were quantised")
	}
	if err := Encode(make([]byte, 18), make([]float32, 32), 2); !errors.Is(err, ErrUnsupported) {
		t.Errorf("Q4_0: %v", err)
	}
	if err := Decode(make([]float32, 32), make([]byte, 18), 2); !errors.Is(err, ErrUnsupported) {
		t.Errorf("Q4_0: %v", err)
	}
}

// patched returns b with n bytes at off replaced.
func patched(b []byte, off int, with ...byte) []byte {
	c := bytes.Clone(b)
	copy(c[off:], with)
	return c
}

func TestMalformed(t *testing.T) {
	good := write(t, &File{KV: []KV{{"k", "v"}}, Tensors: []Tensor{{Name: "w", Type: F32, Shape: []int{2, 4}}, {Name: "x", Type: F32, Shape: []int{8}}}}, func(i, j int) float32 { return 1 })
	// magic 0, version 4, tensors 8, entries 16, key 24 (length) 32, type 33,
	// value 37 (length) 45, tensor w: 46 (length) 54, dims 55, 59, 67, type 75,
	// offset 79; tensor x: 87 (length) 95, dims 96, 100, type 108, offset 112.
	le := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	alignment := write(t, &File{KV: []KV{{"general.alignment", uint32(3)}}}, nil)
	twice := patched(write(t, &File{KV: []KV{{"a", true}, {"b", true}}}, nil), 24+8+1+4+1+8, 'a')
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":              {nil, "ends in its header"},
		"magic":              {patched(good, 0, 'g'), "starts with"},
		"short":              {good[:40], "tensors do not fit"},
		"big-endian":         {patched(good, 4, 0, 0, 0, 3), "big-endian"},
		"version 1":          {patched(good, 4, 1), "version 1"},
		"version 9":          {patched(good, 4, 9), "version 9"},
		"many tensors":       {patched(good, 8, le(1<<40)...), "tensors do not fit"},
		"many entries":       {patched(good, 16, le(1<<60)...), "metadata entries do not fit"},
		"long key":           {patched(good, 24, le(1<<62)...), "bytes of a string do not fit"},
		"key not UTF-8":      {patched(good, 32, 0xff), "not UTF-8"},
		"value type":         {patched(good, 33, 99), "unknown type 99"},
		"key twice":          {twice, "appears twice"},
		"alignment":          {alignment, "no alignment"},
		"dimensions":         {patched(good, 55, 5), "5 dimensions"},
		"dimension":          {patched(good, 59, le(1<<50)...), "dimension of"},
		"overflow":           {patched(patched(good, 59, le(1<<40)...), 67, le(1<<40)...), "more than 2^63"},
		"tensor type":        {patched(good, 75, 77), "type 77 is not known"},
		"blocks":             {patched(good, 75, 8), "do not fill blocks"},
		"offset":             {patched(good, 79, le(1<<50)...), "beyond the file"},
		"unaligned":          {patched(good, 79, 1), "no multiple of the alignment"},
		"overlap":            {patched(good, 112, 0), "lies over"},
		"name twice":         {patched(good, 95, 'w'), "name appears twice"},
		"data cut off":       {good[:len(good)-1], "beyond the file"},
		"bool":               {patched(write(t, &File{KV: []KV{{"k", true}}}, nil), 37, 2), "a bool of 2"},
		"array type":         {patched(write(t, &File{KV: []KV{{"k", []bool{true}}}}, nil), 37, 50), "array of the unknown type"},
		"array too long":     {patched(write(t, &File{KV: []KV{{"k", []int64{1}}}}, nil), 41, 200), "elements of an array do not fit"},
		"arrays of arrays":   {nested(20), "nested more than"},
		"only a git pointer": {[]byte("version https://git-lfs.github.com/spec/v1\n"), "starts with"},
	} {
		_, err := Read(bytes.NewReader(c.b), int64(len(c.b)))
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Error(), c.want) || e.Hint == "" {
			t.Errorf("%s: %v (want %q, with a hint)", name, err, c.want)
		}
		if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: wraps no sentinel", name)
		}
	}
}

// nested is a file whose only value is an array in depth arrays.
func nested(depth int) []byte {
	b := []byte("GGUF\x03\x00\x00\x00")
	le := binary.LittleEndian
	b = le.AppendUint64(le.AppendUint64(b, 0), 1)
	b = le.AppendUint32(appendText(b, "k"), typeArray)
	for range depth {
		b = le.AppendUint64(le.AppendUint32(b, typeArray), 1)
	}
	return le.AppendUint64(le.AppendUint32(b, typeU8), 0)
}

func TestNames(t *testing.T) {
	if Q8_0.String() != "Q8_0" || Type(999).String() != "Type(999)" {
		t.Error("names of types")
	}
	for typ, l := range layouts {
		if d := typ.DType(); d != 0 && d.String() != l.name {
			t.Errorf("%v has dtype %v", typ, d)
		}
		if n, err := ByteSize(typ, []int{3, 256}); err != nil || n != int64(3*256/l.elems*l.bytes) {
			t.Errorf("%v: %d, %v", typ, n, err)
		}
	}
}

// FuzzRead: whatever the bytes, Read refuses them or returns tensors that lie
// in the file, and what it accepts is written and read again alike.
func FuzzRead(f *testing.F) {
	f.Add(write(f, allKinds(), func(i, j int) float32 { return 1 }))
	f.Add(write(f, &File{}, nil))
	f.Add(nested(3))
	f.Add(nested(9))
	f.Add([]byte("GGUF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Hint == "" {
				t.Fatalf("no hint: %v", err)
			}
			return
		}
		for _, x := range got.Tensors {
			if x.Offset < got.DataStart || x.Offset+x.Bytes > int64(len(b)) || x.Bytes < 0 {
				t.Fatalf("tensor %+v outside of %d bytes", x, len(b))
			}
		}
		again := &File{KV: got.KV}
		for _, x := range got.Tensors {
			again.Tensors = append(again.Tensors, Tensor{Name: x.Name, Type: x.Type, Shape: x.Shape})
		}
		if _, err := again.Layout(); err != nil {
			t.Fatalf("what was read is not written: %v", err)
		}
		head, err := again.encode()
		if err != nil {
			t.Fatal(err)
		}
		whole := append(head, make([]byte, int(min(again.DataStart+1<<16, 1<<20))-len(head))...)
		third, err := Read(bytes.NewReader(whole), int64(len(whole)))
		if err != nil {
			return // its tensors are larger than what stands for their data here
		}
		if d := cmp.Diff(got.KV, third.KV, cmpopts.EquateNaNs(), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("metadata changed: %s", d)
		}
	})
}
