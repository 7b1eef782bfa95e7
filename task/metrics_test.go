package task

import (
	"encoding/json"
	"math"
	"os"
	"testing"
)

type metricGoldens struct {
	Classification []struct {
		Pred, Gold             []int
		Accuracy, F1, Matthews *float64
		F1Macro                *float64 `json:"f1_macro"`
	}
	Regression []struct {
		X, Y                   []float64
		Pearson, Spearman, MSE *float64
	}
	Answers []struct {
		Pred, Gold string
		F1, EM     float64
	}
}

// metricTolerance allows for another order of summation over up to 400
// values of double precision, and for scipy's own rounding on values near 1e9.
const metricTolerance = 1e-12

// close reports whether got is the golden value; null stands for NaN.
func closeTo(got float64, want *float64) bool {
	if want == nil {
		return math.IsNaN(got)
	}
	return math.Abs(got-*want) <= metricTolerance*math.Max(1, math.Abs(*want))
}

func TestMetricsMatchSciKitLearnAndSciPy(t *testing.T) {
	b, err := os.ReadFile("testdata/metrics.json")
	if err != nil {
		t.Fatal(err)
	}
	var g metricGoldens
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Classification) < 20 || len(g.Regression) < 20 || len(g.Answers) < 100 {
		t.Fatal("goldens are incomplete")
	}
	for i, c := range g.Classification {
		for name, v := range map[string]struct {
			got  float64
			want *float64
		}{
			"accuracy": {Accuracy(c.Pred, c.Gold), c.Accuracy},
			"f1":       {F1(c.Pred, c.Gold, 1), c.F1},
			"f1_macro": {F1Macro(c.Pred, c.Gold), c.F1Macro},
			"matthews": {Matthews(c.Pred, c.Gold), c.Matthews},
		} {
			if !closeTo(v.got, v.want) {
				t.Errorf("classification %d: %s = %v, want %v", i, name, v.got, *v.want)
			}
		}
	}
	for i, c := range g.Regression {
		if got := Pearson(c.X, c.Y); !closeTo(got, c.Pearson) {
			t.Errorf("regression %d: pearson %v, want %v", i, got, c.Pearson)
		}
		if got := Spearman(c.X, c.Y); !closeTo(got, c.Spearman) {
			t.Errorf("regression %d: spearman %v, want %v", i, got, c.Spearman)
		}
		if got := MSE(c.X, c.Y); !closeTo(got, c.MSE) {
			t.Errorf("regression %d: mse %v, want %v", i, got, *c.MSE)
		}
	}
	for _, a := range g.Answers {
		if got := exact(normalWords(a.Pred), normalWords(a.Gold)); got != a.EM {
			t.Errorf("em(%q, %q) = %v, want %v", a.Pred, a.Gold, got, a.EM)
		}
		if got := tokenF1(normalWords(a.Pred), normalWords(a.Gold)); math.Abs(got-a.F1) > metricTolerance {
			t.Errorf("f1(%q, %q) = %v, want %v", a.Pred, a.Gold, got, a.F1)
		}
	}
}

func TestSpearmanOfNaNIsNaN(t *testing.T) {
	if got := Spearman([]float64{1, math.NaN(), 3}, []float64{1, 2, 3}); !math.IsNaN(got) {
		t.Errorf("got %v, want NaN", got)
	}
}

func TestMetricOfDifferentLengthsPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	Accuracy([]int{1}, []int{1, 2})
}

// scored runs Score on logits for examples and returns the metrics by name.
func scored(t *testing.T, task string, ex []Example, logits [][]float32) map[string]float64 {
	t.Helper()
	spec, err := Lookup(task)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]Output, len(ex))
	for i := range out {
		out[i] = Output{Logits: logits[i], Loss: 0.5, Count: 1}
	}
	m, err := Score(spec, ex, out)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, v := range m {
		values[v.Name] = v.Value
	}
	return values
}

func TestScoreCOPAChoosesTheLikelierChoice(t *testing.T) {
	ex := []Example{
		{Group: "1", Answer: "a", Label: 1}, {Group: "1", Answer: "b", Label: 0}, // both "wrong", the first less so
		{Group: "2", Answer: "a", Label: 1}, {Group: "2", Answer: "b", Label: 0}, // both "right", the second more so
		{Group: "3", Answer: "a", Label: 0}, {Group: "3", Answer: "b", Label: 1},
	}
	got := scored(t, "copa", ex, [][]float32{{3, 1}, {3, 0}, {0, 1}, {0, 2}, {0, -1}, {0, 5}})
	if want := 2.0 / 3; got[MetricAccuracy] != want {
		t.Errorf("accuracy %v, want %v", got[MetricAccuracy], want)
	}
	if got[MetricLoss] != 0.5 {
		t.Errorf("loss %v, want 0.5", got[MetricLoss])
	}
}

func TestScoreMultiRC(t *testing.T) {
	ex := []Example{
		{Group: "q1", Label: 1}, {Group: "q1", Label: 0},
		{Group: "q2", Label: 1}, {Group: "q2", Label: 1}, {Group: "q2", Label: 0},
	}
	yes, no := []float32{0, 1}, []float32{1, 0}
	got := scored(t, "multirc", ex, [][]float32{yes, no, yes, no, yes})
	// tp 2, fp 1, fn 1; the first question alone is all right.
	if want := 4.0 / 6; math.Abs(got[MetricF1a]-want) > 1e-15 {
		t.Errorf("f1a %v, want %v", got[MetricF1a], want)
	}
	if got[MetricEM] != 0.5 {
		t.Errorf("em %v, want 0.5", got[MetricEM])
	}
}

func TestScoreReCoRD(t *testing.T) {
	gold := []string{"Donald Trump", "Trump"}
	ex := []Example{
		{Group: "q1", Answer: "President Donald Trump", Gold: gold, Label: 0}, {Group: "q1", Answer: "Phoenix", Gold: gold, Label: 0},
		{Group: "q2", Answer: "the Trump", Gold: gold, Label: 0}, {Group: "q2", Answer: "Phoenix", Gold: gold, Label: 0},
	}
	got := scored(t, "record", ex, [][]float32{{0, 2}, {0, 1}, {0, 2}, {0, 1}})
	// Two of three words match against two: F1 = 2·(2/3)·1/(5/3) = 0.8; "the" is dropped.
	if want := 0.9; math.Abs(got[MetricF1]-want) > 1e-15 {
		t.Errorf("f1 %v, want %v", got[MetricF1], want)
	}
	if got[MetricEM] != 0.5 {
		t.Errorf("em %v, want 0.5", got[MetricEM])
	}
}

func TestScoreRefusesWrongShapes(t *testing.T) {
	spec, _ := Lookup("mrpc")
	ex := []Example{{ID: "7", Label: 1}}
	for name, out := range map[string][]Output{
		"logits":     {{Logits: []float32{1}, Count: 1}},
		"outputs":    {{Logits: []float32{1, 2}, Count: 1}, {Logits: []float32{1, 2}, Count: 1}},
		"unlabelled": {{Logits: []float32{1, 2}}},
	} {
		if _, err := Score(spec, ex, out); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestScoreLanguageModel(t *testing.T) {
	spec, _ := Lookup("lm")
	m, err := Score(spec, nil, []Output{{Loss: 6, Count: 2}, {Loss: 3, Count: 4}})
	if err != nil {
		t.Fatal(err)
	}
	if m[0].Value != 1.5 || m[1].Name != MetricPerplexity || m[1].Value != math.Exp(1.5) {
		t.Errorf("got %v", m)
	}
}
