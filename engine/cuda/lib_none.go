//go:build !(linux && (amd64 || arm64)) || nogpu

package cuda

import (
	"errors"
	"runtime"
)

var errPlatform = errors.New("this build (" + runtime.GOOS + "/" + runtime.GOARCH + ") cannot load CUDA libraries")

func dlopen(string) (uintptr, error) { return 0, errPlatform }

func (l library) bindOne(symbol) error { return errPlatform }

func call(uintptr, ...uintptr) uintptr { panic("cuda: no library is loaded") }
