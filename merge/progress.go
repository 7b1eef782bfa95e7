package merge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
)

// progressFile is in the directory of a long merge until it has its name: a line
// with the plan's identity, then one for each time that everything done so far was
// brought to disk. A line is the CRC-32C of a JSON text, and the text.
const progressFile = "lsrsurgeon.progress"

// progressLine is a line of the file. Only the first has an identity.
type progressLine struct {
	Identity string     `json:"identity,omitempty"`
	Done     []doneJob  `json:"done,omitempty"`
	Undo     *undoState `json:"undo,omitempty"` // tiles since the line before
}

// doneJob is a job whose result is on disk, with what its tile adds to the
// report: integers, and bits of float64.
type doneJob struct {
	Job  int       `json:"job"`
	Sums *[7]int64 `json:"sums,omitempty"`
}

func (s *sums) encode() *[7]int64 {
	f := func(x float64) int64 { return int64(math.Float64bits(x)) }
	return &[7]int64{s.same, s.zero, f(s.sqErr), f(s.sqDelta), f(s.maxErr), s.nonFinite, s.overflow}
}

func decodeSums(e *[7]int64) sums {
	f := func(x int64) float64 { return math.Float64frombits(uint64(x)) }
	return sums{e[0], e[1], f(e[2]), f(e[3]), f(e[4]), e[5], e[6]}
}

// savedState is what the file of a merge that died says.
type savedState struct {
	done []doneJob
	Undo undoState
	size int64 // of the lines that are whole
}

// readProgress reads the file; ok is false if it is that of another merge.
func readProgress(b []byte, identity string, jobs int) (s savedState, ok bool) {
	for first := true; len(b) > 0; first = false {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		text, good := parseLine(line)
		if !whole || !good {
			break
		}
		var p progressLine
		if json.Unmarshal(text, &p) != nil || first && p.Identity != identity {
			break
		}
		for _, d := range p.Done {
			if d.Job < 0 || d.Job >= jobs {
				return savedState{}, false
			}
		}
		ok = true
		s.done = append(s.done, p.Done...)
		if p.Undo != nil {
			s.Undo.Tiles, s.Undo.At = append(s.Undo.Tiles, p.Undo.Tiles...), p.Undo.At
		}
		s.size += int64(len(line)) + 1
		b = rest
	}
	return s, ok
}

func parseLine(line []byte) (text []byte, ok bool) {
	var sum uint32
	if len(line) < 9 {
		return nil, false
	}
	if _, err := fmt.Sscanf(string(line[:8]), "%08x", &sum); err != nil || line[8] != ' ' {
		return nil, false
	}
	return line[9:], crc32.Checksum(line[9:], castagnoli) == sum
}

func appendLine(b, text []byte) []byte {
	return fmt.Appendf(b, "%08x %s\n", crc32.Checksum(text, castagnoli), text)
}

// saver notes progress.
type saver struct {
	r     *run
	id    string
	every int64
	state savedState // of the merge that goes on

	h  atomicfile.Handle
	at int64

	mu      sync.Mutex
	pending []int // jobs done and not noted
	bytes   int64 // theirs
	slots   int   // tiles of the undo file that are noted
	saved   int   // lines with jobs
}

// identify prepares the noting of progress where the merge is long enough.
func (r *run) identify() error {
	if r.p.Bytes() <= r.p.o.SaveEvery {
		return nil
	}
	id, err := r.p.Identity()
	if err != nil {
		return err
	}
	r.saver = &saver{r: r, id: id, every: r.p.o.SaveEvery}
	return nil
}

// resumable says whether a directory is that of the same merge.
func (r *run) resumable(dir string) bool {
	if r.saver == nil {
		return false
	}
	b, err := os.ReadFile(filepath.Join(dir, progressFile))
	if err != nil {
		return false
	}
	s, ok := readProgress(b, r.saver.id, len(r.jobs))
	if !ok || r.p.o.Reversible && (s.Undo.At < magicLen || s.Undo.At > fileLen(filepath.Join(dir, UndoFile))) {
		return false
	}
	for i := range r.p.files {
		if fileLen(filepath.Join(dir, r.p.files[i].name)) != r.p.files[i].size {
			return false
		}
	}
	r.saver.state = s
	return true
}

