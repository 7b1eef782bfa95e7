package train

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
)

// FuzzReadState: any state file is refused, or gives as many parameters as the
// program has. The position comes with a right checksum.
func FuzzReadState(f *testing.F) {
	const n = 3
	s := &state{params: make([]float32, n), moment1: make([]float32, n), moment2: make([]float32, n), Step: 4, Config: map[string]string{"a": "b"}}
	var b bytes.Buffer
	if err := s.write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes(), "")
	f.Add([]byte{255, 255, 255, 255, 255, 255, 255, 255}, "")
	f.Add([]byte{}, `{"Step": -1}`)
	f.Add([]byte{}, `{"Config": null, "BestMetrics": [{"name": "x", "value": 1e999}]}`)
	f.Fuzz(func(t *testing.T, b []byte, position string) {
		if position != "" {
			b = stateOf(t, n, position)
		}
		path := filepath.Join(t.TempDir(), StateFile)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := readState(path, n); err == nil && (len(s.params) != n || len(s.moment1) != n || len(s.moment2) != n || s.best != nil && len(s.best) != n) {
			t.Errorf("%d parameters", len(s.params))
		}
	})
}

// stateOf makes a state file with a position of any text.
func stateOf(t *testing.T, n int, position string) []byte {
	t.Helper()
	payload := make([]byte, 12*n)
	sum := sha256.New()
	sum.Write([]byte(position))
	sum.Write(payload)
	var h stateHeader
	h.Metadata.State, h.Metadata.SHA256 = position, hex.EncodeToString(sum.Sum(nil))
	for i, x := range []**stateTensor{&h.Params, &h.Moment1, &h.Moment2} {
		*x = &stateTensor{DType: "F32", Shape: [1]int{n}, Offsets: [2]int64{int64(4 * n * i), int64(4 * n * (i + 1))}}
	}
	header, err := h.encode()
	if err != nil {
		t.Fatal(err)
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), payload...)
}

// FuzzReadSummary: any run.json is refused or read.
func FuzzReadSummary(f *testing.F) {
	for _, s := range []string{`{"schema": 1, "task": "mrpc", "labels": ["a"], "config": {"x": "y"}, "metrics": {"f1": 0.5}}`, `{"schema": 2}`, `{`, `null`, `[]`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, RunFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := ReadSummary(dir); err == nil && s.Schema != summarySchema {
			t.Errorf("schema %d", s.Schema)
		}
	})
}
