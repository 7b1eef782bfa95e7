package cuda

import (
	"fmt"
	"unsafe"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/philox"
)

// emit queues a kernel, or does nothing in a pass that only measures.
func (x *executable) emit(name string, g grid, block, shared int, args ...any) error {
	if x.pass != enqueue {
		return nil
	}
	return x.launch(name, g, block, shared, args...)
}

// code is the number by which kernels know a row count.
func code(r graph.Rows) int32 {
	switch r.Kind {
	case graph.Tokens:
		return -1
	case graph.Seqs:
		return -2
	case graph.Picked:
		return -3
	}
	return int32(r.N)
}

// mat describes v to kernels; that of None is empty.
func (x *executable) mat(v graph.Value) mat {
	if v == graph.None {
		return mat{}
	}
	in := &x.p.Values[v]
	base, col := in, 0
	if in.Kind == graph.ViewValue {
		base, col = &x.p.Values[in.Base], in.Col
	}
	m := mat{ld: int32(base.Cols), rows: code(in.Rows), cols: int32(in.Cols)}
	switch base.Kind {
	case graph.ParamValue:
		m.p = x.params() + ptr(4*(x.p.Params[base.Param].Offset+col))
	case graph.ParamGrad:
		m.p, m.add = x.grads()+ptr(4*(x.p.Params[base.Param].Offset+col)), 1
	default:
		m.p = x.arena.p + ptr(4*(x.plan.Offset[x.p.Root(v)]+int64(col)))
	}
	return m
}

// addend is what is added to y: c, or y itself where it is a parameter's gradient.
func (x *executable) addend(c graph.Value, y mat) mat {
	if y.add != 0 {
		return y
	}
	return x.mat(c)
}

// rows bounds the number of rows of m in the current bucket.
func (x *executable) rows(m mat) int { return x.count(m.rows) }

func (x *executable) count(code int32) int {
	switch code {
	case -1:
		return x.bound.T
	case -2:
		return x.bound.S
	case -3:
		return x.bound.R
	}
	return int(code)
}

// flat is a grid of blocks of 256 threads over n elements; kernels loop where it
// is cut.
func flat(n int64) grid { return grid{x: int(min((n+255)/256, 1<<16))} }

// each is the grid over the elements of m.
func (x *executable) each(m mat) grid { return flat(int64(x.rows(m)) * int64(m.cols)) }

// over launches an elementwise kernel whose grid follows m.
func (x *executable) over(m mat, name string, args ...any) error {
	return x.emit(name, x.each(m), 256, 0, append([]any{x.batch.p}, args...)...)
}

// shared returns n bytes of scratch for one operation, from byte at on.
func (x *executable) shared(at, n int64) ptr {
	x.need = max(x.need, at+n)
	return x.scratch.p + ptr(at)
}

