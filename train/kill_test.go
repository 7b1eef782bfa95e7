package train

import (
	"bytes"
	"context"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// killVariable makes the test binary a run to be killed, in the directory it
// names.
const killVariable = "LSRSURGEON_TEST_KILLED_RUN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(killVariable); dir != "" {
		os.Exit(killedRun(dir))
	}
	os.Exit(m.Run())
}

func killOptions(dir string) Options {
	o := options(dir)
	o.Epochs, o.SaveEvery, o.EvalEvery = 6, 1, 3
	return o
}

// killedRun resumes the run in dir, slowly enough to be hit anywhere.
func killedRun(dir string) int {
	o := killOptions(dir)
	o.Resume = true
	o.Event = func(Event) { time.Sleep(2 * time.Millisecond) }
	tr, err := New(job(&testing.T{}, task.Classification, 0.2), o)
	if err == nil {
		_, err = tr.Run(context.Background())
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return 0
}

// TestKilledAtAnyMomentEndsTheSame kills a process at seeded random times,
// resumes it until it ends, and compares its adapter and log with those of a
// run that was left alone.
func TestKilledAtAnyMomentEndsTheSame(t *testing.T) {
	whole := killOptions(filepath.Join(t.TempDir(), "whole"))
	runJob(t, job(t, task.Classification, 0.2), whole)
	want, wantLog := adapterBytes(t, whole.Dir), stepLines(t, whole.Dir)

	rng := rand.New(rand.NewSource(1))
	kills := 0
	for round := range 3 {
		dir := filepath.Join(t.TempDir(), "killed")
		for attempt := 0; ; attempt++ {
			if attempt == 200 {
				t.Fatal("the run does not end")
			}
			c := exec.Command(os.Args[0], "-test.run=^$")
			c.Env = append(os.Environ(), killVariable+"="+dir)
			var stderr bytes.Buffer
			c.Stderr = &stderr
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- c.Wait() }()
			select {
			case err := <-ended:
				if err != nil {
					t.Fatalf("round %d: %v: %s", round, err, stderr.String())
				}
			// A slow machine needs longer to get anywhere at all.
			case <-time.After(time.Duration((20+rng.Intn(80))*(1+attempt/10)) * time.Millisecond):
				c.Process.Kill()
				if err := <-ended; err != nil {
					kills++
					continue
				}
			}
			break
		}
		if got := adapterBytes(t, dir); got != want {
			t.Errorf("round %d: the adapter differs by %v", round, distance(got, want))
		}
		if got := stepLines(t, dir); !slices.Equal(got, wantLog) {
			t.Errorf("round %d: log\n%q\nwant\n%q", round, got, wantLog)
		}
		if got := names(t, dir); !slices.Equal(got, names(t, whole.Dir)) {
			t.Errorf("round %d: files %q", round, got)
		}
	}
	if kills < 5 {
		t.Errorf("only %d kills", kills)
	}
	t.Logf("%d kills", kills)
}
