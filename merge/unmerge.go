package merge

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"runtime"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
)

// UnmergeOptions of Unmerge; the zero value will do.
type UnmergeOptions struct {
	Workers int  // 0: one per processor
	Replace bool // an existing output is replaced
	FS      atomicfile.FS
}

// Unmerge restores, from a reversible merge's output and its undo file, the
// weight files, index and config.json of the base bit for bit, and carries
// everything else along. The output is a directory that appears whole or not at
// all. A merged tensor that has changed since is an error.
//
// To take an adapter out without an undo file, merge it with its weight
// negated: the result differs from the base by rounding.
func Unmerge(ctx context.Context, merged *formats.Checkpoint, undo, out string, o UnmergeOptions, progress func(done, total int64)) error {
	if o.FS == nil {
		o.FS = atomicfile.OS
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	f, err := os.Open(undo)
	if err != nil {
		return err
	}
	defer f.Close()
	u, err := readUndo(f)
	if err != nil {
		return err
	}
	p := &Plan{base: merged, o: Options{FS: o.FS, Replace: o.Replace}}
	if err := p.findCarried(); err != nil {
		return err
	}
	if err := p.checkOutput(out); err != nil {
		return err
	}
	m := &unmerger{u: u, undo: f, merged: merged}
	if err := m.plan(); err != nil {
		return err
	}
	if err := checkSpace(out, m.total); err != nil {
		return err
	}
	d, err := atomicfile.NewDirFS(o.FS, out, o.Replace)
	if err != nil {
		return err
	}
	defer d.Abort()
	if err := m.run(ctx, d, p, o.Workers, progress); err != nil {
		return err
	}
	return d.Commit()
}

// unmerger is one execution of Unmerge.
type unmerger struct {
	u      *undoPlan
	undo   *os.File
	merged *formats.Checkpoint
	jobs   []undoJob
	total  int64
	in     []*os.File
	out    []atomicfile.Handle
}

// undoJob restores one range of a file of the base.
type undoJob struct {
	part   int
	tensor *undoTensor
	tile   *undoTile // nil: to copy
	src    formats.Tensor
	at, n  int64 // range within the tensor
}

func (m *unmerger) plan() error {
	for i := range m.u.Files {
		f := &m.u.Files[i]
		m.total += f.Size
		for k := range f.Tensors {
			t := &f.Tensors[k]
			src, ok := m.merged.Lookup(t.Name)
			if !ok || src.Bytes != t.Bytes {
				return fmt.Errorf("%s: %w: tensor %s is missing or has another size than after the merge", m.merged.Path(), ErrMismatch, t.Name)
			}
			if len(t.Tiles) == 0 {
				for at := int64(0); at < t.Bytes; at += copyBytes {
					m.jobs = append(m.jobs, undoJob{i, t, nil, src, at, min(copyBytes, t.Bytes-at)})
				}
			}
			for x := range t.Tiles {
				m.jobs = append(m.jobs, undoJob{i, t, &t.Tiles[x], src, t.Tiles[x].At, t.Tiles[x].N})
			}
		}
	}
	return nil
}

func (m *unmerger) run(ctx context.Context, d *atomicfile.Dir, p *Plan, workers int, progress func(done, total int64)) (err error) {
	defer func() {
		for _, f := range m.in {
			f.Close() // only read
		}
		for _, h := range m.out {
			if e := h.Close(); err == nil {
				err = e
			}
		}
	}()
	for _, f := range m.merged.Files() {
		h, err := os.Open(f.Path)
		if err != nil {
			return err
		}
		m.in = append(m.in, h)
	}
	for i := range m.u.Files {
		f := &m.u.Files[i]
		h, err := d.Create(f.Name, 0o666)
		if err != nil {
			return err
		}
		m.out = append(m.out, h)
		if err := h.Truncate(f.Size); err != nil {
			return err
		}
		if _, err := h.WriteAt(f.Header, 0); err != nil {
			return err
		}
	}
	if err := m.others(d, p); err != nil {
		return err
	}
	return parallel(ctx, workers, len(m.jobs), func(i int, b *buffers) (int64, error) { return m.jobs[i].n, m.do(&m.jobs[i], b) }, func(done int64) {
		if progress != nil {
			progress(done, m.total)
		}
	})
}

func (m *unmerger) others(d *atomicfile.Dir, p *Plan) error {
	for _, k := range []*undoBytes{m.u.Index, m.u.Config, m.u.Manifest} {
		if k == nil {
			continue
		}
		if err := d.WriteFile(k.Name, 0o666, func(w io.Writer) error { _, err := w.Write(k.Data); return err }); err != nil {
			return err
		}
	}
	for _, c := range p.carried {
		if c.Path == configFile && m.u.Config != nil {
			continue
		}
		if err := p.carry(d, c); err != nil {
			return err
		}
	}
	return nil
}

func (m *unmerger) do(j *undoJob, b *buffers) error {
	in, out, to := m.in[j.src.File], m.out[j.part], j.tensor.Offset+j.at
	if j.tile == nil {
		return out.CopyAt(in, j.src.Offset+j.at, to, j.n)
	}
	data := grow(&b.src, int(j.n))
	if _, err := in.ReadAt(data, j.src.Offset+j.at); err != nil {
		return err
	}
	packed := grow(&b.dst, int(j.tile.Len))
	_, err := m.undo.ReadAt(packed, j.tile.Off)
	if err == nil {
		err = restore(data, packed, j.tile.Width)
	}
	if err != nil {
		return &formats.Error{Path: m.undo.Name(), Tensor: j.tensor.Name, Offset: j.tile.Off, Reason: err.Error(), Hint: "the undo file is damaged: use a copy of it", Err: formats.ErrMalformed}
	}
	if crc32.Checksum(data, castagnoli) != j.tile.Sum {
		return fmt.Errorf("%s: %w: tensor %s is not what the merge wrote", m.merged.Path(), ErrMismatch, j.tensor.Name)
	}
	_, err = out.WriteAt(data, to)
	return err
}
