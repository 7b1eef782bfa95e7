package manifest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	peer "github.com/nlpodyssey/safetensors"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

// ErrDamaged is what a checkpoint that does not pass is refused with.
var ErrDamaged = errors.New("verification failed")

// Finding is something that is not as it should be.
type Finding struct {
	File   string `json:"file"`
	Tensor string `json:"tensor,omitempty"`
	Text   string `json:"text"`
	Remark bool   `json:"remark"` // worth knowing, no damage
}

func (f Finding) String() string {
	s := f.File
	if f.Tensor != "" {
		s += fmt.Sprintf(": tensor %q", f.Tensor)
	}
	return strings.TrimPrefix(s+": "+f.Text, ": ")
}

// Report is the result of Check.
type Report struct {
	Tensors   int   // looked at
	Bytes     int64 // read
	Hashed    int   // tensors and files compared with a checksum
	NonFinite int64 // elements that are NaN or infinite
	Second    int   // files that a second reader of safetensors read the same way
	Findings  []Finding
}

// Damaged says whether there is more than remarks.
func (r *Report) Damaged() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return !f.Remark })
}

// Err is nil, or an error that names the first damage and wraps ErrDamaged.
func (r *Report) Err() error {
	n := 0
	var first Finding
	for _, f := range r.Findings {
		if !f.Remark {
			if n == 0 {
				first = f
			}
			n++
		}
	}
	switch n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%w: %v", ErrDamaged, first)
	}
	return fmt.Errorf("%w: %v (and %d more)", ErrDamaged, first, n-1)
}

// CheckOptions of Check; the zero value will do.
type CheckOptions struct {
	Workers int // goroutines that read; 0 is 1
	// AllowNonFinite makes NaN and infinite numbers a remark.
	AllowNonFinite bool
	// Progress, which may be nil, is told bytes read and in total, never twice
	// at a time.
	Progress func(done, total int64)
}

// Check reads a whole checkpoint and says what is wrong with it: an index that
// does not fit its shards, numbers that are not finite, another reading of a
// safetensors header by an independent reader, and, with the manifest m (nil for
// none), every tensor and file that is not what was written. The headers themselves, with
// dtypes, shapes and sizes, were checked when c was opened.
func Check(ctx context.Context, c *formats.Checkpoint, m *Manifest, o CheckOptions) (*Report, error) {
	k := &checker{c: c, m: m, o: o, r: &Report{Findings: []Finding{}, Tensors: len(c.Tensors())}}
	for _, f := range c.Check() {
		file := ""
		if x := c.Index(); x != nil {
			file = filepath.Base(x.Path)
		}
		k.r.Findings = append(k.r.Findings, Finding{File: file, Tensor: f.Tensor, Text: f.Text, Remark: !f.Fatal})
	}
	if err := k.second(); err != nil {
		return nil, err
	}
	k.list()
	if err := k.run(ctx); err != nil {
		return nil, err
	}
	return k.r, nil
}

type checker struct {
	c *formats.Checkpoint
	m *Manifest
	o CheckOptions
	r *Report

	jobs []checkJob
	mu   sync.Mutex
}

// checkJob is a tensor, or a file's bytes that belong to none.
type checkJob struct {
	job
	file string // for messages
	want string // SHA-256, or empty
	scan finite // zero: no look at the numbers
}

func (k *checker) add(f Finding) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.r.Findings = append(k.r.Findings, f)
}

// list makes the jobs and compares names, dtypes and shapes.
func (k *checker) list() {
	var want map[string]TensorSum
	if k.m != nil {
		want = k.m.Sums()
	}
	for _, t := range k.c.Tensors() {
		path := k.c.Files()[t.File].Path
		j := checkJob{job: job{path: path, tensor: t.Name}, file: filepath.Base(path), scan: finiteOf(t.DType)}
		if t.InFile() {
			j.spans = []span{{t.Offset, t.Offset + t.Bytes}}
		} else if b, err := k.c.Bytes(t); err == nil {
			j.data = b
		}
		if k.m != nil {
			s, ok := want[t.Name]
			delete(want, t.Name)
			switch {
			case !ok:
				k.add(Finding{File: j.file, Tensor: t.Name, Text: "is not in the manifest"})
			case s.DType != t.TypeName() || !slices.Equal(s.Shape, t.Shape):
				k.add(Finding{File: j.file, Tensor: t.Name, Text: fmt.Sprintf("is %s %v, the manifest says %s %v", t.TypeName(), t.Shape, s.DType, s.Shape)})
			default:
				j.want = s.SHA256
			}
		}
		k.jobs = append(k.jobs, j)
	}
	if k.m == nil {
		return
	}
	k.files(want)
}

