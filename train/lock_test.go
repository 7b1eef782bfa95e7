package train

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
)

// TestLockRun: one process at a time trains into a directory.
func TestLockRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "run")
	unlock, err := lockRun(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockRun(dir); !errors.Is(err, atomicfile.ErrLocked) {
		t.Errorf("a second run: %v", err)
	}
	unlock()
	if unlock, err = lockRun(dir); err != nil {
		t.Fatal(err)
	}
	unlock()
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), ".*")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v %v", left, err)
	}
}
