package merge

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
)

// JournalFile is the name of the journal of a merge in place in the model's
// directory.
//
// It starts with journalMagic. Then come the new bytes of the changed tiles, and
// the table, a journalTable, which is written when all else is on disk. A journal
// without its table is of a merge that changed nothing yet.
const JournalFile = "lsrsurgeon.journal"

const (
	journalMagic = "LSRJRNL1"
	undoPending  = ".lsrsurgeon.undo.pending" // the undo file until the journal is applied
)

// ErrPending is wrapped when a merge in place was begun and could not be ended:
// its journal is complete, and [Recover] will end it.
var ErrPending = errors.New("the merge in place is not complete: run it again, or open the model again, when the cause is gone")

// journalTable says what goes where. Applying it twice is the same as once.
type journalTable struct {
	Sources string        `json:"sources"` // Plan.Sources
	Files   []journalPart `json:"files"`
	Tiles   []journalTile `json:"tiles"`
	Replace []undoBytes   `json:"replace,omitempty"` // small files, whole
	Remove  []string      `json:"remove,omitempty"`
	Undo    bool          `json:"undo,omitempty"` // undoPending becomes UndoFile
}

type journalPart struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// journalTile is N bytes at From of the journal for offset To of a file.
type journalTile struct {
	File int    `json:"file"`
	From int64  `json:"from"`
	To   int64  `json:"to"`
	N    int64  `json:"n"`
	Sum  uint32 `json:"crc32c"`
}

// journalFile is a journal in the making, or one to apply.
type journalFile struct {
	fs    atomicfile.FS
	dir   string
	h     atomicfile.Handle
	begun bool  // this process made it
	at    int64 // end of the tiles
	table journalTable
}

func (j *journalFile) path() string { return filepath.Join(j.dir, JournalFile) }

