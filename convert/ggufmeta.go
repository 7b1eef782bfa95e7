package convert

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/gguf"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// fileTypes are llama.cpp's numbers of what most tensors of a file are.
var fileTypes = map[gguf.Type]uint32{gguf.F32: 0, gguf.F16: 1, gguf.Q8_0: 7, gguf.BF16: 32}

// metadata are the entries of a model's settings. What llama.cpp would compute
// otherwise than the model is refused, or noted where it concerns long texts
// only.
func (g *modelWriter) metadata() ([]gguf.KV, error) {
	c := g.config
	arch := g.arch.name
	var kv []gguf.KV
	set := func(key string, v any) { kv = append(kv, gguf.KV{Key: key, Value: v}) }
	own := func(key string, v any) { set(arch+"."+key, v) }
	set("general.architecture", arch)
	set("general.type", "model")
	set("general.name", filepath.Base(filepath.Clean(g.model.Checkpoint().Dir())))
	set("general.file_type", fileTypes[g.o.Type])
	set("general.quantization_version", uint32(2))
	context, err := g.contextLength()
	if err != nil {
		return nil, err
	}
	own("block_count", uint32(c.Layers))
	own("context_length", uint32(context))
	own("embedding_length", uint32(c.HiddenSize))
	own("feed_forward_length", uint32(c.IntermediateSize))
	own("attention.head_count", uint32(c.Heads))
	own("vocab_size", uint32(c.VocabSize))
	if err := g.checkAttention(); err != nil {
		return nil, err
	}
	if arch == "gpt2" {
		own("attention.layer_norm_epsilon", float32(c.NormEps))
		return kv, nil
	}
	own("attention.head_count_kv", uint32(c.KVHeads))
	own("attention.layer_norm_rms_epsilon", float32(c.NormEps))
	own("attention.key_length", uint32(c.HeadDim))
	own("attention.value_length", uint32(c.HeadDim))
	own("rope.dimension_count", uint32(c.HeadDim))
	own("rope.freq_base", float32(c.Rope.Theta))
	return kv, g.ropeScaling(own)
}

// contextLength is the length up to which llama.cpp computes what the model
// does: a sliding window, which its Llama lacks, ends it.
func (g *modelWriter) contextLength() (int, error) {
	n := g.config.MaxLength
	for _, w := range g.config.Windows {
		if w > 0 && w < n {
			n = w
		}
	}
	if n < g.config.MaxLength {
		g.report.note(fmt.Sprintf("the context is %d tokens, the model's sliding window, beyond which llama.cpp attends to more than the model does; it has %d positions", n, g.config.MaxLength))
	}
	if n > math.MaxInt32 {
		return 0, g.refuse("config.json allows %d positions", n)
	}
	return n, nil
}

// checkAttention refuses what llama.cpp has no setting for.
func (g *modelWriter) checkAttention() error {
	c := g.config
	want := graph.ActSiLU
	if g.arch.name == "gpt2" {
		want = graph.ActGELUTanh
	}
	if c.Act != want {
		return g.refuse("the activation %v; llama.cpp's %s has %v", c.Act, g.arch.name, want)
	}
	usual := 1 / math.Sqrt(float64(c.HeadDim))
	if slices.ContainsFunc(c.AttentionScale, func(s float64) bool { return math.Abs(s-usual) > 1e-9*usual }) {
		return g.refuse("attention is not scaled by 1/√%d in every layer, which llama.cpp's %s has no setting for", c.HeadDim, g.arch.name)
	}
	if g.arch.name == "qwen2" && c.Heads*c.HeadDim != c.HiddenSize {
		return g.refuse("%d heads of %d do not make %d, as llama.cpp's qwen2 has it", c.Heads, c.HeadDim, c.HiddenSize)
	}
	return nil
}

// ropeScaling writes the scaling of rotary positions. llama3's is written as a
// factor for every pair of a head, the tensor "rope_freqs.weight".
func (g *modelWriter) ropeScaling(own func(string, any)) error {
	r := g.config.Rope
	switch r.Kind {
	case "default":
	case "linear":
		own("rope.scaling.type", "linear")
		own("rope.scaling.factor", float32(r.Factor))
	case "dynamic":
		g.report.note("dynamic scaling of rotary positions is left out: it only acts beyond the context length")
	case "llama3":
		scaled, _ := r.Frequencies(g.config.HeadDim)
		plain, _ := (&model.Rope{Theta: r.Theta, Kind: "default"}).Frequencies(g.config.HeadDim)
		for i := range scaled {
			g.ropeFactors = append(g.ropeFactors, plain[i]/scaled[i])
		}
	case "yarn":
		_, scale := r.Frequencies(g.config.HeadDim)
		if usual := float32(0.1*math.Log(r.Factor) + 1); math.Abs(float64(scale-usual)) > 1e-6 || !r.Truncate {
			return g.refuse("yarn with an attention factor of %v (usual %v) or without truncation", scale, usual)
		}
		own("rope.scaling.type", "yarn")
		own("rope.scaling.factor", float32(r.Factor))
		own("rope.scaling.original_context_length", uint32(r.OriginalMaxPositions))
		own("rope.scaling.yarn_beta_fast", float32(r.BetaFast))
		own("rope.scaling.yarn_beta_slow", float32(r.BetaSlow))
	default:
		return g.refuse("rotary scaling %q", r.Kind)
	}
	return nil
}

// refuse is an error about a setting that GGUF or llama.cpp cannot express.
func (g *modelWriter) refuse(format string, args ...any) error {
	return &formats.Error{Path: g.model.Checkpoint().Path(), Reason: "not expressible in GGUF: " + fmt.Sprintf(format, args...),
		Hint: "keep the model in safetensors", Err: formats.ErrUnsupported}
}
