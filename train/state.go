package train

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// ErrStateMismatch is wrapped by the error of a run that cannot be resumed because
// its options or data are others than before.
var ErrStateMismatch = errors.New("the run cannot be resumed with these options")

// state is all that a resumed run needs. Everything else follows from the
// options and the position.
type state struct {
	Step   int    `json:"step"`   // optimizer steps done
	Epoch  int    `json:"epoch"`  // of the next step
	Cursor int    `json:"cursor"` // steps of that epoch done
	Micro  uint64 `json:"micro"`  // batches done: the counter of dropout

	LastEval    int          `json:"last_eval"` // the step of the last evaluation
	BestStep    int          `json:"best_step"` // 0 if there is no best
	Stale       int          `json:"stale"`     // evaluations since the best
	Stopped     bool         `json:"stopped"`   // patience was at its end
	BestMetrics MetricValues `json:"best_metrics"`
	LastMetrics MetricValues `json:"last_metrics"`

	Seconds float64           `json:"seconds"` // spent so far
	Config  map[string]string `json:"config"`

	params, moment1, moment2 []float32
	best                     []float32 // nil if there is no best
}

// MetricValues are metrics in a file, in order; null stands for NaN.
type MetricValues []task.Metric

type namedValue struct {
	Name  string `json:"name"`
	Value value  `json:"value"`
}

// MarshalJSON keeps the order.
func (m MetricValues) MarshalJSON() ([]byte, error) {
	out := make([]namedValue, len(m))
	for i, v := range m {
		out[i] = namedValue{v.Name, value(v.Value)}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (m *MetricValues) UnmarshalJSON(b []byte) error {
	var in []struct {
		Name  string
		Value *float64
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*m = nil
	for _, v := range in {
		x := math.NaN()
		if v.Value != nil {
			x = *v.Value
		}
		*m = append(*m, task.Metric{Name: v.Name, Value: x})
	}
	return nil
}

// better reports whether m is better than the best so far in the metric; NaN is
// never better.
func (s *state) better(m []task.Metric, metric string) bool {
	v := valueOf(m, metric)
	if math.IsNaN(v) {
		return false
	}
	if s.best == nil {
		return true
	}
	old := valueOf(s.BestMetrics, metric)
	if task.HigherIsBetter(metric) {
		return v > old
	}
	return v < old
}

func valueOf(m []task.Metric, name string) float64 {
	for _, v := range m {
		if v.Name == name {
			return v.Value
		}
	}
	return math.NaN()
}

// stateHeader is the JSON header of the state file, a safetensors file.
type stateHeader struct {
	Metadata struct {
		State  string `json:"lsrsurgeon_state"`
		SHA256 string `json:"sha256"` // of the state and the tensors' bytes
	} `json:"__metadata__"`
	Params  *stateTensor `json:"params"`
	Moment1 *stateTensor `json:"moment1"`
	Moment2 *stateTensor `json:"moment2"`
	Best    *stateTensor `json:"best,omitempty"`
}

type stateTensor struct {
	DType   string   `json:"dtype"`
	Shape   [1]int   `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// encode returns the header, padded so that the tensors are aligned.
func (h *stateHeader) encode() ([]byte, error) {
	b, err := json.Marshal(h)
	return append(b, strings.Repeat(" ", (8-len(b)%8)%8)...), err
}

// write writes s as a safetensors file whose metadata hold the position.
func (s *state) write(w io.Writer) error {
	position, err := json.Marshal(s)
	if err != nil {
		return err
	}
	var h stateHeader
	sum := sha256.New()
	sum.Write(position)
	end := int64(0)
	add := func(v []float32) *stateTensor {
		t := &stateTensor{DType: "F32", Shape: [1]int{len(v)}, Offsets: [2]int64{end, end + 4*int64(len(v))}}
		end = t.Offsets[1]
		writeFloats(sum, v) // a hash never fails
		return t
	}
	h.Params, h.Moment1, h.Moment2 = add(s.params), add(s.moment1), add(s.moment2)
	if s.best != nil {
		h.Best = add(s.best)
	}
	h.Metadata.State, h.Metadata.SHA256 = string(position), hex.EncodeToString(sum.Sum(nil))
	header, err := h.encode()
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(w, 1<<16)
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(len(header)))
	b.Write(n[:])
	b.Write(header)
	for _, v := range [][]float32{s.params, s.moment1, s.moment2, s.best} {
		if err := writeFloats(b, v); err != nil {
			return err
		}
	}
	return b.Flush()
}

func writeFloats(w io.Writer, v []float32) error {
	var buf [4096]byte
	for part := range slices.Chunk(v, len(buf)/4) {
		for i, x := range part {
			binary.LittleEndian.PutUint32(buf[4*i:], math.Float32bits(x))
		}
		if _, err := w.Write(buf[:4*len(part)]); err != nil {
			return err
		}
	}
	return nil
}

// readState reads the state file of a program with size parameters.
func readState(path string, size int) (*state, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	bad := func(format string, args ...any) (*state, error) {
		return nil, fmt.Errorf("%s: %s: the state is damaged; start the run anew", path, fmt.Sprintf(format, args...))
	}
	if len(data) < 8 {
		return bad("%d bytes", len(data))
	}
	n := binary.LittleEndian.Uint64(data)
	if n > uint64(len(data)-8) {
		return bad("a header of %d bytes in a file of %d", n, len(data))
	}
	var h stateHeader
	if err := json.Unmarshal(data[8:8+n], &h); err != nil {
		return bad("%v", err)
	}
	// The checksum leaves the header out; what does not encode to the same bytes
	// again was not written by encode.
	if again, err := h.encode(); err != nil || !bytes.Equal(again, data[8:8+n]) {
		return bad("not the header that was written")
	}
	s := &state{}
	if err := json.Unmarshal([]byte(h.Metadata.State), s); err != nil {
		return bad("%v", err)
	}
	payload := data[8+n:]
	sum := sha256.New()
	io.WriteString(sum, h.Metadata.State)
	sum.Write(payload)
	if hex.EncodeToString(sum.Sum(nil)) != h.Metadata.SHA256 {
		return bad("checksum differs")
	}
	end := int64(0)
	for _, t := range []struct {
		name string
		h    *stateTensor
		dst  *[]float32
	}{{"params", h.Params, &s.params}, {"moment1", h.Moment1, &s.moment1}, {"moment2", h.Moment2, &s.moment2}, {"best", h.Best, &s.best}} {
		if t.h == nil && t.name == "best" {
			continue
		}
		// The checksum leaves these out too, but write leaves no choice in them.
		start := end
		end += 4 * int64(size)
		if t.h == nil || *t.h != (stateTensor{DType: "F32", Shape: [1]int{size}, Offsets: [2]int64{start, end}}) || end > int64(len(payload)) {
			return bad("tensor %s is not one of %d float32 values at byte %d", t.name, size, start)
		}
		b := payload[t.h.Offsets[0]:t.h.Offsets[1]]
		*t.dst = make([]float32, size)
		for i := range *t.dst {
			(*t.dst)[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
	}
	if end != int64(len(payload)) {
		return bad("%d bytes of tensors, want %d", len(payload), end)
	}
	return s, nil
}

// sameConfig returns an error that names what differs.
func sameConfig(path string, saved, now map[string]string) error {
	var diff []string
	keys := slices.Collect(maps.Keys(saved))
	for k := range now {
		if _, ok := saved[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if saved[k] != now[k] {
			diff = append(diff, fmt.Sprintf("%s was %q and is %q", k, saved[k], now[k]))
		}
	}
	if diff == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %s", path, ErrStateMismatch, strings.Join(diff, "; "))
}
