package merge

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Run writes the output: a directory, or one file if out ends in
// ".safetensors", or ".onnx" for an ONNX model. It appears whole or not at all; the base is only read.
// progress, which may be nil, is called now and then with bytes done and in
// total, from several goroutines but never at the same time.
func (p *Plan) Run(ctx context.Context, out string, progress func(done, total int64)) (*Report, error) {
	if err := p.checkOutput(out); err != nil {
		return nil, err
	}
	if err := checkSpace(out, p.Bytes()); err != nil {
		return nil, err
	}
	r := &run{p: p, ctx: ctx, progress: progress}
	r.jobs, r.works = p.jobs()
	s, err := r.newSink(out)
	if err != nil {
		return nil, err
	}
	r.sink = s
	defer r.abort()
	rep, err := r.run()
	if err != nil {
		return nil, err
	}
	synced := p.startSync(s)
	err = r.writeManifest()
	if err := errors.Join(err, synced()); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return rep, s.commit()
}

// startSync brings the weight files to disk while more is done with them; the
// function that it returns waits for that. A small output is left to the commit.
func (p *Plan) startSync(s *sink) (wait func() error) {
	if s.dir == nil || p.Bytes() < flushBytes {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() {
		var err error
		for i := range p.files {
			err = errors.Join(err, p.o.FS.SyncPath(filepath.Join(s.dir.Path(), p.files[i].name)))
		}
		done <- err
	}()
	return func() error { return <-done }
}

// writeManifest reads back what it does not know the checksums of.
func (r *run) writeManifest() error {
	p := r.p
	if p.o.Manifest == nil || r.sink.dir == nil {
		return nil
	}
	return manifest.WriteIn(r.ctx, r.sink.dir.Path(), *p.o.Manifest, manifest.Options{Workers: p.o.Workers, Known: r.knownSums()})
}

// run is one execution of a plan.
type run struct {
	p        *Plan
	ctx      context.Context
	sink     *sink
	progress func(done, total int64)

	in      []atomicfile.Source
	out     []atomicfile.Handle
	jobs    []job
	works   []*work
	undo    *undoWriter
	saver   *saver       // of progress
	journal *journalFile // of a merge in place: where tiles go instead of out
	flusher *flusher
}

func (r *run) run() (rep *Report, err error) {
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.openBase(); err != nil {
		return nil, err
	}
	if err := r.open(); err != nil {
		return nil, err
	}
	if err := r.others(); err != nil {
		return nil, err
	}
	if err := r.beginSaver(); err != nil {
		return nil, err
	}
	if err := r.work(); err != nil {
		return nil, err
	}
	if r.saver != nil {
		if err := r.saver.end(r.sink.dir); err != nil {
			return nil, err
		}
	}
	return r.p.report(r.works), nil
}

// close closes all files.
func (r *run) close() (err error) {
	for _, f := range r.in {
		f.Close() // only read
	}
	if r.undo != nil {
		err = r.undo.close()
	}
	for _, f := range r.out {
		err = errors.Join(err, f.Close())
	}
	if r.saver != nil {
		err = errors.Join(err, r.saver.close())
	}
	return err
}

// work does the jobs that are not done yet.
func (r *run) work() (err error) {
	var todo []int
	var before, total int64
	for i := range r.jobs {
		total += r.jobs[i].n
		if r.jobs[i].done {
			before += r.jobs[i].n
		} else {
			todo = append(todo, i)
		}
	}
	r.beginSums()
	r.flusher = newFlusher()
	defer func() { err = errors.Join(err, r.flusher.end()) }()
	for _, i := range todo[:min(readAhead, len(todo))] {
		r.willNeed(&r.jobs[i])
	}
	err = parallel(r.ctx, r.p.o.Workers, len(todo), func(k int, b *buffers) (int64, error) {
		j := &r.jobs[todo[k]]
		if ahead := k + readAhead; ahead < len(todo) {
			r.willNeed(&r.jobs[todo[ahead]])
		}
		err := r.do(j, b)
		if err == nil && r.saver != nil {
			err = r.saver.add(todo[k])
		}
		return j.n, err
	}, func(done int64) {
		if r.progress != nil {
			r.progress(before+done, total)
		}
	})
	if err == nil && r.undo != nil {
		err = r.undo.finish()
	}
	return err
}

// readAhead is how many jobs before its turn a job's input is asked for: about 128 MB. While
// the flusher empties the disk's cache, reads wait; with a tenth of this workers waited with
// them, and a merge from a cold cache took a quarter longer.
const readAhead = 64

// willNeed has the input of a job read ahead, so that workers do not wait for the disk.
func (r *run) willNeed(j *job) {
	if j.work == nil {
		r.in[j.src].WillNeed(j.from, j.n)
		return
	}
	if t := j.work.t; t.head() == nil {
		width := int64(t.src.DType.Bits() / 8)
		at := (int64(j.r0)*int64(j.work.cols) + int64(j.c0)) * width
		n := (int64(j.r1-j.r0-1)*int64(j.work.cols) + int64(j.c1-j.c0)) * width
		r.in[t.src.File].WillNeed(t.src.Offset+at, n)
	}
}

// openBase opens the files of the base.
func (r *run) openBase() error {
	for _, f := range r.p.base.Files() {
		h, err := r.p.o.FS.Open(f.Path)
		if err != nil {
			return err
		}
		r.in = append(r.in, h)
		if st, err := h.Stat(); err != nil {
			return err
		} else if st.Size() != f.Size {
			return &formats.Error{Path: f.Path, Reason: fmt.Sprintf("size was %d bytes and is %d now", f.Size, st.Size()), Hint: "the file changed while it was open: start again", Err: formats.ErrMalformed}
		}
	}
	return nil
}

// open opens the weight files of the output and writes their headers.
func (r *run) open() error {
	if r.sink.dir != nil && r.sink.dir.Resumed() {
		if err := r.removeOthers(); err != nil {
			return err
		}
	}
	for i := range r.p.files {
		f := &r.p.files[i]
		mode := fileMode(r.p.base.Files()[min(i, len(r.p.base.Files())-1)].Path)
		h, err := r.sink.create(f.name, mode)
		if err != nil {
			return err
		}
		r.out = append(r.out, h)
		if err := h.Truncate(f.size); err != nil {
			return err
		}
		for _, l := range append(f.literals, literal{0, f.header}) {
			if _, err := h.WriteAt(l.bytes, l.at); err != nil {
				return err
			}
		}
	}
	return nil
}

// others writes everything but weights, and begins the undo file.
func (r *run) others() error {
	if r.sink.dir == nil {
		return nil
	}
	for _, c := range r.p.carried {
		if err := r.p.carry(r.sink.dir, c); err != nil {
			return err
		}
	}
	index, err := r.p.indexJSON()
	if err != nil {
		return err
	}
	if index != nil {
		name := formats.IndexFile
		if x := r.p.base.Index(); x != nil && r.p.o.MaxShardSize == 0 {
			name = filepath.Base(x.Path)
		}
		if err := r.sink.dir.WriteFile(name, 0o666, func(w io.Writer) error { _, err := w.Write(index); return err }); err != nil {
			return err
		}
	}
	if !r.p.o.Reversible {
		return nil
	}
	if r.undo, err = r.p.newUndo(r.jobs); err != nil {
		return err
	}
	if r.sink.dir.Resumed() {
		h, err := r.sink.dir.Open(UndoFile)
		if err != nil {
			return err
		}
		return r.undo.begin(h, &r.saver.state.Undo)
	}
	h, err := r.sink.dir.Create(UndoFile, 0o666)
	if err != nil {
		return err
	}
	return r.undo.begin(h, nil)
}

func (r *run) do(j *job, b *buffers) error {
	if j.work == nil {
		out := r.out[j.file]
		if err := out.CopyAt(r.in[j.src].File(), j.from, j.to, j.n); err != nil {
			return r.readError(j.src, "", err)
		}
		r.flusher.add(out, j.n)
		return nil
	}
	w := j.work
	t, err := w.ready(r)
	if err != nil {
		return err
	}
	if err := r.read(j, b); err != nil {
		return err
	}
	if err := r.compute(j, t, b); err != nil {
		return fmt.Errorf("tensor %s: %w", w.t.name, err)
	}
	out, to := r.place(j)
	if r.journal != nil {
		j.sum = crc32.Checksum(b.dst, castagnoli)
	}
	if _, err := out.WriteAt(b.dst, to); err != nil {
		return err
	}
	r.flusher.add(out, j.n)
	if err := r.addToSum(j, b); err != nil {
		return err
	}
	if r.undo != nil && j.undoSlot >= 0 {
		if err := r.addUndo(j, b); err != nil {
			return err
		}
	}
	if w.left.Add(-1) == 0 {
		w.target = nil
		return r.p.judge(w)
	}
	return nil
}

// place is where a tile goes.
func (r *run) place(j *job) (atomicfile.Handle, int64) {
	if r.journal != nil {
		return r.journal.h, j.journal
	}
	return r.out[j.file], j.to
}

// addUndo keeps the difference to the base's bytes.
func (r *run) addUndo(j *job, b *buffers) error {
	base := b.src
	if t := j.work.t; t.head() != nil { // b.src is the head's
		base = grow(&b.base, int(j.n))
		if _, err := r.in[t.src.File].ReadAt(base, t.src.Offset+j.to-t.offset); err != nil {
			return r.readError(t.src.File, t.name, err)
		}
	}
	return r.undo.add(j, base, b.dst)
}

func (r *run) readError(file int, name string, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return &formats.Error{Path: r.p.base.Files()[file].Path, Tensor: name, Reason: "the file became shorter while it was read", Hint: "restore the file and start again", Err: formats.ErrMalformed}
	}
	return err
}

