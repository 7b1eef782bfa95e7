package model

import "math"

// gpt2Family is GPT-2 (Radford et al., 2019): layer norms before the blocks,
// learned positions, query, key and value in one projection, and linear
// weights stored (in, out) by transformers' Conv1D.
var gpt2Family = family{
	name:      "gpt2",
	types:     []string{"gpt2"},
	configure: gpt2Config,
	layout: func(c *Config) layout {
		return layout{
			Prefixes:   []string{"transformer.", ""},
			Word:       "wte.weight",
			Position:   "wpe.weight",
			Layer:      "h.%d.",
			AttnNorm:   "ln_1",
			QKV:        "attn.c_attn",
			AttnOut:    "attn.c_proj",
			FFNNorm:    "ln_2",
			Up:         "mlp.c_fc",
			Down:       "mlp.c_proj",
			FinalNorm:  "ln_f",
			PreNorm:    true,
			Conv1D:     true,
			Causal:     true,
			LMHead:     "lm_head",
			Head:       []string{"score"},
			HeadNoBias: true,
			Pool:       PoolLast,
			Ignored: []ignored{
				{`\.attn\.(masked_)?bias$`, "buffer of the causal mask"},
			},
		}
	},
}

func gpt2Config(s *settings) Config {
	c := Config{
		HiddenSize: s.size("n_embd"),
		Layers:     s.size("n_layer"),
		Heads:      s.size("n_head"),
		VocabSize:  s.size("vocab_size"),
		MaxLength:  s.sizeOr("n_positions", s.intOr("n_ctx", 1024)),
		Act:        s.activation("activation_function", "gelu_new"),
		NormEps:    s.numberOr("layer_norm_epsilon", 1e-5, 0),
		QKVBias:    true, OutBias: true, MLPBias: true,
		EmbeddingDropout: s.probability("embd_pdrop", 0.1),
		HiddenDropout:    s.probability("resid_pdrop", 0.1),
		AttentionDropout: s.probability("attn_pdrop", 0.1),
	}
	c.IntermediateSize = s.sizeOr("n_inner", 4*c.HiddenSize)
	s.refuse("add_cross_attention", "cross-attention is not computed")
	c.common(s)
	c.tie(s, true)
	scale := 1.0
	if s.boolOr("scale_attn_weights", true) {
		scale = 1 / math.Sqrt(float64(c.HeadDim))
	}
	c.uniform(0, scale)
	if s.boolOr("scale_attn_by_inverse_layer_idx", false) {
		for i := range c.AttentionScale {
			c.AttentionScale[i] /= float64(i + 1)
		}
	}
	return c
}
