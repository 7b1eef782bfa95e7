package onnx

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// EachTensor calls f with every tensor of the model: initializers, constants in
// attributes, those of subgraphs, functions and training graphs.
func (m *Model) EachTensor(f func(*Tensor) error) error {
	if err := eachOfGraph(m.Graph, f); err != nil {
		return err
	}
	for i := range m.Functions {
		if err := eachOfNodes(m.Functions[i].Nodes, f); err != nil {
			return err
		}
	}
	for _, g := range m.Training {
		if err := eachOfGraph(g, f); err != nil {
			return err
		}
	}
	return nil
}

func eachOfGraph(g *Graph, f func(*Tensor) error) error {
	for i := range g.Initializers {
		if err := f(&g.Initializers[i]); err != nil {
			return err
		}
	}
	if err := eachOfSparse(g.Sparse, f); err != nil {
		return err
	}
	return eachOfNodes(g.Nodes, f)
}

func eachOfSparse(list []SparseTensor, f func(*Tensor) error) error {
	for _, s := range list {
		for _, t := range []*Tensor{s.Values, s.Indices} {
			if t == nil {
				continue
			}
			if err := f(t); err != nil {
				return err
			}
		}
	}
	return nil
}

func eachOfNodes(nodes []Node, f func(*Tensor) error) error {
	for i := range nodes {
		for j := range nodes[i].Attributes {
			if err := nodes[i].Attributes[j].eachTensor(f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *Attribute) eachTensor(f func(*Tensor) error) error {
	if a.T != nil {
		if err := f(a.T); err != nil {
			return err
		}
	}
	for _, t := range a.Tensors {
		if err := f(t); err != nil {
			return err
		}
	}
	if err := eachOfSparse(a.Sparse, f); err != nil {
		return err
	}
	if a.G != nil {
		if err := eachOfGraph(a.G, f); err != nil {
			return err
		}
	}
	for _, g := range a.Graphs {
		if err := eachOfGraph(g, f); err != nil {
			return err
		}
	}
	return nil
}

// Resolve finds the files of external data, relative to dir, and checks that
// they lie in it, links followed, and are long enough.
func (m *Model) Resolve(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return err
	}
	sizes := map[string]int64{}
	return m.EachTensor(func(t *Tensor) error {
		if t.Store != StoreExternal {
			return nil
		}
		x := &t.External
		x.Path = filepath.Join(dir, filepath.FromSlash(x.Location))
		size, ok := sizes[x.Location]
		if !ok {
			if size, err = externalSize(t, real); err != nil {
				return err
			}
			sizes[x.Location] = size
		}
		if x.Offset > size || t.Bytes > size-x.Offset {
			return t.external("its data end at byte %d of %s, which has %d", x.Offset+t.Bytes, x.Location, size)
		}
		return nil
	})
}

func (t *Tensor) external(format string, args ...any) *Error {
	e := t.fail(format, args...)
	e.Hint = "put the model's data files beside it, as they were saved"
	return e
}

// externalSize checks the location of a tensor's data and returns the file's
// size. dir is the model's directory without links.
func externalSize(t *Tensor, dir string) (int64, error) {
	loc := t.External.Location
	if strings.ContainsAny(loc, "\x00\\") || !filepath.IsLocal(filepath.FromSlash(loc)) {
		e := t.external("its external data %q lie outside the model's directory", loc)
		e.Hint = "a model may name files of its own directory only: do not trust this one"
		return 0, e
	}
	path := filepath.Join(dir, filepath.FromSlash(loc))
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, t.external("its external data %s are missing", loc)
	}
	if err != nil {
		return 0, t.external("its external data %s: %v", loc, err)
	}
	if rel, err := filepath.Rel(dir, real); err != nil || !filepath.IsLocal(rel) {
		// A model of the Hugging Face cache consists of links to blobs: there
		// the model file itself is a link too, and dir is not where it lies.
		if !isHubBlob(dir, real) {
			return 0, t.external("its external data %s are a link to %s, outside the model's directory", loc, real)
		}
	}
	st, err := os.Stat(real)
	if err != nil {
		return 0, t.external("its external data %s: %v", loc, err)
	}
	if !st.Mode().IsRegular() {
		return 0, t.external("its external data %s are not a regular file", loc)
	}
	return st.Size(), nil
}

// isHubBlob says whether real is a blob of the Hugging Face cache that the
// snapshot directory dir belongs to: .../models--a--b/{snapshots/x, blobs/y}.
func isHubBlob(dir, real string) bool {
	sep := string(filepath.Separator)
	i := strings.LastIndex(dir+sep, sep+"snapshots"+sep)
	return i >= 0 && filepath.Dir(real) == filepath.Join(dir[:i], "blobs")
}

func (m *Model) readExternal(t *Tensor) ([]byte, error) {
	if t.External.Path == "" {
		return nil, withPath(t.external("its external data have not been resolved"), m.Path)
	}
	f, err := os.Open(t.External.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, t.Bytes)
	if _, err := f.ReadAt(b, t.External.Offset); err != nil && t.Bytes > 0 {
		return nil, withPath(t.external("reading %s: %v", t.External.Location, err), m.Path)
	}
	return b, nil
}
