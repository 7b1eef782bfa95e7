// Package synthetic makes models of standard shapes without weights: a
// configuration and a checkpoint whose data are a hole in a sparse file. With
// [Weights] in place of the zeros they run and train like the real ones, for
// benchmarks.
package synthetic

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Architectures lists the names that Write takes.
func Architectures() []string { return []string{"roberta", "minilm", "gpt2", "llama-1b"} }

// Write makes a model directory. arch is one of Architectures: roberta
// (RoBERTa-base), minilm (MiniLM-L6), gpt2 (GPT-2 small), llama-1b (1.1B
// parameters in bf16).
func Write(dir, arch string) error {
	var m maker
	switch arch {
	case "roberta":
		m.encoder("roberta", "roberta.", 50265, 514, 1, 768, 3072, 12, 12)
	case "minilm":
		m.encoder("bert", "bert.", 30522, 512, 2, 384, 1536, 12, 6)
	case "gpt2":
		m.gpt2()
	case "llama-1b":
		m.llama(22)
	default:
		return fmt.Errorf("unknown architecture %q: there are %v", arch, Architectures())
	}
	return m.write(dir)
}

// maker collects a configuration and tensors.
type maker struct {
	config map[string]any
	h      safetensors.Header
	dtype  tensor.DType
}

func (m *maker) tensor(name string, shape ...int) {
	m.h.Tensors = append(m.h.Tensors, safetensors.Entry{Name: name, DType: m.dtype, Shape: shape})
}

// linear adds a torch nn.Linear with bias.
func (m *maker) linear(name string, in, out int) {
	m.tensor(name+".weight", out, in)
	m.tensor(name+".bias", out)
}

func (m *maker) norm(name string, n int) {
	m.tensor(name+".weight", n)
	m.tensor(name+".bias", n)
}

func (m *maker) encoder(family, prefix string, vocab, positions, types, hidden, inner, heads, layers int) {
	m.dtype = tensor.F32
	arch := map[string]string{"roberta": "RobertaForSequenceClassification", "bert": "BertForSequenceClassification"}[family]
	m.config = map[string]any{
		"model_type": family, "architectures": []string{arch}, "vocab_size": vocab, "max_position_embeddings": positions, "type_vocab_size": types,
		"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads, "num_hidden_layers": layers, "hidden_act": "gelu",
		"layer_norm_eps": 1e-5, "pad_token_id": 1, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "num_labels": 2,
	}
	e := prefix + "embeddings."
	m.tensor(e+"word_embeddings.weight", vocab, hidden)
	m.tensor(e+"position_embeddings.weight", positions, hidden)
	m.tensor(e+"token_type_embeddings.weight", types, hidden)
	m.norm(e+"LayerNorm", hidden)
	for i := range layers {
		l := fmt.Sprintf("%sencoder.layer.%d.", prefix, i)
		for _, n := range []string{"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"} {
			m.linear(l+n, hidden, hidden)
		}
		m.norm(l+"attention.output.LayerNorm", hidden)
		m.linear(l+"intermediate.dense", hidden, inner)
		m.linear(l+"output.dense", inner, hidden)
		m.norm(l+"output.LayerNorm", hidden)
	}
	if family == "roberta" {
		m.linear("classifier.dense", hidden, hidden)
		m.linear("classifier.out_proj", hidden, 2)
		return
	}
	m.linear(prefix+"pooler.dense", hidden, hidden)
	m.linear("classifier", hidden, 2)
}

func (m *maker) gpt2() {
	const vocab, positions, hidden, layers = 50257, 1024, 768, 12
	m.dtype = tensor.F32
	m.config = map[string]any{
		"model_type": "gpt2", "architectures": []string{"GPT2LMHeadModel"}, "vocab_size": vocab, "n_positions": positions, "n_embd": hidden,
		"n_layer": layers, "n_head": 12, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
	}
	m.tensor("transformer.wte.weight", vocab, hidden)
	m.tensor("transformer.wpe.weight", positions, hidden)
	conv := func(name string, in, out int) { // Conv1D stores (in, out)
		m.tensor(name+".weight", in, out)
		m.tensor(name+".bias", out)
	}
	for i := range layers {
		l := fmt.Sprintf("transformer.h.%d.", i)
		m.norm(l+"ln_1", hidden)
		conv(l+"attn.c_attn", hidden, 3*hidden)
		conv(l+"attn.c_proj", hidden, hidden)
		m.norm(l+"ln_2", hidden)
		conv(l+"mlp.c_fc", hidden, 4*hidden)
		conv(l+"mlp.c_proj", 4*hidden, hidden)
	}
	m.norm("transformer.ln_f", hidden)
}

