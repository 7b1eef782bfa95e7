package task

import (
	"encoding/json"
	"fmt"
	"math"
)

// Prediction is the answer for one example.
type Prediction struct {
	ID string
	// Label is the likeliest class and Probabilities those of all, in the order
	// of Spec.Labels; of a classification.
	Label         string
	Probabilities []float64
	// Value is the predicted number; of a regression.
	Value float64

	spec *Spec
}

// Predictions turns the outputs of a classification or regression into answers.
func Predictions(spec Spec, examples []Example, outputs []Output) ([]Prediction, error) {
	if spec.Kind == LM {
		return nil, fmt.Errorf("a language model predicts no labels")
	}
	if len(examples) != len(outputs) {
		return nil, fmt.Errorf("predict %s: %d outputs for %d examples", spec.Name, len(outputs), len(examples))
	}
	out := make([]Prediction, len(examples))
	for i, o := range outputs {
		p := &out[i]
		p.ID, p.spec = examples[i].ID, &spec
		if len(o.Logits) != spec.Outputs() {
			return nil, fmt.Errorf("predict %s: %d logits for example %s, but there are %d", spec.Name, len(o.Logits), p.ID, spec.Outputs())
		}
		if spec.Kind == Regression {
			p.Value = float64(o.Logits[0])
			continue
		}
		p.Label = spec.Labels[Argmax(o.Logits)]
		p.Probabilities = Softmax(o.Logits)
	}
	return out, nil
}

// MarshalJSON writes id, label, probability and probabilities by label, or id
// and value.
func (p Prediction) MarshalJSON() ([]byte, error) {
	if p.spec.Kind == Regression {
		return json.Marshal(struct {
			ID    string  `json:"id"`
			Value float64 `json:"value"`
		}{p.ID, p.Value})
	}
	by, top := map[string]float64{}, 0.0
	for i, l := range p.spec.Labels {
		by[l] = p.Probabilities[i]
		top = max(top, p.Probabilities[i])
	}
	return json.Marshal(struct {
		ID            string             `json:"id"`
		Label         string             `json:"label"`
		Probability   float64            `json:"probability"`
		Probabilities map[string]float64 `json:"probabilities"`
	}{p.ID, p.Label, top, by})
}

// LogSumExp is log Σ exp(v) in float64, without overflow.
func LogSumExp(v []float32) float64 {
	top := math.Inf(-1)
	for _, x := range v {
		top = max(top, float64(x))
	}
	sum := 0.0
	for _, x := range v {
		sum += math.Exp(float64(x) - top)
	}
	return top + math.Log(sum)
}

// Softmax is exp(v - LogSumExp(v)).
func Softmax(v []float32) []float64 {
	out := make([]float64, len(v))
	l := LogSumExp(v)
	for i, x := range v {
		out[i] = math.Exp(float64(x) - l)
	}
	return out
}
