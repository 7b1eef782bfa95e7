package model

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

const (
	bertJSON = `"model_type": "bert", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
		"vocab_size": 50, "max_position_embeddings": 16`
	llamaJSON = `"model_type": "llama", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
		"vocab_size": 50, "max_position_embeddings": 32`
	gpt2JSON = `"model_type": "gpt2", "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 16, "vocab_size": 50`
)

// configOf reads a configuration through its family. Later keys win, so that
// a test may override a sample's.
func configOf(t *testing.T, text string) (Config, error) {
	t.Helper()
	s := parse(t, "{"+text+"}")
	f, ok := familyOf(s.textOr("model_type", ""))
	if !ok {
		t.Fatalf("no family for %s", text)
	}
	c := f.configure(s)
	return c, s.err
}

func TestRefusedSettingsNameTheKey(t *testing.T) {
	for _, c := range []struct {
		text, key string
		is        error
	}{
		{bertJSON + `, "hidden_act": "gelu_10"`, "hidden_act", ErrUnsupported},
		{bertJSON + `, "position_embedding_type": "relative_key"`, "position_embedding_type", ErrUnsupported},
		{bertJSON + `, "is_decoder": true`, "is_decoder", ErrUnsupported},
		{bertJSON + `, "hidden_size": 25`, "hidden_size", formats.ErrMalformed},
		{bertJSON + `, "hidden_size": null`, "hidden_size", formats.ErrMalformed},
		{bertJSON + `, "hidden_size": "24"`, "hidden_size", formats.ErrMalformed},
		{bertJSON + `, "hidden_size": 24.5`, "hidden_size", formats.ErrMalformed},
		{bertJSON + `, "num_hidden_layers": 0`, "num_hidden_layers", formats.ErrMalformed},
		{bertJSON + `, "num_hidden_layers": 1000000000`, "num_hidden_layers", formats.ErrMalformed},
		{bertJSON + `, "hidden_dropout_prob": 1.0`, "hidden_dropout_prob", formats.ErrMalformed},
		{bertJSON + `, "layer_norm_eps": -1`, "layer_norm_eps", formats.ErrMalformed},
		{bertJSON + `, "id2label": {"0": "no", "7": "yes"}`, "id2label", formats.ErrMalformed},
		{bertJSON + `, "quantization_config": {"bits": 4}`, "quantization_config", ErrUnsupported},
		{bertJSON + `, "model_type": "roberta", "max_position_embeddings": 2`, "max_position_embeddings", formats.ErrMalformed},
		{llamaJSON + `, "num_key_value_heads": 3`, "num_key_value_heads", formats.ErrMalformed},
		{llamaJSON + `, "head_dim": 5`, "head_dim", formats.ErrMalformed},
		{llamaJSON + `, "rope_scaling": {"type": "longrope", "factor": 2}`, "rope_type", ErrUnsupported},
		{llamaJSON + `, "rope_scaling": {"type": "linear"}`, "factor", formats.ErrMalformed},
		{llamaJSON + `, "rope_scaling": 3`, "rope_scaling", formats.ErrMalformed},
		{llamaJSON + `, "rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4, "original_max_position_embeddings": 8}`, "low_freq_factor", formats.ErrMalformed},
		{llamaJSON + `, "partial_rotary_factor": 0.5`, "partial_rotary_factor", ErrUnsupported},
		{llamaJSON + `, "hidden_act": "xielu"`, "hidden_act", ErrUnsupported},
		{llamaJSON + `, "model_type": "mistral", "sliding_window": 4, "layer_types": ["full_attention"]`, "layer_types", formats.ErrMalformed},
		{gpt2JSON + `, "add_cross_attention": true`, "add_cross_attention", ErrUnsupported},
		{gpt2JSON + `, "activation_function": "quick_gelu"`, "activation_function", ErrUnsupported},
	} {
		_, err := configOf(t, c.text)
		if !errors.Is(err, c.is) {
			t.Errorf("%s: error %v, want one that is %v", c.key, err, c.is)
			continue
		}
		if !strings.Contains(err.Error(), c.key) || !strings.Contains(err.Error(), "config.json") {
			t.Errorf("%s: the error names not both the key and the file: %v", c.key, err)
		}
	}
}

