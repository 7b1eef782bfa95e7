package model

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// filePrefix stands before tensor names in an adapter file.
const filePrefix = "base_model.model."

// Assembly is a program in the making: what the programs of checkpoints and
// of imported graphs have in common. It puts adapter modules on linear layers,
// holds the starting values of parameters and trains classification heads.
type Assembly struct {
	o     BuildOptions
	b     *graph.Builder
	built *Built

	modules map[string]*adapter.Module // by site
	placed  map[string]bool
	initial map[string][]float32 // values of parameters by name
	extra   map[string][]float32 // frozen tensors outside the checkpoint
	selects map[selection]graph.Value
	given   map[string]graph.Value // products that the program's input holds, by site
}

type selection struct {
	x    graph.Value
	pick graph.Pick
}

// NewAssembly begins a program. Options.Loss of the result also says whether
// it is to be trained, and its Seed is settled.
func NewAssembly(o BuildOptions) *Assembly {
	w := &Assembly{o: o, b: graph.NewBuilder(), built: &Built{}, modules: map[string]*adapter.Module{}, placed: map[string]bool{},
		initial: map[string][]float32{}, extra: map[string][]float32{}, selects: map[selection]graph.Value{}, given: map[string]graph.Value{}}
	w.built.Program = w.b.P
	w.o.Loss = o.Loss || o.Train
	if o.Adapter != nil {
		for i := range o.Adapter.Modules {
			mod := &o.Adapter.Modules[i]
			w.modules[mod.Site.Module] = mod
		}
		if o.Seed == 0 {
			w.o.Seed = o.Adapter.Config.Seed
		}
	}
	return w
}

// Graph is the builder of the program.
func (w *Assembly) Graph() *graph.Builder { return w.b }

// Options are the options as NewAssembly has completed them.
func (w *Assembly) Options() BuildOptions { return w.o }

// Result is the result so far. [Assembly.Finish] fills in Params.
func (w *Assembly) Result() *Built { return w.built }

// Adapted says whether the adapter has a module on a site.
func (w *Assembly) Adapted(module string) bool { return w.modules[module] != nil }

// Extra are the frozen tensors that no checkpoint holds, by name, row-major.
func (w *Assembly) Extra() map[string][]float32 { return w.extra }

// Pick takes rows of x, once for each x and p.
func (w *Assembly) Pick(name string, x graph.Value, p graph.Pick) graph.Value {
	key := selection{x, p}
	if v, ok := w.selects[key]; ok {
		return v
	}
	v := w.b.Select(name, x, p)
	w.selects[key] = v
	return v
}

// Epilogue is what follows a linear layer: y = dropout(act(xW + b + Δ)) + residual.
type Epilogue struct {
	Act      graph.Act
	Drop     float32
	Residual graph.Value
}

// Linear is a linear layer, its adapter's delta and the epilogue. Activation
// and residual go into the linear operation where neither a delta nor dropout
// stands between.
func (w *Assembly) Linear(module string, weight, bias graph.WeightID, x graph.Value, e Epilogue) (graph.Value, error) {
	mod := w.modules[module]
	// The activation applies to the sum with the delta, dropout to its result,
	// and the residual comes last.
	fuseAct := mod == nil || e.Act == graph.ActNone
	fuseResidual := fuseAct && e.Drop == 0
	if mod != nil {
		if r, ok := rescaler(mod); ok {
			y, err := w.rescaled(mod, r, weight, bias, x)
			if err != nil {
				return graph.None, err
			}
			return w.b.Dropout(module+".dropout", w.activate(module, y, e.Act), e.Drop, e.Residual), nil
		}
	}
	act, residual := graph.ActNone, graph.None
	if fuseAct {
		act = e.Act
	}
	if fuseResidual {
		residual = e.Residual
	}
	y, ok := w.given[module]
	if !ok {
		y = w.b.Linear(module, x, weight, bias, act, residual)
	}
	if mod != nil {
		var err error
		if y, err = w.adapt(mod, w.b.P.Weight(weight), x, y); err != nil {
			return graph.None, err
		}
	}
	if !fuseAct {
		y = w.activate(module, y, e.Act)
	}
	if !fuseResidual {
		y = w.b.Dropout(module+".dropout", y, e.Drop, e.Residual)
	}
	return y, nil
}

