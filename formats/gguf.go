package formats

import (
	"errors"
	"fmt"
	"os"

	"github.com/lsrsurgeon/lsrsurgeon/formats/gguf"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// FormatGGUF is what Checkpoint.Format says of GGUF files.
const FormatGGUF = "gguf"

func init() { Register(Codec{Format: FormatGGUF, Ext: ".gguf", Open: openGGUF}) }

// openGGUF lists the tensors of a GGUF file. Blocks of quantised types have no
// dtype and are listed by their name. Metadata that is no array becomes text.
func openGGUF(path string) ([]File, []Tensor, error) {
	f, size, err := ReadGGUF(path)
	if err != nil {
		return nil, nil, err
	}
	info := File{Path: path, Size: size}
	for _, kv := range f.KV {
		switch kv.Value.(type) {
		case string, bool, uint8, int8, uint16, int16, uint32, int32, uint64, int64, float32, float64:
			info.Metadata = append(info.Metadata, KV{kv.Key, fmt.Sprint(kv.Value)})
		}
	}
	out := make([]Tensor, len(f.Tensors))
	for i, t := range f.Tensors {
		out[i] = Tensor{Name: t.Name, DType: t.Type.DType(), Shape: t.Shape, Offset: t.Offset, Bytes: t.Bytes}
		if out[i].DType == tensor.Invalid {
			out[i].Stored = t.Type.String()
		}
	}
	return []File{info}, out, nil
}

// ReadGGUF reads the start of a GGUF file and the file's size. Errors are
// *Error.
func ReadGGUF(path string) (*gguf.File, int64, error) {
	fail := func(err error) (*gguf.File, int64, error) {
		e := &Error{Path: path, Reason: err.Error(), Err: err}
		var x *gguf.Error
		if errors.As(err, &x) {
			e.Tensor, e.Offset, e.Reason, e.Hint = x.Tensor, x.Offset, x.Reason, x.Hint
			switch {
			case errors.Is(err, gguf.ErrUnsupported):
				e.Err = ErrUnsupported
			case errors.Is(err, gguf.ErrMalformed):
				e.Err = ErrMalformed
			}
			if x.Key != "" {
				e.Reason = fmt.Sprintf("metadata %q: %s", x.Key, x.Reason)
			}
		}
		return nil, 0, e
	}
	r, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	st, err := r.Stat()
	if err != nil {
		return fail(err)
	}
	if !st.Mode().IsRegular() {
		return fail(errors.New("not a regular file"))
	}
	f, err := gguf.Read(r, st.Size())
	if err != nil {
		return fail(err)
	}
	return f, st.Size(), nil
}
