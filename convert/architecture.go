package convert

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// architecture is how llama.cpp names a family's tensors.
type architecture struct {
	name     string
	prefixes []string // that stand before the base model's tensors
	layers   string   // before the number of a layer
	// outside and inside the layers, by module; ".weight" and ".bias" are kept.
	outside, inside map[string]string
	// permuted modules have the two halves of every head interleaved: ggml
	// turns neighbours where transformers turns i and i + headDim/2.
	permuted map[string]bool
	// conv1D modules are stored (in, out) and written (out, in).
	conv1D map[string]bool
	// skipped matches buffers that are computed from the settings.
	skipped *regexp.Regexp
}

// llamaNames are shared by the families of Llama's shape.
var llamaNames = architecture{
	prefixes: []string{"model."},
	layers:   "layers.",
	outside:  map[string]string{"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"},
	inside: map[string]string{
		"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
		"post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
	},
	skipped: regexp.MustCompile(`rotary_emb\.inv_freq$`),
}

// architectureOf finds the architecture of a model.
func architectureOf(m *model.Model) (*architecture, error) {
	a := llamaNames
	switch t := m.Config().ModelType; t {
	case "llama", "mistral":
		a.name, a.permuted = "llama", map[string]bool{"self_attn.q_proj": true, "self_attn.k_proj": true}
	case "qwen2":
		a.name = "qwen2"
	case "gpt2":
		a = architecture{
			name:     "gpt2",
			prefixes: []string{"transformer."},
			layers:   "h.",
			outside:  map[string]string{"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output"},
			inside:   map[string]string{"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
			conv1D:   map[string]bool{"attn.c_attn": true, "attn.c_proj": true, "mlp.c_fc": true, "mlp.c_proj": true},
			skipped:  regexp.MustCompile(`\.attn\.(masked_)?bias$`),
		}
	default:
		return nil, &formats.Error{Path: m.Checkpoint().Path(), Reason: fmt.Sprintf("models of type %q are not converted to GGUF: there are llama, mistral, qwen2 and gpt2", t),
			Hint: "llama.cpp's convert_hf_to_gguf.py knows more of them", Err: formats.ErrUnsupported}
	}
	return &a, nil
}

// place is where a tensor of a checkpoint goes.
type place struct {
	name   string // GGUF's
	module string // within its layer, or outside
	layer  int    // or -1
}

// place finds a tensor's place by its name.
func (a *architecture) place(tensor string) (place, bool) {
	for _, p := range a.prefixes {
		if rest, ok := strings.CutPrefix(tensor, p); ok {
			tensor = rest
			break
		}
	}
	dot := strings.LastIndexByte(tensor, '.')
	if dot < 0 {
		return place{}, false
	}
	module, suffix := tensor[:dot], tensor[dot:]
	if suffix != ".weight" && suffix != ".bias" {
		return place{}, false
	}
	if n, ok := a.outside[module]; ok {
		return place{name: n + suffix, module: module, layer: -1}, true
	}
	rest, ok := strings.CutPrefix(module, a.layers)
	if !ok {
		return place{}, false
	}
	number, part, ok := strings.Cut(rest, ".")
	layer, err := strconv.Atoi(number)
	n, known := a.inside[part]
	if !ok || err != nil || !known || layer < 0 {
		return place{}, false
	}
	return place{name: fmt.Sprintf("blk.%d.%s%s", layer, n, suffix), module: part, layer: layer}, true
}

// module finds the module of a checkpoint, without prefix, that has a GGUF name
// such as "blk.3.attn_q".
func (a *architecture) module(name string) (string, bool) {
	for module, n := range a.outside {
		if n == name {
			return module, true
		}
	}
	rest, ok := strings.CutPrefix(name, "blk.")
	number, part, ok2 := strings.Cut(rest, ".")
	if layer, err := strconv.Atoi(number); !ok || !ok2 || err != nil || layer < 0 {
		return "", false
	}
	for module, n := range a.inside {
		if n == part {
			return a.layers + number + "." + module, true
		}
	}
	return "", false
}

// interleaved returns the row of a projection of heads of dim rows that stands
// in row i when the halves of every head are interleaved.
func interleaved(i, dim int) int {
	head, in := i/dim, i%dim
	return head*dim + in%2*(dim/2) + in/2
}
