package convert

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// KohyaOptions are options of [WriteKohya].
type KohyaOptions struct {
	// Prefix stands before every module's name; "" is "lycoris_", LyCORIS's own
	// for a model of any kind. kohya has "lora_unet_" and "lora_te_".
	Prefix string
	DType  tensor.DType // F32, F16 or BF16
}

// WriteKohya writes an adapter as one safetensors file under the names of kohya
// and LyCORIS,
//
//	<prefix><path, . as _>.lora_down.weight  (r, in)
//	<prefix><path, . as _>.lora_up.weight    (out, r)
//	<prefix><path, . as _>.alpha             scale·r, for each module its own
//
// or, for one Kronecker product, lokr_w1 and lokr_w2 with the scale in w1: readers
// disagree on whether alpha counts where both are whole.
func WriteKohya(a *adapter.Adapter, out string, o KohyaOptions) (*Report, error) {
	if err := noHead(a, "a file of kohya"); err != nil {
		return nil, err
	}
	if o.Prefix == "" {
		o.Prefix = "lycoris_"
	}
	rep := &Report{}
	w := &tensorWriter{from: a.Dir, dtype: o.DType}
	paths := map[string]string{}
	names := map[string]bool{}
	for _, m := range a.Modules {
		n := o.Prefix + flat(m.Module)
		if names[n] {
			return nil, fmt.Errorf("%w: %s and another module have the same name %s in this form", adapter.ErrMismatch, m.Module, n)
		}
		names[n], paths[n] = true, m.Module
	}
	metadata := []safetensors.KV{{Key: "format", Value: "pt"}}
	add := func(k, v string) { metadata = append(metadata, safetensors.KV{Key: k, Value: v}) }
	var err error
	if a.Method == adapter.MethodKronA {
		add("ss_network_module", "lycoris.kohya")
		err = kohyaKronecker(a, o.Prefix, w)
	} else {
		add("ss_network_module", "networks.lora")
		var ps []pair
		if ps, err = pairsOf(a); err == nil {
			add("ss_network_dim", strconv.Itoa(int(common(ps, func(p *pair) float64 { return float64(p.r) }))))
			add("ss_network_alpha", strconv.FormatFloat(common(ps, func(p *pair) float64 { return p.scale * float64(p.r) }), 'g', -1, 64))
			kohyaPairs(ps, o.Prefix, w, rep)
		}
	}
	if err != nil {
		return nil, err
	}
	if b := baseName(a); b != "" {
		add("ss_sd_model_name", b)
	}
	b, err := json.Marshal(paths)
	if err != nil {
		return nil, err
	}
	add(pathsKey, string(b))
	return rep, atomicfile.WriteFile(out, 0o666, func(f io.Writer) error { return w.write(f, metadata, rep) })
}

func kohyaPairs(ps []pair, prefix string, w *tensorWriter, rep *Report) {
	for i := range ps {
		p := &ps[i]
		n := prefix + flat(p.Module)
		// The largest alpha that the dtype holds and a factor in B make the
		// scale, so that it is not rounded with alpha.
		alpha := p.scale * float64(p.r)
		if stored := inDType(alpha, w.dtype); stored != alpha {
			alpha = inDType(float64(p.r), w.dtype)
			rep.note("where alpha is no number of the dtype, the scale is in lora_up and alpha the rank")
			p.bake(p.scale * float64(p.r) / alpha)
		}
		w.add(outTensor{name: n + ".lora_down.weight", from: p.Module, shape: []int{p.r, p.In}, data: p.a, dev: p.devA})
		w.add(outTensor{name: n + ".lora_up.weight", from: p.Module, shape: []int{p.Out, p.r}, data: p.b, dev: p.devB})
		w.add(outTensor{name: n + ".alpha", from: p.Module, data: []float32{float32(alpha)}})
	}
}

// inDType is x as a dtype holds it.
func inDType(x float64, d tensor.DType) float64 {
	b := make([]byte, d.Bits()/8)
	y := []float64{0}
	if tensor.EncodeF64(b, []float64{x}, d) != nil || tensor.DecodeF64(y, b, d) != nil {
		return x // not reached: the dtypes are F32, F16 and BF16
	}
	return y[0]
}

func kohyaKronecker(a *adapter.Adapter, prefix string, w *tensorWriter) error {
	for i := range a.Modules {
		m := &a.Modules[i]
		c, d := m.Specs[0].Shape, m.Specs[1].Shape // (s, a1, b1), (s, a2, b2)
		switch {
		case m.Terms != 1:
			return unsupported(a.Dir, m.Module, fmt.Sprintf("%d Kronecker products; lokr is one", m.Terms), "extract a LoRA of the merged model")
		case c[1]*d[1] != m.In || c[2]*d[2] != m.Out:
			return unsupported(a.Dir, m.Module, fmt.Sprintf("(%d, %d) is padded, which lokr cannot express", m.In, m.Out), "extract a LoRA of the merged model")
		}
		n := prefix + flat(m.Module)
		p := pair{b: transposed(m.Tensors[0], c[1], c[2])}
		p.bake(m.Scale())
		w.add(outTensor{name: n + ".lokr_w1", from: m.Module, shape: []int{c[2], c[1]}, data: p.b, dev: p.devB})
		w.add(outTensor{name: n + ".lokr_w2", from: m.Module, shape: []int{d[2], d[1]}, data: transposed(m.Tensors[1], d[1], d[2])})
		w.add(outTensor{name: n + ".alpha", from: m.Module, data: []float32{1}})
	}
	return nil
}
