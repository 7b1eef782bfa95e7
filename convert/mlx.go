package convert

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Names of an MLX adapter's files.
const (
	mlxTensors = "adapters.safetensors"
	mlxConfig  = "adapter_config.json"
)

// MLXOptions are options of [WriteMLX].
type MLXOptions struct {
	DType   tensor.DType // F32, F16 or BF16
	Replace bool         // an existing directory
	// Layers is the number of the base model's layers, 0 where it is not known.
	Layers int
	// Finish, unless nil, adds to the directory before it gets its name.
	Finish func(dir *atomicfile.Dir) error
}

// mlxParameters are the settings of all modules.
type mlxParameters struct {
	Rank    int      `json:"rank"`
	Scale   *float64 `json:"scale"`
	Dropout float64  `json:"dropout"`
	Keys    []string `json:"keys,omitempty"`
}

type mlxSettings struct {
	Type       string         `json:"fine_tune_type"`
	NumLayers  int            `json:"num_layers"`
	Parameters *mlxParameters `json:"lora_parameters"`
	Model      string         `json:"model,omitempty"`
}

// WriteMLX writes an adapter as the directory that mlx-lm loads:
//
//	adapters.safetensors  <module>.lora_a (in, r), <module>.lora_b (r, out)
//	adapter_config.json   rank and scale of all modules, y += scale·(x a) b
//
// Modules of a smaller rank are filled up with zeros, and scales that differ from
// the most frequent one are multiplied into lora_b.
func WriteMLX(a *adapter.Adapter, dir string, o MLXOptions) (*Report, error) {
	if err := noHead(a, "MLX's form"); err != nil {
		return nil, err
	}
	ps, err := pairsOf(a)
	if err != nil {
		return nil, err
	}
	rep := &Report{}
	scale := common(ps, func(p *pair) float64 { return p.scale })
	c := mlxSettings{Type: "lora", NumLayers: -1, Model: baseName(a), Parameters: &mlxParameters{Scale: &scale, Dropout: a.Dropout}}
	first := -1
	for i := range ps {
		p := &ps[i]
		if p.scale != scale {
			rep.note("scales other than the most frequent one are multiplied into lora_b")
			p.bake(p.scale / scale)
		}
		c.Parameters.Rank = max(c.Parameters.Rank, p.r)
		if k := mlxKey(p.Module); !slices.Contains(c.Parameters.Keys, k) {
			c.Parameters.Keys = append(c.Parameters.Keys, k)
		}
		if p.Layer >= 0 && (first < 0 || p.Layer < first) {
			first = p.Layer
		}
	}
	if o.Layers > 0 && first >= 0 {
		c.NumLayers = o.Layers - first
	}
	w := &tensorWriter{from: a.Dir, dtype: o.DType}
	for i := range ps {
		mlxPair(&ps[i], c.Parameters.Rank, w, rep)
	}
	config, err := json.MarshalIndent(c, "", "    ")
	if err != nil {
		return nil, err
	}
	metadata, err := mlxMetadata(ps)
	if err != nil {
		return nil, err
	}
	d, err := atomicfile.NewDir(dir, o.Replace)
	if err != nil {
		return nil, err
	}
	defer d.Abort()
	err = errors.Join(
		d.WriteFile(mlxConfig, 0o666, func(f io.Writer) error { _, err := f.Write(append(config, '\n')); return err }),
		d.WriteFile(mlxTensors, 0o666, func(f io.Writer) error { return w.write(f, metadata, rep) }))
	if err == nil && o.Finish != nil {
		err = o.Finish(d)
	}
	if err != nil {
		return nil, err
	}
	return rep, d.Commit()
}

// mlxMetadata is the metadata of the tensor file: where MLX has another path for
// a module, the module's own.
func mlxMetadata(ps []pair) ([]safetensors.KV, error) {
	kv := []safetensors.KV{{Key: "format", Value: "mlx"}}
	paths := map[string]string{}
	for i := range ps {
		if n := mlxName(ps[i].Module); n != ps[i].Module {
			paths[n] = ps[i].Module
		}
	}
	if len(paths) == 0 {
		return kv, nil
	}
	b, err := json.Marshal(paths)
	return append(kv, safetensors.KV{Key: pathsKey, Value: string(b)}), err
}

// mlxPair adds the tensors of one module, filled up to rank.
func mlxPair(p *pair, rank int, w *tensorWriter, rep *Report) {
	a, b := make([]float32, p.In*rank), make([]float32, rank*p.Out)
	for k := range p.r {
		for i := range p.In {
			a[i*rank+k] = p.a[k*p.In+i]
		}
		for j := range p.Out {
			b[k*p.Out+j] = p.b[j*p.r+k]
		}
	}
	if p.r < rank {
		rep.note("modules of a smaller rank are filled up with zeros")
	}
	n := mlxName(p.Module)
	w.add(outTensor{name: n + ".lora_a", from: p.Module, shape: []int{p.In, rank}, data: a, dev: p.devA})
	w.add(outTensor{name: n + ".lora_b", from: p.Module, shape: []int{rank, p.Out}, data: b, dev: p.devB})
}

// mlxName is mlx-lm's path of a module: that of transformers' language models,
// where GPT-2 has "model." for "transformer.".
func mlxName(module string) string {
	if rest, ok := strings.CutPrefix(module, "transformer."); ok {
		return "model." + rest
	}
	for _, bare := range []string{"layers.", "h."} { // a base without its prefix
		if strings.HasPrefix(module, bare) {
			return "model." + module
		}
	}
	return module
}

// mlxKey is the path of a module within its layer, or the whole path.
func mlxKey(module string) string {
	n := layerNumber.FindStringSubmatchIndex(module)
	if n == nil || n[3] >= len(module) {
		return mlxName(module)
	}
	return strings.TrimPrefix(module[n[3]:], ".")
}

// decodeMLX reads the settings of an MLX adapter.
func decodeMLX(b []byte) (*mlxSettings, error) {
	var c mlxSettings
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, err
	}
	switch {
	case c.Type == "dora":
		return nil, errors.New("fine_tune_type is dora: it rescales W itself; fuse the adapter with mlx_lm first")
	case c.Type != "" && c.Type != "lora":
		return nil, fmt.Errorf("fine_tune_type is %q; lora is read", c.Type)
	case c.Parameters == nil || c.Parameters.Scale == nil:
		return nil, errors.New("it has no lora_parameters with a scale")
	}
	return &c, nil
}
