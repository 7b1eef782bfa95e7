package text

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// none stands for "no index" and "no id" in the module's answers.
const none = ^uint32(0)

// errTrapped marks an instance that stopped in the middle of a call, out of
// memory or by a bug; its memory is no longer to be trusted.
var errTrapped = errors.New("the tokenizer module stopped")

// instance is one running copy of the module with one tokenizer loaded. It
// serves one goroutine at a time.
type instance struct {
	mod     api.Module
	stderr  *tail
	broken  bool
	scratch []byte // the last request, for its capacity
}

// tail keeps the last bytes the module wrote to standard error, where a
// panicking Rust program says why.
type tail struct{ b []byte }

const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - tailBytes; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// newInstance starts a copy of the module without a tokenizer.
func newInstance(ctx context.Context, m *module) (*instance, error) {
	stderr := &tail{}
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions("_initialize").WithStderr(stderr)
	mod, err := m.runtime.InstantiateModule(ctx, m.compiled, config)
	if err != nil {
		return nil, fmt.Errorf("start the tokenizer module: %w", err)
	}
	return &instance{mod: mod, stderr: stderr}, nil
}

func (in *instance) close() {
	// Closing a module without open files cannot fail in a way that matters.
	_ = in.mod.Close(context.Background())
}

// call runs an exported function that returns one value. After a trap the
// instance is broken and must be replaced.
func (in *instance) call(ctx context.Context, name string, args ...uint64) (uint32, error) {
	// A deadline must not stop the module halfway: cancellation is checked
	// between calls.
	r, err := in.mod.ExportedFunction(name).Call(context.WithoutCancel(ctx), args...)
	if err != nil {
		in.broken = true
		return 0, fmt.Errorf("%w: %s", errTrapped, in.reason(err))
	}
	if len(r) == 0 {
		return 0, nil
	}
	return uint32(r[0]), nil
}

// reason prefers the panic message of the Rust code to the stack of the trap.
func (in *instance) reason(err error) string {
	if msg := strings.TrimSpace(string(bytes.ToValidUTF8(in.stderr.b, nil))); msg != "" {
		if i := strings.Index(msg, "\nnote: run with"); i >= 0 {
			msg = msg[:i]
		}
		return strings.Join(strings.Fields(msg), " ")
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}

// request writes req to the module's memory, calls name with its place, its
// length and args, and returns the answer. The answer is a view of the
// module's memory, valid until the next call.
func (in *instance) request(ctx context.Context, name string, req []byte, args ...uint64) ([]byte, error) {
	n := uint64(len(req))
	if n > math.MaxInt32 {
		return nil, fmt.Errorf("%d bytes are too many for one call", n)
	}
	p, err := in.call(ctx, "tk_alloc", n)
	if err != nil {
		return nil, err
	}
	if !in.mod.Memory().Write(p, req) {
		in.broken = true
		return nil, fmt.Errorf("%w: no room for %d bytes", errTrapped, n)
	}
	answer, err := in.answer(ctx, name, append([]uint64{uint64(p), n}, args...)...)
	if in.broken {
		return nil, err
	}
	// tk_free leaves the answer where it is.
	if _, freeErr := in.call(ctx, "tk_free", uint64(p), n); freeErr != nil {
		return nil, freeErr
	}
	return answer, err
}

// answer calls name and returns what it left in the answer buffer.
func (in *instance) answer(ctx context.Context, name string, args ...uint64) ([]byte, error) {
	status, err := in.call(ctx, name, args...)
	if err != nil {
		return nil, err
	}
	p, err := in.call(ctx, "tk_out_ptr")
	if err != nil {
		return nil, err
	}
	n, err := in.call(ctx, "tk_out_len")
	if err != nil {
		return nil, err
	}
	var out []byte
	if n > 0 {
		var ok bool
		if out, ok = in.mod.Memory().Read(p, n); !ok {
			in.broken = true
			return nil, fmt.Errorf("%w: answer outside its memory", errTrapped)
		}
	}
	if status != 0 {
		return nil, errors.New(string(out))
	}
	return out, nil
}

// load gives the instance its tokenizer and returns what readInfo reads, valid
// as request's answers are.
func (in *instance) load(ctx context.Context, json []byte) ([]byte, error) {
	return in.request(ctx, "tk_load", json)
}

// copyOf starts an instance in the state of src, which must be idle: it
// copies src's memory, which is much faster than loading a large vocabulary
// again. The module's other state, its stack pointer, is the same in every
// idle instance.
func copyOf(ctx context.Context, m *module, src *instance) (*instance, error) {
	in, err := newInstance(ctx, m)
	if err != nil {
		return nil, err
	}
	from := src.mod.Memory()
	state, ok := from.Read(0, from.Size())
	if !ok || !in.setMemory(state) {
		in.close()
		return nil, fmt.Errorf("%w: its memory of %d bytes could not be copied", errTrapped, from.Size())
	}
	return in, nil
}

// words reads the little-endian words and texts of an answer. After a read
// past the end, bad is set and zeros are returned.
type words struct {
	b   []byte
	bad bool
}

func (w *words) next() uint32 {
	if len(w.b) < 4 {
		w.bad = true
		return 0
	}
	v := binary.LittleEndian.Uint32(w.b)
	w.b = w.b[4:]
	return v
}

func (w *words) text() string {
	n := int(w.next())
	if n < 0 || n > len(w.b) { // an int may have 32 bits
		w.bad = true
		return ""
	}
	s := string(w.b[:n])
	w.b = w.b[n:]
	return s
}

// take returns the next 4*n bytes.
func (w *words) take(n int) []byte {
	if n < 0 || n > len(w.b)/4 {
		w.bad, n = true, 0
	}
	b := w.b[:4*n]
	w.b = w.b[4*n:]
	return b
}

var errAnswer = errors.New("the tokenizer module gave an answer of the wrong length")
