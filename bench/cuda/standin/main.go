// Command standin puts stand-ins for libcuda and cuBLASLt into a directory:
//
//	go run ./bench/cuda/standin DIR
//
// With LSRSURGEON_LIBCUDA=DIR/libfakecuda.so every command that takes --device
// cuda then runs its kernels on the CPU, slowly.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/lsrsurgeon/lsrsurgeon/engine/cuda/standin"
)

func main() {
	if err := build(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
}

func build(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("give one directory")
	}
	if s := standin.Missing(); s != "" {
		return fmt.Errorf("%s", s)
	}
	built, err := standin.Cached()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(args[0], 0o777); err != nil {
		return err
	}
	for _, name := range []string{standin.CUDA, standin.CuBLASLt} {
		b, err := os.ReadFile(filepath.Join(built, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(args[0], name), b, 0o755); err != nil {
			return err
		}
	}
	return nil
}