// read fills b.src with the tile of the base, or of a head tensor as float32.
func (r *run) read(j *job, b *buffers) error {
	t := j.work.t
	first := int64(j.r0)*int64(j.work.cols) + int64(j.c0)
	n := int64(j.r1-j.r0-1)*int64(j.work.cols) + int64(j.c1-j.c0)
	grow(&b.dst, int(j.n))
	if h := t.head(); h != nil {
		return tensor.EncodeF32(grow(&b.src, int(4*n)), h.Data[first:first+n], tensor.F32)
	}
	width := int64(t.src.DType.Bits() / 8)
	if _, err := r.in[t.src.File].ReadAt(grow(&b.src, int(n*width)), t.src.Offset+first*width); err != nil {
		return r.readError(t.src.File, t.name, err)
	}
	return nil
}

// compute fills b.dst block by block.
func (r *run) compute(j *job, t *target, b *buffers) error {
	w := j.work
	from := w.t.src.DType
	if w.t.head() != nil {
		from = tensor.F32
	}
	round := newRounder(t, from, w.t.dtype, &r.p.o, w.t.name, w.inputLast)
	round.chain = &b.chain
	direct := round.halves() && t.narrow != nil && t.scale == nil
	m, n := j.r1-j.r0, min(j.c1-j.c0, blockCols)
	switch {
	case direct:
		n = min(j.c1-j.c0, directCols)
		m = min(m, max(1, directElems/n))
	case t.wholeRows:
		m, n = min(m, max(1, rowsElems/w.cols)), w.cols
	case round.across():
		m, n = min(m, chainRows), min(j.c1-j.c0, chainCols)
	default:
		m = min(m, blockElems/n)
	}
	rowCarry := grow(&b.rowCarry, j.r1-j.r0)
	clear(rowCarry)
	for c := j.c0; c < j.c1; c += n {
		cn := min(n, j.c1-c)
		colCarry := grow(&b.colCarry, cn)
		clear(colCarry)
		var panel *kernel.PackedB
		if direct {
			panel = t.narrow.panel(&b.panel, c, c+cn, t.cols)
		}
		for i := j.r0; i < j.r1; i += m {
			im := min(m, j.r1-i)
			x := rect{i, i + im, c, c + cn}
			var err error
			switch {
			case direct:
				err = r.directBlock(j, t, b, round, x, panel)
			case im >= fewRows && round.across():
				err = r.acrossBlock(j, t, b, round, x, rowCarry[i-j.r0:][:im])
			default:
				err = r.block(j, t, b, round, x, rowCarry, colCarry)
			}
			if err != nil {
				return err
			}
		}
	}
	w.sums[j.tile] = round.sums
	return nil
}

