// Command lsrsurgeon opens a pretrained checkpoint, puts parameter-efficient
// adapters in, trains them and merges them back.
//
// This package parses command lines, calls the library packages, renders
// their results and chooses the engine; it holds no other logic.
package main

import "os"

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
