package onnx

import (
	"encoding/binary"
	"math"
	"strconv"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// tensorParts is what a TensorProto says before it is judged.
type tensorParts struct {
	dims     []int64
	raw      *field
	external []KV
	location int64
	segment  bool
	strBytes int64
}

func (s *source) tensor(f *field) (*Tensor, error) {
	if err := f.wantBytes(); err != nil {
		return nil, err
	}
	t := &Tensor{Span: f.val, Record: f.record}
	var p tensorParts
	err := s.fields(f.val, func(x *field) (err error) {
		switch x.num {
		case 1:
			p.dims, err = s.numbers(x, p.dims)
		case 2:
			t.Type, err = DataType(x.v), x.want(wireVarint)
		case 3:
			p.segment = true
		case fieldFloat, fieldInt32, fieldInt64, fieldDouble, fieldUint64:
			if x.val.Len > 0 {
				t.typed = append(t.typed, *x)
			}
		case fieldString:
			t.typed = append(t.typed, *x)
			t.strings++
			p.strBytes += x.val.Len
			err = x.wantBytes()
		case 8:
			t.Name, err = s.text(x)
		case fieldRaw:
			v := *x
			p.raw, err = &v, x.wantBytes()
		case 13:
			p.external, err = s.kv(x, p.external)
		case 14:
			p.location, err = x.signed(), x.want(wireVarint)
		}
		return err
	})
	if err != nil {
		return nil, nameTensor(err, t.Name)
	}
	if err := t.settle(s, &p); err != nil {
		return nil, err
	}
	return t, nil
}

func nameTensor(err error, name string) error {
	if e, ok := err.(*Error); ok && e.Tensor == "" {
		e.Tensor = name
	}
	return err
}

// settle checks shape and type, and finds where the data are.
func (t *Tensor) settle(s *source, p *tensorParts) error {
	if p.segment {
		e := t.fail("it is stored in segments")
		e.Err, e.Hint = ErrUnsupported, "save the model again with a current exporter"
		return e
	}
	if t.Type == Undefined || t.Type.info().typed == 0 {
		return t.fail("unknown data type %d", int32(t.Type))
	}
	for _, d := range p.dims {
		if d < 0 || d > math.MaxInt {
			return t.fail("dimension %d", d)
		}
		t.Dims = append(t.Dims, int(d))
	}
	n, err := tensor.Elements(t.Dims)
	if err != nil {
		return t.fail("%v", err)
	}
	t.elements = n
	want, ok := t.Type.size(n)
	if !ok {
		return t.fail("shape %v is too large", t.Dims)
	}
	t.Bytes = want
	switch {
	case p.location == 1:
		return t.settleExternal(p)
	case p.location != 0:
		return t.fail("unknown data location %d", p.location)
	case p.raw != nil:
		return t.settleRaw(p.raw)
	case t.Type == String:
		t.Store, t.Bytes = StoreTyped, p.strBytes
		if t.strings != n {
			return t.fail("%d strings for shape %v", t.strings, t.Dims)
		}
		return nil
	}
	return t.settleTyped(s)
}

func (t *Tensor) settleRaw(x *field) error {
	if t.Type == String {
		return t.fail("strings as raw data")
	}
	if x.val.Len != t.Bytes {
		return t.fail("%d bytes of data, %v of shape %v needs %d", x.val.Len, t.Type, t.Dims, t.Bytes)
	}
	t.Store, t.Raw, t.rawRecord, t.typed = StoreRaw, x.val, x.record, nil
	return nil
}

func (t *Tensor) settleExternal(p *tensorParts) error {
	if t.Type == String {
		return t.fail("strings as external data")
	}
	t.Store, t.typed = StoreExternal, nil
	x := External{Length: -1}
	var err error
	for _, kv := range p.external {
		switch kv.Key {
		case "location":
			x.Location = kv.Value
		case "offset":
			x.Offset, err = strconv.ParseInt(kv.Value, 10, 64)
		case "length":
			x.Length, err = strconv.ParseInt(kv.Value, 10, 64)
		case "checksum":
			x.Checksum = kv.Value
		}
		if err != nil || x.Offset < 0 || x.Length < -1 {
			return t.fail("external data with %s %q", kv.Key, kv.Value)
		}
	}
	if x.Location == "" {
		return t.fail("external data without a location")
	}
	if x.Length >= 0 && x.Length != t.Bytes {
		return t.fail("%d bytes of external data, %v of shape %v needs %d", x.Length, t.Type, t.Dims, t.Bytes)
	}
	t.External = x
	return nil
}

// perElement is how many numbers of the typed field n elements take.
func (d DataType) perElement(n int64) int64 {
	switch d {
	case Complex64, Complex128:
		return 2 * n
	case Uint4, Int4, Float4E2M1:
		return (n + 1) / 2
	case Uint2, Int2:
		return (n + 3) / 4
	}
	return n
}

// width is the size of the numbers of a typed field, or 0 for varints.
func width(num int) int64 {
	switch num {
	case fieldFloat:
		return 4
	case fieldDouble:
		return 8
	}
	return 0
}

// settleTyped checks the typed fields. Packed floats in one piece are laid out
// as raw data.
func (t *Tensor) settleTyped(s *source) error {
	num := t.Type.info().typed
	count := int64(0)
	for i := range t.typed {
		x := &t.typed[i]
		if x.num != num {
			return t.fail("data in field %d, %v has it in field %d", x.num, t.Type, num)
		}
		n, err := s.countNumbers(x)
		if err != nil {
			return nameTensor(err, t.Name)
		}
		count += n
	}
	if want := t.Type.perElement(t.elements); count != want {
		return t.fail("%d numbers of data, %v of shape %v needs %d", count, t.Type, t.Dims, want)
	}
	if w := width(num); w > 0 && len(t.typed) == 1 && t.typed[0].wire == wireBytes {
		t.Store, t.Raw, t.rawRecord, t.typed = StoreRaw, t.typed[0].val, t.typed[0].record, nil
		return nil
	}
	if len(t.typed) == 0 {
		t.Store, t.Raw = StoreRaw, Span{t.Span.Offset, 0}
		return nil
	}
	t.Store = StoreTyped
	return nil
}

func (s *source) countNumbers(x *field) (int64, error) {
	if w := width(x.num); w > 0 {
		if x.wire == wireBytes {
			if x.val.Len%w != 0 {
				return 0, malformedAt(x.record.Offset, "%d bytes are no whole number of elements", x.val.Len)
			}
			return x.val.Len / w, nil
		}
		if x.val.Len != w || x.wire == wireVarint {
			return 0, malformedAt(x.record.Offset, "field %d has wire type %d", x.num, x.wire)
		}
		return 1, nil
	}
	if x.wire == wireVarint {
		return 1, nil
	}
	if err := x.wantBytes(); err != nil {
		return 0, err
	}
	n := int64(0)
	for at := x.val.Offset; at < x.val.End(); {
		b, err := s.bytes(at, min(window, x.val.End()-at))
		if err != nil {
			return 0, err
		}
		for _, c := range b {
			if c < 0x80 {
				n++
			}
		}
		at += int64(len(b))
		if at == x.val.End() && b[len(b)-1] >= 0x80 {
			return 0, malformedAt(x.record.Offset, "a number does not end")
		}
	}
	return n, nil
}

// decodeTyped turns typed fields into raw data.
func (t *Tensor) decodeTyped(s *source) ([]byte, error) {
	out := make([]byte, 0, t.Bytes)
	num := t.Type.info().typed
	w := width(num)
	size := int64(t.Type.Bits() / 8) // of one number in raw data
	switch t.Type {
	case Complex64, Complex128:
		size /= 2
	case Uint4, Int4, Float4E2M1, Uint2, Int2, Float6E2M3, Float6E3M2:
		size = 1 // the numbers hold packed bytes
	}
	put := func(v uint64) {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], v)
		out = append(out, b[:size]...)
	}
	for i := range t.typed {
		x := &t.typed[i]
		switch {
		case x.wire != wireBytes:
			put(x.v)
		case w > 0:
			b, err := s.bytes(x.val.Offset, x.val.Len)
			if err != nil {
				return nil, err
			}
			out = append(out, b...)
		default:
			for at := x.val.Offset; at < x.val.End(); {
				v, next, err := s.varint(at, x.val.End())
				if err != nil {
					return nil, err
				}
				put(v)
				at = next
			}
		}
	}
	if t.Type == Float6E2M3 || t.Type == Float6E3M2 {
		out = pack6(out)
	}
	return out, nil
}

