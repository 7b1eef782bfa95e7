package convert

import (
	"fmt"
	"math"
	"path/filepath"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

// pair is a module's update as a product of two matrices,
//
//	ΔWᵀ = scale·B A,  A (r, in), B (out, r)
//
// as torch stores the factors of a LoRA.
type pair struct {
	adapter.Site
	r     int
	a, b  []float32
	scale float64
	// How far the factors are from those of the adapter.
	devA, devB deviation
}

// pairsOf returns the updates of an adapter as pairs: a LoRA's as they are, other
// kinds' low-rank factors rounded to float32. An update of full rank is an
// error.
func pairsOf(a *adapter.Adapter) ([]pair, error) {
	if err := a.Finite(); err != nil {
		return nil, fmt.Errorf("%w: %w", adapter.ErrMismatch, err)
	}
	var ps []pair
	for i := range a.Modules {
		m := &a.Modules[i]
		if m.Method == adapter.MethodLoRA && len(m.Tensors) == 2 { // else it started from W
			p := pair{Site: m.Site, r: m.Rank.R1, a: m.Tensors[0], b: m.Tensors[1], scale: m.Scale()}
			ps = append(ps, p)
			continue
		}
		d, rescaled, err := update(m)
		if err != nil {
			return nil, err
		}
		if rescaled != nil {
			return nil, unsupported(a.Dir, m.Module, m.Method+" rescales W itself, which this form cannot express", "merge the adapter into the model, or convert it to peft-lora, which holds DoRA")
		}
		if d.Kron != nil {
			return nil, unsupported(a.Dir, m.Module, m.Method+" is a sum of Kronecker products of full rank, and no product of two thin matrices",
				"peft-lokr and kohya hold one product exactly; or extract a LoRA of the merged model")
		}
		p := pair{Site: m.Site, r: d.R, scale: d.Scale}
		p.a, p.devA = rounded(d.A, d.In, d.R)
		p.b, p.devB = rounded(d.B, d.R, d.Out)
		ps = append(ps, p)
	}
	return ps, nil
}

// rounded returns xᵀ (cols, rows) in float32 of x (rows, cols).
func rounded(x []float64, rows, cols int) ([]float32, deviation) {
	y := make([]float32, len(x))
	var d deviation
	for i := range rows {
		for j := range cols {
			v := x[i*cols+j]
			w := float32(v)
			y[j*rows+i] = w
			d.add(v, float64(w))
		}
	}
	return y, d
}

// transposed returns xᵀ (cols, rows) of x (rows, cols).
func transposed(x []float32, rows, cols int) []float32 {
	y := make([]float32, len(x))
	for i := range rows {
		for j := range cols {
			y[j*rows+i] = x[i*cols+j]
		}
	}
	return y
}

// common returns the value that most pairs have of f; the first of equals.
func common(ps []pair, f func(*pair) float64) float64 {
	count := map[float64]int{}
	best := math.NaN()
	for i := range ps {
		v := f(&ps[i])
		if count[v]++; math.IsNaN(best) || count[v] > count[best] {
			best = v
		}
	}
	return best
}

// bake multiplies B by a factor and leaves the scale to be that much smaller.
// Powers of two are exact.
func (p *pair) bake(factor float64) {
	if factor == 1 {
		return
	}
	b := make([]float32, len(p.b))
	var d deviation
	for i, v := range p.b {
		want := float64(v) * factor
		b[i] = float32(want)
		d.add(want, float64(b[i]))
	}
	p.b, p.scale = b, p.scale/factor
	p.devB.merge(d)
}

// single rounds a number that a form stores in float32, and notes a scale that
// it moves.
func single(x float64, r *Report, what string) float32 {
	y := float32(x)
	if float64(y) != x {
		r.note(fmt.Sprintf("%s %v is stored in 32 bits, which moves the scale by %.1g of itself", what, x, math.Abs(float64(y)-x)/math.Abs(x)))
	}
	return y
}

// noHead refuses the tensors of a trained head for a form that has no place for
// them.
func noHead(a *adapter.Adapter, form string) error {
	if len(a.Head) == 0 {
		return nil
	}
	return unsupported(a.Dir, a.Head[0].Name, "a trained head, for which "+form+" has no place", "merge the adapter into the model instead")
}

// unsupported is an error about a tensor or module that a form cannot hold. path
// is of the adapter, "" for one that was not read from a file.
func unsupported(path, tensor, reason, hint string) error {
	if path == "" {
		path = "the adapter"
	}
	return &formats.Error{Path: path, Tensor: tensor, Reason: reason, Hint: hint, Err: formats.ErrUnsupported}
}

// assemble makes an adapter of modules that were read.
func assemble(path string, modules []adapter.Module, c adapter.Config) (*adapter.Adapter, error) {
	if len(modules) == 0 {
		return nil, &formats.Error{Path: path, Reason: "no adapter tensors in it", Hint: "give a LoRA or LoKr of kohya or LyCORIS, MLX or llama.cpp", Err: formats.ErrNotFound}
	}
	a := &adapter.Adapter{Config: c, Dir: path}
	a.Settings = modules[0].Settings
	for _, m := range modules {
		if m.Method != a.Method {
			return nil, &formats.Error{Path: path, Tensor: m.Module, Reason: fmt.Sprintf("a %s among modules of %s", m.Method, a.Method), Hint: "an adapter has one method here: split the file", Err: formats.ErrUnsupported}
		}
		k, err := adapter.Lookup(m.Method)
		if err != nil {
			return nil, err
		}
		if m.Specs, err = k.Params(m.Site, m.Settings); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, m.Module, err)
		}
		a.Modules = append(a.Modules, m)
		a.Targets.Modules = append(a.Targets.Modules, m.Module)
	}
	a.Overrides = adapter.OverridesFor(a.Settings, a.Modules)
	if err := a.Finite(); err != nil {
		return nil, &formats.Error{Path: path, Reason: err.Error(), Hint: "training diverged or the file is damaged", Err: formats.ErrMalformed}
	}
	return a, nil
}

// loraModule makes a module of a pair with alpha, scale = alpha/r.
func loraModule(s adapter.Site, r int, alpha float64, a, b []float32) adapter.Module {
	set := adapter.Settings{Method: adapter.MethodLoRA, Rank: adapter.Rank{R1: r, R2: 1}, Terms: 1, Alpha: alpha, Scaling: adapter.ScaleLoRA, Init: adapter.InitZero}
	return adapter.Module{Site: s, Settings: set, Tensors: [][]float32{a, b}}
}

// baseName is what an adapter calls its base model, for other programs.
func baseName(a *adapter.Adapter) string {
	if filepath.IsAbs(a.BaseModel) {
		return filepath.Base(a.BaseModel)
	}
	return a.BaseModel
}
