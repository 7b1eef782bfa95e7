package merge

import (
	"context"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
)

// tableOf splits a file in the form of undo files and journals into what comes before
// its table and the table's text.
func tableOf(t testing.TB, path string) (before, text []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := int(b[len(b)-tableTail]) | int(b[len(b)-tableTail+1])<<8 | int(b[len(b)-tableTail+2])<<16
	at := len(b) - tableTail - n
	return b[:at], b[at : at+n]
}

// withTable makes a file of a table's text, good or not, with a right checksum.
func withTable(before, text []byte, magic string) []byte {
	b := append(append([]byte(nil), before...), text...)
	for n, i := len(text), 0; i < 8; i++ {
		b, n = append(b, byte(n)), n>>8
	}
	sum := crc32.Checksum(text, castagnoli)
	b = append(b, byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
	return append(b, magic...)
}

// FuzzUndo: any table of an undo file with a right checksum, and any end of the file
// without one, is an error or an output.
func FuzzUndo(f *testing.F) {
	dir := makeBase(f)
	out := filepath.Join(f.TempDir(), "out")
	mustMerge(f, open(f, dir), sources(1e-3), Options{Reversible: true}, out)
	before, text := tableOf(f, filepath.Join(out, UndoFile))
	f.Add(text, true)
	f.Add([]byte(`{"files": [{"name": "x", "size": 9, "tensors": [{"name": "model.layers.1.odd", "offset": 0, "bytes": 24, "tiles": [{"n": 24, "width": 8, "off": 8, "len": 4}]}]}]}`), true)
	f.Add([]byte(`{"index": {"name": ".."}}`), true)
	f.Add([]byte(undoMagic), false)
	merged := open(f, out)
	f.Fuzz(func(t *testing.T, b []byte, whole bool) {
		root := t.TempDir()
		path := filepath.Join(root, UndoFile)
		if whole {
			b = withTable(before, b, undoMagic)
		}
		put(t, path, string(b))
		// Either way is fine: what matters is that it ends, and ends well.
		_ = Unmerge(context.Background(), merged, path, filepath.Join(root, "out"), UnmergeOptions{FS: fast, Workers: 1}, nil)
	})
}

// FuzzJournal: any journal is applied whole or refused, and changes no file but
// those of its directory.
func FuzzJournal(f *testing.F) {
	base := makeBase(f)
	dir := halfApplied(f, base)
	before, text := tableOf(f, filepath.Join(dir, JournalFile))
	f.Add(text, true)
	f.Add([]byte(`{"files": [{"name": "../x", "size": 1}]}`), true)
	f.Add([]byte(`{"files": [{"name": "config.json", "size": 105}], "tiles": [{"from": 8, "to": 0, "n": 9223372036854775807}]}`), true)
	f.Add([]byte(`{"replace": [{"name": "/etc/x", "data": "AAAA"}], "remove": [".."]}`), true)
	f.Add([]byte(journalMagic), false)
	f.Fuzz(func(t *testing.T, b []byte, whole bool) {
		root := t.TempDir()
		victim := filepath.Join(root, "victim")
		put(t, victim, "victim")
		model := filepath.Join(root, "model")
		copyTree(t, base, model)
		if whole {
			b = withTable(before, b, journalMagic)
		}
		put(t, filepath.Join(model, JournalFile), string(b))
		_, _ = Recover(fast, model) // it may be refused
		if got, err := os.ReadFile(victim); err != nil || string(got) != "victim" {
			t.Errorf("a file outside changed: %q, %v", got, err)
		}
	})
}

// FuzzProgress: any note of progress is refused, or names jobs that there are.
func FuzzProgress(f *testing.F) {
	text := []byte(`{"identity":"x"}`)
	line := func(text string) string {
		return string(appendLine(nil, []byte(text)))
	}
	f.Add([]byte(line(string(text)) + line(`{"done":[{"job":3,"sums":[1,2,3,4,5,6,7]}],"undo":{"tiles":null,"at":8}}`)))
	f.Add([]byte(line(string(text)) + line(`{"done":[{"job":-1}]}`)))
	f.Add([]byte(line(`{"identity":"y"}`)))
	f.Add([]byte("00000000 {}\n"))
	f.Add([]byte(line(string(text)) + "half a li"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := readProgress(b, "x", 5)
		if !ok {
			return
		}
		if s.size > int64(len(b)) {
			t.Errorf("%d bytes of %d", s.size, len(b))
		}
		for _, d := range s.done {
			if d.Job < 0 || d.Job >= 5 {
				t.Errorf("job %d", d.Job)
			}
		}
	})
}
