//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// program is a command that runs this test binary as lsrsurgeon.
func program(t *testing.T, ctx context.Context, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(ctx, self, args...)
	c.Env = append(os.Environ(), asProgram+"=1", "LSRSURGEON_CACHE="+os.TempDir()+"/lsrsurgeon-test-cache")
	return c
}

// must runs the program to its end.
func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	out, err := program(t, context.Background(), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("lsrsurgeon %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// killAfter starts the program and kills it outright after d. It says whether
// the program had ended before.
func killAfter(t *testing.T, d time.Duration, args ...string) (ended bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	c := program(t, ctx, args...) // CommandContext kills with SIGKILL
	out, err := c.CombinedOutput()
	if err == nil {
		return true
	}
	if ctx.Err() == nil {
		t.Fatalf("lsrsurgeon %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return false
}

// killTraining kills a training run outright some moment after it has reported
// steps. It says whether the run had ended before.
func killTraining(t *testing.T, steps int, then time.Duration, args ...string) (ended bool) {
	t.Helper()
	c := program(t, context.Background(), args...)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	events := bufio.NewScanner(out)
	for events.Scan() && steps > 0 {
		if strings.Contains(events.Text(), `"event":"step"`) {
			steps--
		}
	}
	time.Sleep(then)
	_ = c.Process.Kill() // it may have ended already
	err = c.Wait()
	if err != nil && c.ProcessState.Exited() {
		t.Fatalf("lsrsurgeon %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return err == nil
}

// TestKilledTraining kills a training run at 20 random moments, resuming it each
// time: the adapter is bit for bit that of a run that was left alone.
func TestKilledTraining(t *testing.T) {
	dir := t.TempDir()
	base, ad := filepath.Join(dir, "base"), filepath.Join(dir, "a")
	if err := copyModel(base); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "inject", base, "-o", ad, "--target", "q_proj,v_proj", "--dropout", "0.1")
	train := func(out string, more ...string) []string {
		return append([]string{"train", ad, "-o", out, "--task", "lm", "--data", filepath.Join(base, "demo_train.txt"), "--eval-data", filepath.Join(base, "demo_eval.txt"),
			"--steps", "120", "--batch-size", "2", "--max-length", "32", "--eval-every", "40", "--save-every", "3", "--threads", "1", "--quiet"}, more...)
	}
	whole, cut := filepath.Join(dir, "whole"), filepath.Join(dir, "cut")
	mustRun(t, train(whole)...)
	r := rand.New(rand.NewPCG(5, 6))
	for kill := range 20 {
		more := []string{"--resume", "--json"}
		if !exists(cut) {
			more = more[1:]
		}
		// A few steps further each time, then a moment within the next ones.
		if killTraining(t, 1+r.IntN(4), time.Duration(r.IntN(15_000))*time.Microsecond, train(cut, more...)...) {
			t.Fatalf("the run was done before kill %d", kill)
		}
	}
	mustRun(t, train(cut, "--resume")...)
	for _, f := range []string{"adapter_model.safetensors", "adapter_config.json"} {
		sameFiles(t, filepath.Join(whole, f), filepath.Join(cut, f))
	}
}

// TestKilledMerge kills a merge at 50 random moments: the output is absent or
// whole, and the inputs are as they were.
func TestKilledMerge(t *testing.T) {
	dir := t.TempDir()
	base, ad, want := filepath.Join(dir, "base"), filepath.Join(dir, "a"), filepath.Join(dir, "want")
	if err := copyModel(base); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "inject", base, "-o", ad, "--target", "all-linear", "--init", "paper")
	before := map[string][]byte{}
	for _, f := range []string{base + "/model.safetensors", base + "/config.json", ad + "/adapter_model.safetensors"} {
		before[f] = readAll(t, f)
	}
	start := time.Now()
	mustRun(t, "merge", ad, "-o", want, "--quiet")
	took := time.Since(start)
	out := filepath.Join(dir, "out")
	r := rand.New(rand.NewPCG(7, 8))
	whole := 0
	for i := range 50 {
		if i%2 == 0 { // with and without an older output in the way
			if err := os.RemoveAll(out); err != nil {
				t.Fatal(err)
			}
		}
		killAfter(t, time.Duration(r.Float64()*1.3*float64(took)), "merge", ad, "-o", out, "--quiet", "--force")
		if exists(out) {
			whole++
			for _, f := range []string{"model.safetensors", "config.json", "tokenizer.json"} {
				sameFiles(t, filepath.Join(want, f), filepath.Join(out, f))
			}
		}
		for f, b := range before {
			if !bytes.Equal(readAll(t, f), b) {
				t.Fatalf("%s has changed", f)
			}
		}
	}
	if whole == 0 || whole == 50 {
		t.Logf("%d of 50 times there was an output: the kills came too early or too late to say much", whole)
	}
	mustRun(t, "merge", ad, "-o", out, "--quiet", "--force")
	left, err := filepath.Glob(filepath.Join(dir, ".out.*"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporaries are left behind: %v %v", left, err)
	}
}

func readAll(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sameFiles(t *testing.T, x, y string) {
	t.Helper()
	if !bytes.Equal(readAll(t, x), readAll(t, y)) {
		t.Fatalf("%s and %s differ", x, y)
	}
}

// TestInterrupt sends the signal of Ctrl-C: the step is finished, the state
// saved, the code 130, and the run can go on.
func TestInterrupt(t *testing.T) {
	dir := t.TempDir()
	base, ad, run := filepath.Join(dir, "base"), filepath.Join(dir, "a"), filepath.Join(dir, "run")
	if err := copyModel(base); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "inject", base, "-o", ad, "--target", "q_proj")
	args := []string{"train", ad, "-o", run, "--task", "lm", "--data", filepath.Join(base, "demo_train.txt"), "--steps", "100000", "--batch-size", "2", "--max-length", "32", "--json"}
	c := program(t, context.Background(), args...)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	for seen := ""; !strings.Contains(seen, `"event":"step"`); { // it is training
		n, err := out.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		seen += string(buf[:n])
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = out.Read(buf)
	}
	if err := c.Wait(); c.ProcessState.ExitCode() != exitInterrupted {
		t.Fatalf("exit code %d (%v), want %d", c.ProcessState.ExitCode(), err, exitInterrupted)
	}
	if !exists(filepath.Join(run, "train_state.safetensors")) {
		t.Error("no state was saved")
	}
}
