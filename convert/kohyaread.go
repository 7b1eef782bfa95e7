package convert

import (
	"fmt"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/suggest"
)

// kohyaSuffixes are the ends of tensor names, with the reason of those that are
// refused.
var kohyaSuffixes = map[string]string{
	"lora_down.weight": "", "lora_up.weight": "", "alpha": "",
	"lokr_w1": "", "lokr_w1_a": "", "lokr_w1_b": "", "lokr_w2": "", "lokr_w2_a": "", "lokr_w2_b": "",
	"lora_mid.weight": "a decomposed convolution is no linear layer", "lokr_t2": "a decomposed convolution is no linear layer", "lokr_t1": "a decomposed convolution is no linear layer",
	"hada_w1_a": lohaReason, "hada_w1_b": lohaReason, "hada_w2_a": lohaReason, "hada_w2_b": lohaReason, "hada_t1": lohaReason, "hada_t2": lohaReason,
	"dora_scale": "DoRA rescales W itself; merge the adapter with the program that made it",
	"diff":       "a whole difference of a weight; merge the adapter with the program that made it", "diff_b": "a trained bias",
	"oft_blocks": "OFT turns W instead of adding to it", "oft_diag": "OFT turns W instead of adding to it",
	"on_input": "(IA)³ multiplies W instead of adding to it", "weight": "(IA)³ multiplies W instead of adding to it",
	"scalar": "a trained scale beside alpha",
}

const lohaReason = "LoHa is an elementwise product of two low-rank matrices: its rank is the product of theirs, and no kind of adapter here holds it; merge it with LyCORIS, then extract"

// kohyaModule are the tensors of one module by suffix.
type kohyaModule struct {
	name    string
	tensors map[string]formats.Tensor
}

// readKohya reads a LoRA or LoKr of kohya or LyCORIS. The scale of a LoRA is
// alpha/r, alpha = r where it is absent; of a LoKr alpha over the rank of its
// decomposed factors, 1 where both are whole, as LyCORIS has it.
func readKohya(path string, sites []adapter.Site) (_ *adapter.Adapter, err error) {
	ck, err := formats.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := ck.Close(); err == nil {
			err = e
		}
	}()
	k := &kohyaReader{path: path, ck: ck, index: siteIndex{path: path, sites: sites}}
	if k.index.paths, err = readPaths(ck); err != nil {
		return nil, err
	}
	ms, err := k.group()
	if err != nil {
		return nil, err
	}
	var modules []adapter.Module
	for _, m := range ms {
		read := k.lora
		if m.has("lokr_w1") || m.has("lokr_w1_a") {
			read = k.lokr
		}
		x, err := read(m)
		if err != nil {
			return nil, err
		}
		modules = append(modules, x)
	}
	return assemble(path, modules, adapter.Config{})
}

type kohyaReader struct {
	path  string
	ck    *formats.Checkpoint
	index siteIndex
}

func (m *kohyaModule) has(suffix string) bool { _, ok := m.tensors[suffix]; return ok }

func (k *kohyaReader) refuse(tensor, reason string) error {
	return &formats.Error{Path: k.path, Tensor: tensor, Reason: reason, Hint: "a LoRA or LoKr of linear layers is read", Err: formats.ErrUnsupported}
}

// group sorts the tensors by module, in file order.
func (k *kohyaReader) group() ([]*kohyaModule, error) {
	byName := map[string]*kohyaModule{}
	var ms []*kohyaModule
	for _, t := range k.ck.Tensors() {
		name, suffix, ok := strings.Cut(t.Name, ".")
		reason, known := kohyaSuffixes[suffix]
		switch {
		case !ok || !known:
			return nil, k.refuse(t.Name, "no name of kohya or LyCORIS"+suggest.DidYouMean(suffix, []string{"lora_down.weight", "lora_up.weight", "alpha", "lokr_w1", "lokr_w2"}))
		case reason != "":
			return nil, k.refuse(t.Name, reason)
		}
		m := byName[name]
		if m == nil {
			m = &kohyaModule{name: name, tensors: map[string]formats.Tensor{}}
			byName[name] = m
			ms = append(ms, m)
		}
		m.tensors[suffix] = t
	}
	return ms, nil
}

