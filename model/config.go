package model

import (
	"encoding/json"
	"sort"
	"strconv"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// ErrUnsupported marks models that this package has no program for.
var ErrUnsupported = formats.ErrUnsupported

// Config is config.json under one set of names for all families.
type Config struct {
	ModelType     string
	Architectures []string

	HiddenSize       int
	IntermediateSize int
	Layers           int
	Heads            int
	KVHeads          int
	HeadDim          int
	VocabSize        int
	// MaxLength is the longest sequence the positions allow.
	MaxLength int
	// PositionOffset is added to positions that count from 0 (RoBERTa's
	// padding_idx + 1).
	PositionOffset int
	// TypeVocabSize is 0 for families without token types.
	TypeVocabSize int

	Act     graph.Act
	NormEps float64
	Rope    *Rope // nil for learned positions
	// Windows holds each layer's sliding attention window, 0 for none.
	Windows []int
	// AttentionScale multiplies q·k in each layer.
	AttentionScale []float64

	QKVBias, OutBias, MLPBias bool

	EmbeddingDropout  float64
	HiddenDropout     float64
	AttentionDropout  float64
	ClassifierDropout float64

	// TieWordEmbeddings is config.json's wish; Model.Tied is what the tensors
	// say.
	TieWordEmbeddings bool
	tieStated         bool // the key is in the file
	InitializerRange  float64

	NumLabels   int
	LabelNames  []string // by id, empty where config.json has none
	ProblemType string
	PadTokenID  int // -1 when there is none
	BOSTokenID  int
	EOSTokenIDs []int
}

// ReadConfig reads the config.json of a directory alone. A model_type that is
// not known is an error wrapping [ErrUnsupported].
func ReadConfig(dir string) (Config, error) {
	s, err := readSettings(dir)
	if err != nil {
		return Config{}, err
	}
	kind := s.textOr("model_type", "")
	f, ok := familyOf(kind)
	if !ok {
		s.unsupported("model_type", "%q is not a known family; known are %s", kind, modelTypes())
		return Config{}, s.err
	}
	c := f.configure(s)
	return c, s.err
}

// common reads what all families spell alike. The sizes must be set already.
func (c *Config) common(s *settings) {
	c.ModelType = s.textOr("model_type", "")
	s.read("architectures", &c.Architectures)
	c.InitializerRange = s.numberOr("initializer_range", 0.02, 0)
	c.PadTokenID = s.tokenID("pad_token_id")
	c.BOSTokenID = s.tokenID("bos_token_id")
	c.EOSTokenIDs = s.tokenIDs("eos_token_id")
	c.ProblemType = s.textOr("problem_type", "")
	c.labels(s)
	if v, ok := s.raw("quantization_config"); ok {
		s.unsupported("quantization_config", "quantised weights (%s) are not read; use the checkpoint in f32, f16 or bf16", clip(string(v)))
	}
	if c.HeadDim == 0 {
		if c.HiddenSize%c.Heads != 0 {
			s.malformed("hidden_size", "%d is not a multiple of the %d attention heads", c.HiddenSize, c.Heads)
		}
		c.HeadDim = c.HiddenSize / c.Heads
	}
	if c.KVHeads == 0 {
		c.KVHeads = c.Heads
	}
	if c.Heads%c.KVHeads != 0 {
		s.malformed("num_key_value_heads", "%d does not divide the %d attention heads", c.KVHeads, c.Heads)
	}
	const maxLayers = 10_000
	if c.Layers > maxLayers {
		s.malformed("num_hidden_layers", "%d is not a credible number of layers", c.Layers)
		c.Layers = 1
	}
}

// labels reads num_labels and id2label; transformers' default is two.
func (c *Config) labels(s *settings) {
	c.NumLabels = 2
	var names map[string]string
	if s.read("id2label", &names) && len(names) > 0 {
		c.NumLabels = len(names)
		ids := make([]int, 0, len(names))
		for k := range names {
			id, err := strconv.Atoi(k)
			if err != nil || id < 0 || id >= len(names) {
				s.malformed("id2label", "%q is not an id below %d", k, len(names))
				return
			}
			ids = append(ids, id)
		}
		sort.Ints(ids)
		for _, id := range ids {
			c.LabelNames = append(c.LabelNames, names[strconv.Itoa(id)])
		}
	}
	c.NumLabels = s.sizeOr("num_labels", c.NumLabels)
}

// tokenID reads an id, -1 when it is absent.
func (s *settings) tokenID(key string) int {
	if ids := s.tokenIDs(key); len(ids) > 0 {
		return ids[0]
	}
	return -1
}

// tokenIDs reads one id or a list of them.
func (s *settings) tokenIDs(key string) []int {
	v, ok := s.raw(key)
	if !ok {
		return nil
	}
	var one int
	if json.Unmarshal(v, &one) == nil {
		return []int{one}
	}
	var many []int
	s.read(key, &many)
	return many
}

// tie reads tie_word_embeddings, whose default differs between families.
func (c *Config) tie(s *settings, byDefault bool) {
	c.TieWordEmbeddings = byDefault
	c.tieStated = s.read("tie_word_embeddings", &c.TieWordEmbeddings)
}

// uniform fills the settings of each layer with one value.
func (c *Config) uniform(window int, scale float64) {
	c.Windows = make([]int, c.Layers)
	c.AttentionScale = make([]float64, c.Layers)
	for i := range c.Windows {
		c.Windows[i], c.AttentionScale[i] = window, scale
	}
}