// operations runs all operations in the current pass.
func (x *executable) operations() error {
	if err := x.fillRopes(); err != nil {
		return err
	}
	for i := 0; i < len(x.p.Ops); {
		n := 1
		op := x.p.Ops[i]
		start := x.profile.begin(x)
		var err error
		if n = x.kronRun(i); n > 0 {
			err = x.kronAll(x.p.Ops[i : i+n])
		} else {
			n, err = 1, x.run(op)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", op.Name(), err)
		}
		if err := x.profile.end(x, op, n, start); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// run queues one operation.
func (x *executable) run(op graph.Op) error {
	switch o := op.(type) {
	case *graph.Input:
		y := x.mat(o.Y)
		return x.over(y, "input_rows", y)
	case *graph.Embed:
		return x.embed(o)
	case *graph.Linear:
		return x.linear(o)
	case *graph.LinearGrad:
		dx := x.mat(o.DX)
		return x.weightProduct(product{a: x.mat(o.DY), w: o.W, backward: true, c: x.addend(o.C, dx), y: dx})
	case *graph.MatMul:
		return x.matMul(o)
	case *graph.AddBias:
		y := x.mat(o.Y)
		return x.over(y, "add_bias", x.mat(o.X), x.mat(o.Bias), y)
	case *graph.ColSum:
		return x.colSum(x.mat(o.X), mat{}, o.Alpha, o.C, x.mat(o.Y))
	case *graph.ColDot:
		return x.colSum(x.mat(o.A), x.mat(o.B), 1, o.C, x.mat(o.Y))
	case *graph.Axpby:
		y := x.mat(o.Y)
		return x.over(y, "axpby", o.Alpha, x.mat(o.A), o.Beta, x.mat(o.B), y)
	case *graph.ColScale:
		y := x.mat(o.Y)
		if err := x.over(y, "col_scale", x.mat(o.X), x.mat(o.S), y); err != nil || o.Bias == graph.NoWeight {
			return err
		}
		return x.over(y, "add_bias", y, mat{p: x.vector(o.Bias), ld: y.cols, rows: 1, cols: y.cols}, y)
	case *graph.Activate:
		y := x.mat(o.Y)
		return x.over(y, "activate", x.mat(o.X), int(o.Act), y)
	case *graph.ActivateGrad:
		dx := x.mat(o.DX)
		return x.over(dx, "activate_grad", x.mat(o.X), x.mat(o.DY), int(o.Act), x.mat(o.C), dx)
	case *graph.Gated:
		y := x.mat(o.Y)
		return x.over(y, "gated", x.mat(o.Gate), x.mat(o.Up), int(o.Act), y)
	case *graph.GatedGrad:
		dy := x.mat(o.DY)
		return x.over(dy, "gated_grad", x.mat(o.Gate), x.mat(o.Up), dy, int(o.Act), x.mat(o.DGate), x.mat(o.DUp))
	case *graph.Norm:
		return x.norm("norm_rows", o.Parts(), normArgs{x: x.mat(o.X), stats: x.mat(o.Stats), y: x.mat(o.Y), gamma: x.vector(o.Gamma), beta: x.vector(o.Beta), eps: o.Eps, rms: bit(o.RMS)})
	case *graph.NormGrad:
		return x.norm("norm_rows_grad", o.Parts(), normArgs{x: x.mat(o.X), stats: x.mat(o.Stats), dy: x.mat(o.DY), c: x.mat(o.C), y: x.mat(o.DX), gamma: x.vector(o.Gamma), rms: bit(o.RMS)})
	case *graph.Dropout:
		return x.dropout(x.mat(o.X), o.P, o.Site, x.mat(o.Residual), x.mat(o.Y))
	case *graph.DropoutGrad:
		return x.dropout(x.mat(o.DY), o.P, o.Site, x.mat(o.C), x.mat(o.DX))
	case *graph.Rope:
		return x.rope(o)
	case *graph.Attention:
		return x.attention(o)
	case *graph.AttentionGrad:
		return x.attentionGrad(o)
	}
	return x.runRest(op)
}

// runRest continues run: row selections, Kronecker products and losses.
func (x *executable) runRest(op graph.Op) error {
	switch o := op.(type) {
	case *graph.Select:
		y := x.mat(o.Y)
		return x.over(y, "select_rows", x.mat(o.X), int(o.Pick), y)
	case *graph.SelectGrad:
		dx, c, dy := x.mat(o.DX), x.mat(o.C), x.mat(o.DY)
		if c.p != dx.p {
			if err := x.over(dx, "fill", c, dx); err != nil {
				return err
			}
		}
		return x.over(dy, "select_add", dy, int(o.Pick), dx)
	case *graph.MeanPool:
		y := x.mat(o.Y)
		return x.over(y, "mean_pool", x.mat(o.X), y)
	case *graph.MeanPoolGrad:
		dx := x.mat(o.DX)
		return x.over(dx, "mean_pool_grad", x.mat(o.DY), x.mat(o.C), dx)
	case *graph.KronApply:
		return x.kronApply(o)
	case *graph.KronApplyGrad:
		return x.kronApplyGrad(o)
	case *graph.RowOuter:
		y := x.mat(o.Y)
		return x.over(y, "row_outer", x.mat(o.U), x.mat(o.V), y)
	case *graph.RowOuterGrad:
		dy := x.mat(o.DY)
		u, v := x.mat(o.U), x.mat(o.V)
		g := flat(int64(x.rows(dy)) * int64(u.cols+v.cols))
		return x.emit("row_outer_grad", g, 256, 0, x.batch.p, u, v, dy, x.mat(o.DU), x.mat(o.DV))
	case *graph.BlockMatMul:
		return x.blockMatMul(o)
	case *graph.BlockMatMulGrad:
		return x.blockMatMulGrad(o)
	case *graph.ColNorm:
		return x.colNorm(o)
	case *graph.CrossEntropy:
		return x.crossEntropy(o.Logits, graph.None, o.Loss)
	case *graph.CrossEntropyGrad:
		return x.crossEntropy(o.Logits, o.DLogits, graph.None)
	case *graph.LMLoss:
		return x.lmLoss(o)
	case *graph.MSE:
		return x.emit("target_loss", grid{}, 256, 0, x.batch.p, x.mat(o.Pred), 0, x.mat(o.Loss).p)
	case *graph.BCE:
		return x.emit("target_loss", grid{}, 256, 0, x.batch.p, x.mat(o.Logits), 1, x.mat(o.Loss).p)
	case *graph.MSEGrad:
		d := x.mat(o.DPred)
		return x.over(d, "target_grad", x.mat(o.Pred), 0, d)
	case *graph.BCEGrad:
		d := x.mat(o.DLogits)
		return x.over(d, "target_grad", x.mat(o.Logits), 1, d)
	}
	return fmt.Errorf("the operation is unknown to this engine")
}

func bit(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// embedArgs mirrors struct EmbedArgs.
type embedArgs struct {
	table          [4]ptr
	stream, offset [4]int32
	n, half, first int32
	_              int32
}

// embed sums the rows of up to four tables per launch, of one storage type.
func (x *executable) embed(o *graph.Embed) error {
	y := x.mat(o.Y)
	for i := 0; i < len(o.Tables); {
		a := embedArgs{first: bit(i == 0), half: bit(x.weights[o.Tables[i]].as == storeBF16)}
		for ; i < len(o.Tables) && a.n < 4 && bit(x.weights[o.Tables[i]].as == storeBF16) == a.half; i++ {
			a.table[a.n], a.stream[a.n], a.offset[a.n] = x.weights[o.Tables[i]].p, int32(o.Streams[i]), int32(o.Offsets[i])
			a.n++
		}
		if err := x.over(y, "embed", unsafe.Pointer(&a), y); err != nil {
			return err
		}
	}
	return nil
}

func (x *executable) colSum(a, b mat, alpha float32, c graph.Value, y mat) error {
	return x.emit("col_sum", grid{x: (int(a.cols) + 31) / 32}, 256, 0, x.batch.p, a, b, alpha, x.addend(c, y), y)
}

// normArgs mirrors struct NormArgs.
type normArgs struct {
	x, stats, dy, c, y mat
	gamma, beta        ptr
	eps                float32
	rms                int32
}

// norm runs the kernel once for each head, on its columns.
func (x *executable) norm(name string, heads int, all normArgs) error {
	n := int(all.y.cols) / heads
	for h := range heads {
		a := all
		for _, m := range []*mat{&a.x, &a.dy, &a.c, &a.y} {
			*m = m.columns(h*n, n)
		}
		a.stats = a.stats.columns(2*h, 2)
		if err := x.emit(name, grid{x: (x.rows(a.y) + 7) / 8}, 256, 0, x.batch.p, unsafe.Pointer(&a)); err != nil {
			return err
		}
	}
	return nil
}

// drop mirrors struct Drop.
type drop struct {
	threshold, site uint32
	keep            float32
	on              int32
}

func dropOf(p float32, site uint32) drop {
	if p == 0 {
		return drop{}
	}
	return drop{threshold: philox.Threshold(p), site: site, keep: philox.Scale(p), on: 1}
}

func (x *executable) dropout(in mat, p float32, site uint32, c, y mat) error {
	d := dropOf(p, site)
	g := flat((int64(x.rows(y))*int64(y.cols) + 7) / 8)
	return x.emit("dropout", g, 256, 0, x.batch.p, in, unsafe.Pointer(&d), c, y)
}

// colNormArgs mirrors struct ColNormArgs.
type colNormArgs struct {
	w, scale              ptr
	si, sj                int64
	a, b, y               mat
	alpha                 float32
	rows, ta, tb, inverse int32
	_                     int32
}

func (x *executable) colNorm(o *graph.ColNorm) error {
	w, s := x.p.Weight(o.W), x.weights[o.W]
	c := colNormArgs{w: s.p, scale: s.scales, si: int64(w.Out), sj: 1, a: x.mat(o.A), b: x.mat(o.B), y: x.mat(o.Y), alpha: o.Alpha,
		rows: int32(w.In), ta: bit(o.TransA), tb: bit(o.TransB), inverse: bit(o.Inverse)}
	if w.Transposed {
		c.si, c.sj = 1, int64(w.In)
	}
	return x.emit("col_norm_"+s.as.String(), grid{x: (int(c.y.cols) + 31) / 32}, 256, 0, unsafe.Pointer(&c))
}

// lossArgs mirrors struct LossArgs.
type lossArgs struct {
	logits, d     mat
	losses        ptr
	rows, r0, cap int32
	_             int32
}

// crossEntropy computes the loss or the gradient.
func (x *executable) crossEntropy(logits, d, loss graph.Value) error {
	m := x.mat(logits)
	a := lossArgs{logits: m, d: x.mat(d), rows: m.rows, cap: int32(x.rows(m))}
	if loss != graph.None {
		a.losses = x.losses.p
	}
	if err := x.emit("cross_entropy", grid{x: x.rows(m)}, 128, 0, x.batch.p, unsafe.Pointer(&a)); err != nil || loss == graph.None {
		return err
	}
	return x.emit("loss_sum", grid{}, 256, 0, x.batch.p, x.losses.p, int(m.rows), x.mat(loss).p)
}

// lmElems is the number of logits that LMLoss holds at a time: 256 MiB.
const lmElems = 1 << 26

// lmLoss goes over the rows in chunks: logits, their gradient in their place,
// and its product with Wᵀ.
func (x *executable) lmLoss(o *graph.LMLoss) error {
	in, dx, vocab := x.mat(o.X), x.mat(o.DX), x.p.Weight(o.W).Out
	chunk := min(max(128, lmElems/vocab/128*128), max(x.rows(in), 1))
	logits := mat{ld: int32(vocab), rows: in.rows, cols: int32(vocab)}
	after := 4 * int64(chunk) * int64(vocab)
	logits.p = x.shared(0, after)
	for r0 := 0; r0 < x.rows(in); r0 += chunk {
		at := in
		at.p += ptr(4 * r0 * int(in.ld))
		p := product{a: at, w: o.W, bias: o.Bias, y: logits, r0: r0, cap: chunk, scratchAt: after}
		if err := x.weightProduct(p); err != nil {
			return err
		}
		a := lossArgs{logits: logits, losses: x.losses.p, rows: in.rows, r0: int32(r0), cap: int32(chunk)}
		if o.DX != graph.None {
			a.d = logits
		}
		if err := x.emit("cross_entropy", grid{x: chunk}, 128, 0, x.batch.p, unsafe.Pointer(&a)); err != nil {
			return err
		}
		if o.DX == graph.None {
			continue
		}
		to := dx
		to.p += ptr(4 * r0 * int(dx.ld))
		if err := x.weightProduct(product{a: logits, w: o.W, backward: true, y: to, r0: r0, cap: chunk, scratchAt: after}); err != nil {
			return err
		}
	}
	return x.emit("loss_sum", grid{}, 256, 0, x.batch.p, x.losses.p, int(in.rows), x.mat(o.Loss).p)
}

// profile times operations with events.
type profile struct {
	from, to uintptr
	times    map[string]*graph.OpTime
	order    []string
}

// StartProfile implements [graph.Profiler]. Until Profile is called operations
// are launched one by one and waited for.
func (x *executable) StartProfile() {
	x.profile = &profile{times: map[string]*graph.OpTime{}}
	_ = x.do(func() error {
		if x.newEvent(&x.profile.from, 0) != 0 || x.newEvent(&x.profile.to, 0) != 0 {
			x.profile = nil // no events: nothing is timed
		}
		return nil
	})
}

// Profile implements [graph.Profiler]; it ends what StartProfile began.
func (x *executable) Profile() []graph.OpTime {
	p := x.profile
	if p == nil {
		return nil
	}
	var out []graph.OpTime
	for _, name := range p.order {
		out = append(out, *p.times[name])
	}
	_ = x.do(func() error { return p.close(x) })
	x.profile = nil
	return out
}

func (p *profile) begin(x *executable) bool {
	return p != nil && x.pass == enqueue && x.recordEvent(p.from, x.stream) == 0
}

func (p *profile) end(x *executable, op graph.Op, n int, began bool) error {
	if !began {
		return nil
	}
	if err := x.check("cuEventRecord", x.recordEvent(p.to, x.stream)); err != nil {
		return err
	}
	if err := x.check("cuEventSynchronize", x.waitEvent(p.to)); err != nil {
		return err
	}
	var ms float32
	if err := x.check("cuEventElapsedTime", x.elapsed(&ms, p.from, p.to)); err != nil {
		return err
	}
	t := p.times[op.Name()]
	if t == nil {
		t = &graph.OpTime{Op: op.Name()}
		p.times[op.Name()] = t
		p.order = append(p.order, op.Name())
	}
	t.Calls += n
	t.Seconds += float64(ms) / 1e3
	return nil
}

func (p *profile) close(x *executable) error {
	if p == nil || p.from == 0 {
		return nil
	}
	a, b := x.destroyEvent(p.from), x.destroyEvent(p.to)
	p.from, p.to = 0, 0
	return x.check("cuEventDestroy", max(a, b))
}
