package text

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Loading a large vocabulary takes a second; the memory of the instance that has
// loaded it can be kept and put back in a fraction of that. A state file holds
//
//	magic, CRC-32C of the rest, length of the answer of tk_load, the answer, the memory
//
// and is named after the hash of the tokenizer.json, or of the files that one is made
// of, in a directory named after the hash of the module. A file that is damaged, too large or from elsewhere is not
// used: then the tokenizer is loaded as if there were none.
const (
	stateMagic  = "LSRTOKS1"
	stateHeader = len(stateMagic) + 4 + 4
	// maxState bounds one file, maxStates their number: the least recently
	// used ones go first.
	maxState  = 256 << 20
	maxStates = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// statePath is the state file of a key, "" without a cache directory.
func statePath(cacheDir string, key [sha256.Size]byte) string {
	if cacheDir == "" {
		return ""
	}
	return filepath.Join(cacheDir, "tokenizer-states-"+moduleName(), hex.EncodeToString(key[:16])+".state")
}

// A keptState is a state file that can be used. Its bytes are the file's until
// it is closed.
type keptState struct {
	path   string
	about  info
	memory []byte
	close  func()
}

// openState returns the state in a file, or nil where there is none to be used.
func openState(path string) *keptState {
	if path == "" {
		return nil
	}
	b, closeFile := mapState(path)
	if b == nil {
		return nil
	}
	body := b[len(stateMagic)+4:]
	if string(b[:len(stateMagic)]) == stateMagic && crc32.Checksum(body, castagnoli) == binary.LittleEndian.Uint32(b[len(stateMagic):]) {
		if n := int64(binary.LittleEndian.Uint32(body)); n <= int64(len(body)-4) {
			if about, err := readInfo(body[4 : 4+n]); err == nil {
				return &keptState{path: path, about: about, memory: body[4+n:], close: closeFile}
			}
		}
	}
	closeFile()
	return nil
}

// start makes an instance of the state and closes it.
func (s *keptState) start(ctx context.Context, m *module) (*instance, bool) {
	defer s.close()
	in, err := newInstance(ctx, m)
	if err != nil {
		return nil, false
	}
	if !in.setMemory(s.memory) {
		in.close()
		return nil, false
	}
	now := time.Now()
	_ = os.Chtimes(s.path, now, now) // its age only decides which file goes first
	return in, true
}

// setMemory makes the instance's memory what an idle instance's was.
func (in *instance) setMemory(state []byte) bool {
	to := in.mod.Memory()
	if len(state)%wasmPage != 0 || int64(len(state)) < int64(to.Size()) {
		return false
	}
	if more := (uint32(len(state)) - to.Size()) / wasmPage; more > 0 {
		if _, ok := to.Grow(more); !ok {
			return false
		}
	}
	return to.Write(0, state)
}

// keep writes the state of an instance that has just loaded its tokenizer. What
// cannot be written costs the next process its time to load.
func (in *instance) keep(path string, answer []byte) {
	memory, ok := in.mod.Memory().Read(0, in.mod.Memory().Size())
	if !ok || len(memory) > maxState {
		return
	}
	b := make([]byte, 0, stateHeader+len(answer)+len(memory))
	b = append(b, stateMagic...)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(answer)))
	b = append(b, answer...)
	b = append(b, memory...)
	binary.LittleEndian.PutUint32(b[len(stateMagic):], crc32.Checksum(b[len(stateMagic)+4:], castagnoli))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return
	}
	writeWhole(path, b)
	dropOldStates(filepath.Dir(path))
}

// dropOldStates removes all but the most recently used files.
func dropOldStates(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	type file struct {
		path string
		used time.Time
	}
	var files []file
	for _, e := range entries {
		if i, err := e.Info(); err == nil && filepath.Ext(e.Name()) == ".state" {
			files = append(files, file{filepath.Join(dir, e.Name()), i.ModTime()})
		}
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(b.used.UnixNano(), a.used.UnixNano()) })
	for _, f := range files[min(len(files), maxStates):] {
		if err := os.Remove(f.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return // another process's files, or a read-only directory
		}
	}
}
