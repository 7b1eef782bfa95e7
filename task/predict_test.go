package task

import (
	"encoding/json"
	"math"
	"testing"
)

func TestPredictions(t *testing.T) {
	spec := lookup(t, "mrpc")
	p, err := Predictions(spec, []Example{{ID: "a"}, {ID: "b"}}, []Output{{Logits: []float32{0, 0}}, {Logits: []float32{1000, 1000 + float32(math.Log(3))}}})
	if err != nil {
		t.Fatal(err)
	}
	if p[0].Label != "not_equivalent" || p[0].Probabilities[0] != 0.5 || p[1].Label != "equivalent" || math.Abs(p[1].Probabilities[1]-0.75) > 1e-4 {
		t.Errorf("got %+v", p)
	}
	b, err := json.Marshal(p[0])
	if want := `{"id":"a","label":"not_equivalent","probability":0.5,"probabilities":{"equivalent":0.5,"not_equivalent":0.5}}`; err != nil || string(b) != want {
		t.Errorf("got %s, %v", b, err)
	}
	p, err = Predictions(lookup(t, "sts-b"), []Example{{ID: "a"}}, []Output{{Logits: []float32{2.5}}})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := json.Marshal(p[0]); err != nil || string(b) != `{"id":"a","value":2.5}` {
		t.Errorf("got %s, %v", b, err)
	}
	for name, out := range map[string][]Output{"logits": {{Logits: []float32{1}}}, "outputs": {}} {
		if _, err := Predictions(spec, []Example{{}}, out); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Predictions(lookup(t, "lm"), nil, nil); err == nil {
		t.Error("lm: no error")
	}
}