// create starts the journal; an incomplete one of a process that died goes.
func (j *journalFile) create() error {
	if _, err := readJournal(j.path()); err == nil {
		return fmt.Errorf("%s: %w", j.dir, ErrPending)
	}
	for _, p := range []string{j.path(), filepath.Join(j.dir, undoPending)} {
		if err := j.fs.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	var err error
	if j.h, err = j.fs.Create(j.path(), 0o600); err != nil {
		return err
	}
	j.begun = true
	_, err = j.h.WriteAt([]byte(journalMagic), 0)
	return err
}

func (j *journalFile) createUndo() (atomicfile.Handle, error) {
	j.table.Undo = true
	return j.fs.Create(filepath.Join(j.dir, undoPending), 0o666)
}

// tiles lists the tiles for the table.
func (j *journalFile) tiles(r *run) error {
	for _, f := range r.p.base.Files() {
		rel, err := filepath.Rel(j.dir, f.Path)
		if err != nil {
			return err
		}
		j.table.Files = append(j.table.Files, journalPart{filepath.ToSlash(rel), f.Size})
	}
	for i := range r.jobs {
		x := &r.jobs[i]
		j.table.Tiles = append(j.table.Tiles, journalTile{x.file, x.journal, x.to, x.n, x.sum})
	}
	return nil
}

// seal brings the tiles to disk, then the table: from here on the merge is done.
func (j *journalFile) seal() error {
	if err := j.h.Sync(); err != nil {
		return err
	}
	if j.table.Undo {
		if err := j.fs.SyncPath(filepath.Join(j.dir, undoPending)); err != nil {
			return err
		}
	}
	if err := j.fs.SyncPath(j.dir); err != nil { // the names
		return err
	}
	b, err := encodeTable(journalMagic, &j.table)
	if err != nil {
		return err
	}
	if _, err := j.h.WriteAt(b, j.at); err != nil {
		return err
	}
	if err := j.h.Sync(); err != nil {
		return err
	}
	h := j.h
	j.h = nil
	return h.Close()
}

// abort removes a journal that is not complete. Should that fail it is still no
// obstacle, unless its table was written all the same: then the merge is done.
func (j *journalFile) abort() {
	if !j.begun {
		return
	}
	if j.h != nil {
		_ = j.h.Close() // it is thrown away
	}
	_ = j.fs.Remove(j.path())
	_ = j.fs.Remove(filepath.Join(j.dir, undoPending))
}

// readJournal reads and checks the table of a complete journal.
func readJournal(path string) (*journalTable, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	bad := malformed(path, "remove it if the model is known to be whole")
	t := &journalTable{}
	if err := readTable(f, st.Size(), journalMagic, t, bad); err != nil {
		return nil, err
	}
	return t, t.check(st.Size(), bad)
}

// check refuses a table that a merge in place cannot have written.
func (t *journalTable) check(size int64, bad func(string) error) error {
	for _, f := range t.Files {
		if !filepath.IsLocal(filepath.FromSlash(f.Name)) || f.Size < 0 {
			return bad(fmt.Sprintf("bad file %q", f.Name))
		}
	}
	for _, x := range t.Tiles {
		if x.File < 0 || x.File >= len(t.Files) || x.N < 0 || x.From < magicLen || x.From > size-x.N || x.To < 0 || x.To > t.Files[x.File].Size-x.N {
			return bad("a tile lies outside its file")
		}
	}
	names := slices.Clone(t.Remove)
	for _, f := range t.Replace {
		names = append(names, f.Name)
	}
	for _, n := range names {
		if n == "" || n != filepath.Base(n) || n == "." || n == ".." {
			return bad(fmt.Sprintf("bad file name %q", n))
		}
	}
	return nil
}

// apply does what the table says and removes the journal.
func (j *journalFile) apply() error {
	in, err := j.fs.Open(j.path())
	if err != nil {
		return err
	}
	defer in.Close() // only read
	var buf []byte
	for i, f := range j.table.Files {
		if err := j.applyFile(in, i, f, &buf); err != nil {
			return err
		}
	}
	for _, f := range j.table.Replace {
		if err := atomicfile.WriteFileFS(j.fs, filepath.Join(j.dir, f.Name), 0o666, func(w io.Writer) error { _, err := w.Write(f.Data); return err }); err != nil {
			return err
		}
	}
	for _, n := range j.table.Remove {
		if err := j.fs.Remove(filepath.Join(j.dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if j.table.Undo {
		err := j.fs.Rename(filepath.Join(j.dir, undoPending), filepath.Join(j.dir, UndoFile))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // renamed before
			return err
		}
	}
	if err := j.fs.SyncPath(j.dir); err != nil {
		return err
	}
	if err := j.fs.Remove(j.path()); err != nil {
		return err
	}
	return j.fs.SyncPath(j.dir)
}

func (j *journalFile) applyFile(in atomicfile.Source, i int, f journalPart, buf *[]byte) (err error) {
	if !slices.ContainsFunc(j.table.Tiles, func(t journalTile) bool { return t.File == i }) {
		return nil
	}
	path := filepath.Join(j.dir, filepath.FromSlash(f.Name))
	if fileLen(path) != f.Size {
		return malformed(path, "restore the model: it is not the one that the journal beside it is for")(fmt.Sprintf("it has %d bytes, the journal is for one of %d", fileLen(path), f.Size))
	}
	out, err := j.fs.OpenWrite(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	flush := newFlusher()
	defer func() { err = errors.Join(err, flush.end()) }()
	for _, t := range j.table.Tiles {
		if t.File != i {
			continue
		}
		b := grow(buf, int(t.N))
		if _, err := in.ReadAt(b, t.From); err != nil {
			return err
		}
		if crc32.Checksum(b, castagnoli) != t.Sum {
			return malformed(j.path(), "restore the model: its journal is damaged")("a tile is damaged")
		}
		if _, err := out.WriteAt(b, t.To); err != nil {
			return err
		}
		flush.add(out, t.N)
	}
	return out.Sync()
}

// Recover ends a merge in place that was interrupted, if there is one in the
// directory; then it returns the merge's Plan.Sources, else "". A journal that is
// not complete is left alone: it changed nothing. While another process merges it
// fails with an error wrapping atomicfile.ErrLocked.
func Recover(fsys atomicfile.FS, dir string) (sources string, err error) {
	if fsys == nil {
		fsys = atomicfile.OS
	}
	j := &journalFile{fs: fsys, dir: dir}
	if _, err := os.Lstat(j.path()); err != nil {
		return "", nil // the common case
	}
	lock, err := atomicfile.NewLock(lockName(dir))
	if err != nil {
		return "", err
	}
	defer lock.Unlock()
	t, err := readJournal(j.path())
	if err != nil {
		return "", nil // not complete, or gone by now
	}
	j.table = *t
	return t.Sources, j.apply()
}