func TestSettingsOfFamilies(t *testing.T) {
	check := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	config := func(text string) Config {
		t.Helper()
		c, err := configOf(t, text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return c
	}
	c := config(bertJSON)
	check("bert's length", c.MaxLength, 16)
	check("bert's epsilon", c.NormEps, 1e-12)
	check("bert's activation", c.Act, graph.ActGELU)
	check("bert's dropout", c.HiddenDropout, 0.1)
	check("bert's classifier dropout", c.ClassifierDropout, 0.1)
	check("bert's labels", c.NumLabels, 2)
	c = config(bertJSON + `, "classifier_dropout": 0.3, "id2label": {"1": "b", "0": "a", "2": "c"}`)
	check("classifier dropout", c.ClassifierDropout, 0.3)
	check("labels by id2label", c.NumLabels, 3)
	if !slices.Equal(c.LabelNames, []string{"a", "b", "c"}) {
		t.Errorf("label names %v, want a b c", c.LabelNames)
	}
	c = config(bertJSON + `, "model_type": "roberta", "pad_token_id": 1`)
	check("roberta's offset", c.PositionOffset, 2)
	check("roberta's length", c.MaxLength, 14)

	c = config(llamaJSON)
	check("llama's key/value heads", c.KVHeads, 4)
	check("llama's tying", c.TieWordEmbeddings, false)
	check("llama's window", c.Windows[2], 0)
	check("llama's biases", c.QKVBias || c.OutBias || c.MLPBias, false)
	c = config(llamaJSON + `, "attention_bias": true, "mlp_bias": true, "eos_token_id": [2, 3]`)
	check("llama's asked for biases", c.QKVBias && c.OutBias && c.MLPBias, true)
	check("the second end token", c.EOSTokenIDs[1], 3)
	c = config(llamaJSON + `, "model_type": "mistral"`)
	check("mistral's default window", c.Windows[0], 4096)
	c = config(llamaJSON + `, "model_type": "mistral", "sliding_window": null`)
	check("mistral without window", c.Windows[0], 0)
	c = config(llamaJSON + `, "model_type": "qwen2", "use_sliding_window": true, "sliding_window": 7, "max_window_layers": 1`)
	check("qwen2's first window", c.Windows[0], 0)
	check("qwen2's second window", c.Windows[1], 7)
	check("qwen2's biases", c.QKVBias && !c.OutBias, true)
	c = config(llamaJSON + `, "model_type": "qwen2", "sliding_window": 7, "use_sliding_window": false`)
	check("qwen2 without windows", c.Windows[2], 0)
	c = config(llamaJSON + `, "model_type": "qwen3", "use_sliding_window": true, "sliding_window": 7, "max_window_layers": 1`)
	check("qwen3's second window", c.Windows[1], 7)
	check("qwen3's biases", c.QKVBias || c.OutBias, false)
	check("qwen3's heads", c.HeadDim, 128)
	c = config(llamaJSON + `, "model_type": "qwen3", "attention_bias": true, "head_dim": 6`)
	check("qwen3's asked for biases", c.QKVBias && c.OutBias && !c.MLPBias, true)
	check("qwen3's asked for heads", c.HeadDim, 6)

	c = config(gpt2JSON)
	check("gpt2's inner size", c.IntermediateSize, 96)
	check("gpt2's activation", c.Act, graph.ActGELUTanh)
	check("gpt2's tying", c.TieWordEmbeddings, true)
	c = config(gpt2JSON + `, "scale_attn_by_inverse_layer_idx": true, "scale_attn_weights": false`)
	check("gpt2's attention scale of layer 1", c.AttentionScale[1], 0.5)
}

func TestActivationNamesAreThoseOfTransformers(t *testing.T) {
	want := []string{"gelu", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh"}
	if got := slices.Sorted(maps.Keys(activations)); !slices.Equal(got, want) {
		t.Errorf("activations %v, want %v", got, want)
	}
}

func TestNotJSON(t *testing.T) {
	for _, text := range []string{"", "[]", "{", "version https://git-lfs.github.com/spec/v1"} {
		if _, err := parseSettings("x/config.json", []byte(text)); !errors.Is(err, formats.ErrMalformed) || !strings.Contains(err.Error(), "x/config.json") {
			t.Errorf("%q: error %v, want a malformed one that names the file", text, err)
		}
	}
}