func (w *Assembly) activate(module string, y graph.Value, act graph.Act) graph.Value {
	if act == graph.ActNone {
		return y
	}
	return w.b.Activate(module+".act", y, act)
}

// adapt adds the delta of an adapter module to y.
func (w *Assembly) adapt(mod *adapter.Module, weight *graph.Weight, x, y graph.Value) (graph.Value, error) {
	if err := fits(mod, weight.In, weight.Out); err != nil {
		return graph.None, err
	}
	kind, err := adapter.Lookup(mod.Method)
	if err != nil {
		return graph.None, err
	}
	params, err := w.params(mod)
	if err != nil {
		return graph.None, err
	}
	return kind.Lower(w.b, w.dropped(mod, x), y, mod.Site, mod.Settings, params), nil
}

func fits(mod *adapter.Module, in, out int) error {
	if mod.In != in || mod.Out != out {
		return fmt.Errorf("adapter module %s is made for (%d, %d), the model has (%d, %d)", mod.Module, mod.In, mod.Out, in, out)
	}
	return nil
}

// params declares the parameters of a module; its frozen tensors become weights.
func (w *Assembly) params(mod *adapter.Module) ([]graph.Value, error) {
	w.placed[mod.Module] = true
	params := make([]graph.Value, len(mod.Specs))
	for i, s := range mod.Specs {
		rows, cols := matrixOf(s.Shape)
		if len(mod.Tensors[i]) != rows*cols {
			return nil, fmt.Errorf("adapter tensor %s has %d elements, its shape %v has %d", s.Name, len(mod.Tensors[i]), s.Shape, rows*cols)
		}
		if s.Frozen {
			w.extra[s.Name] = mod.Tensors[i]
			continue
		}
		params[i] = w.b.Param(s.Name, s.Shape, rows, cols)
		w.initial[s.Name] = mod.Tensors[i]
	}
	return params, nil
}

// dropped is the input of an update.
func (w *Assembly) dropped(mod *adapter.Module, x graph.Value) graph.Value {
	if !w.o.Train {
		return x
	}
	return w.b.Dropout(mod.Module+".adapter_dropout", x, float32(mod.Dropout), graph.None)
}

// matrixOf folds a shape to a matrix: the first dimension by all others, a
// vector to one row.
func matrixOf(shape []int) (rows, cols int) {
	rows, cols = 1, 1
	for i, d := range shape {
		if i == 0 && len(shape) > 1 {
			rows = d
		} else {
			cols *= d
		}
	}
	return rows, cols
}

// HeadLayer is a linear layer of a classification head. Its tensors are named
// Module.weight (Out, In) and Module.bias (Out).
type HeadLayer struct {
	Module  string
	In, Out int
	Bias    bool
	Act     graph.Act
	// InitializerRange is the standard deviation of weights that are drawn.
	InitializerRange float64
	// Read gives a tensor as the base model has it, if it has it; a shape that
	// is not the base model's is an error.
	Read func(name string, shape []int, dst []float32) (found bool, err error)
	// Frozen writes the layer with weights that are not trained. Those that the
	// base model lacks are in [Assembly.Extra] then.
	Frozen func() (graph.Value, error)
}

// HeadLayer writes a layer of the classification head on x: with parameters,
// or frozen where the options say so.
func (w *Assembly) HeadLayer(h HeadLayer, x graph.Value) (graph.Value, error) {
	tensors := []expected{{h.Module + ".weight", []int{h.Out, h.In}}}
	if h.Bias {
		tensors = append(tensors, expected{h.Module + ".bias", []int{h.Out}})
	}
	values := map[string][]float32{}
	for _, t := range tensors {
		data, inCheckpoint, err := w.headTensor(t, &h)
		if err != nil {
			return graph.None, err
		}
		values[t.name] = data
		w.built.Head = append(w.built.Head, adapter.Tensor{Name: t.name, Shape: t.shape, Data: data})
		if w.o.FreezeHead && !inCheckpoint {
			w.extra[t.name] = data
		}
	}
	if w.o.FreezeHead {
		return h.Frozen()
	}
	if w.Adapted(h.Module) {
		return graph.None, fmt.Errorf("adapter module %s: the head is trained whole; freeze it or leave it out of the targets", h.Module)
	}
	name := filePrefix + tensors[0].name
	w.initial[name] = values[tensors[0].name]
	y := w.b.MatMul(h.Module, x, w.b.Param(name, []int{h.Out, h.In}, h.Out, h.In), false, true, 1, graph.None)
	if h.Bias {
		name := filePrefix + tensors[1].name
		w.initial[name] = values[tensors[1].name]
		y = w.b.AddBias(y, w.b.Param(name, []int{h.Out}, 1, h.Out))
		w.b.P.Params[len(w.b.P.Params)-1].NoDecay = true
	}
	if h.Act != graph.ActNone {
		y = w.b.Activate(h.Module+".act", y, h.Act)
	}
	return y, nil
}

