package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

// family is one model family. Its file holds nothing but this data.
type family struct {
	name  string
	types []string // model_type values
	// configure reads config.json.
	configure func(*settings) Config
	// layout names the tensors for a configuration.
	layout func(*Config) layout
}

// families are tried in order.
var families = []family{bertFamily, robertaFamily, llamaFamily, gpt2Family}

// familyOf finds the family of a model_type.
func familyOf(modelType string) (family, bool) {
	for _, f := range families {
		if slices.Contains(f.types, modelType) {
			return f, true
		}
	}
	return family{}, false
}

// modelTypes lists every known model_type, for messages.
func modelTypes() string {
	var all []string
	for _, f := range families {
		all = append(all, f.types...)
	}
	return strings.Join(all, ", ")
}

// layout names the parts of a family's checkpoint and says which variant of
// each shared block it uses. Names are without the prefix of the base model;
// those of a layer follow Layer, whose %d is the layer's number. An empty name
// is a part that the family lacks.
type layout struct {
	// Prefixes are what may stand before every base model tensor.
	Prefixes []string

	Word, Position, Type string // embedding tables
	EmbedNorm            string

	Layer   string
	Q, K, V string // separate projections, or
	QKV     string // one for all three, side by side in its columns
	// QNorm and KNorm are RMS norms of each head of query and key, with a scale
	// of HeadDim.
	QNorm, KNorm string
	AttnOut      string
	Gate         string // gated feed-forward: act(gate)·up
	Up, Down     string
	AttnNorm     string
	FFNNorm      string
	PreNorm      bool // norms before the blocks, not after the residual sums
	FinalNorm    string
	RMS          bool
	Conv1D       bool // linear weights are stored (in, out)
	Causal       bool

	// LMHead is the output layer's module, without prefix; "" for encoders.
	LMHead string
	// Pooler is the base model's module dense + tanh on the first token.
	Pooler string
	// Head are the modules of transformers' ...ForSequenceClassification,
	// without prefix: one linear layer, or dense + tanh and a linear layer.
	Head []string
	// HeadNoBias: the last head module has no bias.
	HeadNoBias bool
	// Pool is the token that the classification head reads.
	Pool Pool
	// HeadInputDropout is dropout on what the head reads.
	HeadInputDropout bool

	// Ignored explains tensors that no program uses, by a pattern on the
	// whole name.
	Ignored []ignored
}

// ignored explains tensors whose names match Pattern.
type ignored struct {
	Pattern string // regular expression, matched anywhere
	Why     string
}

// linear is a linear layer of the base model.
type linear struct {
	module     string // with prefix
	in, out    int
	bias       bool
	transposed bool
	layer      int // -1 outside layers
	output     bool
}

func (l linear) weight() string { return l.module + ".weight" }

func (l linear) biasName() string {
	if !l.bias {
		return ""
	}
	return l.module + ".bias"
}

// layerName is the name of a part of a layer.
func (l *layout) layerName(layer int, part string) string {
	return fmt.Sprintf(l.Layer, layer) + part
}

// layerLinears are the linear layers of one layer in order of computation.
func (m *Model) layerLinears(i int) []linear {
	c, l := &m.config, &m.layout
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	var out []linear
	add := func(part string, in, width int, bias bool) {
		if part != "" {
			out = append(out, linear{module: m.prefix + l.layerName(i, part), in: in, out: width, bias: bias, transposed: !l.Conv1D, layer: i})
		}
	}
	add(l.Q, c.HiddenSize, q, c.QKVBias)
	add(l.K, c.HiddenSize, kv, c.QKVBias)
	add(l.V, c.HiddenSize, kv, c.QKVBias)
	add(l.QKV, c.HiddenSize, q+2*kv, c.QKVBias)
	add(l.AttnOut, q, c.HiddenSize, c.OutBias)
	add(l.Gate, c.HiddenSize, c.IntermediateSize, c.MLPBias)
	add(l.Up, c.HiddenSize, c.IntermediateSize, c.MLPBias)
	add(l.Down, c.IntermediateSize, c.HiddenSize, c.MLPBias)
	return out
}

// findPrefix returns the prefix under which the checkpoint holds the word
// embeddings.
func (l *layout) findPrefix(has func(string) bool) (string, error) {
	for _, p := range l.Prefixes {
		if has(p + l.Word) {
			return p, nil
		}
	}
	return "", &formats.Error{Tensor: l.Prefixes[0] + l.Word, Reason: "the word embeddings are missing",
		Hint: "they may stand with or without the prefix; config.json may belong to another model", Err: formats.ErrMalformed}
}

// oldNames are the names that early checkpoints use for the same tensors.
var oldNames = [][2]string{{".LayerNorm.weight", ".LayerNorm.gamma"}, {".LayerNorm.bias", ".LayerNorm.beta"}}

// oldName returns the early name of a tensor, or "".
func oldName(name string) string {
	for _, o := range oldNames {
		if s, ok := strings.CutSuffix(name, o[0]); ok {
			return s + o[1]
		}
	}
	return ""
}
