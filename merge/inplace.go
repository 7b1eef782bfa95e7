package merge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
)

// ErrInPlace is wrapped when a merge cannot be done in place.
var ErrInPlace = errors.New("not possible in place")

// RunInPlace changes the base's own files. All new bytes go to a journal in the
// base's directory first; when it is complete and on disk they are copied to their
// places. A crash before leaves the base as it was, a crash after is made good by
// [Recover], which every opening of the model should call: no moment leaves
// anything in between for good. The journal needs the space of the touched tensors
// until the end.
//
// Every tensor keeps its place, dtype and file. Links, files with several names and
// the Hugging Face cache are refused, not written through.
func (p *Plan) RunInPlace(ctx context.Context, progress func(done, total int64)) (*Report, error) {
	if err := p.carriedOver(); err != nil {
		return nil, err
	}
	dir := p.base.Dir()
	if err := ownFiles(p); err != nil {
		return nil, err
	}
	lock, err := atomicfile.NewLock(lockName(dir))
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	r := &run{p: p, ctx: ctx, progress: progress, journal: &journalFile{fs: p.o.FS, dir: dir}}
	r.allJobs()
	var size int64
	for i := range r.jobs {
		size += r.jobs[i].n
	}
	if err := checkSpace(filepath.Join(dir, JournalFile), size); err != nil {
		return nil, err
	}
	rep, err := r.inPlace()
	if err != nil {
		r.journal.abort()
		return nil, err
	}
	if err := r.journal.apply(); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", dir, ErrPending, err)
	}
	return rep, nil
}

// lockName is what a merge in place locks: a file in the directory itself, whose
// parent may not be ours to write to.
func lockName(dir string) string { return filepath.Join(dir, "model") }

// allJobs are the tiles: what is copied stays where it is.
func (r *run) allJobs() {
	jobs, works := r.p.jobs()
	r.works = works
	at := int64(magicLen)
	for _, j := range jobs {
		if j.work != nil {
			j.journal = at
			at += j.n
			r.jobs = append(r.jobs, j)
		}
	}
	r.journal.at = at
}

// ownFiles refuses a base whose files are, or may be, someone else's too.
func ownFiles(p *Plan) error {
	dir, err := filepath.Abs(p.base.Dir())
	if err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	if formats.InHubCache(real) {
		return fmt.Errorf("%s: %w: it is in the Hugging Face cache, whose files others use: write a new model", p.base.Path(), ErrInPlace)
	}
	if st, err := os.Lstat(p.base.Dir()); err != nil || st.Mode()&os.ModeSymlink != 0 {
		return errors.Join(fmt.Errorf("%s: %w: it is a link: give the place that it leads to, %s", p.base.Path(), ErrInPlace, real), err)
	}
	for _, f := range p.base.Files() {
		h, err := atomicfile.OS.OpenWrite(f.Path)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrInPlace, err)
		}
		if err := h.Close(); err != nil {
			return err
		}
	}
	return nil
}

// inPlace fills the journal.
func (r *run) inPlace() (rep *Report, err error) {
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.openBase(); err != nil {
		return nil, err
	}
	if err := r.journal.create(); err != nil {
		return nil, err
	}
	if r.p.o.Reversible {
		if r.undo, err = r.p.newUndo(r.jobs); err != nil {
			return nil, err
		}
		h, err := r.journal.createUndo()
		if err != nil {
			return nil, err
		}
		if err := r.undo.begin(h, nil); err != nil {
			return nil, err
		}
	}
	if err := r.work(); err != nil {
		return nil, err
	}
	if err := r.ctx.Err(); err != nil {
		return nil, err
	}
	if err := r.journal.tiles(r); err != nil {
		return nil, err
	}
	if err := r.replaced(); err != nil {
		return nil, err
	}
	return r.p.report(r.works), r.journal.seal()
}

// replaced adds the small files that change: config.json and the manifest.
func (r *run) replaced() error {
	j := r.journal
	if len(r.p.config) > 0 {
		b, err := os.ReadFile(filepath.Join(j.dir, configFile))
		if err == nil {
			b, err = setKeys(b, r.p.config)
		}
		if err != nil {
			return err
		}
		j.table.Replace = append(j.table.Replace, undoBytes{configFile, b})
	}
	var err error
	if j.table.Sources, err = r.p.Sources(); err != nil {
		return err
	}
	if r.p.o.Manifest == nil {
		if _, err := os.Lstat(manifest.Path(j.dir)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		j.table.Remove = append(j.table.Remove, manifest.File) // it tells of other tensors
		return nil
	}
	m, err := r.manifest()
	if err != nil {
		return err
	}
	b, err := m.Encode()
	j.table.Replace = append(j.table.Replace, undoBytes{manifest.File, b})
	return err
}

// manifest is the one of the directory as it will be.
func (r *run) manifest() (*manifest.Manifest, error) {
	extra := map[string][]byte{}
	for _, f := range r.journal.table.Replace {
		extra[f.Name] = f.Data
	}
	o := manifest.Options{Workers: r.p.o.Workers, Known: r.knownSums(), Replaced: extra, Skip: []string{JournalFile, UndoFile}}
	return manifest.Make(r.ctx, r.journal.dir, *r.p.o.Manifest, o)
}
