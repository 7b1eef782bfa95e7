// Package safetensors reads and writes the headers of safetensors files.
//
// A file is eight bytes with the header's length (little-endian), the header, a
// JSON object, and the data. Every entry but "__metadata__" names a tensor with
// its dtype, shape and data_offsets [begin, end) counted from the end of the
// header. The tensors must cover the data without hole or overlap.
// Specification: https://github.com/huggingface/safetensors, "Format".
package safetensors

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// MaxHeader is the longest header accepted, as in the reference implementation.
const MaxHeader = 100_000_000

// KV is one entry of __metadata__.
type KV struct{ Key, Value string }

// Entry is one tensor of a header. Begin and End are offsets from the end of
// the header.
type Entry struct {
	Name       string
	DType      tensor.DType
	Shape      []int
	Begin, End int64
}

// Header is the parsed header, in the order of the file.
type Header struct {
	Metadata []KV
	Tensors  []Entry
	// DataStart is the offset of the data in the file.
	DataStart int64
}

// ErrMalformed is wrapped by every error about the bytes of a file.
var ErrMalformed = errors.New("malformed safetensors file")

// Error says what is wrong, and with which tensor where there is one.
type Error struct {
	Tensor string
	Offset int64 // in the file
	Reason string
	Hint   string
}

func (e *Error) Error() string {
	if e.Tensor != "" {
		return fmt.Sprintf("tensor %q: %s", e.Tensor, e.Reason)
	}
	return e.Reason
}

// Unwrap makes errors.Is(err, ErrMalformed) true.
func (e *Error) Unwrap() error { return ErrMalformed }

// ReadHeader reads and checks the header of a file of size bytes.
func ReadHeader(r io.ReaderAt, size int64) (*Header, error) {
	var b [8]byte
	if size < 8 {
		return nil, &Error{Reason: fmt.Sprintf("%d bytes are too few for a safetensors file", size), Hint: "the file is truncated or not a checkpoint: fetch it again"}
	}
	if _, err := r.ReadAt(b[:], 0); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(b[:])
	// Only what cannot be a header is looked at for what else it may be: a
	// length of 640 begins like a pickle.
	if first := []byte{0}; n > MaxHeader || int64(n) > size-8 || n > 0 && readByte(r, 8, first) && first[0] != '{' {
		if e := foreign(r, size); e != nil {
			return nil, e
		}
	}
	if n > MaxHeader {
		return nil, &Error{Reason: fmt.Sprintf("header length %d is above the limit of %d", n, MaxHeader), Hint: "this is not a safetensors file"}
	}
	if int64(n) > size-8 {
		return nil, &Error{Reason: fmt.Sprintf("header of %d bytes in a file of %d", n, size), Hint: "the file is truncated: fetch it again"}
	}
	text := make([]byte, n)
	if _, err := r.ReadAt(text, 8); err != nil && (err != io.EOF || n > 0) {
		return nil, err
	}
	h, err := Parse(text)
	if err != nil {
		return nil, err
	}
	h.DataStart = 8 + int64(n)
	return h, h.checkLayout(size - h.DataStart)
}

func readByte(r io.ReaderAt, off int64, b []byte) bool {
	n, _ := r.ReadAt(b[:1], off) // an error shows again when the header is read
	return n == 1
}

// foreign recognises what people mistake for a checkpoint.
func foreign(r io.ReaderAt, size int64) *Error {
	head := make([]byte, min(size, 64))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil
	}
	s := string(head)
	switch {
	case strings.HasPrefix(s, "version https://git-lfs"):
		return &Error{Reason: "this is a Git LFS pointer, not the file itself", Hint: "run `git lfs pull` in the repository"}
	case strings.HasPrefix(s, "PK\x03\x04"), strings.HasPrefix(s, "\x80\x02"), strings.HasPrefix(s, "\x80\x04"):
		return &Error{Reason: "this is a pickled PyTorch file, not safetensors", Hint: "load it in Python and save it with safetensors.torch.save_file; pickles can run code and are not read"}
	case strings.HasPrefix(s, "GGUF"):
		return &Error{Reason: "this is a GGUF file, not safetensors", Hint: "use the safetensors checkpoint that it was made from"}
	case strings.HasPrefix(strings.ToLower(strings.TrimSpace(s)), "<!doctype"), strings.HasPrefix(strings.ToLower(strings.TrimSpace(s)), "<html"):
		return &Error{Reason: "this is an HTML page, not safetensors", Hint: "the download fetched a web page: use the file's raw address"}
	}
	return nil
}

