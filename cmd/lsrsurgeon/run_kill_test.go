//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// stopWhen starts the program in dir and sends it a signal when a file there has been
// written. It returns the program's exit code, -1 if the signal ended it, and what it
// printed on stdout.
func stopWhen(t *testing.T, dir, file string, sig os.Signal, args ...string) (int, []byte) {
	t.Helper()
	written := func() (at time.Time) {
		if st, err := os.Stat(filepath.Join(dir, file)); err == nil {
			at = st.ModTime()
		}
		return at
	}
	before := written()
	c := program(t, context.Background(), args...)
	c.Dir = dir
	var out, stderr bytes.Buffer
	c.Stdout, c.Stderr = &out, &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); written().Equal(before); time.Sleep(2 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			_ = c.Process.Kill()
			_ = c.Wait() // it was killed
			t.Fatalf("%s is not written: %s", file, stderr.String())
		}
	}
	_ = c.Process.Signal(sig) // it may have ended already
	_ = c.Wait()              // the code says how
	return c.ProcessState.ExitCode(), out.Bytes()
}

// mustRunIn is mustRun in a directory.
func mustRunIn(t *testing.T, dir string, args ...string) {
	t.Helper()
	c := program(t, context.Background(), args...)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("lsrsurgeon %v: %v\n%s", args, err, out)
	}
}

func recipeDir(t *testing.T, name, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := copyModel(filepath.Join(dir, "base")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return dir
}

const killedRecipe = `version: 1
vars: {out: out}
steps:
- inject: {args: base, target: q_proj, dropout: 0.1, output: "${out}/adapter"}
- name: train
  train: {args: "${out}/adapter", task: lm, data: base/demo_train.txt, limit: 100, steps: 60, batch-size: 2, max-length: 32, save-every: 2, threads: 1, output: "${out}/run"}
- name: merge
  merge: {args: "${out}/run", output: "${out}/merged"}
`

// A recipe that was killed in the middle of its training, interrupted there, and resumed
// after both, leaves the bytes of one that was left alone.
func TestStoppedRecipe(t *testing.T) {
	dir := recipeDir(t, "r.yaml", killedRecipe)
	mustRunIn(t, dir, "run", "r.yaml", "--quiet", "--set", "out=whole")
	state := filepath.Join("out", "run", "train_state.safetensors")
	if code, _ := stopWhen(t, dir, state, syscall.SIGKILL, "run", "r.yaml", "--quiet"); code != -1 {
		t.Fatalf("the run ended before it was killed: %d", code)
	}
	code, out := stopWhen(t, dir, state, os.Interrupt, "run", "r.yaml", "--quiet", "--resume", "--json")
	var doc struct {
		Code  int `json:"exit_code"`
		Steps []struct {
			Name, State string
			ExitCode    *int `json:"exit_code"`
		}
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if code != exitInterrupted || doc.Code != exitInterrupted || doc.Steps[0].State != stepSkipped || doc.Steps[1].State != stepStopped || *doc.Steps[1].ExitCode != exitInterrupted || doc.Steps[2].State != stepNotRun {
		t.Fatalf("exit code %d: %s", code, out)
	}
	if exists(filepath.Join(dir, "out", "merged")) {
		t.Error("the step after the interrupted one was run")
	}
	mustRunIn(t, dir, "run", "r.yaml", "--quiet", "--resume")
	for _, f := range []string{"run/adapter_model.safetensors", "run/adapter_config.json", "merged/model.safetensors"} {
		sameFiles(t, filepath.Join(dir, "whole", f), filepath.Join(dir, "out", f))
	}
}

const killedStudy = `version: 1
vars: {out: out}
model: base
output: ${out}
inject: {target: q_proj}
train: {task: lm, data: base/demo_train.txt, eval-data: base/demo_eval.txt, limit: 30, steps: 30, batch-size: 2, max-length: 32, save-every: 2, threads: 1}
grid:
  inject: {rank: [1x1, 2x2]}
seeds: [3, 1]
`

// A study that was killed, interrupted and resumed has the table of one that was left alone, also
// without its journal: train's own records say what is done.
func TestStoppedStudy(t *testing.T) {
	dir := recipeDir(t, "s.yaml", killedStudy)
	mustRunIn(t, dir, "study", "s.yaml", "--quiet", "--set", "out=whole")
	second := filepath.Join("out", "rank-1x1", "seed-1")
	if code, _ := stopWhen(t, dir, filepath.Join(second, "train_state.safetensors"), syscall.SIGKILL, "study", "s.yaml", "--quiet"); code != -1 {
		t.Fatalf("the study ended before it was killed: %d", code)
	}
	first := filepath.Join(dir, "out", "rank-1x1", "seed-3", "run.json")
	before := readAll(t, first)
	if exists(filepath.Join(dir, "out", "report.md")) || exists(filepath.Join(dir, second, "run.json")) {
		t.Fatal("there is a report, or the second run is done")
	}
	third := filepath.Join("out", "rank-2x2", "seed-3", "train_state.safetensors")
	if code, _ := stopWhen(t, dir, third, os.Interrupt, "study", "s.yaml", "--quiet", "--keep-going"); code != exitInterrupted || exists(filepath.Join(dir, "out", "report.md")) {
		t.Fatalf("interrupted: exit code %d", code)
	}
	mustRunIn(t, dir, "study", "s.yaml", "--quiet")
	if !bytes.Equal(readAll(t, first), before) {
		t.Error("a finished run was run again")
	}
	want := studyMetrics(t, filepath.Join(dir, "whole"))
	if got := studyMetrics(t, filepath.Join(dir, "out")); !slices.Equal(got, want) {
		t.Errorf("%q\n want %q", got, want)
	}
	if err := os.Remove(filepath.Join(dir, "out", "study.journal.json")); err != nil {
		t.Fatal(err)
	}
	mustRunIn(t, dir, "study", "s.yaml", "--quiet")
	if got := studyMetrics(t, filepath.Join(dir, "out")); !slices.Equal(got, want) || !bytes.Equal(readAll(t, first), before) {
		t.Errorf("without the journal: %q\n want %q", got, want)
	}
}

// studyMetrics are the figures of report.csv and runs.csv without times and paths.
func studyMetrics(t *testing.T, dir string) (cells []string) {
	t.Helper()
	for _, name := range []string{"report.csv", "runs.csv"} {
		rows, err := csv.NewReader(bytes.NewReader(readAll(t, filepath.Join(dir, name)))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			for i, cell := range row {
				if h := rows[0][i]; h != "seconds" && h != "seconds_mean" && h != "run" {
					cells = append(cells, cell)
				}
			}
		}
	}
	if len(cells) != 3*11+5*7 {
		t.Fatalf("%d cells: %q", len(cells), cells)
	}
	return cells
}
