package merge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
)

// checkOutput refuses an output that is the base, in it or around it.
func (p *Plan) checkOutput(out string) error {
	if real, err := realPath(out); err == nil && formats.InHubCache(real) {
		return fmt.Errorf("output %s lies in the Hugging Face cache: choose another place", out)
	}
	if singleFile(out) {
		if strings.HasSuffix(out, ".onnx") != (p.base.Format() == formats.FormatONNX) {
			return fmt.Errorf("output %s: the base is in %s format: give a directory, or a file of that format", out, p.base.Format())
		}
		if len(p.files) != 1 {
			return fmt.Errorf("output %s: %d files do not fit into one: give a directory", out, len(p.files))
		}
		if p.o.Reversible {
			return fmt.Errorf("output %s: a reversible merge needs a directory", out)
		}
		if _, err := os.Lstat(out); err == nil && !p.o.Replace {
			return fmt.Errorf("%w: %s", atomicfile.ErrExists, out)
		}
		for _, f := range p.base.Files() {
			if sameFile(out, f.Path) {
				return fmt.Errorf("output %s is the base itself", out)
			}
		}
		return nil
	}
	base, err := realPath(p.base.Dir())
	if err != nil {
		return err
	}
	real, err := realPath(out)
	if err != nil {
		return err
	}
	switch {
	case real == base:
		return fmt.Errorf("output %s is the base itself", out)
	case within(real, base):
		return fmt.Errorf("output %s lies inside the base's directory: choose a place beside it", out)
	case within(base, real):
		return fmt.Errorf("the base lies inside the output %s", out)
	}
	return nil
}

func singleFile(out string) bool {
	return strings.HasSuffix(out, ".safetensors") || strings.HasSuffix(out, ".onnx")
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// realPath resolves links in the part of the path that exists.
func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	rest := ""
	for p := abs; ; p = filepath.Dir(p) {
		real, err := filepath.EvalSymlinks(p)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(p) == p {
			return "", err
		}
		rest = filepath.Join(filepath.Base(p), rest)
	}
}

// sink is where the output goes.
type sink struct {
	dir  *atomicfile.Dir
	file *atomicfile.File
	lock *atomicfile.Lock // of file; a dir has its own
}

// newSink starts the output, or goes on with one whose process died.
func (r *run) newSink(out string) (*sink, error) {
	p := r.p
	if singleFile(out) {
		l, err := atomicfile.NewLock(out)
		if err != nil {
			return nil, err
		}
		f, err := atomicfile.CreateFS(p.o.FS, out, fileMode(p.base.Files()[0].Path))
		if err != nil {
			l.Unlock()
			return nil, err
		}
		return &sink{file: f, lock: l}, nil
	}
	if err := r.identify(); err != nil {
		return nil, err
	}
	var accept func(string) bool
	if p.o.Resume {
		accept = r.resumable
	}
	d, err := atomicfile.ResumeDirFS(p.o.FS, out, p.o.Replace, accept)
	return &sink{dir: d}, err
}

// fileMode is that of a weight file of the base, which its merged form gets too:
// private weights stay private.
func fileMode(path string) os.FileMode {
	if st, err := os.Stat(path); err == nil {
		return st.Mode().Perm() | 0o600
	}
	return 0o666
}

// abort removes the output, unless it was interrupted and can go on.
func (r *run) abort() {
	if r.saver != nil && r.saver.saved > 0 && r.ctx.Err() != nil {
		r.sink.dir.Leave()
		return
	}
	r.sink.abort()
}

func (s *sink) abort() {
	if s.file != nil {
		s.file.Abort()
		s.lock.Unlock()
	} else {
		s.dir.Abort()
	}
}

func (s *sink) commit() error {
	if s.file != nil {
		defer s.lock.Unlock()
		return s.file.Commit()
	}
	return s.dir.Commit()
}

// create opens a weight file of the output.
func (s *sink) create(name string, mode os.FileMode) (atomicfile.Handle, error) {
	switch {
	case s.file != nil:
		return keptOpen{s.file}, nil
	case s.dir.Resumed():
		return s.dir.Open(name)
	}
	return s.dir.Create(name, mode)
}

// keptOpen leaves closing to Commit.
type keptOpen struct{ *atomicfile.File }

func (keptOpen) Close() error { return nil }
