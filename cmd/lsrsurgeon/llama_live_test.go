package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
	"github.com/lsrsurgeon/lsrsurgeon/text"
)

// llamaTexts are encoded by both tokenizers.
var llamaTexts = []string{
	"Once upon a time, there was a little girl named Lily.",
	"  two spaces, a tab\tand\n\nnew lines; it's 12345 o'clock",
	"Größe, naïve, 日本語 and 🙂 are no ASCII",
	"x = [1,2,3]; return(x!=y) && z--;",
}

// llamaJob is one GGUF file, and an adapter to put on it.
type llamaJob struct {
	Model string   `json:"model"`
	LoRA  string   `json:"lora"`
	Texts []string `json:"texts"`

	name, dir, adapter string
	allowed            float64 // of the largest logit
}

// TestJudgedByLlamaCpp converts models and adapters to GGUF, and wants llama.cpp to
// load them, to encode texts as our tokenizer does, and to give our logits.
func TestJudgedByLlamaCpp(t *testing.T) {
	py := python(t)
	if err := exec.Command(py, "-c", "import llama_cpp").Run(); err != nil {
		t.Skipf("the Python of LSRSURGEON_PYTHON has no package llama-cpp-python: %v", err)
	}
	dir := t.TempDir()
	root := testkit.RepoRoot(t)
	stories := filepath.Join(root, "testdata", "stories260k")
	cmd := exec.Command(py, "testdata/llama_models.py", dir, filepath.Join(filepath.Dir(root), "shared", "data", "tokenizers"), stories)
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1")
	cmd.Stderr = os.Stderr
	made, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	models := map[string]string{"stories260k": stories}
	for _, n := range strings.Fields(string(made)) {
		models[n] = filepath.Join(dir, n)
	}
	for _, n := range []string{"qwen2", "gpt2"} {
		if models[n] == "" {
			t.Logf("%s is left out: its tokenizer is not in the shared data", n)
		}
	}
	var jobs []*llamaJob
	for name, path := range models {
		jobs = append(jobs, llamaJobs(t, dir, name, path)...)
	}
	runLlama(t, py, dir, jobs)
	for i, j := range jobs {
		t.Run(j.name, func(t *testing.T) { checkLlama(t, filepath.Join(dir, "judged.json"), i, j) })
	}
}

// llamaJobs converts a model in several dtypes, and adapters of it.
func llamaJobs(t *testing.T, dir, name, path string) []*llamaJob {
	t.Helper()
	p := func(s string) string { return filepath.Join(dir, name+s) }
	var jobs []*llamaJob
	// With weights below float32, llama.cpp rounds the inputs of products as well.
	dtypes := map[string]float64{"f32": 1e-5, "f16": 1e-2}
	if name == "stories260k" || name == "qwen2" {
		dtypes["bf16"], dtypes["q8_0"] = 8e-2, 0.15
	}
	kinds := 2e-5
	if name == "gpt2" { // its gelu is a table of F16 in ggml
		dtypes["f32"], kinds = 2e-3, 2e-3
	}
	for dtype, allowed := range dtypes {
		mustRun(t, "convert", path, "-o", p("-"+dtype+".gguf"), "--to", "gguf", "--dtype", dtype)
		jobs = append(jobs, &llamaJob{name: name + "/" + dtype, Model: p("-" + dtype + ".gguf"), Texts: llamaTexts, dir: path, allowed: allowed})
	}
	target, patterns := "q_proj,k_proj,v_proj,o_proj,down_proj", []string{"--override", `layers\.1\.self_attn.*:rank=2,alpha=9`, "--override", `layers\.0\.mlp.*:alpha=40`}
	if name == "gpt2" {
		target, patterns = "c_attn,c_proj,c_fc", []string{"--override", `h\.1\.attn.*:rank=2,alpha=9`}
	}
	for kind, flags := range map[string][]string{
		"lora":   {"--method", "lora", "--rank", "4", "--alpha", "100"},
		"rslora": append([]string{"--method", "lora", "--rank", "4", "--alpha", "100", "--scaling", "rslora"}, patterns...),
		"lsr":    {"--method", "lsr", "--rank", "2x2", "--terms", "4", "--alpha", "100000"},
	} {
		a := p("-" + kind)
		mustRun(t, append([]string{"inject", path, "-o", a, "--init", "paper", "--target", target}, flags...)...)
		mustRun(t, "convert", a, "-o", a+".gguf", "--to", "gguf")
		jobs = append(jobs, &llamaJob{name: name + "/" + kind, Model: p("-f32.gguf"), LoRA: a + ".gguf", Texts: llamaTexts, dir: path, adapter: a, allowed: kinds})
	}
	return jobs
}

func runLlama(t *testing.T, py, dir string, jobs []*llamaJob) {
	t.Helper()
	b, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "jobs.json"), b, 0o666); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(py, "testdata/llama_judge.py", filepath.Join(dir, "jobs.json"), filepath.Join(dir, "judged.json")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func checkLlama(t *testing.T, judged string, i int, j *llamaJob) {
	var tokens [][][]int32
	if err := json.Unmarshal(readAll(t, judged), &tokens); err != nil {
		t.Fatal(err)
	}
	raw := readAll(t, fmt.Sprintf("%s.%d.bin", judged, i))
	theirs := make([]float32, len(raw)/4)
	if err := tensor.DecodeF32(theirs, raw[:len(raw)/4*4], tensor.F32); err != nil {
		t.Fatal(err)
	}
	tok, err := text.Load(j.dir, text.Options{CacheDir: filepath.Join(os.TempDir(), "lsrsurgeon-test-cache")})
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	for k, s := range j.Texts {
		e, err := tok.Encode(s, text.EncodeOptions{NoOffsets: true, SplitSpecialTokens: true})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(e.IDs, tokens[i][k]) {
			t.Errorf("%q: llama.cpp has %v, we have %v", s, tokens[i][k], e.IDs)
		}
	}
	ours := lmLogits(t, j.dir, j.adapter, tokens[i])
	if len(ours) != len(theirs) {
		t.Fatalf("%d logits, llama.cpp has %d", len(ours), len(theirs))
	}
	top, off := 0.0, 0.0
	for k, v := range ours {
		top, off = math.Max(top, math.Abs(float64(v))), math.Max(off, math.Abs(float64(v)-float64(theirs[k])))
	}
	t.Logf("largest logit %.4g, largest difference %.3g", top, off)
	if !(off <= j.allowed*top) {
		t.Errorf("llama.cpp's logits differ by %.3g, largest logit %.3g, allowed %.3g", off, top, j.allowed*top)
	}
	if j.adapter != "" {
		base := lmLogits(t, j.dir, "", tokens[i])
		moved := 0.0
		for k, v := range ours {
			moved = math.Max(moved, math.Abs(float64(v)-float64(base[k])))
		}
		if moved < 50*off {
			t.Errorf("the adapter moves the logits by %.3g only, llama.cpp's are off by %.3g: nothing is shown", moved, off)
		}
	}
}

// lmLogits are the logits of a language model, with an adapter unless it is "":
// those of all tokens of all sequences, one after the other.
func lmLogits(t *testing.T, dir, path string, ids [][]int32) []float32 {
	t.Helper()
	var out []float32
	for _, row := range ourLogits(t, dir, path, model.TaskLM, ids, true) {
		for _, v := range row {
			out = append(out, float32(v))
		}
	}
	return out
}