func fileLen(path string) int64 {
	st, err := os.Lstat(path)
	if err != nil || !st.Mode().IsRegular() {
		return -1
	}
	return st.Size()
}

// removeOthers removes from a directory that goes on what is written anew.
func (r *run) removeOthers() error {
	keep := []string{progressFile}
	if r.p.o.Reversible {
		keep = append(keep, UndoFile)
	}
	for i := range r.p.files {
		name, _, _ := strings.Cut(filepath.ToSlash(r.p.files[i].name), "/")
		keep = append(keep, name)
	}
	es, err := os.ReadDir(r.sink.dir.Path())
	if err != nil {
		return err
	}
	for _, e := range es {
		if slices.Contains(keep, e.Name()) {
			continue
		}
		if err := r.sink.dir.Remove(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// beginSaver starts the file, or takes over what it says is done.
func (r *run) beginSaver() (err error) {
	s := r.saver
	if s == nil || r.sink.dir == nil {
		return nil
	}
	if !r.sink.dir.Resumed() {
		if s.h, err = r.sink.dir.Create(progressFile, 0o666); err != nil {
			return err
		}
		return s.write(&progressLine{Identity: s.id})
	}
	if s.h, err = r.sink.dir.Open(progressFile); err != nil {
		return err
	}
	s.at, s.slots, s.saved = s.state.size, len(s.state.Undo.Tiles), len(s.state.done)
	for _, d := range s.state.done {
		j := &r.jobs[d.Job]
		if j.done {
			continue
		}
		j.done = true
		if j.work == nil {
			continue
		}
		if d.Sums != nil {
			j.work.sums[j.tile] = decodeSums(d.Sums)
		}
		j.work.left.Add(-1)
	}
	return s.h.Truncate(s.at)
}

// add notes that a job is done.
func (s *saver) add(i int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending, i)
	if s.bytes += s.r.jobs[i].n; s.bytes < s.every {
		return nil
	}
	return s.save()
}

// save brings everything to disk and notes it. Tiles that wait for their turn
// in the undo file are not done yet.
func (s *saver) save() error {
	line := progressLine{}
	turn := math.MaxInt
	if u := s.r.undo; u != nil {
		u.mu.Lock()
		turn = u.next
		line.Undo = &undoState{At: u.at}
		for _, t := range u.tiles[s.slots:turn] {
			line.Undo.Tiles = append(line.Undo.Tiles, *t)
		}
		u.mu.Unlock()
	}
	var later []int
	s.bytes = 0
	for _, i := range s.pending {
		j := &s.r.jobs[i]
		if j.undoSlot >= turn {
			later = append(later, i)
			s.bytes += j.n
			continue
		}
		d := doneJob{Job: i}
		if j.work != nil {
			d.Sums = j.work.sums[j.tile].encode()
		}
		line.Done = append(line.Done, d)
	}
	if len(line.Done) == 0 {
		return nil
	}
	for _, h := range s.r.out {
		if err := h.Sync(); err != nil {
			return err
		}
	}
	if u := s.r.undo; u != nil {
		if err := u.h.Sync(); err != nil {
			return err
		}
		s.slots = turn
	}
	s.pending = later
	s.saved++
	return s.write(&line)
}

// write appends a line and brings it to disk.
func (s *saver) write(p *progressLine) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	line := appendLine(nil, text)
	if _, err := s.h.WriteAt(line, s.at); err != nil {
		return err
	}
	s.at += int64(len(line))
	return s.h.Sync()
}

// end removes the file.
func (s *saver) end(d *atomicfile.Dir) error {
	if err := s.close(); err != nil {
		return err
	}
	return d.Remove(progressFile)
}

func (s *saver) close() error {
	h := s.h
	s.h = nil
	if h == nil {
		return nil
	}
	return h.Close()
}