// files adds the files of the manifest; missing are the tensors that the
// checkpoint has not.
func (k *checker) files(missing map[string]TensorSum) {
	dir := k.c.Dir()
	byPath := map[string]int{}
	for i, f := range k.c.Files() {
		byPath[filepath.Clean(f.Path)] = i
	}
	other := map[string]bool{} // weight files of another checkpoint in the directory
	for _, f := range k.m.Files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			k.add(Finding{File: f.Name, Text: "is missing"})
			continue
		}
		if err == nil && st.Size() != f.Bytes {
			k.add(Finding{File: f.Name, Text: fmt.Sprintf("has %d bytes, the manifest says %d", st.Size(), f.Bytes)})
			continue
		}
		j := checkJob{job: job{path: path, spans: []span{{0, f.Bytes}}}, file: f.Name, want: f.SHA256}
		if f.Weights {
			i, ok := byPath[filepath.Clean(path)]
			if !ok {
				other[f.Name] = true
				continue
			}
			j.spans = rest(k.c, i)
		}
		k.jobs = append(k.jobs, j)
	}
	for _, t := range k.m.Tensors {
		if _, ok := missing[t.Name]; ok && !other[t.File] {
			k.add(Finding{File: t.File, Tensor: t.Name, Text: "is missing"})
		}
	}
	for name := range other {
		k.add(Finding{File: name, Text: "belongs to another checkpoint of the directory and was not looked at: give its path", Remark: true})
	}
}

// run reads everything.
func (k *checker) run(ctx context.Context) error {
	var total int64
	for i := range k.jobs {
		total += k.jobs[i].bytes()
	}
	var hashed, nonFinite atomic.Int64
	err := each(ctx, k.o.Workers, len(k.jobs), func(i int, buf []byte) error {
		j := &k.jobs[i]
		h := sha256.New()
		bad := int64(0)
		err := j.read(ctx, buf, func(b []byte) {
			if j.want != "" {
				h.Write(b)
			}
			bad += j.scan.count(b)
			k.progress(int64(len(b)), total)
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			k.add(Finding{File: j.file, Tensor: j.tensor, Text: "cannot be read: " + err.Error()})
			return nil
		}
		if bad > 0 {
			nonFinite.Add(bad)
			k.add(Finding{File: j.file, Tensor: j.tensor, Text: fmt.Sprintf("%d elements are NaN or infinite", bad), Remark: k.o.AllowNonFinite})
		}
		if j.want == "" {
			return nil
		}
		hashed.Add(1)
		if got := sum(h); got != j.want {
			what := "its bytes are not what was written (SHA-256 " + got[:12] + ", the manifest has " + j.want[:12] + ")"
			k.add(Finding{File: j.file, Tensor: j.tensor, Text: what})
		}
		return nil
	})
	k.r.Hashed, k.r.NonFinite = int(hashed.Load()), nonFinite.Load()
	slices.SortStableFunc(k.r.Findings, func(a, b Finding) int { return strings.Compare(a.String(), b.String()) })
	return err
}

func (k *checker) progress(n, total int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.r.Bytes += n
	if k.o.Progress != nil {
		k.o.Progress(k.r.Bytes, total)
	}
}

// peerTypes are the dtypes that the second reader knows. One other makes a
// whole file unreadable to it.
var peerTypes = []string{"BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64"}

// second reads the headers of safetensors files again with nlpodyssey/safetensors
// and compares names, dtypes, shapes and places.
func (k *checker) second() error {
	if k.c.Format() != "safetensors" {
		return nil
	}
	for i, f := range k.c.Files() {
		var ts []formats.Tensor
		known := true
		for _, t := range k.c.Tensors() {
			if t.File == i {
				ts = append(ts, t)
				known = known && slices.Contains(peerTypes, t.TypeName())
			}
		}
		if !known || len(ts) == 0 {
			continue
		}
		b, err := k.c.Mapped(i)
		if err != nil {
			return err
		}
		name := filepath.Base(f.Path)
		err = k.c.Guard(ts[0], func() error {
			st, err := peer.Deserialize(b)
			if err != nil {
				k.add(Finding{File: name, Text: "a second reader refuses it: " + err.Error()})
				return nil
			}
			k.r.Second++
			k.compare(st, b, ts, name)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (k *checker) compare(st peer.SafeTensors, b []byte, ts []formats.Tensor, file string) {
	if st.Len() != len(ts) {
		k.add(Finding{File: file, Text: fmt.Sprintf("a second reader finds %d tensors, not %d", st.Len(), len(ts))})
	}
	for _, t := range ts {
		v, ok := st.Tensor(t.Name)
		same := ok && v.DType().String() == t.TypeName() && slices.EqualFunc(v.Shape(), t.Shape, func(a uint64, b int) bool { return a == uint64(b) }) && int64(len(v.Data())) == t.Bytes
		if same && t.Bytes > 0 {
			same = &v.Data()[0] == &b[t.Offset]
		}
		if !same {
			k.add(Finding{File: file, Tensor: t.Name, Text: "a second reader reads it differently"})
		}
	}
}