// headTensor gives the values that a head tensor starts with: the adapter's,
// else the checkpoint's, else drawn anew (weights from N(0,
// initializer_range²), biases 0, as transformers does).
func (w *Assembly) headTensor(e expected, h *HeadLayer) (data []float32, inCheckpoint bool, err error) {
	size := 1
	for _, d := range e.shape {
		size *= d
	}
	if a := w.o.Adapter; a != nil {
		for _, t := range a.Head {
			if t.Name != e.name {
				continue
			}
			if !slices.Equal(t.Shape, e.shape) || len(t.Data) != size {
				return nil, false, fmt.Errorf("the adapter's head tensor %s has shape %v, %d labels need %v", e.name, t.Shape, w.built.NumLabels, e.shape)
			}
			return t.Data, false, nil
		}
	}
	data = make([]float32, size)
	if !w.o.ResetHead {
		if found, err := h.Read(e.name, e.shape, data); found || err != nil {
			return data, true, err
		}
	}
	w.built.Drawn = append(w.built.Drawn, e.name)
	if strings.HasSuffix(e.name, ".weight") {
		adapter.Source{Seed: w.o.Seed}.Normal(e.name, data, h.InitializerRange)
	}
	return data, false, nil
}

// Labels is the head's width as the options or the adapter give it, 0 where
// they leave it to the base model. last is the head's last module.
func (w *Assembly) Labels(last string) (int, error) {
	if n := w.o.NumLabels; n < 0 {
		return 0, fmt.Errorf("%d labels", n)
	} else if n > 0 {
		return n, nil
	}
	if a := w.o.Adapter; a != nil {
		for _, t := range a.Head {
			if t.Name == last+".weight" && len(t.Shape) == 2 {
				return t.Shape[0], nil
			}
		}
	}
	return 0, nil
}

// Finish returns the program, with the starting values of its parameters. It
// fails when a module of the adapter is not in it; sites are those of the model.
func (w *Assembly) Finish(sites []adapter.Site) (*Built, error) {
	if err := w.allPlaced(sites); err != nil {
		return nil, err
	}
	w.built.Params = make([]float32, w.b.P.ParamSize)
	for _, p := range w.b.P.Params {
		copy(w.built.Params[p.Offset:p.Offset+p.Size], w.initial[p.Name])
	}
	return w.built, nil
}

// allPlaced fails when a module of the adapter is not in the program.
func (w *Assembly) allPlaced(sites []adapter.Site) error {
	var missing []string
	for name := range w.modules {
		if !w.placed[name] {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	sort.Strings(missing)
	why := "the model has no such linear layer"
	if w.modules[missing[0]].Block {
		return fmt.Errorf("adapter module %s: the model has no such block, or its connection does not begin and end within the program", strings.Join(missing, ", "))
	}
	if at := slices.IndexFunc(sites, func(s adapter.Site) bool { return s.Module == missing[0] }); at >= 0 {
		if s := sites[at]; s.Layer >= 0 && (s.Layer < w.o.From || w.o.Until > 0 && s.Layer >= w.o.Until) {
			return fmt.Errorf("adapter module %s lies outside of the layers of the program", strings.Join(missing, ", "))
		}
		why = fmt.Sprintf("%s does not compute it or trains it whole", w.o.Task)
	}
	return fmt.Errorf("adapter module %s: %s", strings.Join(missing, ", "), why)
}