// checkLayout demands that the tensors cover [0, data) exactly.
func (h *Header) checkLayout(data int64) error {
	order := make([]int32, len(h.Tensors))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		x, y := &h.Tensors[a], &h.Tensors[b]
		if x.Begin != y.Begin {
			return cmp.Compare(x.Begin, y.Begin)
		}
		return cmp.Compare(x.End, y.End)
	})
	at := int64(0)
	for _, i := range order {
		t := &h.Tensors[i]
		switch {
		case t.Begin < at:
			return &Error{Tensor: t.Name, Offset: h.DataStart + t.Begin, Reason: "its data overlap another tensor's", Hint: "the file was not written correctly: save it again"}
		case t.Begin > at:
			return &Error{Tensor: t.Name, Offset: h.DataStart + at, Reason: fmt.Sprintf("%d unused bytes before its data", t.Begin-at), Hint: "the format allows no holes: save the file again"}
		case t.End > data:
			return &Error{Tensor: t.Name, Offset: h.DataStart + t.Begin, Reason: fmt.Sprintf("its data end at byte %d, the file at %d", h.DataStart+t.End, h.DataStart+data), Hint: "the file is truncated: fetch it again"}
		}
		at = t.End
	}
	if at != data {
		return &Error{Offset: h.DataStart + at, Reason: fmt.Sprintf("%d bytes after the last tensor", data-at), Hint: "the file has trailing data or a wrong header: fetch or save it again"}
	}
	return nil
}

// Encode returns the eight length bytes and the header, padded with spaces so that
// the data start at a multiple of 8. Metadata come first, all in order.
func (h *Header) Encode() []byte {
	b := make([]byte, 8, 8+64+128*len(h.Tensors))
	b = append(b, '{')
	if len(h.Metadata) > 0 {
		b = append(b, `"__metadata__":{`...)
		for i, kv := range h.Metadata {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, kv.Key)
			b = append(b, ':')
			b = appendString(b, kv.Value)
		}
		b = append(b, '}')
	}
	for i := range h.Tensors {
		t := &h.Tensors[i]
		if i > 0 || len(h.Metadata) > 0 {
			b = append(b, ',')
		}
		b = appendString(b, t.Name)
		b = append(b, `:{"dtype":"`...)
		b = append(b, t.DType.String()...)
		b = append(b, `","shape":[`...)
		for j, d := range t.Shape {
			if j > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, int64(d), 10)
		}
		b = append(b, `],"data_offsets":[`...)
		b = strconv.AppendInt(b, t.Begin, 10)
		b = append(b, ',')
		b = strconv.AppendInt(b, t.End, 10)
		b = append(b, `]}`...)
	}
	b = append(b, '}')
	for len(b)%8 != 0 {
		b = append(b, ' ')
	}
	binary.LittleEndian.PutUint64(b, uint64(len(b)-8))
	return b
}

// Layout assigns consecutive offsets to the tensors in order and sets
// DataStart. It returns the size of the data.
func (h *Header) Layout() (int64, error) {
	at := int64(0)
	for i := range h.Tensors {
		t := &h.Tensors[i]
		n, err := tensor.ByteSize(t.DType, t.Shape)
		if err != nil {
			return 0, &Error{Tensor: t.Name, Reason: err.Error()}
		}
		t.Begin, t.End = at, at+n
		at += n
	}
	h.DataStart = int64(len(h.Encode()))
	return at, nil
}

const hexDigits = "0123456789abcdef"

func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
