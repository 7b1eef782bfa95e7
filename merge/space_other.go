//go:build !linux && !darwin

package merge

// checkSpace cannot know here; writing fails when the disk is full, and
// nothing is left then.
func checkSpace(string, int64) error { return nil }
