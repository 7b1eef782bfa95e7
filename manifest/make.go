package manifest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
)

// Options of Make; the zero value will do.
type Options struct {
	Workers int // goroutines that hash; 0 is 1
	// Known are checksums of tensors that need not be read: those of an input's
	// manifest whose bytes were copied.
	Known map[string]TensorSum
	// Replaced are files, by name, whose contents will be these.
	Replaced map[string][]byte
	// Skip are files, by name, that are left out.
	Skip []string
}

// Make makes the manifest of a directory: of all files in it that are not
// hidden. Its memory does not grow with the tensors.
func Make(ctx context.Context, dir string, p Provenance, o Options) (*Manifest, error) {
	m := &Manifest{Schema: Schema, Provenance: p, Files: []FileSum{}, Tensors: []TensorSum{}}
	names, err := list(dir)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(o.Skip, n) })
	l := &lister{dir: dir, m: m}
	for _, name := range names {
		if err := l.weights(name); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		if l.taken[name] {
			continue
		}
		if b, ok := o.Replaced[name]; ok {
			l.file(FileSum{Name: name, Bytes: int64(len(b))}, nil)
			l.jobs[len(l.jobs)-1].data = b
			continue
		}
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		l.file(FileSum{Name: filepath.ToSlash(name), Bytes: st.Size()}, []span{{0, st.Size()}})
	}
	for i := range l.jobs {
		j := &l.jobs[i]
		if k, ok := o.Known[j.tensor]; ok && j.tensor != "" && k.DType == m.Tensors[j.at].DType && slices.Equal(k.Shape, m.Tensors[j.at].Shape) {
			j.known = k.SHA256
		}
	}
	sums, err := hashAll(ctx, l.jobs, o.Workers)
	if err != nil {
		return nil, err
	}
	for i := range l.jobs {
		j := &l.jobs[i]
		if j.tensor != "" {
			m.Tensors[j.at].SHA256 = sums[i]
		} else {
			m.Files[j.at].SHA256 = sums[i]
		}
	}
	slices.SortFunc(m.Files, func(a, b FileSum) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(m.Tensors, func(a, b TensorSum) int { return cmp.Compare(a.Name, b.Name) })
	return m, nil
}

// list lists the files below dir but for hidden ones and the manifest, sorted.
func list(dir string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == "." {
			return err
		}
		hidden := strings.HasPrefix(e.Name(), ".")
		switch {
		case e.IsDir() && hidden:
			return fs.SkipDir
		case e.IsDir() || hidden || name == File:
			return nil
		}
		st, err := os.Stat(path) // the Hugging Face cache consists of links
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && st.Mode().IsRegular() {
			names = append(names, name)
		}
		return err
	})
	return names, err
}

// span is a range of a file.
type span struct{ from, to int64 }

// job is something to hash.
type job struct {
	path   string
	spans  []span
	data   []byte // instead of spans, for what no file holds as it is
	tensor string // or a file
	at     int    // in Manifest.Tensors or Files
	known  string
}

// bytes is how much there is to read.
func (j *job) bytes() int64 {
	n := int64(len(j.data))
	for _, s := range j.spans {
		n += s.to - s.from
	}
	return n
}

type lister struct {
	dir   string
	m     *Manifest
	jobs  []job
	taken map[string]bool // files dealt with
}

func (l *lister) file(f FileSum, spans []span) {
	l.jobs = append(l.jobs, job{path: filepath.Join(l.dir, filepath.FromSlash(f.Name)), spans: spans, at: len(l.m.Files)})
	l.m.Files = append(l.m.Files, f)
}

// weights adds the tensors of a weight file.
func (l *lister) weights(name string) error {
	if l.taken == nil {
		l.taken = map[string]bool{}
	}
	ext := strings.ToLower(filepath.Ext(name))
	folder := filepath.Dir(name)
	if l.taken[name] || ext != ".safetensors" && ext != ".onnx" || folder != "." && (folder != "onnx" || ext != ".onnx") {
		return nil
	}
	c, err := formats.Open(filepath.Join(l.dir, name))
	if err != nil {
		return err
	}
	defer c.Close()
	seen := map[string]bool{}
	for _, t := range l.m.Tensors {
		seen[t.Name] = true
	}
	for i, f := range c.Files() {
		rel, err := filepath.Rel(l.dir, f.Path)
		if err != nil || !filepath.IsLocal(rel) || l.taken[rel] {
			continue
		}
		l.taken[rel] = true
		l.file(FileSum{Name: filepath.ToSlash(rel), Bytes: f.Size, Weights: true}, rest(c, i))
	}
	for _, t := range c.Tensors() {
		rel, err := filepath.Rel(l.dir, c.Files()[t.File].Path)
		if err != nil || seen[t.Name] { // two models in one directory
			continue
		}
		j := job{path: c.Files()[t.File].Path, tensor: t.Name, at: len(l.m.Tensors)}
		if t.InFile() {
			j.spans = []span{{t.Offset, t.Offset + t.Bytes}}
		} else if j.data, err = c.Bytes(t); err != nil {
			return err
		}
		l.jobs = append(l.jobs, j)
		l.m.Tensors = append(l.m.Tensors, TensorSum{Name: t.Name, File: filepath.ToSlash(rel), DType: t.TypeName(), Shape: nonNil(t.Shape)})
	}
	return nil
}

