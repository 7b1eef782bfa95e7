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
