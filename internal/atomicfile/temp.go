package atomicfile

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

const (
	marker    = ".lsrsurgeon-"
	oldSuffix = ".old"
)

// host tells processes of this host and process namespace from others that
// may share the directory, whose pids say nothing here.
var host = sync.OnceValue(func() string {
	name, _ := os.Hostname()
	ns, _ := os.Readlink("/proc/self/ns/pid")
	h := fnv.New32a()
	fmt.Fprintf(h, "%s\x00%s", name, ns)
	return fmt.Sprintf("%08x", h.Sum32())
})

func tempName(final string) string {
	var r [6]byte
	rand.Read(r[:])
	dir, base := filepath.Split(final)
	return filepath.Join(dir, "."+base+marker+strconv.Itoa(os.Getpid())+"-"+host()+hex.EncodeToString(r[:]))
}

// IsTemp reports whether name (without directories) is one that this package
// gives to what is not yet, or no longer, whole, or to a lock.
func IsTemp(name string) bool {
	if strings.HasSuffix(name, lockSuffix) && name[0] == '.' {
		return true
	}
	i := strings.LastIndex(name, marker)
	if i < 1 || name[0] != '.' {
		return false
	}
	pid, rest, ok := strings.Cut(name[i+len(marker):], "-")
	rest = strings.TrimSuffix(rest, oldSuffix)
	_, err := strconv.Atoi(pid)
	_, hexErr := hex.DecodeString(rest)
	return ok && err == nil && hexErr == nil && len(rest) == 20
}

// dead reports whether name is a temporary of final's base that a process of this
// host left behind.
//
// Who holds the lock of final knows that even without looking for the process,
// whose number may be another one's by now.
func dead(name, base string, locked bool) bool {
	rest, ok := strings.CutPrefix(name, "."+base+marker)
	if !ok || !IsTemp(name) {
		return false
	}
	pid, rest, _ := strings.Cut(rest, "-")
	n, err := strconv.Atoi(pid)
	return err == nil && strings.HasPrefix(rest, host()) && (locked || n != os.Getpid() && !alive(n))
}

// abandoned lists the temporaries of final that dead processes left, without
// directories in front.
func abandoned(final string, locked bool) []string {
	dir, base := filepath.Split(final)
	if dir == "" {
		dir = "."
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if dead(e.Name(), base, locked) {
			names = append(names, e.Name())
		}
	}
	return names
}

// Sweep removes the temporaries of final that dead processes left. An old
// directory that was renamed away and never replaced gets its name back. Failures
// do not matter: the next writer tries again.
func Sweep(fsys FS, final string) { sweep(fsys, final, false, "") }

// sweep is Sweep for who holds the lock or not; the temporary keep stays.
func sweep(fsys FS, final string, locked bool, keep string) {
	for _, name := range abandoned(final, locked) {
		if name == keep {
			continue
		}
		path := filepath.Join(filepath.Dir(final), name)
		if strings.HasSuffix(name, oldSuffix) {
			if _, err := os.Lstat(final); errors.Is(err, fs.ErrNotExist) {
				_ = fsys.RenameNew(path, final)
				continue
			}
		}
		_ = fsys.RemoveAll(path)
	}
}