// rect is rows [r0, r1) and columns [c0, c1).
type rect struct{ r0, r1, c0, c1 int }

// bytes are those of row i of the rectangle in a tile's buffer.
func (x *rect) bytes(b []byte, j *job, i, width int) []byte {
	at := (i-j.r0)*j.work.cols + x.c0 - j.c0
	return b[at*width:][:(x.c1-x.c0)*width]
}

// block computes one block by way of its update in float64.
func (r *run) block(j *job, t *target, b *buffers, round *rounder, x rect, rowCarry, colCarry []float64) error {
	n := x.c1 - x.c0
	wi, wo := round.from.Bits()/8, round.to.Bits()/8
	d, err := r.update(j, t, b, round, x)
	if err != nil {
		return err
	}
	for i := x.r0; i < x.r1; i++ {
		row, src := d[(i-x.r0)*n:][:n], x.bytes(b.src, j, i, wi)
		carry := colCarry
		if j.work.inputLast {
			carry = rowCarry[i-j.r0:]
		}
		if err := round.row(x.bytes(b.dst, j, i, wo), src, row, carry, i, x.c0); err != nil {
			return err
		}
	}
	return nil
}

// directBlock computes one block by way of its update in float32.
func (r *run) directBlock(j *job, t *target, b *buffers, round *rounder, x rect, panel *kernel.PackedB) error {
	n, from := x.c1-x.c0, round.from.Bits()/8
	d := grow(&b.delta32, (x.r1-x.r0)*n)
	t.narrow.block(d, panel, x.r0, x.r1, n)
	for i := x.r0; i < x.r1; i++ {
		row := d[(i-x.r0)*n:][:n]
		if err := round.rowOfHalves(x.bytes(b.dst, j, i, 2), x.bytes(b.src, j, i, from), row, t.narrow.bound[i], t.narrow.size[i], nil, i, x.c0); err != nil {
			return err
		}
	}
	return nil
}

