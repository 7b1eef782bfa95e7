package model

import "math"

// llamaFamily is Llama (arXiv 2302.13971, 2307.09288) and the models that differ
// from it in little: Mistral (a sliding window), Qwen2 (biases on query, key and
// value) and Qwen3 (a norm of every head of query and key, arXiv 2505.09388). RMS norms before the blocks, rotary positions, grouped
// queries, a gated feed-forward.
var llamaFamily = family{
	name:      "llama",
	types:     []string{"llama", "mistral", "qwen2", "qwen3"},
	configure: llamaConfig,
	layout: func(c *Config) layout {
		var qNorm, kNorm string
		if c.ModelType == "qwen3" {
			qNorm, kNorm = "self_attn.q_norm", "self_attn.k_norm"
		}
		return layout{
			QNorm:      qNorm,
			KNorm:      kNorm,
			Prefixes:   []string{"model.", ""},
			Word:       "embed_tokens.weight",
			Layer:      "layers.%d.",
			AttnNorm:   "input_layernorm",
			Q:          "self_attn.q_proj",
			K:          "self_attn.k_proj",
			V:          "self_attn.v_proj",
			AttnOut:    "self_attn.o_proj",
			FFNNorm:    "post_attention_layernorm",
			Gate:       "mlp.gate_proj",
			Up:         "mlp.up_proj",
			Down:       "mlp.down_proj",
			FinalNorm:  "norm",
			PreNorm:    true,
			RMS:        true,
			Causal:     true,
			LMHead:     "lm_head",
			Head:       []string{"score"},
			HeadNoBias: true,
			Pool:       PoolLast,
			Ignored: []ignored{
				{`rotary_emb\.inv_freq$`, "buffer of rotary frequencies, computed from config.json"},
			},
		}
	},
}

func llamaConfig(s *settings) Config {
	c := Config{
		HiddenSize:       s.size("hidden_size"),
		IntermediateSize: s.size("intermediate_size"),
		Layers:           s.size("num_hidden_layers"),
		Heads:            s.size("num_attention_heads"),
		VocabSize:        s.size("vocab_size"),
		MaxLength:        s.size("max_position_embeddings"),
		Act:              s.activation("hidden_act", "silu"),
		NormEps:          s.numberOr("rms_norm_eps", 1e-6, 0),
		AttentionDropout: s.probability("attention_dropout", 0),
	}
	c.KVHeads = s.sizeOr("num_key_value_heads", c.Heads)
	if _, ok := s.raw("head_dim"); ok {
		c.HeadDim = s.size("head_dim")
	} else if s.textOr("model_type", "") == "qwen3" {
		c.HeadDim = 128 // transformers' default where the key is absent
	}
	c.common(s)
	c.Rope = s.rope(c.MaxLength)
	if c.HeadDim%2 != 0 {
		s.malformed("head_dim", "%d is odd, rotary positions turn pairs", c.HeadDim)
	}
	c.tie(s, false)
	c.uniform(0, 1/math.Sqrt(float64(c.HeadDim)))
	switch c.ModelType {
	case "llama":
		c.QKVBias = s.boolOr("attention_bias", false)
		c.OutBias = c.QKVBias
		c.MLPBias = s.boolOr("mlp_bias", false)
	case "mistral":
		c.windows(s, 0)
	case "qwen2", "qwen3":
		c.QKVBias = c.ModelType == "qwen2" || s.boolOr("attention_bias", false)
		c.OutBias = c.QKVBias && c.ModelType == "qwen3"
		if s.boolOr("use_sliding_window", false) {
			c.windows(s, s.intOr("max_window_layers", 28))
		}
	}
	return c
}

// windows gives the layers from first on the window of sliding_window keys,
// or those that layer_types says.
func (c *Config) windows(s *settings, first int) {
	window := 4096 // transformers' default where the key is absent
	if _, stated := s.keys["sliding_window"]; stated {
		if _, ok := s.raw("sliding_window"); !ok {
			return // null: no window
		}
		window = s.size("sliding_window")
	}
	var types []string
	stated := s.read("layer_types", &types)
	if stated && len(types) != c.Layers {
		s.malformed("layer_types", "%d entries for %d layers", len(types), c.Layers)
		return
	}
	for i := range c.Windows {
		if stated && types[i] == "sliding_attention" || !stated && i >= first {
			c.Windows[i] = window
		}
	}
}
