// Command standin builds the stand-ins for libcuda and cuBLASLt in a directory:
//
//	go run ./bench/cuda/standin DIR
//
// With LSRSURGEON_LIBCUDA=DIR/libfakecuda.so every command that takes --device
// cuda then runs its kernels on the CPU, slowly.
package main

import (
	"fmt"
	"os"

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
	if err := os.MkdirAll(args[0], 0o777); err != nil {
		return err
	}
	source, err := standin.Source(nil)
	if err != nil {
		return err
	}
	return standin.Build(args[0], source, "-O2")
}
