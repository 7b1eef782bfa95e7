//go:build linux

// Command init is the first and only process of an emulated machine: it runs the
// command lines of the file /lines one after the other and switches the machine off.
package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	for _, m := range []struct{ dir, fs string }{{"/proc", "proc"}, {"/sys", "sysfs"}, {"/tmp", "tmpfs"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			fmt.Println("init:", err)
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil {
			fmt.Println("init: mount", m.dir, err)
		}
	}
	fmt.Println("init: the processor has", strings.Join(vectorFlags(), " "))
	f, err := os.Open("/lines")
	if err != nil {
		fmt.Println("init:", err)
	}
	failed := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		if !run(s.Text()) {
			failed++
		}
	}
	fmt.Println("init: failed:", failed)
	time.Sleep(2 * time.Second) // until the serial line is empty
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("init:", err)
	}
}

// run runs one line: [NAME=VALUE...] PROGRAM ARGUMENT..., without quoting.
func run(line string) bool {
	words := strings.Fields(line)
	env := []string{"HOME=/tmp", "TMPDIR=/tmp", "PATH=/"}
	for len(words) > 0 && strings.Contains(words[0], "=") {
		env, words = append(env, words[0]), words[1:]
	}
	if len(words) == 0 {
		return true
	}
	fmt.Println("init: run", line)
	c := exec.Command(words[0], words[1:]...)
	c.Env, c.Stdout, c.Stderr = env, os.Stdout, os.Stderr
	err := c.Run()
	if err != nil {
		fmt.Println("init: failed:", line+":", err)
		return false
	}
	fmt.Println("init: ok")
	return true
}

// vectorFlags are the processor's flags that kernels ask for.
func vectorFlags() (flags []string) {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for _, f := range strings.Fields(string(b)) {
		if strings.HasPrefix(f, "avx") || strings.HasPrefix(f, "amx") || f == "fma" {
			flags = append(flags, f)
		}
	}
	return flags
}