// pack6 packs six-bit elements, one per byte, from the lowest bit up.
func pack6(b []byte) []byte {
	out := make([]byte, (len(b)*6+7)/8)
	for i, v := range b {
		at := i * 6
		x := uint16(v&0x3f) << (at % 8)
		out[at/8] |= byte(x)
		if x>>8 != 0 {
			out[at/8+1] |= byte(x >> 8)
		}
	}
	return out
}

// Data reads a tensor of the model into memory as raw data: little-endian,
// sub-byte elements packed from the lowest bits up. Strings are read by
// [Model.Strings].
func (m *Model) Data(t *Tensor) ([]byte, error) {
	if t.Type == String {
		e := t.fail("strings are no raw data")
		e.Err = ErrUnsupported
		return nil, withPath(e, m.Path)
	}
	switch t.Store {
	case StoreMemory:
		return t.memory()
	case StoreTyped:
		b, err := t.decodeTyped(m.src)
		return b, withPath(err, m.Path)
	case StoreExternal:
		return m.readExternal(t)
	}
	b := make([]byte, t.Raw.Len)
	if _, err := m.src.r.ReadAt(b, t.Raw.Offset); err != nil {
		return nil, withPath(t.fail("reading its data: %v", err), m.Path)
	}
	return b, nil
}

// Strings reads a tensor of strings.
func (m *Model) Strings(t *Tensor) ([]string, error) {
	var out []string
	for i := range t.typed {
		if t.Type != String {
			break
		}
		v, err := m.src.text(&t.typed[i])
		if err != nil {
			return nil, withPath(err, m.Path)
		}
		out = append(out, v)
	}
	return out, nil
}

// Bytes returns a copy of a range of the model file, such as a node's message.
func (m *Model) Bytes(sp Span) ([]byte, error) {
	b, err := m.src.bytes(sp.Offset, sp.Len)
	return append([]byte(nil), b...), withPath(err, m.Path)
}
