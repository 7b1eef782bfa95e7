package train

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
)

// The files of a run.
const (
	StateFile   = "train_state.safetensors"
	MetricsFile = "metrics.jsonl"
	RunFile     = "run.json"

	savingDir = ".adapter.saving" // the adapter before its files are moved
)

// ErrExists is wrapped by the error of a run whose directory holds something.
var ErrExists = atomicfile.ErrExists

// Summary is the contents of run.json.
type Summary struct {
	Schema int `json:"schema"`
	// Task and Labels are what the adapter was trained for; the labels are in
	// the order of the head's outputs.
	Task   string   `json:"task"`
	Labels []string `json:"labels,omitempty"`
	// Config is all that decided the result, by name.
	Config map[string]string `json:"config"`
	Steps  int               `json:"steps"`
	// BestStep is the step of the parameters that were kept, Metrics theirs.
	BestStep   int          `json:"best_step"`
	Metrics    MetricValues `json:"metrics"`
	Seconds    float64      `json:"seconds"`
	Parameters int          `json:"parameters"`
}

// ReadSummary reads run.json in the directory of a finished run. The error of a
// directory without it wraps fs.ErrNotExist.
func ReadSummary(dir string) (*Summary, error) {
	path := filepath.Join(dir, RunFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &Summary{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.Schema != summarySchema {
		return nil, fmt.Errorf("%s: schema %d, but this program reads %d", path, s.Schema, summarySchema)
	}
	return s, nil
}

const summarySchema = 1

func (r *run) path(name string) string { return filepath.Join(r.dir, name) }

// realDir is dir without links, as far as it exists: what is replaced is the
// directory and not a link to it.
func realDir(dir string) string {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		return real
	}
	return filepath.Clean(dir)
}

// lockRun keeps a second process from training into the same directory. Where the
// lock, which lies beside the directory, may not be made there is none.
func lockRun(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o777); err != nil {
		return nil, err
	}
	l, err := atomicfile.NewLock(dir)
	if errors.Is(err, fs.ErrPermission) {
		return func() {}, nil
	}
	if err == nil {
		atomicfile.Sweep(atomicfile.OS, dir) // of a run that was to replace this one and was killed
	}
	return l.Unlock, err
}