// judge looks at a finished tensor.
func (p *Plan) judge(w *work) error {
	s := w.total()
	n, _ := tensor.Elements(w.t.shape) // valid: the layout has been computed from it
	switch {
	case s.overflow > 0:
		return fmt.Errorf("tensor %s: %w: %d elements do not fit into %v; choose a dtype with a wider range (f32, bf16)", w.t.name, ErrOverflow, s.overflow, w.t.dtype)
	case !w.updates || p.o.AllowUnchanged || s.same < n:
		return nil
	case s.sqDelta == 0:
		return fmt.Errorf("tensor %s: %w: its update is zero: the adapter has not been trained", w.t.name, ErrUnchanged)
	}
	return fmt.Errorf("tensor %s: %w: its update is too small for %v: choose a wider dtype, or stochastic or error-feedback rounding", w.t.name, ErrUnchanged, w.t.dtype)
}

func (t *outTensor) head() *adapter.Tensor {
	if t.todo == nil {
		return nil
	}
	return t.todo.head
}

// sorted returns the tensors in the order of their data.
func sorted(ts []outTensor) []outTensor {
	slices.SortStableFunc(ts, func(a, b outTensor) int {
		switch {
		case a.offset < b.offset:
			return -1
		case a.offset > b.offset:
			return 1
		}
		return 0
	})
	return ts
}