func (m *maker) llama(layers int) {
	const vocab, hidden, inner, kv = 32000, 2048, 5632, 256
	m.dtype = tensor.BF16
	m.config = map[string]any{
		"model_type": "llama", "architectures": []string{"LlamaForCausalLM"}, "vocab_size": vocab, "max_position_embeddings": 2048, "hidden_size": hidden,
		"intermediate_size": inner, "num_attention_heads": 32, "num_key_value_heads": 4, "num_hidden_layers": layers, "hidden_act": "silu",
		"rms_norm_eps": 1e-5, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
	}
	m.tensor("model.embed_tokens.weight", vocab, hidden)
	for i := range layers {
		l := fmt.Sprintf("model.layers.%d.", i)
		m.tensor(l+"self_attn.q_proj.weight", hidden, hidden)
		m.tensor(l+"self_attn.k_proj.weight", kv, hidden)
		m.tensor(l+"self_attn.v_proj.weight", kv, hidden)
		m.tensor(l+"self_attn.o_proj.weight", hidden, hidden)
		m.tensor(l+"mlp.gate_proj.weight", inner, hidden)
		m.tensor(l+"mlp.up_proj.weight", inner, hidden)
		m.tensor(l+"mlp.down_proj.weight", hidden, inner)
		m.tensor(l+"input_layernorm.weight", hidden)
		m.tensor(l+"post_attention_layernorm.weight", hidden)
	}
	m.tensor("model.norm.weight", hidden)
	m.tensor("lm_head.weight", vocab, hidden)
}

func (m *maker) write(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	b, err := json.Marshal(m.config)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o666); err != nil {
		return err
	}
	m.h.Metadata = []safetensors.KV{{Key: "format", Value: "pt"}}
	size, err := m.h.Layout()
	if err != nil {
		return err
	}
	head := m.h.Encode()
	path := filepath.Join(dir, formats.ModelFile)
	if err := os.WriteFile(path, head, 0o666); err != nil {
		return err
	}
	return os.Truncate(path, int64(len(head))+size)
}

// Weights is a source of reproducible random weights: matrices from
// U(-0.035, 0.035), which has the standard deviation 0.02 that models start
// with, scales 1 and biases 0.
type Weights struct{}

// ReadRows implements graph.WeightSource.
func (Weights) ReadRows(w *graph.Weight, lo, hi int, dst []float32) error {
	if w.In == 1 && !w.Gathered {
		fill := float32(0)
		if len(w.Name) > 7 && w.Name[len(w.Name)-7:] == ".weight" {
			fill = 1
		}
		for i := range dst {
			dst[i] = fill
		}
		return nil
	}
	h := fnv.New64a()
	h.Write([]byte(w.Name))
	cols := w.StoredCols()
	for r := lo; r < hi; r++ {
		row := dst[(r-lo)*cols:][:cols]
		s := h.Sum64() + uint64(r)*0x9e3779b97f4a7c15
		for i := range row { // splitmix64
			s += 0x9e3779b97f4a7c15
			z := s
			z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
			z = (z ^ z>>27) * 0x94d049bb133111eb
			row[i] = (float32((z^z>>31)>>40)/(1<<23) - 1) * 0.0346
		}
	}
	return nil
}

// Lengths are sequence lengths like MRPC's, the same that the peers' scripts
// use: normal(53, 15), rounded and clipped to 20..128.
func Lengths(all []byte, n int) ([]int, error) {
	var l []int
	if err := json.Unmarshal(all, &l); err != nil {
		return nil, err
	}
	if n > len(l) {
		return nil, fmt.Errorf("%d sequences wanted, %d lengths known", n, len(l))
	}
	return slices.Clone(l[:n]), nil
}
