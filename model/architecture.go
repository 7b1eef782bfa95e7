package model

// classifiers are transformers' classes with a classification head, by model
// type.
var classifiers = map[string]string{
	"bert": "BertForSequenceClassification", "roberta": "RobertaForSequenceClassification", "xlm-roberta": "XLMRobertaForSequenceClassification",
	"camembert": "CamembertForSequenceClassification", "gpt2": "GPT2ForSequenceClassification", "llama": "LlamaForSequenceClassification",
	"mistral": "MistralForSequenceClassification", "qwen2": "Qwen2ForSequenceClassification", "qwen3": "Qwen3ForSequenceClassification",
}

// ClassifierArchitecture is the entry of config.json's architectures for this
// model with a classification head, "" where none is known.
func (m *Model) ClassifierArchitecture() string { return classifiers[m.config.ModelType] }

// basePrefixes are the names under which transformers' classes with a head
// hold the base model, by family.
var basePrefixes = map[string]string{"bert": "bert.", "roberta": "roberta.", "llama": "model.", "gpt2": "transformer."}

// MissingPrefix is what stands before the base model's tensors in transformers'
// class with a head and is missing in this checkpoint: "bert." for a bare
// encoder's, "" for one that was saved with a head.
func (m *Model) MissingPrefix() string {
	if m.prefix != "" {
		return ""
	}
	return basePrefixes[m.family.name]
}