// matrix reads a tensor of two dimensions; kernels of one element count as none.
func (k *kohyaReader) matrix(m *kohyaModule, suffix string) (x []float32, rows, cols int, err error) {
	t, ok := m.tensors[suffix]
	if !ok {
		return nil, 0, 0, &formats.Error{Path: k.path, Tensor: m.name + "." + suffix, Reason: "missing", Hint: "the file is incomplete", Err: formats.ErrMalformed}
	}
	if len(t.Shape) < 2 || t.Shape[0] < 1 || t.Shape[1] < 1 {
		return nil, 0, 0, k.refuse(t.Name, fmt.Sprintf("shape %v is no matrix", t.Shape))
	}
	for _, d := range t.Shape[2:] {
		if d != 1 {
			return nil, 0, 0, k.refuse(t.Name, fmt.Sprintf("a convolution of shape %v is no linear layer", t.Shape))
		}
	}
	x = make([]float32, t.Elements())
	return x, t.Shape[0], t.Shape[1], k.ck.ReadF32(t, 0, t.Elements(), x)
}

// alpha reads alpha, or r where it is absent or 0.
func (k *kohyaReader) alpha(m *kohyaModule, r int) (float64, error) {
	t, ok := m.tensors["alpha"]
	if !ok {
		return float64(r), nil
	}
	if t.Elements() != 1 {
		return 0, k.refuse(t.Name, fmt.Sprintf("shape %v is no number", t.Shape))
	}
	x := []float64{0}
	if err := k.ck.ReadF64(t, 0, 1, x); err != nil {
		return 0, err
	}
	if x[0] == 0 { // which LyCORIS takes for none
		return float64(r), nil
	}
	return x[0], nil
}

func (k *kohyaReader) lora(m *kohyaModule) (adapter.Module, error) {
	a, r, in, err := k.matrix(m, "lora_down.weight")
	if err != nil {
		return adapter.Module{}, err
	}
	b, out, r2, err := k.matrix(m, "lora_up.weight")
	if err != nil {
		return adapter.Module{}, err
	}
	if r != r2 {
		return adapter.Module{}, &formats.Error{Path: k.path, Tensor: m.name, Reason: fmt.Sprintf("lora_down has rank %d, lora_up %d", r, r2), Hint: "the file is damaged", Err: formats.ErrMalformed}
	}
	alpha, err := k.alpha(m, r)
	if err != nil {
		return adapter.Module{}, err
	}
	s, err := k.index.byFlat(m.name, in, out)
	return loraModule(s, r, alpha, a, b), err
}

// lokr reads ΔWᵀ = scale·w1 ⊗ w2 as a krona of one term: C = w1ᵀ, D = w2ᵀ.
func (k *kohyaReader) lokr(m *kohyaModule) (adapter.Module, error) {
	w1, r1, l, n, err := k.factor(m, "lokr_w1")
	if err != nil {
		return adapter.Module{}, err
	}
	w2, r2, q, p, err := k.factor(m, "lokr_w2")
	if err != nil {
		return adapter.Module{}, err
	}
	scale := 1.0
	if r := max(r1, r2); r > 0 {
		alpha, err := k.alpha(m, r)
		if err != nil {
			return adapter.Module{}, err
		}
		scale = alpha / float64(r)
	}
	s, err := k.index.byFlat(m.name, n*p, l*q)
	set := adapter.Settings{Method: adapter.MethodKronA, Rank: adapter.Rank{R1: 1, R2: 1}, Terms: 1, Alpha: scale, Scaling: adapter.ScaleLoRA, Init: adapter.InitZero,
		Split: [2]int{n, p}, SplitOut: [2]int{l, q}}
	return adapter.Module{Site: s, Settings: set, Tensors: [][]float32{transposed(w1, l, n), transposed(w2, q, p)}}, err
}

// factor reads a factor, or the product of its two factors of rank r > 0.
func (k *kohyaReader) factor(m *kohyaModule, suffix string) (w []float32, r, rows, cols int, err error) {
	if m.has(suffix) {
		w, rows, cols, err = k.matrix(m, suffix)
		return w, 0, rows, cols, err
	}
	a, rows, r, err := k.matrix(m, suffix+"_a")
	if err != nil {
		return nil, 0, 0, 0, err
	}
	b, r2, cols, err := k.matrix(m, suffix+"_b")
	if err != nil {
		return nil, 0, 0, 0, err
	}
	if r != r2 {
		return nil, 0, 0, 0, &formats.Error{Path: k.path, Tensor: m.name + "." + suffix, Reason: fmt.Sprintf("its factors have ranks %d and %d", r, r2), Hint: "the file is damaged", Err: formats.ErrMalformed}
	}
	w = make([]float32, rows*cols)
	for i := range rows {
		for j := range cols {
			var sum float64
			for l := range r {
				sum += float64(a[i*r+l]) * float64(b[l*cols+j])
			}
			w[i*cols+j] = float32(sum)
		}
	}
	return w, r, rows, cols, nil
}
