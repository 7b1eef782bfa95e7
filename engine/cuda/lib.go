package cuda

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// library is a shared library that was found at run time.
type library struct {
	handle uintptr
	path   string
}

// symbol is a function of a library and where its Go form goes.
type symbol struct {
	fn   any // pointer to a func
	name string
}

// openLibrary opens the first candidate that loads: a name for the system's
// loader, or a path with wildcards. The error names everything tried.
func openLibrary(candidates []string) (library, error) {
	var tried []string
	for _, c := range candidates {
		paths := []string{c}
		if strings.ContainsRune(c, '/') {
			if paths, _ = filepath.Glob(c); len(paths) == 0 {
				tried = append(tried, c+": no such file")
			}
		}
		for i := len(paths) - 1; i >= 0; i-- { // the newest version first
			h, err := dlopen(paths[i])
			if err == nil {
				return library{h, paths[i]}, nil
			}
			tried = append(tried, strings.TrimSpace(err.Error()))
		}
	}
	return library{}, errors.New(strings.Join(tried, "; "))
}

// bind resolves symbols; the error names those that are missing.
func (l library) bind(symbols []symbol) error {
	var missing []string
	for _, s := range symbols {
		if err := l.bindOne(s); err != nil {
			missing = append(missing, s.name)
		}
	}
	if missing != nil {
		return fmt.Errorf("%s lacks %s", l.path, strings.Join(missing, ", "))
	}
	return nil
}