func nonNil(s []int) []int {
	if s == nil {
		return []int{}
	}
	return s
}

// rest lists the ranges of a checkpoint's file that belong to no tensor.
func rest(c *formats.Checkpoint, file int) []span {
	var ts []span
	for _, t := range c.Tensors() {
		if t.File == file && t.InFile() && t.Bytes > 0 {
			ts = append(ts, span{t.Offset, t.Offset + t.Bytes})
		}
	}
	slices.SortFunc(ts, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var out []span
	at := int64(0)
	for _, t := range append(ts, span{c.Files()[file].Size, c.Files()[file].Size}) {
		if t.from > at {
			out = append(out, span{at, t.from})
		}
		at = max(at, t.to)
	}
	return out
}

// hashAll hashes on several workers.
func hashAll(ctx context.Context, jobs []job, workers int) ([]string, error) {
	sums := make([]string, len(jobs))
	err := each(ctx, workers, len(jobs), func(i int, buf []byte) error {
		j := &jobs[i]
		if j.known != "" {
			sums[i] = j.known
			return nil
		}
		h := sha256.New()
		if err := j.read(ctx, buf, func(b []byte) { h.Write(b) }); err != nil {
			return err
		}
		sums[i] = sum(h)
		return nil
	})
	return sums, err
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// read hands the bytes to f, piece by piece.
func (j *job) read(ctx context.Context, buf []byte, f func([]byte)) error {
	if len(j.data) > 0 {
		f(j.data)
	}
	if len(j.spans) == 0 {
		return nil
	}
	in, err := atomicfile.OS.Open(j.path)
	if err != nil {
		return err
	}
	defer in.Close() // only read
	for _, s := range j.spans {
		for at := s.from; at < s.to; {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buf[:min(int64(len(buf)), s.to-at)]
			if _, err := in.ReadAt(b, at); err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return fmt.Errorf("%s: %w", j.path, err)
			}
			f(b)
			at += int64(len(b))
		}
	}
	return nil
}

// each runs f(0) to f(n-1) on several workers, each with a buffer, and returns
// the first error.
func each(ctx context.Context, workers, n int, f func(i int, buf []byte) error) error {
	var (
		wg    sync.WaitGroup
		next  atomic.Int64
		mu    sync.Mutex
		first error
	)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range min(max(workers, 1), n) {
		wg.Go(func() {
			buf := make([]byte, 1<<20)
			for {
				i := int(next.Add(1)) - 1
				if i >= n || ctx.Err() != nil {
					return
				}
				if err := f(i, buf); err != nil {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
					cancel()
					return
				}
			}
		})
	}
	wg.Wait()
	if first == nil {
		first = context.Cause(ctx)
	}
	return first
}

// SumPath is the SHA-256 of a file, or of the names and contents of the files
// directly in a directory, as "sha256:" and hexadecimal digits.
func SumPath(ctx context.Context, path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	jobs := []job{{path: path, spans: []span{{0, st.Size()}}}}
	var names []string
	if st.IsDir() {
		jobs = nil
		es, err := os.ReadDir(path)
		if err != nil {
			return "", err
		}
		for _, e := range es {
			st, err := os.Stat(filepath.Join(path, e.Name()))
			if err != nil || !st.Mode().IsRegular() || e.Name() == File || strings.HasPrefix(e.Name(), ".") {
				continue
			}
			names = append(names, e.Name())
			jobs = append(jobs, job{path: filepath.Join(path, e.Name()), spans: []span{{0, st.Size()}}})
		}
	}
	sums, err := hashAll(ctx, jobs, 1)
	if err != nil {
		return "", err
	}
	if !st.IsDir() {
		return "sha256:" + sums[0], nil
	}
	h := sha256.New()
	for i, n := range names {
		fmt.Fprintf(h, "%q %s\n", n, sums[i])
	}
	return "sha256:" + sum(h), nil
}

// WriteIn makes the manifest of a directory that is still being made and writes
// it there.
func WriteIn(ctx context.Context, dir string, p Provenance, o Options) error {
	m, err := Make(ctx, dir, p, o)
	if err != nil {
		return err
	}
	b, err := m.Encode()
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(Path(dir), 0o666, func(w io.Writer) error { _, err := w.Write(b); return err })
}