// open makes the state: a new one, or that of the run to resume. A result means
// that the run is done already.
func (r *run) open() (*Result, error) {
	if !r.o.Resume {
		if err := r.fresh(); err != nil {
			return nil, err
		}
	} else if done, err := r.finished(); done != nil || err != nil {
		return done, err
	}
	n := r.job.Train.Program.ParamSize
	s := &state{params: slices.Clone(r.job.Train.Params), moment1: make([]float32, n), moment2: make([]float32, n), Config: r.config}
	if r.o.Resume {
		saved, err := readState(r.path(StateFile), n)
		switch {
		case err == nil:
			if err := sameConfig(r.path(StateFile), saved.Config, r.config); err != nil {
				return nil, err
			}
			s = saved
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	r.s = *s
	return nil, nil
}

// begin makes the directory with the log: not before the device is ready, so
// that a run that cannot start leaves nothing behind. A run that replaces another
// has a directory beside it until it is worth keeping, see publish.
func (r *run) begin() error {
	if !r.replaces {
		if err := os.MkdirAll(r.dir, 0o777); err != nil {
			return fmt.Errorf("train: %w", err)
		}
		return r.openLog()
	}
	next, err := atomicfile.NewDirLocked(r.dir, true)
	if err != nil {
		return fmt.Errorf("train: replace %s: %w", r.o.Dir, err)
	}
	r.next, r.dir = next, next.Path()
	return r.openLog()
}

// finished returns the result of a run that is done.
func (r *run) finished() (*Result, error) {
	s, err := ReadSummary(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, r.resumable()
	}
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if err := sameConfig(r.path(RunFile), s.Config, r.config); err != nil {
		return nil, err
	}
	if err := os.Remove(r.path(StateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("train: %w", err)
	}
	return &Result{Steps: s.Steps, BestStep: s.BestStep, Metrics: s.Metrics, Seconds: s.Seconds, Complete: true}, nil
}

// resumable refuses a directory without a state that holds something else than
// the log of a run that was killed before it first saved.
func (r *run) resumable() error {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	own := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == StateFile || e.Name() == MetricsFile })
	if len(entries) > 0 && !own {
		return fmt.Errorf("%s holds no run to resume: %w", r.o.Dir, ErrExists)
	}
	return nil
}

// openLog opens metrics.jsonl for appending, without the lines of events that
// the state has not seen.
func (r *run) openLog() error {
	path := r.path(MetricsFile)
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("train: %w", err)
	}
	kept := r.seen(old)
	if !bytes.Equal(kept, old) {
		if err := atomicfile.WriteFile(path, 0o666, func(w io.Writer) error { _, err := w.Write(kept); return err }); err != nil {
			return fmt.Errorf("train: %w", err)
		}
	}
	r.log, err = os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// seen returns the lines of a log that lie before the state.
func (r *run) seen(log []byte) []byte {
	var kept []byte
	for line := range bytes.Lines(log) {
		var e struct {
			Event EventType
			Step  int
		}
		if !bytes.HasSuffix(line, []byte("\n")) || json.Unmarshal(line, &e) != nil {
			break
		}
		switch e.Event {
		case EventStep:
			if e.Step > r.s.Step {
				continue
			}
		case EventEval:
			if e.Step > r.s.LastEval {
				continue
			}
		case EventEarlyStop:
			if !r.s.Stopped {
				continue
			}
		default:
			continue
		}
		kept = append(kept, line...)
	}
	return kept
}

// emit reports an event and writes it to metrics.jsonl, as one line by one
// write.
func (r *run) emit(e Event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if _, err := r.log.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	r.o.Event(e)
	return nil
}

// save writes the state.
func (r *run) save() error {
	if err := r.exe.Params(r.s.params); err != nil {
		return fmt.Errorf("train: save: %w", err)
	}
	if err := r.exe.Moments(r.s.moment1, r.s.moment2); err != nil {
		return fmt.Errorf("train: save: %w", err)
	}
	s := r.s
	s.Seconds = r.elapsed().Seconds()
	if err := atomicfile.WriteFile(r.path(StateFile), 0o666, s.write); err != nil {
		return fmt.Errorf("train: save: %w", err)
	}
	if err := r.publish(); err != nil {
		return fmt.Errorf("train: save: %w", err)
	}
	r.lastSave, r.savedStep = r.o.Now(), r.s.Step
	r.o.Event(Event{Type: EventSaved, Step: r.s.Step, Steps: r.steps, Epoch: r.lastEpoch(), BestStep: r.s.BestStep})
	return nil
}

// finish writes the adapter and run.json and removes the state, in this order,
// so that a run that is killed in between finishes when it is resumed.
func (r *run) finish() (*Result, error) {
	params := make([]float32, r.job.Train.Program.ParamSize)
	res := &Result{Steps: r.s.Step, BestStep: r.s.Step, Metrics: r.s.LastMetrics}
	if r.s.best != nil && !r.o.KeepLast {
		copy(params, r.s.best)
		res.BestStep, res.Metrics = r.s.BestStep, r.s.BestMetrics
	} else if err := r.exe.Params(params); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if err := r.saveAdapter(params); err != nil {
		return nil, fmt.Errorf("train: save the adapter: %w", err)
	}
	res.Seconds = r.elapsed().Seconds()
	done := Event{Type: EventDone, Step: r.s.Step, Steps: r.steps, Epoch: r.lastEpoch(), Metrics: res.Metrics, BestStep: res.BestStep}
	line, err := json.Marshal(done)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if _, err := r.log.Write(append(line, '\n')); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	sum := Summary{
		Schema: summarySchema, Task: r.job.Spec.Name, Labels: r.job.Spec.Labels, Config: r.config,
		Steps: res.Steps, BestStep: res.BestStep, Metrics: res.Metrics, Seconds: res.Seconds, Parameters: len(params),
	}
	b, err := json.MarshalIndent(sum, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if err := atomicfile.WriteFile(r.path(RunFile), 0o666, func(w io.Writer) error { _, err := w.Write(append(b, '\n')); return err }); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if err := os.Remove(r.path(StateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("train: %w", err)
	}
	if err := r.publish(); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	r.o.Event(done)
	return res, nil
}

// saveAdapter lets the job write the adapter beside, and moves its files into
// the run's directory one by one.
func (r *run) saveAdapter(params []float32) error {
	if r.job.Save == nil {
		return nil
	}
	dir := r.path(savingDir)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := r.job.Save(dir, params); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(dir, e.Name()), r.path(e.Name())); err != nil {
			return err
		}
	}
	if err := os.Remove(dir); err != nil {
		return err
	}
	return atomicfile.OS.SyncPath(r.dir)
}
