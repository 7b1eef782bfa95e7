package model

// robertaFamily is RoBERTa (arXiv 1907.11692) and the models that share its
// code: BERT with positions counted from padding_idx + 1 and a classification
// head of dense + tanh and a linear layer on the first token, without pooler.
var robertaFamily = family{
	name:  "roberta",
	types: []string{"roberta", "xlm-roberta", "camembert"},
	configure: func(s *settings) Config {
		return bertConfig(s, 1e-12, s.intOr("pad_token_id", 1)+1)
	},
	layout: func(c *Config) layout {
		l := bertLayout("roberta.")
		l.Head = []string{"classifier.dense", "classifier.out_proj"}
		l.HeadInputDropout = true
		l.Ignored = []ignored{
			{`^lm_head\.`, "head of masked language modelling, not used by the supported tasks"},
			{`^qa_outputs\.`, "head of question answering, not used by the supported tasks"},
			{`(^|\.)pooler\.dense\.`, "pooler that RoBERTa's classifiers leave out"},
			{`embeddings\.position_ids$`, "buffer of the numbers 0, 1, 2, …"},
		}
		return l
	},
}
