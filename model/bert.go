package model

import "math"

// bertFamily is BERT (arXiv 1810.04805) as transformers' BertModel and the
// classifiers and sentence encoders built on it: norms after the residual sums,
// learned positions, token types, a pooler on the first token.
var bertFamily = family{
	name:      "bert",
	types:     []string{"bert"},
	configure: func(s *settings) Config { return bertConfig(s, 1e-12, 0) },
	layout: func(c *Config) layout {
		l := bertLayout("bert.")
		l.Pooler = "pooler.dense"
		l.Head = []string{"classifier"}
		l.HeadInputDropout = true
		l.Ignored = []ignored{
			{`^cls\.predictions\.`, "head of masked language modelling, not used by the supported tasks"},
			{`^cls\.seq_relationship\.`, "head of next sentence prediction, not used by the supported tasks"},
			{`^qa_outputs\.`, "head of question answering, not used by the supported tasks"},
			{`embeddings\.position_ids$`, "buffer of the numbers 0, 1, 2, …"},
		}
		return l
	},
}

// bertConfig reads the settings that BERT and RoBERTa share.
func bertConfig(s *settings, normEps float64, positionOffset int) Config {
	c := Config{
		HiddenSize:       s.size("hidden_size"),
		IntermediateSize: s.size("intermediate_size"),
		Layers:           s.size("num_hidden_layers"),
		Heads:            s.size("num_attention_heads"),
		VocabSize:        s.size("vocab_size"),
		MaxLength:        s.size("max_position_embeddings") - positionOffset,
		PositionOffset:   positionOffset,
		TypeVocabSize:    s.sizeOr("type_vocab_size", 2),
		Act:              s.activation("hidden_act", "gelu"),
		NormEps:          s.numberOr("layer_norm_eps", normEps, 0),
		QKVBias:          true, OutBias: true, MLPBias: true,
		EmbeddingDropout: s.probability("hidden_dropout_prob", 0.1),
		HiddenDropout:    s.probability("hidden_dropout_prob", 0.1),
		AttentionDropout: s.probability("attention_probs_dropout_prob", 0.1),
	}
	c.ClassifierDropout = s.probability("classifier_dropout", c.HiddenDropout)
	if kind := s.textOr("position_embedding_type", "absolute"); kind != "absolute" {
		s.unsupported("position_embedding_type", "%q: only absolute positions are computed", kind)
	}
	s.refuse("is_decoder", "BERT as a decoder is not computed")
	s.refuse("add_cross_attention", "cross-attention is not computed")
	c.common(s)
	c.uniform(0, 1/math.Sqrt(float64(c.HeadDim)))
	if c.MaxLength < 1 {
		s.malformed("max_position_embeddings", "no positions are left after the offset of %d", positionOffset)
	}
	return c
}

// bertLayout names the parts that BERT and RoBERTa share.
func bertLayout(prefix string) layout {
	return layout{
		Prefixes:  []string{prefix, ""},
		Word:      "embeddings.word_embeddings.weight",
		Position:  "embeddings.position_embeddings.weight",
		Type:      "embeddings.token_type_embeddings.weight",
		EmbedNorm: "embeddings.LayerNorm",
		Layer:     "encoder.layer.%d.",
		Q:         "attention.self.query",
		K:         "attention.self.key",
		V:         "attention.self.value",
		AttnOut:   "attention.output.dense",
		AttnNorm:  "attention.output.LayerNorm",
		Up:        "intermediate.dense",
		Down:      "output.dense",
		FFNNorm:   "output.LayerNorm",
		Pool:      PoolCLS,
	}
}
