package main

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// formJob is an adapter for another program, or to be made by it.
type formJob struct {
	Form    string  `json:"form"`
	Adapter string  `json:"adapter"`
	Make    string  `json:"make"`
	IDs     []int32 `json:"ids"`

	ours string // in our form
	to   string // what an adapter that was made is converted to
}

// TestJudgedByMLXAndLyCORIS wants mlx-lm and LyCORIS to give our logits with
// adapters that were converted for them, and ours to be theirs with adapters that
// they made and we read.
func TestJudgedByMLXAndLyCORIS(t *testing.T) {
	py := python(t)
	stories := filepath.Join(testkit.RepoRoot(t), "testdata", "stories260k")
	for form, module := range map[string]string{"mlx": "mlx_lm", "kohya": "lycoris"} {
		t.Run(form, func(t *testing.T) {
			if err := exec.Command(py, "-c", "import "+module).Run(); err != nil {
				t.Skipf("the Python of LSRSURGEON_PYTHON has no package %s: %v", module, err)
			}
			dir := t.TempDir()
			jobs := formJobs(t, form, stories, dir)
			b, err := json.Marshal(jobs)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "jobs.json"), b, 0o666); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(py, "testdata/forms_judge.py", stories, filepath.Join(dir, "jobs.json"))
			cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, j := range jobs {
				checkForm(t, stories, j)
			}
		})
	}
}

// formJobs converts adapters for a form, and asks for some that its program makes.
func formJobs(t *testing.T, form, stories, dir string) []*formJob {
	t.Helper()
	ids := []int32{1, 403, 407, 261, 378, 5, 300, 17, 44}
	made := map[string]string{"lora": "peft-lora"}
	adapters := map[string][]string{
		"rslora": {"--method", "lora", "--rank", "4", "--alpha", "100", "--scaling", "rslora", "--override", `layers\.1\.self_attn.*:rank=2,alpha=9`, "--target", "q_proj,o_proj,down_proj"},
		"lsr":    {"--method", "lsr", "--rank", "2x2", "--terms", "4", "--alpha", "100000", "--target", "q_proj,v_proj"},
	}
	if form == "kohya" {
		made["lokr"] = "peft-lokr"
		adapters["krona"] = []string{"--method", "krona", "--terms", "1", "--alpha", "5", "--target", "q_proj,v_proj"}
	}
	var jobs []*formJob
	for name, flags := range adapters {
		a := filepath.Join(dir, name)
		mustRun(t, append([]string{"inject", stories, "-o", a, "--init", "paper"}, flags...)...)
		out := a + "-" + form
		if form == "kohya" {
			out += ".safetensors"
		}
		mustRun(t, "convert", a, "-o", out, "--to", form)
		jobs = append(jobs, &formJob{Form: form, Adapter: out, IDs: ids, ours: a})
	}
	for algo, to := range made {
		out := filepath.Join(dir, "made-"+algo)
		if form == "kohya" {
			out += ".safetensors"
		}
		jobs = append(jobs, &formJob{Form: form, Adapter: out, Make: algo, IDs: ids, ours: filepath.Join(dir, "read-"+algo), to: to})
	}
	return jobs
}

func checkForm(t *testing.T, stories string, j *formJob) {
	t.Helper()
	if j.Make != "" {
		mustRun(t, "convert", j.Adapter, "--model", stories, "-o", j.ours, "--to", j.to)
	}
	raw := readAll(t, j.Adapter+".logits")
	theirs := make([]float32, len(raw)/4)
	if err := tensor.DecodeF32(theirs, raw, tensor.F32); err != nil {
		t.Fatal(err)
	}
	ours, base := lmLogits(t, stories, j.ours, [][]int32{j.IDs}), lmLogits(t, stories, "", [][]int32{j.IDs})
	if len(ours) != len(theirs) {
		t.Fatalf("%s: %d logits, theirs are %d", j.Adapter, len(ours), len(theirs))
	}
	off, moved := 0.0, 0.0
	for i, v := range ours {
		off = math.Max(off, math.Abs(float64(v)-float64(theirs[i])))
		moved = math.Max(moved, math.Abs(float64(v)-float64(base[i])))
	}
	t.Logf("%s: the adapter moves logits by %.3g, the programs differ by %.3g", filepath.Base(j.Adapter), moved, off)
	if off > 1e-4 || moved < 1000*off {
		t.Errorf("%s: logits differ by %.3g, the adapter moves them by %.3g", j.Adapter, off, moved)
	}
}
