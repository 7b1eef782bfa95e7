package text

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The cache's own format protects the machine code by a checksum, but not the
// table of function addresses beside it, and running from a damaged table
// would end the process. So each file has a seal, a file with its SHA-256, and
// what lacks one or differs from it is removed before the cache is opened.
// Processes may share a directory: files and seals appear whole by a rename,
// and a file removed before its seal appeared is only compiled again.
const sealSuffix = ".sha256"

// cacheFiles lists the files of compiled code below dir.
func cacheFiles(dir string) ([]string, error) {
	subs, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []string
	for _, sub := range subs {
		if !sub.IsDir() {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(dir, sub.Name()))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), sealSuffix) && !strings.HasSuffix(e.Name(), ".tmp") {
				files = append(files, filepath.Join(dir, sub.Name(), e.Name()))
			}
		}
	}
	return files, nil
}

// dropUnsealed removes the cache files whose seal is missing or does not fit,
// and the seal with them.
// An error means that the directory must not be used.
func dropUnsealed(dir string) error {
	files, err := cacheFiles(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		sum, err := fileSum(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process removed it
		}
		if err == nil {
			seal, sealErr := os.ReadFile(f + sealSuffix)
			if sealErr == nil && bytes.Equal(seal, sum) {
				continue
			}
		}
		for _, path := range []string{f, f + sealSuffix} {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// seal writes the missing seals below dir. A seal that cannot be written
// costs the next process its time to compile, so errors are not reported.
func seal(dir string) {
	files, err := cacheFiles(dir)
	if err != nil {
		return
	}
	for _, f := range files {
		if _, err := os.Stat(f + sealSuffix); err == nil {
			continue // dropUnsealed has checked it
		}
		if sum, err := fileSum(f); err == nil {
			writeWhole(f+sealSuffix, sum)
		}
	}
}

// fileSum returns the SHA-256 of a file in hexadecimal.
func fileSum(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return hex.AppendEncode(nil, h.Sum(nil)), nil
}

// writeWhole writes a small file so that readers see all of it or none.
func writeWhole(path string, b []byte) {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return
	}
	_, err = tmp.Write(b)
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
}
