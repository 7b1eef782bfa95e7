package tensor

import (
	"errors"
	"math"
	"testing"
)

// TestDTypes lists the format's names and sizes again, from its specification
// (safetensors 0.8, the Dtype enumeration).
func TestDTypes(t *testing.T) {
	bits := map[string]int{
		"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
		"F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
		"I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
	}
	if len(DTypes()) != len(bits) {
		t.Errorf("%d dtypes, want %d", len(DTypes()), len(bits))
	}
	for _, d := range DTypes() {
		if want, ok := bits[d.String()]; !ok || d.Bits() != want {
			t.Errorf("%v has %d bits, want %d", d, d.Bits(), want)
		}
		if back, ok := ParseDType(d.String()); !ok || back != d {
			t.Errorf("%v parses to %v", d, back)
		}
		if want := d.String()[0] == 'F' || d == BF16; d.IsFloat() != want {
			t.Errorf("%v: IsFloat %v", d, d.IsFloat())
		}
	}
	for _, s := range []string{"", "f32", "INVALID", "F128"} {
		if d, ok := ParseDType(s); ok {
			t.Errorf("%q parses to %v", s, d)
		}
	}
	if DType(200).String() != "DType(200)" || DType(200).Bits() != 0 || DType(200).IsFloat() {
		t.Error("a number out of range")
	}
}

func TestSizes(t *testing.T) {
	cases := []struct {
		d     DType
		shape []int
		want  int64 // -1: ErrShape
	}{
		{F32, nil, 4},
		{F32, []int{0}, 0},
		{F32, []int{math.MaxInt, 0, math.MaxInt}, -1}, // the product of the others overflows
		{BF16, []int{3, 5}, 30},
		{F4, []int{3}, -1},
		{F4, []int{4}, 2},
		{F6E2M3, []int{4, 3}, 9},
		{F6E3M2, []int{2}, -1},
		{C64, []int{2}, 16},
		{U8, []int{-1}, -1},
		{U8, []int{1 << 32, 1 << 32}, -1}, // wraps to 0 in 64 bits
		{F64, []int{1 << 60}, -1},
		{U8, []int{math.MaxInt}, math.MaxInt64},
	}
	for _, c := range cases {
		got, err := ByteSize(c.d, c.shape)
		if c.want < 0 {
			if !errors.Is(err, ErrShape) {
				t.Errorf("%v %v: %d, %v", c.d, c.shape, got, err)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%v %v: %d, %v; want %d", c.d, c.shape, got, err, c.want)
		}
	}
}

func TestConvertRefuses(t *testing.T) {
	if err := DecodeF32(make([]float32, 1), make([]byte, 8), I64); !errors.Is(err, ErrConvert) {
		t.Errorf("I64: %v", err)
	}
	if err := DecodeF64(make([]float64, 2), make([]byte, 7), F32); !errors.Is(err, ErrConvert) {
		t.Errorf("short: %v", err)
	}
	if err := EncodeF32(make([]byte, 1), make([]float32, 1), F8E8M0); !errors.Is(err, ErrConvert) {
		t.Errorf("F8_E8M0: %v", err)
	}
	if err := EncodeF64(make([]byte, 1), make([]float64, 1), F4); !errors.Is(err, ErrConvert) {
		t.Errorf("F4: %v", err)
	}
}

func TestConvertWide(t *testing.T) {
	x := []float64{0, 1, -2.5, math.Pi, 1e-300, math.Inf(-1), 0.1}
	b := make([]byte, 8*len(x))
	if err := EncodeF64(b, x, F64); err != nil {
		t.Fatal(err)
	}
	y, y32 := make([]float64, len(x)), make([]float32, len(x))
	if err := DecodeF64(y, b, F64); err != nil {
		t.Fatal(err)
	}
	if err := DecodeF32(y32, b, F64); err != nil {
		t.Fatal(err)
	}
	b4, b4b := make([]byte, 4*len(x)), make([]byte, 4*len(x))
	if err := EncodeF64(b4, x, F32); err != nil {
		t.Fatal(err)
	}
	if err := EncodeF32(b4b, y32, F32); err != nil {
		t.Fatal(err)
	}
	for i := range x {
		if y[i] != x[i] || y32[i] != float32(x[i]) {
			t.Errorf("%v came back as %v, %v", x[i], y[i], y32[i])
		}
	}
	if string(b4) != string(b4b) {
		t.Error("F32 from float64 and float32 differ")
	}
	if err := EncodeF32(b, y32, F64); err != nil {
		t.Fatal(err)
	}
	if err := DecodeF64(y, b, F64); err != nil {
		t.Fatal(err)
	}
	for i := range x {
		if y[i] != float64(y32[i]) {
			t.Errorf("%v became %v", y32[i], y[i])
		}
	}
}
