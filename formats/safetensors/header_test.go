package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// file makes the bytes of a file from a header text and n data bytes.
func file(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

func read(b []byte) (*Header, error) { return ReadHeader(bytes.NewReader(b), int64(len(b))) }

// TestRefusals has a literal file for every rule of the format, and what the
// message must say.
func TestRefusals(t *testing.T) {
	const ok = `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`
	entry := func(s string) string { return `{"a":` + s + `}` }
	for _, c := range []struct {
		name  string
		bytes []byte
		want  string // in the message
		named string // tensor that the error names
	}{
		{"empty", nil, "too few", ""},
		{"seven bytes", make([]byte, 7), "too few", ""},
		{"length above the file", binary.LittleEndian.AppendUint64(nil, 5), "in a file of 8", ""},
		{"giant length", append(bytes.Repeat([]byte{255}, 8), 0), "above the limit", ""},
		{"no header", file("", 0), "does not start with {", ""},
		{"array", file("[]", 0), "does not start with {", ""},
		{"leading space", file(" {}", 0), "does not start with {", ""},
		{"not UTF-8", file("{\"a\xff\":1}", 0), "UTF-8", ""},
		{"lone surrogate", file(`{"\ud800":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}`, 0), "lone surrogate", ""},
		{"control character", file("{\"a\nb\":1}", 0), "control character", ""},
		{"bad escape", file(`{"\q":1}`, 0), "unknown escape", ""},
		{"no end", file(`{"a":`, 0), "ends where", "a"},
		{"text after", file(ok+"x", 8), "after the header's closing brace", ""},
		{"NUL padding", file(ok+"\x00", 8), "after the header's closing brace", ""},
		{"duplicate tensor", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8), "appears twice", "a"},
		{"duplicate field", file(entry(`{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}`), 8), "appears twice", "a"},
		{"duplicate metadata", file(`{"__metadata__":{},"__metadata__":{}}`, 0), "appears twice", "__metadata__"},
		{"duplicate metadata key", file(`{"__metadata__":{"k":"1","k":"2"}}`, 0), "twice", ""},
		{"metadata not a string", file(`{"__metadata__":{"k":1}}`, 0), "not a string", ""},
		{"unknown field", file(entry(`{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}`), 8), "unknown field", "a"},
		{"missing field", file(entry(`{"dtype":"F32","shape":[2]}`), 8), "is missing", "a"},
		{"unknown dtype", file(entry(`{"dtype":"F33","shape":[2],"data_offsets":[0,8]}`), 8), `unknown dtype "F33"`, "a"},
		{"negative size", file(entry(`{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}`), 8), "non-negative", "a"},
		{"float size", file(entry(`{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}`), 8), "not an integer", "a"},
		{"exponent", file(entry(`{"dtype":"F32","shape":[2e0],"data_offsets":[0,8]}`), 8), "not an integer", "a"},
		{"leading zero", file(entry(`{"dtype":"F32","shape":[02],"data_offsets":[0,8]}`), 8), "leading zero", "a"},
		{"size of 2^64", file(entry(`{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8]}`), 8), "too large", "a"},
		{"product overflows to 0", file(entry(`{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}`), 0), "more than 2^63", "a"},
		{"wrong size", file(entry(`{"dtype":"F32","shape":[3],"data_offsets":[0,8]}`), 8), "takes 12 bytes", "a"},
		{"reversed", file(entry(`{"dtype":"F32","shape":[2],"data_offsets":[8,0]}`), 8), "do not fit", "a"},
		{"one offset", file(entry(`{"dtype":"F32","shape":[2],"data_offsets":[0]}`), 8), "not 2", "a"},
		{"half a byte", file(entry(`{"dtype":"F4","shape":[3],"data_offsets":[0,1]}`), 1), "whole bytes", "a"},
		{"truncated data", file(ok, 7), "its data end at byte", "a"},
		{"trailing data", file(ok, 9), "1 bytes after the last tensor", ""},
		{"hole at the start", file(entry(`{"dtype":"F32","shape":[2],"data_offsets":[4,12]}`), 12), "unused bytes", "a"},
		{"overlap", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}`, 12), "overlap", "b"},
		{"Git LFS pointer", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"), "Git LFS", ""},
		{"pickle", append([]byte("PK\x03\x04"), make([]byte, 100)...), "pickled", ""},
		{"HTML", []byte("<!DOCTYPE html><html><body>404</body></html>"), "HTML", ""},
		{"GGUF", append([]byte("GGUF"), make([]byte, 100)...), "GGUF", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := read(c.bytes)
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v, want one about a malformed file", err)
			}
			var e *Error
			if !errors.As(err, &e) || e.Tensor != c.named || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q of tensor %q; want %q of tensor %q", err, e.Tensor, c.want, c.named)
			}
		})
	}
	if _, err := read(file(ok, 8)); err != nil {
		t.Errorf("the good file is refused: %v", err)
	}
}

func headers() *rapid.Generator[*Header] {
	return rapid.Custom(func(t *rapid.T) *Header {
		h := &Header{}
		names := rapid.SliceOfNDistinct(rapid.String(), 0, 6, rapid.ID[string]).Draw(t, "names")
		for _, n := range names {
			if n == "__metadata__" {
				continue
			}
			d := rapid.SampledFrom(tensor.DTypes()).Draw(t, "dtype")
			shape := rapid.SliceOfN(rapid.IntRange(0, 5), 0, 3).Draw(t, "shape")
			if d.Bits()%8 != 0 {
				shape = append(shape, 8)
			}
			h.Tensors = append(h.Tensors, Entry{Name: n, DType: d, Shape: append([]int{}, shape...)})
		}
		for _, k := range rapid.SliceOfNDistinct(rapid.String(), 0, 3, rapid.ID[string]).Draw(t, "keys") {
			h.Metadata = append(h.Metadata, KV{k, rapid.String().Draw(t, "value")})
		}
		return h
	})
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := headers().Draw(t, "header")
		n, err := h.Layout()
		if err != nil {
			t.Fatal(err)
		}
		b := append(h.Encode(), make([]byte, n)...)
		if h.DataStart%8 != 0 {
			t.Fatalf("data start at %d, not at a multiple of 8", h.DataStart)
		}
		got, err := read(b)
		if err != nil {
			t.Fatalf("%v in %q", err, b)
		}
		for i := range got.Tensors {
			got.Tensors[i].Shape = append([]int{}, got.Tensors[i].Shape...)
		}
		if d := gocmp.Diff(h, got); d != "" {
			t.Fatal(d)
		}
	})
}

// TestManyTensors bounds what a header of 200,000 tensors may allocate: about
// four times its text.
func TestManyTensors(t *testing.T) {
	h := &Header{}
	for i := range 200_000 {
		h.Tensors = append(h.Tensors, Entry{Name: fmt.Sprintf("model.layers.%d.mlp.experts.%d.down_proj.weight", i/1000, i%1000), DType: tensor.U8, Shape: []int{1, 1}})
	}
	n, err := h.Layout()
	if err != nil {
		t.Fatal(err)
	}
	b := append(h.Encode(), make([]byte, n)...)
	r := testing.Benchmark(func(tb *testing.B) {
		tb.ReportAllocs()
		for tb.Loop() {
			if _, err := read(b); err != nil {
				tb.Fatal(err)
			}
		}
	})
	if r.AllocedBytesPerOp() > 6*int64(len(b)) {
		t.Errorf("%d bytes allocated for a file of %d", r.AllocedBytesPerOp(), len(b))
	}
}

// TestNullMetadata: MLX writes null where it has none to say.
func TestNullMetadata(t *testing.T) {
	h, err := read(file(`{"__metadata__":null,"a":{"data_offsets":[0,8],"dtype":"F32","shape":[2]}}`, 8))
	if err != nil || len(h.Metadata) != 0 || len(h.Tensors) != 1 {
		t.Errorf("%+v, %v", h, err)
	}
	for _, bad := range []string{`{"__metadata__":nul}`, `{"__metadata__":nulls}`, `{"__metadata__":1}`, `{"__metadata__":n`} {
		if _, err := read(file(bad, 0)); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

func FuzzReadHeader(f *testing.F) {
	f.Add(file(`{"__metadata__":null,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4))
	f.Add(file(`{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}`, 12))
	f.Add(file(`{"\u00e4\ud83d\ude00":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}`, 1))
	f.Add([]byte("version https://git-lfs"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := read(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v is not about the file", err)
			}
			return
		}
		again, err := read(append(h.Encode(), b[h.DataStart:]...))
		if err != nil {
			t.Fatalf("written again: %v", err)
		}
		again.DataStart = h.DataStart
		if d := gocmp.Diff(h, again); d != "" {
			t.Fatal(d)
		}
	})
}

// TestEveryHeaderLength: the first bytes of a file are a length, whatever else
// they look like: 640 and 1152 begin like a pickle.
func TestEveryHeaderLength(t *testing.T) {
	for n := 2; n < 20000; n++ {
		if n > 3000 && n%256 != 0x80 {
			continue
		}
		text := "{}" + strings.Repeat(" ", n-2)
		if _, err := read(file(text, 0)); err != nil {
			t.Fatalf("header of %d bytes: %v", n, err)
		}
	}
}
