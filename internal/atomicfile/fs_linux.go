package atomicfile

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if noCall(err) {
		return renameIfAbsent(from, to)
	}
	return linkError(from, to, err)
}

func exchange(a, b string) error {
	err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	if noCall(err) {
		return linkError(a, b, errors.ErrUnsupported)
	}
	return linkError(a, b, err)
}

func linkError(from, to string, err error) error {
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
}

// noCall reports whether the kernel (ENOSYS) or the file system (EINVAL,
// ENOTSUP) lacks a call.
func noCall(err error) bool {
	return errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP)
}

// copyRange copies with copy_file_range and returns how far it came; what
// remains is for the caller where the call does not work.
func copyRange(dst, src *os.File, from, to, n int64) (done int64, err error) {
	const chunk = 64 << 20 // so that writing back starts while the rest is copied
	for done < n {
		i, o := from+done, to+done
		k, err := unix.CopyFileRange(int(src.Fd()), &i, int(dst.Fd()), &o, int(min(n-done, chunk)), 0)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case noCall(err), err == unix.EXDEV, err == unix.EPERM, err == unix.EIO && done == 0:
			return done, nil
		case err != nil:
			return done, &os.PathError{Op: "copy_file_range", Path: dst.Name(), Err: err}
		case k == 0:
			return done, &os.PathError{Op: "read", Path: src.Name(), Err: io.ErrUnexpectedEOF}
		}
		done += int64(k)
	}
	return done, nil
}

func willNeed(f *os.File, off, n int64) {
	_ = unix.Fadvise(int(f.Fd()), off, n, unix.FADV_WILLNEED) // only advice
}
